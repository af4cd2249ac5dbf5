#!/bin/bash
# Two devices, no vIOMMU: libvirt's limit is RAM + 1 GiB, and one container locks RAM once.
. "$(dirname "$0")/../lib.sh"
define plain devices=2
try plain
