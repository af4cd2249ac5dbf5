#!/bin/bash
# Runs a QEMU of the Debian root $VIOMMU_LAB/roots/$SUITE (trixie), which sees DIR as /mnt, for at most LIMIT seconds (300).
#
#   tests/lab/boot/qemu.sh DIR QEMU [ARGUMENT]...
set -euo pipefail
dir=${1:?usage: qemu.sh DIR QEMU [ARGUMENT]...}
shift
lab=$(realpath -m "${VIOMMU_LAB:-$(dirname "$0")/../../../target/lab}")
# The mount exists in this QEMU's namespace only, and ends with it.
# shellcheck disable=SC2016
in_chroot='mount --bind "$1" "$2/mnt" && root=$2 && shift 2 && exec chroot "$root" env TMPDIR=/mnt "$@"'
exec unshare --mount --propagation private sh -c "$in_chroot" sh "$dir" "$lab/roots/${SUITE:-trixie}" timeout "${LIMIT:-300}" "$@" \
    </dev/null
