#!/bin/bash
# Once after each boot of L1: gives the NICs to vfio-pci, installs viommu where its package would, starts libvirtd.
#
# Where L1 was booted with AppArmor, libvirt uses it as the distribution has it; otherwise it has no security driver.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

modprobe -a vfio_pci vfio_iommu_type1
for device in "${DEVICES[@]}"; do
    echo vfio-pci >"/sys/bus/pci/devices/$device/driver_override"
    echo "$device" >/sys/bus/pci/drivers_probe
    [ -e "/sys/bus/pci/drivers/vfio-pci/$device" ]
done
# udev would do this; without it only root could open the container.
chmod 666 /dev/vfio/vfio

# Root would have CAP_IPC_LOCK, for which the limit does not hold: QEMU must run as Debian runs it, as libvirt-qemu.
[ "$(cat /sys/module/apparmor/parameters/enabled)" = Y ] || echo 'security_driver = "none"' >/etc/libvirt/qemu.conf

if [ -e /lab/viommu ]; then
    install -m755 /lab/viommu /usr/bin/viommu
    for arch in x86_64 aarch64; do ln -sfn viommu "/usr/bin/viommu-qemu-system-$arch"; done
    mkdir -p /etc/libvirt/hooks
    ln -sfn /usr/bin/viommu /etc/libvirt/hooks/qemu
fi

stop_libvirtd
start_libvirtd
for device in "${DEVICES[@]}"; do
    groups+=" $(basename "$(readlink "/sys/bus/pci/devices/$device/iommu_group")")"
done
# shellcheck disable=SC2086
distinct=$(printf '%s\n' $groups | sort -u | wc -l)
echo "RESULT prepare libvirt=$(virsh -q version | awk '/^Using library/ { print $4 }')" \
    "qemu=$($QEMU --version | awk 'NR == 1 { print $4 }') iommu_groups=$distinct uptime=$(now)"
