#!/bin/bash
# The wrapper route with four devices: the guest of s3 starts, with a limit for four address spaces.
. "$(dirname "$0")/../lib.sh"
define w1 devices=4 emulator="$WRAPPER" request=intel
try w1
