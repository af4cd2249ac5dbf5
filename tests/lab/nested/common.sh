# shellcheck shell=bash disable=SC2034
# Paths and functions that the scripts of this directory share; only sourced.
#
# All files are below $VIOMMU_LAB (default: target/lab of this checkout): roots/SUITE of ../root.sh, which other scripts use
# too and which must not change, and nested/, which only these scripts use.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab=$(realpath -m "${VIOMMU_LAB:-$here/../../../target/lab}")
nested=$lab/nested
kit=$nested/kit
instances=$nested/instances

# The outer QEMU comes from this root, so that the test machine needs none: igb exists since QEMU 8.0; bookworm has an older
# one.
outer_suite=trixie

# One kernel for every L1 and L2 of any suite.
kernel_suite=bookworm

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Serializes the rest of the script: tests of several checkouts or terminals may share one lab.
lock() {
    mkdir -p "$nested"
    exec 9>"$nested/.$1.lock"
    flock 9
}

# Builds the root of a missing suite. All users of the roots use the same lock.
make_root() {
    mkdir -p "$lab/roots"
    flock "$lab/roots/.$1.lock" "$here/../root.sh" "$1" "$lab/roots/$1"
}

# A stamp is the hash of a result's inputs; after a change the result is built again.
stamp_of() {
    cat "$@" | sha256sum | cut -d' ' -f1
}
