#!/bin/bash
# Debian 13's kernel with IOMMUFD, which no kernel of Debian's has: built from its source package with the few options of
# kernel.config.
#
#   tests/lab/nested/kernel.sh        -> $VIOMMU_LAB/nested/iommufd/{vmlinuz,config}
#
# Kept until kernel.config or this script changes. The sources are unpacked and compiled in 2 GB of memory.
set -euo pipefail
. "$(dirname "$0")/common.sh"
lock iommufd
out=$nested/iommufd
stamp=$(stamp_of "$here"/kernel.{sh,config})
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

root=$lab/roots/kernel
if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    packages=gcc,libc6-dev,make,flex,bison,bc,perl,xz-utils,libelf-dev,linux-source-6.12
    mmdebstrap --variant=apt --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --include="$packages" trixie "$root" ${MIRROR:+"$MIRROR"}
    touch "$root/.complete"
fi

rm -rf "$out"
mkdir -p "$out"
# shellcheck disable=SC2016 # the shell inside expands it
"$here/../overlay.sh" "$root" --show "$here" /lab --share "$out" /out sh -ec '
    mkdir /linux && cd /linux
    tar --strip-components=1 -xf /usr/src/linux-source-6.12.tar.xz
    make -s KCONFIG_ALLCONFIG=/lab/kernel.config allnoconfig
    missing=$(grep -v "^#" /lab/kernel.config | grep -vxFf .config) || true
    [ -z "$missing" ] || { echo "this kernel has not:" $missing >&2; exit 1; }
    make -s -j"$(nproc)" bzImage >/out/log 2>&1 || { tail -n 30 /out/log >&2; exit 1; }
    cp arch/x86/boot/bzImage /out/vmlinuz
    cp .config /out/config'
rm "$out/log"
echo "$stamp" >"$out/stamp"
