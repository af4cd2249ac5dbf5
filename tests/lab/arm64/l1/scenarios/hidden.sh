#!/bin/bash
# Four devices behind a virtio-iommu that libvirt does not know: with the hook alone the guard's limit, and without it libvirt's, for one.
. "$(dirname "$0")/../lib.sh"
define hidden devices=4 hidden=1
without_hook try hidden hidden-without
try hidden
