#!/bin/bash
# A Linux in L2 with two NICs behind the wrapper's vIOMMU: it finds the vIOMMU, remaps interrupts, has each NIC in its own
# IOMMU group, and gets a DHCP lease on both. Locked memory is at its peak before the guest's driver takes the vIOMMU over,
# and close to zero afterwards.
#
# Its RESULT has the name LABEL (os). MODEL: intel, amd; IOMMUFD: number of NICs that are passed through by iommufd (0).
. "$(dirname "$0")/../lib.sh"
label=${LABEL:-os}
model=${MODEL:-intel}
# The guest kernel's messages about its vIOMMU; for AMD's only in its other lines.
case $model in
    intel) found='DMAR: IOMMU enabled' remapping='DMAR-IR: Enabled IRQ remapping' words='quiet intel_iommu=on' ;;
    amd) found='AMD-Vi: Found IOMMU' remapping='AMD-Vi: Interrupt remapping enabled' words='loglevel=7' ;;
esac
cp /lab/vmlinuz /lab/l2-initrd /var/lib/libvirt/images/
console=/var/log/libvirt/qemu/os-console.log
define os ram=512 devices=2 iommufd="${IOMMUFD:-0}" emulator="$WRAPPER" request="$model" \
    os="<kernel>/var/lib/libvirt/images/vmlinuz</kernel><initrd>/var/lib/libvirt/images/l2-initrd</initrd>
        <cmdline>console=ttyS0 $FAST $words panic=-1</cmdline>" \
    inside="<serial type='file'><source path='$console'/></serial>" arguments='-icount shift=4'
begin=$(now)
start os
peak=$(locked_of os)
virsh -q resume os
# A long interval, because each check costs L2 CPU time.
until grep -q 'L2: done' $console || [ "$(virsh -q domstate os)" != running ]; do sleep 5; done
tr -d '\r' <$console | grep '^L2:'
count() { grep -c "$1" $console; }
leases() { sed -n 's/^L2: \(eth[0-9]*\) .*lease of 10.0.2.15 obtained.*/\1/p' $console; }
nic_groups() { sed -n 's|^L2: group .*/iommu_groups/\([0-9]*\)/.* class 0x020000.*|\1|p' $console; }
echo "RESULT $label status=$status seconds=$(since "$begin") peak_kb=$peak vmlck_kb=$(locked_of os)" \
    "dmar=$(count "$found") remapping=$(count "$remapping")" \
    "leases=$(leases | sort -u | wc -l) nic_groups=$(nic_groups | sort -u | wc -l) done=$(count 'L2: done') message=$message"
virsh -q destroy os
echo "RESULT $label-end $(leftovers)"
