#!/bin/bash
# A Linux in L2 with two NICs by iommufd behind the wrapper's VT-d: it finds the vIOMMU, remaps interrupts, has each NIC in
# its own IOMMU group, and gets a DHCP lease on both. Locked memory is at its peak before the guest's driver takes the
# vIOMMU over, and close to zero afterwards.
IOMMUFD=2 LABEL=f8 exec bash "$(dirname "$0")/os.sh"
