#!/bin/bash
# The stock Debian 13 guest of tests/lab/boot, with DPDK: testpmd, dpdk-devbind, and a program that runs them.
#
#   tests/lab/dpdk/image.sh
#
# $VIOMMU_LAB/boot/dpdk then holds vmlinuz and initrd (unmodified), and root.img (ext4). A complete one is not changed.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    here=$(dirname "$(realpath "$0")")
    lab=$(realpath -m "${VIOMMU_LAB:-$here/../../../target/lab}")
    dir=$lab/boot/dpdk
    "$here/../boot/guest.sh" debian-13
    if [ ! -e "$dir/.complete" ]; then
        rm -rf "$dir"
        mkdir -p "$dir"
        cp --sparse=always "$lab/boot/debian-13/"{vmlinuz,initrd,root.img} "$dir/"
        # The mounts exist in that namespace only.
        unshare --mount --propagation private bash "$here/image.sh" --inside "$dir/root.img" "$here/guest"
        touch "$dir/.complete"
    fi
    # The program may be newer than the image.
    # shellcheck disable=SC2016 # the inner shell's
    unshare --mount --propagation private sh -c 'mount -o loop "$1" /mnt && install -m755 "$2" /mnt/usr/sbin/lab-dpdk && umount /mnt' \
        sh "$dir/root.img" "$here/guest"
    exit
fi
mount -o loop "$2" /mnt
mount -t proc proc /mnt/proc
mount --rbind /dev /mnt/dev
cp /etc/resolv.conf /mnt/etc/resolv.conf
chroot /mnt env -i HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c '
    apt-get -q update &&
    apt-get -qy install --no-install-recommends dpdk dpdk-dev python3-minimal pciutils iproute2 kmod librte-net-virtio25 librte-net-e1000-25 \
        librte-bus-pci25 librte-mempool-ring25 && apt-get clean'
umount -R /mnt
