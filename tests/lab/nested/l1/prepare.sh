#!/bin/bash
# Runs once after each boot of L1: assigns the NICs to vfio-pci, starts libvirtd, installs viommu.
#
# In an L1 with AppArmor or SELinux, libvirt uses the distribution's configuration, and viommu's package is installed on a
# working host. Otherwise libvirt has no security driver, and this script copies viommu's binary to the package's place.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The kernel of ../kernel.sh has them built in.
[ -e /sys/module/vfio_pci ] || modprobe -a vfio_pci vfio_iommu_type1
for device in "${DEVICES[@]}"; do
    echo vfio-pci >"/sys/bus/pci/devices/$device/driver_override"
    echo "$device" >/sys/bus/pci/drivers_probe
    [ -e "/sys/bus/pci/drivers/vfio-pci/$device" ]
done
# udev's rule; without it only root could open the container.
chmod 666 /dev/vfio/vfio

# Root would have CAP_IPC_LOCK, which bypasses the limit: QEMU must run as on Debian, as libvirt-qemu.
grep -qE 'security=(apparmor|selinux)' /proc/cmdline || echo 'security_driver = "none"' >/etc/libvirt/qemu.conf
# The booleans that an administrator sets on a host with SELinux: VFIO, the link of a device to its group, and an emulator
# without KVM.
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
