#!/bin/bash
# A fifth device for a guest with four, behind the wrapper's vIOMMU. RAM exceeds the 1 GiB beside it, so the limit has no
# space for another device: the device is refused, and the guest keeps running; after `viommu memlock --raise` it is
# accepted. (libvirt before 7.2 lowers the limit again.)
. "$(dirname "$0")/../lib.sh"
ports="<controller type='pci' index='0' model='pcie-root'/>"
for index in 1 2 3 4 5 6; do ports+="<controller type='pci' index='$index' model='pcie-root-port'/>"; done
define w3 ram=1088 devices=4 emulator="$WRAPPER" request=intel inside="$ports"

attach() { # LABEL DEVICE
    hostdev "$2" >/tmp/hostdev.xml
    dmesg --clear
    said virsh -q attach-device w3 /tmp/hostdev.xml
    echo "RESULT $1 status=$status $(figures w3) exceeded=$(exceeded) message=$message"
}
start w3
echo "RESULT w3-start status=$status seconds=$seconds $(figures w3) message=$message"
attach w3-refused "${DEVICES[4]}"
said viommu memlock w3 --raise
echo "RESULT w3-raise status=$status limit=$(limit_of w3) message=$message"
attach w3-fifth "${DEVICES[4]}"
virsh -q destroy w3
echo "RESULT w3-end $(leftovers)"
