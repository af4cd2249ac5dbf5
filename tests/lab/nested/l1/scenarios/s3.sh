#!/bin/bash
# Four devices behind a vIOMMU that libvirt does not see, without viommu's hook: RAM is locked four times, the limit is for
# one device, and the start fails. viommu prevents this failure. (Before libvirt 8.x or QEMU 7.0 libvirt writes devices as
# key=value: the vIOMMU comes last, and the devices bypass it without an error. There the start succeeds.)
. "$(dirname "$0")/../lib.sh"
define s3 devices=4 hidden=1
without_hook try s3
