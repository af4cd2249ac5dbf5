#!/bin/bash
# SMMUv3 with passed-through devices: refused at prepare on every route. Without viommu QEMU reports it, after it has set up
# all earlier devices.
. "$(dirname "$0")/../lib.sh"
define smmuv3-late devices=2 native=smmuv3
without_hook try smmuv3-late
define smmuv3-written devices=2 native=smmuv3 request=smmuv3
try smmuv3-written
define smmuv3-native devices=2 request=smmuv3
try smmuv3-native
define smmuv3-wrapper devices=2 emulator="$WRAPPER" request=smmuv3
try smmuv3-wrapper
