#!/bin/bash
# Boots an L1 of any suite, runs scenarios in it and prints their output; tests/nested.rs checks it.
#
#   tests/lab/nested/all.sh SUITE [SCENARIO…]      default: all s… and w…, on backports also f…, in the order of their numbers
#
#   SETTINGS='NAME=VALUE…'   variables of scenarios, e.g. 'IDLE=100 LOAD=50'
#   VIOMMU_BIN=FILE   the viommu binary (default: the one that cargo built last, unless there is a VIOMMU_DEB)
#   also the variables of boot.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"
suite=${1:?usage: all.sh SUITE [SCENARIO…]}
shift
if [ -z "${VIOMMU_BIN:-}${VIOMMU_DEB:-}" ]; then
    # shellcheck disable=SC2012 # cargo's own names
    VIOMMU_BIN=$(ls -t "$here"/../../../target/*/{debug,release}/viommu 2>/dev/null | head -n 1 || true)
    export VIOMMU_BIN
fi
kinds=sw
[ "$suite" != backports ] || kinds=fsw
# shellcheck disable=SC2046 # no blanks in these names
[ $# -gt 0 ] || set -- $(basename -s .sh "$here"/l1/scenarios/[$kinds][0-9]*.sh | sort -V)
instance=all-$suite
trap '"$here/stop.sh" "$instance"' EXIT
"$here/boot.sh" "$suite" "$instance"
"$here/run.sh" "$instance" 'bash /lab/prepare.sh'
for scenario; do
    begin=$SECONDS
    LIMIT=${LIMIT:-900} "$here/scenario.sh" "$instance" "$scenario" || echo "$scenario: exit status $?"
    echo "-- $scenario: $((SECONDS - begin)) s"
done
