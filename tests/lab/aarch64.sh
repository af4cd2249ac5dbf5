#!/bin/bash
# viommu for AArch64, cross-built on x86_64 as Debian 13 would build it: with its Rust and its C library (toolchain.sh).
#
#   tests/lab/aarch64.sh build         the static release binary; prints its path
#   tests/lab/aarch64.sh test          the unit tests and Nova's cases under qemu-aarch64: those that start no program, read no process, and need no libvirt
#
# VIOMMU_CASES names Nova's cases, as for tests/nova.rs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
target=$checkout/target/debian
arch=aarch64-unknown-linux-gnu
cd "$checkout"
cargo fetch --quiet --locked
case ${1:-} in
    build)
        "$here/toolchain.sh" "$target" "packaging/compile $arch >/dev/null"
        echo "$target/$arch/release/viommu"
        ;;
    test)
        mkdir -p "$target"
        cases=${VIOMMU_CASES:-../shared/cases/nova_cases.json}
        named=
        if [ -e "$cases" ]; then
            cp "$cases" "$target/nova_cases.json"
            named=/target/nova_cases.json
        fi
        "$here/toolchain.sh" "$target" "
            export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64 ${named:+VIOMMU_CASES=$named}
            cargo test --quiet --locked --target $arch --lib -- --skip sys::pinned --skip sys::process --skip guard --skip guest_process
            cargo test --quiet --locked --target $arch --test nova"
        ;;
    *)
        echo 'usage: aarch64.sh build|test' >&2
        exit 2
        ;;
esac
