#!/bin/bash
# The same by the wrapper: starts, with the limit for four.
. "$(dirname "$0")/../lib.sh"
define f4 devices=4 iommufd=4 emulator="$WRAPPER" request=intel
try f4
