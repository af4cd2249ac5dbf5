#!/bin/bash
# Four devices behind a virtio-iommu that libvirt does not see: with the hook alone the guard sets the limit; without the
# hook it is libvirt's, for one device.
. "$(dirname "$0")/../lib.sh"
define hidden devices=4 hidden=1
without_hook try hidden hidden-without
try hidden
