#!/bin/bash
# Writes docs/proof/real-vfio.md anew: every scenario on four Debians, two of them at a time. Some twenty minutes on two idle cores.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$here/../../.."
cargo build --quiet
results=$nested/results
mkdir -p "$results"
for pair in 'bullseye bookworm' 'trixie sid'; do
    for suite in $pair; do "$here/all.sh" "$suite" >"$results/$suite" & done
    wait
done
VIOMMU_RESULTS=$results cargo test --test nested page_has_every_scenario
