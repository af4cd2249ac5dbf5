#!/bin/bash
# Two devices, no vIOMMU: libvirt's limit is RAM + 1 GiB, and one container locks RAM once.
. "$(dirname "$0")/../lib.sh"
define s1 devices=2
try s1
