#!/bin/bash
# Once after each boot of L1: gives the NICs to vfio-pci, starts libvirtd, installs viommu.
#
# Where L1 was booted with AppArmor or SELinux, libvirt uses it as the distribution has it, and viommu comes as its package to a host that works
# already. Otherwise libvirt has no security driver, and viommu's binary is put where the package would.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The kernel of ../kernel.sh has them built in.
[ -e /sys/module/vfio_pci ] || modprobe -a vfio_pci vfio_iommu_type1
for device in "${DEVICES[@]}"; do
    echo vfio-pci >"/sys/bus/pci/devices/$device/driver_override"
    echo "$device" >/sys/bus/pci/drivers_probe
    [ -e "/sys/bus/pci/drivers/vfio-pci/$device" ]
done
# udev would do this; without it only root could open the container.
chmod 666 /dev/vfio/vfio

# Root would have CAP_IPC_LOCK, for which the limit does not hold: QEMU must run as Debian runs it, as libvirt-qemu.
grep -qE 'security=(apparmor|selinux)' /proc/cmdline || echo 'security_driver = "none"' >/etc/libvirt/qemu.conf
# What the administrator of a host with SELinux allows his guests: VFIO, the link of a device to its group, and an emulator without KVM.
! enforcing || setsebool virt_use_vfio=1 virt_use_sysfs=1 virt_use_execmem=1

if [ -e /lab/viommu ]; then
    install -m755 /lab/viommu /usr/bin/viommu
    for arch in x86_64 aarch64; do ln -sfn viommu "/usr/bin/viommu-qemu-system-$arch"; done
    mkdir -p /etc/libvirt/hooks
    ln -sfn /usr/bin/viommu /etc/libvirt/hooks/qemu
fi

stop_libvirtd
start_libvirtd
if [ -e /lab/viommu.deb ]; then
    begin=$(now)
    cp /lab/viommu.deb /var/tmp/
    dpkg -i /var/tmp/viommu.deb
    installed="install_seconds=$(since "$begin") "
fi
for device in "${DEVICES[@]}"; do
    groups+=" $(basename "$(readlink "/sys/bus/pci/devices/$device/iommu_group")")"
done
# shellcheck disable=SC2086
distinct=$(printf '%s\n' $groups | sort -u | wc -l)
echo "RESULT prepare libvirt=$(virsh -q version | awk '/^Using library/ { print $4 }')" \
    "qemu=$($QEMU --version | awk 'NR == 1 { print $4 }') iommu_groups=$distinct ${installed:-}uptime=$(now)"
