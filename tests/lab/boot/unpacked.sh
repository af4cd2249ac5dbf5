#!/bin/bash
# A complete root of a Debian guest for arm64, made on a machine that cannot run arm64 programs: this script unpacks the
# packages, and an emulated boot of the guest's own kernel installs them.
#
#   tests/lab/boot/unpacked.sh SUITE ROOT      ROOT/lab then holds the output of the script initramfs
#
# LIMIT: seconds of the boot (3600).
set -euo pipefail
suite=${1:?usage: unpacked.sh SUITE ROOT} root=${2:?}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "$root.XXXXXX")
trap 'rm -rf "$work"' EXIT
mmdebstrap --variant=extract --mode=root --quiet --architectures=arm64 --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
    --skip=cleanup/apt/cache --include='?essential' --include='?priority(required)' --include=apt,linux-image-arm64 \
    "$suite" "$work/root" ${MIRROR:+"$MIRROR"}
vmlinuz=$(find "$work/root/boot" "$work/root/usr/lib/modules" -name 'vmlinuz*')
cp "$vmlinuz" "$work/vmlinuz"
for path in /usr/share/man /usr/share/doc /usr/lib/firmware; do
    rm -rf "$work/root$path"
    echo "path-exclude=$path/*" >>"$work/root/etc/dpkg/dpkg.cfg.d/lab"
done
# The same packages without compression, because decompression is slow in emulation.
for package in "$work"/root/var/cache/apt/archives/*.deb; do
    dpkg-deb --raw-extract "$package" "$work/package"
    dpkg-deb -Znone --build "$work/package" "$package" >/dev/null
    rm -rf "$work/package"
done
install -m755 "$here/complete" "$work/root/init"
install -m755 "$here/initramfs" "$work/root/lab-initramfs"
(cd "$work/root" && find . -print0 | cpio --null --quiet -o -H newc) >"$work/initrd"
rm -rf "$work/root"
truncate -s 3G "$work/disk" "$work/ext4"
mke2fs -q -t ext4 "$work/ext4"

# shellcheck disable=SC2054 # the commas are QEMU's
qemu=(
    qemu-system-aarch64 -machine virt,gic-version=3 -accel tcg -cpu neoverse-n1 -m 4096 -nodefaults -display none -no-reboot
    -serial stdio -drive file=/mnt/disk,format=raw,if=virtio,cache=unsafe -drive file=/mnt/ext4,format=raw,if=virtio,cache=unsafe
    -kernel /mnt/vmlinuz -initrd /mnt/initrd -append 'console=ttyAMA0 mitigations=off kpti=off panic=-1 quiet rootfstype=ramfs'
)
LIMIT=${LIMIT:-3600} "$here/qemu.sh" "$work" "${qemu[@]}" >"$root.log" 2>&1 || true
grep -aq '^LAB completed' "$root.log" || { tail -n 40 "$root.log" >&2 && echo "unpacked.sh: $suite is not complete: $root.log" >&2 && exit 1; }
mkdir "$root"
tar --extract --numeric-owner --file="$work/disk" --directory="$root"
