#!/bin/bash
# Hot-plug behind a vIOMMU of the wrapper. libvirt counts one address space however many devices come: the limit for one has room for
# three, the fourth is refused, and the guest lives; after `viommu memlock --raise` it is taken, and libvirt does not lower the limit.
. "$(dirname "$0")/../lib.sh"
ports="<controller type='pci' index='0' model='pcie-root'/>"
for index in 1 2 3 4 5 6; do ports+="<controller type='pci' index='$index' model='pcie-root-port'/>"; done
define w3 devices=1 emulator="$WRAPPER" request=intel inside="$ports"

attach() { # LABEL DEVICE
    hostdev "$2" >/tmp/hostdev.xml
    dmesg --clear
    said virsh -q attach-device w3 /tmp/hostdev.xml
    echo "RESULT $1 status=$status $(figures w3) exceeded=$(exceeded) message=$message"
}
start w3
echo "RESULT w3-start status=$status $(figures w3) message=$message"
attach w3-second "${DEVICES[1]}"
attach w3-third "${DEVICES[2]}"
attach w3-refused "${DEVICES[3]}"
said viommu memlock w3 --raise
echo "RESULT w3-raise status=$status limit=$(limit_of w3) message=$message"
attach w3-fourth "${DEVICES[3]}"
virsh -q destroy w3
echo "RESULT w3-end $(leftovers)"
