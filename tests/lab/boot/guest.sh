#!/bin/bash
# A stock guest of one distribution: its own kernel, and the initramfs of its own tool.
#
#   tests/lab/boot/guest.sh GUEST      debian-12, debian-13, debian-unstable, ubuntu-24.04; debian-12-arm64, debian-13-arm64,
#                                      debian-unstable-arm64 (these need $VIOMMU_LAB/roots/trixie)
#
# $VIOMMU_LAB/boot/GUEST then holds vmlinuz, initrd (unmodified), initrd-module (with virtio_iommu), config (of the kernel),
# modules (the driver's modules in the initramfs) and root.img (ext4). A complete one is not changed.
set -euo pipefail
guest=${1:?usage: guest.sh GUEST}
here=$(cd "$(dirname "$0")" && pwd)
lab=$(realpath -m "${VIOMMU_LAB:-$here/../../../target/lab}")
dir=$lab/boot/$guest
[ -e "$dir/.complete" ] && exit 0
kernel=linux-image-amd64
mirror=${MIRROR:-}
case $guest in
    debian-12 | debian-12-arm64) suite=bookworm ;;
    debian-13 | debian-13-arm64) suite=trixie ;;
    debian-unstable | debian-unstable-arm64) suite=sid ;;
    # Debian has no key of Ubuntu's archive by default; the guest boots without a network.
    ubuntu-24.04) suite=noble kernel=linux-image-generic,initramfs-tools mirror='deb [trusted=yes] http://archive.ubuntu.com/ubuntu noble main' ;;
    *) echo "guest.sh: no guest '$guest'" >&2 && exit 2 ;;
esac
rm -rf "$dir"
mkdir -p "$dir"
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
if [[ $guest = *-arm64 ]]; then
    "$here/unpacked.sh" "$suite" "$root"
else
    mmdebstrap --variant=minbase --mode=root --quiet --include="$kernel" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/lib/firmware/*' \
        "$suite" "$root" ${mirror:+"$mirror"}
    chroot "$root" sh -s <"$here/initramfs"
fi
mv "$root"/lab/{vmlinuz,initrd,initrd-module,config,modules} "$dir/"
install -m755 "$here/report" "$root/usr/sbin/lab-report"
rm -rf "${root:?}"/{boot,lab} "$root"/var/cache/apt "$root"/var/lib/apt/lists
truncate -s 3G "$dir/root.img"
mke2fs -q -t ext4 -U 3b6d1f6e-3f5c-4f0a-8a43-5d2f6d8f2b10 -d "$root" "$dir/root.img"
touch "$dir/.complete"
