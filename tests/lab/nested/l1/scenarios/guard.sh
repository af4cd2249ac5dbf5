#!/bin/bash
# The test of tests/hook for a guard's capabilities, descriptors and ends. It needs a host where a limit can be raised.
. "$(dirname "$0")/../lib.sh"
path=$(cat /lab/viommu-path)
mkdir -p "${path%/*}"
install -m755 /usr/bin/viommu "$path"
cd /lab || exit
said env VIOMMU_REQUIRE_LAB=1 /lab/test --exact effects::the_guard_raises_the_limit_and_ends --ignored --nocapture
echo "RESULT guard status=$status passed=$(grep -c ' 1 passed' <<<"$message") message=$message"
