#!/bin/bash
# Runs a scenario in L1 with run.sh, and first copies its other files into L1's share.
#
#   tests/lab/nested/scenario.sh INSTANCE SCENARIO
#
#   SETTINGS='NAME=VALUE…'   variables of scenarios
#   LIMIT=SECONDS            as in run.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"
instance=${1:?usage: scenario.sh INSTANCE SCENARIO} scenario=${2:?usage: scenario.sh INSTANCE SCENARIO}
[ ! -e "$here/$scenario/prepare.sh" ] || "$here/$scenario/prepare.sh" "$instances/$instance/share"
exec "$here/run.sh" "$instance" "${SETTINGS:-} bash /lab/scenarios/$scenario.sh"
