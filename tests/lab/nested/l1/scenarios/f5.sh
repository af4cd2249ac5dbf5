#!/bin/bash
# One device by iommufd and one by a container. Without a vIOMMU they share an address space: `viommu plan` reports it, and
# QEMU aborts. A guest with a request whose devices bypass its vIOMMU is refused. Behind a vIOMMU, libvirt's or the
# wrapper's, the mix starts.
. "$(dirname "$0")/../lib.sh"
define f5 devices=2 iommufd=1
said viommu plan f5
echo "RESULT f5-plan code=$(grep -o 'iommufd-mixed' <<<"$message" | head -n 1)"
try f5
define f5-bypassed devices=2 iommufd=1 emulator="$WRAPPER" request=intel arguments='-machine default_bus_bypass_iommu=on'
try f5-bypassed
define f5-native devices=2 iommufd=1 native=1
try f5-native
define f5-wrapper devices=2 iommufd=1 emulator="$WRAPPER" request=intel
try f5-wrapper
