# shellcheck shell=bash disable=SC2034
# Places that the scripts of this directory agree on; sourced, never run.
#
# Everything is below $VIOMMU_LAB (default: target/lab of this checkout): roots/SUITE from ../root.sh, which others use too and nobody
# may change, and nested/, which belongs to these scripts alone.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab=$(realpath -m "${VIOMMU_LAB:-$here/../../../target/lab}")
nested=$lab/nested
kit=$nested/kit
instances=$nested/instances

# The outer QEMU comes from this root, so that the test machine needs none: igb exists since QEMU 8.0, which bookworm has not.
outer_suite=trixie

# One kernel for every L1 and L2, whatever suite the rest of it is.
kernel_suite=bookworm

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Runs the rest of the script for one process at a time: tests of several checkouts or terminals may share one lab.
lock() {
    mkdir -p "$nested"
    exec 9>"$nested/.$1.lock"
    flock 9
}

# Makes the root of a suite if it is missing. The name of the lock is common to all who use the roots.
make_root() {
    mkdir -p "$lab/roots"
    flock "$lab/roots/.$1.lock" "$here/../root.sh" "$1" "$lab/roots/$1"
}

# A stamp says what a result was made from; where it reads differently, the result is made again.
stamp_of() {
    cat "$@" | sha256sum | cut -d' ' -f1
}
