#!/bin/bash
# Two devices behind a vIOMMU in libvirt's XML: one address space for each, RAM locked twice, and libvirt >= 8.7.0 counts
# both.
. "$(dirname "$0")/../lib.sh"
define s2 devices=2 native=1
try s2
