#!/bin/bash
# Checks that Debian 13 builds its package from the source package alone, without a network, with its own rustc.
#
#   tests/lab/debian-source.sh ROOT       ROOT made by root.sh for trixie; packaging/source has been run
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
exec "$checkout/tests/lab/overlay.sh" "$1" --show "$checkout/target/packages" /packages sh -ec '
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends dpkg-dev >/dev/null 2>&1
    apt-get build-dep -y -qq --no-install-recommends /packages/libvirt-viommu_*.dsc >/dev/null 2>&1
    mkdir /tmp/build && cd /tmp/build
    dpkg-source --no-check --extract /packages/libvirt-viommu_*.dsc tree
    cd tree && unshare --net dpkg-buildpackage --build=binary -us -uc >../log 2>&1 || { tail -30 ../log; exit 1; }
    dpkg -i ../libvirt-viommu_*.deb
    viommu --version'
