#!/bin/bash
# Two guests whose QEMU opens /dev/iommu itself, each with a device of <qemu:commandline> and more RAM than the 1 GiB beside
# it. The kernel counts the locked memory of both against the limit of each: the first guest starts; the second one starts
# only with a hard_limit of the sum.
. "$(dirname "$0")/../lib.sh"
# libvirt does not see this device, so it gives QEMU's user no access to it.
nodes=(/dev/iommu /dev/vfio/devices/*)
stop_libvirtd
cp /etc/libvirt/qemu.conf /tmp/qemu.conf
acl=$(printf '"%s", ' "${nodes[@]}" /dev/{null,full,zero,random,urandom,ptmx,kvm})
echo "cgroup_device_acl = [ ${acl%, } ]" >>/etc/libvirt/qemu.conf
chmod 666 "${nodes[@]}"
start_libvirtd

define_own() { # NAME DEVICE [MEMTUNE]
    domain_xml "$1" ram=1088 emulator="$WRAPPER" request=intel arguments="-object iommufd,id=own -device vfio-pci,host=$2,iommufd=own" |
        sed "s|<vcpu>|${3:-}&|" >"/tmp/$1.xml"
    define_file "$1" "/tmp/$1.xml"
}
define_own f6 "${DEVICES[0]}"
define_own f6-second "${DEVICES[1]}"
said viommu plan f6
echo "RESULT f6-plan code=$(grep -o 'iommufd-per-user' <<<"$message" | head -n 1)"
attempt() { # NAME: as try, but the guest goes on running
    start "$1"
    echo "RESULT $1 status=$status seconds=$seconds $(figures "$1") message=$message"
}
attempt f6
attempt f6-second
define_own f6-sum "${DEVICES[1]}" "<memtune><hard_limit unit='MiB'>$((2 * (1088 + 1024)))</hard_limit></memtune>"
attempt f6-sum
for guest in f6 f6-sum; do virsh -q destroy $guest; done
echo "RESULT f6-end $(leftovers)"

stop_libvirtd
mv /tmp/qemu.conf /etc/libvirt/qemu.conf
start_libvirtd
