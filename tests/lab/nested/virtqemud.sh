#!/bin/bash
# virtqemud, which Debian does not package: the modular daemon of Debian 13's libvirt, built from its sources and linked with its
# libraries. Two minutes.
#
#   tests/lab/nested/virtqemud.sh        -> $VIOMMU_LAB/nested/virtqemud/virtqemud, which boot.sh brings to L1
#
# Kept until this script or the root of trixie changes.
set -euo pipefail
. "$(dirname "$0")/common.sh"
make_root trixie
lock virtqemud
out=$nested/virtqemud
stamp=$(stamp_of "$here/virtqemud.sh" <(stat -c %Y "$lab/roots/trixie/.complete"))
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$out"
mkdir -p "$out"
# shellcheck disable=SC2016 # the shell inside expands it
"$here/../overlay.sh" "$lab/roots/trixie" --share "$out" /out bash -euo pipefail -c '
    exec 3>&2 >/out/log 2>&1
    trap "tail -n 30 /out/log >&3" ERR
    export DEBIAN_FRONTEND=noninteractive
    sed -n "s/^deb /deb-src /p" /etc/apt/sources.list >/etc/apt/sources.list.d/sources.list
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends gcc libc6-dev meson ninja-build pkgconf xz-utils libglib2.0-dev libxml2-dev \
        libxml2-utils xsltproc libgnutls28-dev libtirpc-dev rpcsvc-proto libjson-c-dev gettext python3
    mkdir /source /build
    cd /source
    # Only the sources as libvirt has released them: a mirror may lack the files beside them.
    read -r uri name size hash < <(apt-get source --print-uris libvirt | tr -d "\047" | grep "orig\.tar\.xz ")
    /usr/lib/apt/apt-helper download-file "$uri" "$name" "$hash"
    tar --strip-components=1 -xf "$name"
    meson setup /build --prefix=/usr --sysconfdir=/etc --localstatedir=/var -Drunstatedir=/run --libdir=lib/x86_64-linux-gnu \
        -Dauto_features=disabled -Ddriver_libvirtd=enabled -Ddriver_remote=enabled -Ddriver_qemu=enabled -Djson_c=enabled
    cd /build
    ninja $(ninja -t targets all | sed -n "s|^\(src/virtqemud\.p/.*\.o\): .*|\1|p") src/admin/libvirt_admin_driver.a
    # The libraries take most of the time, and L1 has Debian'"'"'s.
    link=$(ninja -t commands src/virtqemud | tail -n 1)
    for library in libvirt libvirt-lxc libvirt-qemu; do
        for name in $(grep -oE "src/$library\.so\.[0-9.]+" <<<"$link" | sort -u); do
            ln -s "/usr/lib/x86_64-linux-gnu/$library.so.0" "$name"
        done
    done
    eval "$link"
    src/virtqemud --version
    install src/virtqemud /out/'
rm "$out/log"
echo "$stamp" >"$out/stamp"
