#!/bin/bash
# The same by the wrapper: the guest starts, with the limit for four devices.
. "$(dirname "$0")/../lib.sh"
define f4 devices=4 iommufd=4 emulator="$WRAPPER" request=intel
try f4
