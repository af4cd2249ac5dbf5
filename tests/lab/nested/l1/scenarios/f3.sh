#!/bin/bash
# Four devices by iommufd behind a vIOMMU that libvirt does not see, without viommu's hook: the fourth device exceeds
# libvirt's limit. Only QEMU reports it: unlike for a container (s3) the kernel logs nothing.
. "$(dirname "$0")/../lib.sh"
define f3 devices=4 iommufd=4 hidden=1
without_hook try f3
