#!/bin/bash
# A Debian root directory with libvirt and QEMU of one suite, for the tests to chroot into and to make images of.
#
#   tests/lab/root.sh SUITE DIR      bullseye (libvirt 7.0, QEMU 5.2)   bookworm (9.0, 7.2)   trixie (11.3, 10.0)   sid (12.8, 11.1)
#   tests/lab/root.sh backports DIR  trixie with libvirt and QEMU of trixie-backports (12.9, 11.1)
#   tests/lab/root.sh SUITE-selinux DIR      the same with the reference policy of SELinux
#
# A complete DIR is not changed. MIRROR in the environment names another package mirror than mmdebstrap's own choice.
set -euo pipefail
suite=$1 dir=$2
[ -e "$dir/.complete" ] && exit 0
# libvirt-daemon only recommends libvirt-daemon-driver-qemu, and recommendations are off.
packages=libvirt-daemon-system,libvirt-clients,libvirt-daemon-driver-qemu,qemu-system-x86,qemu-system-arm,qemu-efi-aarch64,qemu-utils
packages+=,ovmf,kmod,udev,procps,iproute2,pciutils,strace,gdb-minimal,socat,apparmor,systemd-sysv,dbus,util-linux
[[ $suite != *-selinux ]] || packages+=,selinux-policy-default,policycoreutils
# The backported programs need backported packages, so the whole archive of backports has priority.
options=() base=${suite%-selinux}
if [ "$base" = backports ]; then
    base=trixie
    # From the mirror that mmdebstrap has chosen for trixie itself.
    # shellcheck disable=SC2016 # the shell of mmdebstrap expands it
    options=(--aptopt='APT::Default-Release "trixie-backports"'
        --setup-hook='sed -n "s/ trixie / trixie-backports /p" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/backports.list"')
fi
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
mmdebstrap --variant=minbase --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    "${options[@]}" --include="$packages" "$base" "$dir" ${MIRROR:+"$MIRROR"}
touch "$dir/.complete"
