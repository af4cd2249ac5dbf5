#!/bin/bash
# A Linux in L2, through UEFI and ACPI, with two NICs behind the wrapper's virtio-iommu: it finds the vIOMMU, each NIC has
# its own group, and both get a DHCP lease. Locked memory is at its peak before the guest's driver takes the vIOMMU over,
# and close to zero afterwards.
. "$(dirname "$0")/../lib.sh"
cp /lab/vmlinuz /lab/l2-initrd /var/lib/libvirt/images/
console=/var/log/libvirt/qemu/os-console.log
define os ram=256 devices=2 emulator="$WRAPPER" request=virtio \
    os="<kernel>/var/lib/libvirt/images/vmlinuz</kernel><initrd>/var/lib/libvirt/images/l2-initrd</initrd>
        <cmdline>console=ttyAMA0 quiet $FAST kpti=off panic=-1</cmdline>" \
    inside="<serial type='file'><source path='$console'/></serial>"
begin=$(now)
start os
peak=$(locked_of os)
virsh -q resume os
# A long interval, because each check costs L2 CPU time.
until grep -q 'L2: done' $console || [ "$(virsh -q domstate os)" != running ]; do sleep 5; done
tr -d '\r' <$console | grep '^L2:'
count() { grep -c "$1" $console; }
# The groups of network controllers (class 0x0200).
groups=$(tr -d '\r' <$console | sed -n 's,^L2: group .*/iommu_groups/\([0-9]*\)/.* class 0x0200.*,\1,p' | sort -u | wc -l)
echo "RESULT os status=$status seconds=$(since "$begin") peak_kb=$peak vmlck_kb=$(locked_of os)" \
    "viommu=$(count 'virtio_iommu virtio[0-9]*: input address: ')" "nic_groups=$groups" \
    "leases=$(count 'lease of 10.0.2.15 obtained') done=$(count 'L2: done') message=$message"
virsh -q destroy os
echo "RESULT os-end $(leftovers)"
