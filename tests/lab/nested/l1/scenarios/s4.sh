#!/bin/bash
# As s2, with 1.5 GiB of RAM, which exceeds the 1 GiB that libvirt allows beside RAM: libvirt before 8.7.0 counts RAM once
# for any number of devices, and the second device fails. Without viommu's hook.
. "$(dirname "$0")/../lib.sh"
define s4 ram=1536 devices=2 native=1
without_hook try s4
