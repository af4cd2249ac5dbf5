#!/bin/bash
# No space for the state file: without it the guest would start without its vIOMMU, so the start must fail.
. "$(dirname "$0")/../lib.sh"
mkdir -p "$STATE"
define w10 ram=64 emulator="$WRAPPER" request=intel
mount -t tmpfs -o size=4k,mode=755 full "$STATE"
head -c 4096 /dev/zero >"$STATE/filler"
start w10
echo "RESULT w10 status=$status message=$message"
[ "$status" != 0 ] || virsh -q destroy w10
rm "$STATE/filler"
echo "RESULT w10-refused $(leftovers)"
umount "$STATE"
try w10 w10-after
