#!/bin/bash
# Does the oldest Rust that we promise still build this? Debian 13's own rustc 1.85, in an overlay over the trixie root.
#
#   tests/lab/msrv.sh ROOT       ROOT made by root.sh; the crates must have been fetched
set -euo pipefail
root=$(realpath "$1")
checkout=$(cd "$(dirname "$0")/../.." && pwd)
registry=$(realpath "${CARGO_HOME:-$HOME/.cargo}/registry")
export root checkout registry
unshare --mount --fork bash -euo pipefail <<'INSIDE'
stage=$(mktemp -d)
trap 'umount -R "$stage" && rmdir "$stage"' EXIT
mount -t tmpfs tmpfs "$stage"
mkdir "$stage"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$stage/upper,workdir=$stage/work" "$stage/root"
mount -t proc proc "$stage/root/proc"
mount --rbind /dev "$stage/root/dev"
cp /etc/resolv.conf "$stage/root/etc/resolv.conf"
mkdir -p "$stage/root"/{src,cargo/registry}
mount --bind -o ro "$checkout" "$stage/root/src"
mount --bind "$registry" "$stage/root/cargo/registry"
chroot "$stage/root" sh -ec '
    export DEBIAN_FRONTEND=noninteractive CARGO_HOME=/cargo CARGO_TARGET_DIR=/tmp/target
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends rustc cargo gcc libc6-dev >/dev/null 2>&1
    rustc --version
    cd /src && cargo check --quiet --offline --locked'
INSIDE
