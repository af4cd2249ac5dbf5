#!/bin/bash
# A Linux in L2 with two NICs behind the wrapper's vIOMMU: it finds the vIOMMU, remaps interrupts, and gets a DHCP lease on both.
# Locked memory is at its peak before the guest takes the vIOMMU over, and next to nothing afterwards.
. "$(dirname "$0")/../lib.sh"
cp /lab/vmlinuz /lab/l2-initrd /var/lib/libvirt/images/
console=/var/log/libvirt/qemu/os-console.log
define os ram=512 devices=2 emulator="$WRAPPER" request=intel \
    os="<kernel>/var/lib/libvirt/images/vmlinuz</kernel><initrd>/var/lib/libvirt/images/l2-initrd</initrd>
        <cmdline>console=ttyS0 intel_iommu=on mitigations=off nokaslr panic=-1</cmdline>" \
    inside="<serial type='file'><source path='$console'/></serial>"
begin=$(now)
start os
peak=$(status_of os VmLck)
virsh -q resume os
wait_for "${OS_SECONDS:-400}" grep -qs 'L2: done' $console
tr -d '\r' <$console
count() { grep -c "$1" $console; }
echo "RESULT os status=$status seconds=$(since "$begin") peak_kb=$peak vmlck_kb=$(status_of os VmLck)" \
    "dmar=$(count 'DMAR: IOMMU enabled') remapping=$(count 'DMAR-IR: Enabled IRQ remapping')" \
    "leases=$(count 'lease of 10.0.2.15 obtained') done=$(count 'L2: done') message=$message"
virsh -q destroy os
echo "RESULT os-end $(leftovers)"
