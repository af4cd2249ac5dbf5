#!/bin/bash
# An earlier version of viommu: its sources, and its binary as cargo builds it without --release. Made once.
#
#   tests/lab/release.sh COMMIT DIR        -> DIR/install.sh, DIR/viommu, …
#
# Exit status 3: this clone does not have the commit.
set -euo pipefail
commit=${1:?usage: release.sh COMMIT DIR} dir=$(realpath -m "${2:?usage: release.sh COMMIT DIR}")
cd "$(dirname "$0")/../.."
mkdir -p "$dir"
exec 9>"$dir.lock"
flock 9
[ ! -e "$dir/.complete" ] || exit 0
git cat-file -e "$commit^{commit}" 2>/dev/null || {
    echo "this clone does not have the commit $commit" >&2
    exit 3
}
rm -rf "$dir"
mkdir "$dir"
git archive "$commit" | tar -x -C "$dir"
cd "$dir"
CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$dir/target cargo build --quiet --locked
mv target/*/debug/viommu .
rm -r target
touch .complete
