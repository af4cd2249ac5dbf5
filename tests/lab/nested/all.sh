#!/bin/bash
# Boots an L1 of any suite, runs scenarios in it and prints what they say; judging is up to the reader, or to tests/nested.rs.
#
#   tests/lab/nested/all.sh SUITE [SCENARIO…]      default: all but those that take minutes (os) or another boot (apparmor)
#
#   VIOMMU_BIN=FILE   the viommu binary (default: the one that cargo built last)
#   also what boot.sh reads, e.g. for SCENARIO apparmor:   INIT=systemd CMDLINE='apparmor=1 security=apparmor'
set -euo pipefail
. "$(dirname "$0")/common.sh"
suite=${1:?usage: all.sh SUITE [SCENARIO…]}
shift
if [ -z "${VIOMMU_BIN:-}" ]; then
    # shellcheck disable=SC2012 # cargo's own names
    VIOMMU_BIN=$(ls -t "$here"/../../../target/*/{debug,release}/viommu 2>/dev/null | head -n 1)
fi
export VIOMMU_BIN
[ $# -gt 0 ] || set -- s1 s2 s3 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11
instance=all-$suite
trap '"$here/stop.sh" "$instance"' EXIT
"$here/boot.sh" "$suite" "$instance"
"$here/run.sh" "$instance" 'bash /lab/prepare.sh'
for scenario; do
    begin=$SECONDS
    LIMIT=${LIMIT:-900} "$here/run.sh" "$instance" "bash /lab/scenarios/$scenario.sh" || echo "$scenario: exit status $?"
    echo "-- $scenario: $((SECONDS - begin)) s"
done
