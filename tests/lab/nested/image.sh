#!/bin/bash
# L1's root disk for one suite, and the kernel with IOMMUFD that backports boots with.
#
#   tests/lab/nested/image.sh SUITE[-selinux]        -> $VIOMMU_LAB/nested/SUITE[-selinux]/root.img
#
# The root of root.sh is copied without what L1 has no use for, so that the image is small and libvirt probes one emulator
# and not four; mke2fs fills the file system by itself: no loop device, no mount.
set -euo pipefail
. "$(dirname "$0")/common.sh"
suite=${1:?usage: image.sh SUITE}
root=$lab/roots/$suite
"$here/kit.sh"
make_root "$suite"
[ "$suite" != backports ] || "$here/kernel.sh"
lock "image-$suite"
out=$nested/$suite
stamp=$(stamp_of "$kit/stamp" "$here/image.sh" "$here"/l1/init "$here"/l1/{lab.service,selinux.cil} <(stat -c %Y "$root/.complete"))
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

# In the kit, because mke2fs is run inside of it.
stage=$kit/stage-$suite
rm -rf "$stage" "$out"
mkdir -p "$stage" "$out"
useless=(
    'usr/bin/qemu-system-[!x]*' usr/bin/qemu-system-x86_64-microvm usr/share/{AAVMF,OVMF,ovmf,qemu-efi-aarch64} usr/lib/ipxe
    usr/lib/udev/hwdb.d 'usr/share/perl*' usr/lib/x86_64-linux-gnu/perl var/lib/apt var/cache 'dev/*'
)
tar -C "$root" --one-file-system "${useless[@]/#/--exclude=./}" -cf - . | tar -C "$stage" -xf -
mkdir -p "$stage"/{lab,var/cache/libvirt,var/cache/apparmor}
# bullseye's /lib is a directory, everywhere else it is a link: the path is right in both.
mkdir -p "$stage/lib/modules"
cp -a "$kit"/lib/modules/* "$stage/lib/modules/"

install -m755 "$here/l1/init" "$stage/sbin/lab-init"
install -D -m644 "$here/l1/lab.service" "$stage/etc/systemd/system/lab.service"
mkdir -p "$stage/etc/systemd/system/multi-user.target.wants"
ln -s ../lab.service "$stage/etc/systemd/system/multi-user.target.wants/"
# Units that only cost time, or touch guests behind a scenario's back.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    getty@tty1.service libvirt-guests.service systemd-timesyncd.service; do
    ln -sfn /dev/null "$stage/etc/systemd/system/$unit"
done
echo '/dev/vda / ext4 defaults 0 0' >"$stage/etc/fstab"
echo '127.0.0.1 localhost l1' >"$stage/etc/hosts"
echo l1 >"$stage/etc/hostname"
sha256sum <<<"$suite" | head -c 32 >"$stage/etc/machine-id"
rm -f "$stage/etc/resolv.conf"

# Every file gets its label here, and mke2fs takes it over: L1 would need minutes for it.
if [[ $suite = *-selinux ]]; then
    cp "$here/l1/selinux.cil" "$stage/root/lab.cil"
    chroot "$stage" semodule --noreload --install /root/lab.cil
    chroot "$stage" setfiles -F /etc/selinux/default/contexts/files/file_contexts /
fi

truncate -s 1G "$kit/$suite.img"
chroot "$kit" mke2fs -q -t ext4 -O '^has_journal,^metadata_csum' -E lazy_itable_init=1 -m0 -d "/stage-$suite" "/$suite.img"
rm -rf "$stage"
mv "$kit/$suite.img" "$out/root.img"
echo "$stamp" >"$out/stamp"
