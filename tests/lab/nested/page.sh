#!/bin/bash
# Writes docs/proof/real-vfio.md and docs/proof/iommufd.md: every scenario on five hosts, two of them at a time. Takes about
# 25 minutes on two idle cores, and a kernel build the first time.
#
#   tests/lab/nested/page.sh [SUITE…]      only the page of these suites, e.g. backports for docs/proof/iommufd.md
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$here/../../.."
cargo build --quiet
results=$nested/results
rm -rf "$results"
mkdir -p "$results"
[ $# -gt 0 ] || set -- bullseye bookworm trixie sid backports
while [ $# -gt 0 ]; do
    for suite in "${@:1:2}"; do "$here/all.sh" "$suite" >"$results/$suite" & done
    wait
    shift $(($# < 2 ? $# : 2))
done
VIOMMU_RESULTS=$results cargo test --test nested pages_have_every_scenario
