#!/bin/bash
# viommu's report about iommufd on this host, and about the address spaces of a guest with two devices by iommufd behind a
# vIOMMU.
. "$(dirname "$0")/../lib.sh"
define f7 devices=2 iommufd=2 native=1
echo "RESULT f7-capabilities iommufd=$(viommu capabilities | awk '/^iommufd/ { print $2 }')"
echo "RESULT f7-plan ioas=$(viommu plan f7 | grep -c '(iommufd, one IOAS)')"
