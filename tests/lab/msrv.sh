#!/bin/bash
# Does the oldest Rust that we promise still build this? Debian 13's own rustc 1.85, in an overlay over the trixie root.
#
#   tests/lab/msrv.sh ROOT       ROOT made by root.sh; the crates must have been fetched
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
registry=$(realpath "${CARGO_HOME:-$HOME/.cargo}/registry")
exec "$checkout/tests/lab/overlay.sh" "$1" --show "$checkout" /src --share "$registry" /cargo/registry sh -ec '
    export DEBIAN_FRONTEND=noninteractive CARGO_HOME=/cargo CARGO_TARGET_DIR=/tmp/target
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends rustc cargo gcc libc6-dev >/dev/null 2>&1
    rustc --version
    cd /src && cargo check --quiet --offline --locked'
