#!/bin/bash
# The QEMU of a Debian root, on a host with the VFIO that fakevfio.c emulates. Needs root, leaves no file behind.
#
#   tests/lab/fakevfio/qemu.sh ROOT SYSFS LIBRARY QEMU ARGUMENT...
#
# root.sh has built ROOT; this script does not change it. QEMU sees SYSFS as /sys: a directory with
# bus/pci/devices/ADDRESS/iommu_group, a link whose last component is the number of the group, and for mediated devices
# bus/mdev/devices/UUID with that link and another, subsystem, to /sys/bus/mdev. LIBRARY is the compiled fakevfio.c; it
# reads variables from this script's environment.
set -euo pipefail
if [ "$1" != --inside ]; then
    # Mounts exist in this namespace only, and end with it.
    exec unshare --mount bash "$0" --inside "$@"
fi
root=$2 sysfs=$3 library=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$sysfs" "$root/sys"
mount -t tmpfs -o mode=755,size=1m fakevfio "$root/mnt"
cp "$library" "$root/mnt/fakevfio.so"
exec chroot "$root" timeout 60 env LD_PRELOAD=/mnt/fakevfio.so "$@"
