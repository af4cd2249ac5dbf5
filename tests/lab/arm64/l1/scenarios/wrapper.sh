#!/bin/bash
# The wrapper route with two and with four devices: libvirt counts no vIOMMU, so the guard must raise its limit.
. "$(dirname "$0")/../lib.sh"
for devices in 2 4; do
    name=wrapper-$devices
    define $name devices=$devices emulator="$WRAPPER" request=auto
    echo "RESULT $name-plan required=$(required_of $name)"
    try $name
done
