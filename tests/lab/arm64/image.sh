#!/bin/bash
# L1 on AArch64: kernel, initrds and root disk, made on any machine that has mmdebstrap, kmod, cpio, xz and e2fsprogs.
#
#   tests/lab/arm64/image.sh trixie        -> $VIOMMU_LAB/nested/arm64/trixie/{vmlinuz,initrd,l2-initrd,root.img}
#
# The packages are only unpacked: no arm64 program runs here, so neither qemu-user nor binfmt_misc is needed. What their maintainer
# scripts would have done, as far as libvirtd and QEMU need it, is done below. The kernel has to be that of Debian 13 or newer, for
# Debian 12's has no driver for a virtio-iommu.
set -euo pipefail
. "$(dirname "$0")/../nested/common.sh"
suite=${1:?usage: image.sh SUITE}
here=$(cd "$(dirname "$0")" && pwd)
out=$nested/arm64/$suite
lock "arm64-$suite"
stamp=$(stamp_of "$here/image.sh" "$here"/../nested/initrd/* "$here/../nested/l1/init")
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

l1_modules=(virtio_pci virtio_blk virtio_rng crc32c_generic ext4 9p 9pnet_virtio vfio_pci vfio_iommu_type1 tun loop)
l1_boot_modules=(virtio_pci virtio_blk crc32c_generic ext4)
# The vIOMMU first: a device whose driver comes before it would stay outside.
l2_modules=(virtio_iommu igb)

root=$out/root
rm -rf "$out"
mkdir -p "$out"
packages=bash,coreutils,mawk,busybox-static,kmod,procps,iproute2,linux-image-arm64
packages+=,libvirt-daemon-system,libvirt-clients,libvirt-daemon-driver-qemu,qemu-system-arm,qemu-efi-aarch64
mmdebstrap --variant=extract --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --architectures=arm64 --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --include='?essential' --include="$packages" "$suite" "$root" ${MIRROR:+"$MIRROR"}

# ---- the kernel and its modules

release=$(basename "$root"/usr/lib/modules/*)
mv "$root/boot/vmlinuz-$release" "$out/vmlinuz"
mkdir -p "$out/kernel/usr/lib/modules"
ln -s usr/lib "$out/kernel/lib"
mv "$root/usr/lib/modules/$release" "$out/kernel/usr/lib/modules/"
depmod --basedir "$out/kernel" "$release"

# Modules and all that they need, in the order in which insmod takes them; those that are built in have no file.
closure() {
    modprobe --dirname "$out/kernel" --set-version "$release" --all --show-depends "$@" 2>/dev/null |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# pack NAME INIT MODULE…: an initrd of busybox, INIT and the modules.
pack() {
    local name=$1 init=$2 tree=$out/tree number=10 module
    shift 2
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,proc,sys,root,modules}
    cp "$root/usr/bin/busybox" "$tree/bin/"
    install -m755 "$init" "$tree/init"
    for module in $(closure "$@"); do
        xz -dc "$module" >"$tree/modules/$number-$(basename "$module" .xz)"
        number=$((number + 1))
    done
    (cd "$tree" && find . | cpio --quiet -o -H newc >"$out/$name")
    rm -rf "$tree"
}
pack initrd "$here/../nested/initrd/l1-init" "${l1_boot_modules[@]}"
pack l2-initrd "$here/../nested/initrd/l2-init" "${l2_modules[@]}"

modules=$root/usr/lib/modules/$release
for module in $(closure "${l1_modules[@]}"); do
    file=$modules/${module#*"/modules/$release/"}
    install -D -m644 "$module" "$file"
    xz -d "$file"
done
cp "$out/kernel/usr/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$modules/"
depmod --basedir "$root" "$release"
rm -rf "$out/kernel"

# ---- the root: what maintainer scripts would have made, without what L1 has no use for

cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
echo 'libvirt-qemu:x:64055:994::/var/lib/libvirt:/usr/sbin/nologin' >>"$root/etc/passwd"
printf '%s\n' kvm:x:994: libvirt:x:992: libvirt-qemu:x:64055: >>"$root/etc/group"
printf '%s: files\n' passwd group hosts >"$root/etc/nsswitch.conf"
ln -s mawk "$root/usr/bin/awk"
rm -rf "$root"/var/{run,lock}
ln -s /run "$root/var/run"
ln -s /run/lock "$root/var/lock"
rm -rf "${root:?}"/boot/* "$root"/usr/share/{doc,man,locale,info,zoneinfo,i18n} "$root"/usr/share/perl* "$root"/usr/lib/aarch64-linux-gnu/{perl*,gconv} \
    "$root"/var/lib/{apt,dpkg}/* "$root"/var/cache/apt "$root"/usr/lib/udev/hwdb.d
# libvirt probes every emulator that it finds; its network driver ends the daemon where there is no firewall.
rm -f "$root/usr/bin/qemu-system-arm" "$root"/usr/lib/aarch64-linux-gnu/libvirt/connection-driver/libvirt_driver_{network,interface,nwfilter,lxc,vbox,libxl}.so
mkdir -p "$root"/{lab,proc,sys,dev,run,tmp,root,var/cache/libvirt}
install -m755 "$here/../nested/l1/init" "$root/usr/sbin/lab-init"
echo '/dev/vda / ext4 defaults 0 0' >"$root/etc/fstab"
echo '127.0.0.1 localhost l1' >"$root/etc/hosts"
echo l1 >"$root/etc/hostname"
sha256sum <<<"$suite" | head -c 32 >"$root/etc/machine-id"

truncate -s 1200M "$out/root.img"
mke2fs -q -t ext4 -O '^has_journal,^metadata_csum' -E lazy_itable_init=1 -m0 -d "$root" "$out/root.img"
rm -rf "$root"
echo "$stamp" >"$out/stamp"
