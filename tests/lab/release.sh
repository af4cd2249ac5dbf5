#!/bin/bash
# Builds an earlier version of viommu once: its sources, its binary without --release, and its package.
#
#   tests/lab/release.sh COMMIT DIR        -> DIR/install.sh, DIR/viommu, …, DIR/viommu.deb
#
# Exit status 3: this clone does not have the commit. Without the packaging tools there is no package.
set -euo pipefail
commit=${1:?usage: release.sh COMMIT DIR} dir=$(realpath -m "${2:?usage: release.sh COMMIT DIR}")
cd "$(dirname "$0")/../.."
mkdir -p "$dir"
exec 9>"$dir.lock"
flock 9
packages=1
command -v dh >/dev/null && command -v rpmbuild >/dev/null || packages=
[ ! -e "$dir/viommu${packages:+.deb}" ] || exit 0
git cat-file -e "$commit^{commit}" 2>/dev/null || {
    echo "this clone does not have the commit $commit" >&2
    exit 3
}
rm -rf "$dir"
# A clone, because packaging/build reads files and date from git.
git clone --quiet --no-checkout --shared . "$dir"
cd "$dir"
git -c advice.detachedHead=false checkout --quiet "$commit"
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$dir/target
cargo build --quiet --locked
mv target/*/debug/viommu .
if [ -n "$packages" ]; then
    VIOMMU_BINARY=$dir/viommu packaging/build >/dev/null
    mv target/packages/*.deb viommu.deb
fi
rm -rf target .git
