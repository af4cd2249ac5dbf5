#!/bin/bash
# A Linux in L2 with two NICs by iommufd behind the wrapper's VT-d: it finds the vIOMMU, remaps interrupts, has each NIC in an IOMMU group of
# its own, and gets a DHCP lease on both. Locked memory is at its peak before the guest takes the vIOMMU over, and next to nothing afterwards.
IOMMUFD=2 LABEL=f8 exec bash "$(dirname "$0")/os.sh"
