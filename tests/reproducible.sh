#!/bin/bash
# Builds the release binary twice, in two directories with different names, and compares the bytes.
#
#   tests/reproducible.sh
#
# Needs two complete builds, by packaging/compile as for a release.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
triple=$(rustc -vV | sed -n 's/^host: //p')

build() { # FOLDER
    mkdir -p "$1"
    git archive HEAD | tar -x -C "$1"
    cp "$(CARGO_TARGET_DIR=$1/target "$1/packaging/compile" "$triple")" "$2"
    rm -rf "$1"
}

build "$stage/one" "$stage/first"
build "$stage/another/folder" "$stage/second"
sha256sum "$stage/first" "$stage/second"
cmp "$stage/first" "$stage/second"
if grep -aoF -e "$HOME/" -e "$stage" "$stage/first"; then
    echo 'These are paths of the builder.' >&2
    exit 1
fi
echo 'The same bytes, and no path of the builder in them.'
