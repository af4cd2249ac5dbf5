#!/bin/bash
# Debian 13's own Rust, 1.85, for x86_64 and AArch64: runs a command beside the sources, as root.
#
#   tests/lab/toolchain.sh TARGET 'command'      TARGET: cargo's target directory, kept
#
# The root $VIOMMU_LAB/roots/toolchain contains the oldest supported Rust, Debian's cross compiler and C library for arm64,
# and qemu-aarch64 for the built programs; a missing root is built. The command starts in the checkout, read-only as /src,
# with TARGET as /target and the crates that this machine's cargo has downloaded. Other changes are discarded.
set -euo pipefail
target=${1:?usage: toolchain.sh TARGET COMMAND} command=${2:?usage: toolchain.sh TARGET COMMAND}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
lab=$(realpath -m "${VIOMMU_LAB:-$checkout/target/lab}")
root=$lab/roots/toolchain
mkdir -p "$lab/roots" "$target"
target=$(realpath "$target")
registry=$(realpath "${CARGO_HOME:-$HOME/.cargo}/registry")

exec 9>"$lab/roots/.toolchain.lock"
flock 9
if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    # Rust's library for arm64 contains no program, so no arm64 program must run during the installation.
    packages=rustc,cargo,gcc,libc6-dev,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross,libstd-rust-dev:arm64,qemu-user
    mmdebstrap --variant=apt --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --architectures=amd64,arm64 \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --include="$packages" trixie "$root" ${MIRROR:+"$MIRROR"}
    touch "$root/.complete"
fi
exec 9>&-

exec "$checkout/tests/lab/overlay.sh" "$root" --show "$checkout" /src --share "$target" /target --share "$registry" /cargo/registry \
    env CARGO_HOME=/cargo CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true sh -ec "cd /src; $command"
