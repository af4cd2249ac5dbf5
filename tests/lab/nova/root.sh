#!/bin/bash
# A Debian root directory of one suite with Nova, placement, their database and message queue, libvirt and QEMU.
#
#   tests/lab/nova/root.sh SUITE DIR      trixie (Nova 31)   sid (34)
#
# A complete DIR is not changed. MIRROR in the environment names another package mirror than mmdebstrap's own choice. The
# packages are unpacked only: their scripts would set up services for a whole machine, and compile Python for minutes.
# shellcheck disable=SC2016 # dpkg and the shells inside expand it
set -euo pipefail
if [ "${1:-}" = --unpack ]; then
    # mmdebstrap's hook, with the root as $2
    root=$2
    chroot "$root" apt-get install -qq --yes --download-only \
        nova-api nova-conductor nova-scheduler nova-compute nova-compute-qemu placement-api rabbitmq-server mariadb-server \
        libvirt-daemon-system libvirt-clients libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils
    find "$root/var/cache/apt/archives" -name '*.deb' -print0 | xargs -0 -P 2 -n 8 bash -c '
        for package in "${@:2}"; do
            dpkg-deb --fsys-tarfile "$package" | tar -x -C "$1" --keep-directory-symlink --no-same-owner \
                --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale -f -
        done' unpack "$root"
    # The versions for the proof: dpkg does not record unpacked packages.
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg-deb --show --showformat='${Package} ${Version}\n' "$package"
    done >"$root/packages"
    rm -f "$root"/var/cache/apt/archives/*.deb
    # Drivers with their own packages; without a firewall they keep libvirtd from starting.
    rm -f "$root"/usr/lib/*/libvirt/connection-driver/libvirt_driver_{network,nwfilter}.so
    # libvirt would probe each of them.
    find "$root/usr/bin" -name 'qemu-system-*' ! -name qemu-system-x86_64 -delete
    chroot "$root" bash -ec '
        ldconfig
        for user in placement nova mysql rabbitmq libvirt-qemu; do
            id "$user" >/dev/null 2>&1 || useradd --system --user-group --home-dir "/var/lib/$user" --shell /bin/sh "$user"
        done
        for group in libvirt kvm; do getent group "$group" >/dev/null || groupadd --system "$group"; done
        usermod -aG kvm,libvirt libvirt-qemu
        usermod -aG libvirt,libvirt-qemu nova
        for user in placement nova mysql rabbitmq; do
            install -d -o "$user" -g "$user" "/var/lib/$user" "/var/log/$user"
            chown -R "$user:$user" "/var/lib/$user" "/var/log/$user"
        done'
    exit
fi
suite=$1 dir=$2
[ -e "$dir/.complete" ] && exit 0
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
mmdebstrap --variant=minbase --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --include=procps,iproute2,socat,ca-certificates --customize-hook="bash '$(realpath "$0")' --unpack \"\$1\"" "$suite" "$dir" ${MIRROR:+"$MIRROR"}
touch "$dir/.complete"
