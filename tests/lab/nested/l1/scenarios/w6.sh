#!/bin/bash
# After a save and a restore the guest has the same vIOMMU. Without a passed-through device: QEMU cannot save such a guest.
. "$(dirname "$0")/../lib.sh"
define w6 ram=64 emulator="$WRAPPER" request=intel
start w6
echo "RESULT w6-start status=$status viommus=$(viommus_of w6) message=$message"
said virsh -q save w6 /var/tmp/w6.save
echo "RESULT w6-save status=$status $(leftovers) message=$message"
said virsh -q restore /var/tmp/w6.save --paused
echo "RESULT w6-restore status=$status viommus=$(viommus_of w6) message=$message"
virsh -q destroy w6
rm -f /var/tmp/w6.save
echo "RESULT w6-end $(leftovers)"
