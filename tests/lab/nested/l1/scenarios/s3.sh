#!/bin/bash
# Four devices behind a vIOMMU that libvirt does not know: RAM is locked four times over, the limit is for one, and the start fails.
# This is the failure that viommu is there for, so its hook must not look. (Where libvirt writes devices as key=value, that is before 8.x or QEMU 7.0, the vIOMMU
# comes last and the devices silently bypass it: there the start succeeds.)
. "$(dirname "$0")/../lib.sh"
define s3 devices=4 hidden=1
without_hook try s3
