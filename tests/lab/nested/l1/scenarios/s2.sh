#!/bin/bash
# Two devices behind a vIOMMU that libvirt knows: an address space each, RAM locked twice, and libvirt >= 8.7.0 counts so.
. "$(dirname "$0")/../lib.sh"
define s2 devices=2 native=1
try s2
