#!/bin/bash
# What every L1 and L2 is booted with, made once for all suites: kernel, modules, initrds, and the few tools that make them.
#
#   tests/lab/nested/kit.sh        -> $VIOMMU_LAB/nested/kit/{vmlinuz,initrd,l2-initrd,modules,…}
#
# mmdebstrap's "extract" variant fetches packages with their dependencies without installing any, and the result can be chrooted into:
# so neither the distribution of the test machine nor its kernel, kmod, cpio or busybox matters.
set -euo pipefail
. "$(dirname "$0")/common.sh"
lock kit
stamp=$(stamp_of "$here/kit.sh" "$here"/initrd/*)
[ "$(cat "$kit/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

# L1: its disk and share, real VFIO. No driver for the NICs: nothing but vfio-pci shall ever bind them.
l1_modules=(virtio_pci virtio_blk virtio_net virtio_rng crc32c_generic ext4 9p 9pnet_virtio vfio_pci vfio_iommu_type1 tun macvtap loop)
l1_boot_modules=(virtio_pci virtio_blk crc32c_generic ext4)
l2_modules=(igb)

rm -rf "$kit"
mmdebstrap --variant=extract --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --include=linux-image-amd64,busybox-static,e2fsprogs "$kernel_suite" "$kit" ${MIRROR:+"$MIRROR"}
release=$(basename "$kit"/lib/modules/*)
mv "$kit/boot/vmlinuz-$release" "$kit/vmlinuz"
chroot "$kit" depmod "$release"

# Modules and all that they need, in the order in which insmod takes them.
closure() {
    chroot "$kit" modprobe --set-version "$release" --all --show-depends "$@" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# pack NAME INIT MODULE…: an initrd of busybox, INIT and the modules. Not compressed: QEMU reads it from the page cache.
pack() {
    local name=$1 init=$2 tree=$kit/tree number=10 module
    shift 2
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,proc,sys,root,modules}
    cp "$kit/bin/busybox" "$tree/bin/"
    install -m755 "$init" "$tree/init"
    for module in $(closure "$@"); do
        cp "$kit$module" "$tree/modules/$number-$(basename "$module")"
        number=$((number + 1))
    done
    (cd "$tree" && find . | "$kit/bin/busybox" cpio -o -H newc >"$kit/$name")
    rm -rf "$tree"
}
pack initrd "$here/initrd/l1-init" "${l1_boot_modules[@]}"
pack l2-initrd "$here/initrd/l2-init" "${l2_modules[@]}"

# Of the 400 MB of modules keep the closure.
for module in $(closure "${l1_modules[@]}"); do
    install -D -m644 "$kit$module" "$kit/modules$module"
done
cp "$kit/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$kit/modules/lib/modules/$release/"
rm -rf "$kit/lib/modules"
mv "$kit/modules/lib/modules" "$kit/lib/modules"
rm -rf "${kit:?}/modules" "${kit:?}/boot"
chroot "$kit" depmod "$release"
: >"$kit/etc/mtab" # mke2fs looks into it and warns where there is none
echo "$stamp" >"$kit/stamp"
