#!/bin/bash
# Two devices behind one conventional bridge have one requester id, and therefore one address space; the third has its own.
# Two in all.
. "$(dirname "$0")/../lib.sh"
behind_bridge() { hostdev "$1" "<address type='pci' bus='0x02' slot='0x0$2'/>"; }
define w2 emulator="$WRAPPER" request=intel inside="
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <controller type='pci' index='2' model='pcie-to-pci-bridge'/>
    <controller type='pci' index='3' model='pcie-root-port'/>
    $(behind_bridge "${DEVICES[0]}" 1)
    $(behind_bridge "${DEVICES[1]}" 2)
    $(hostdev "${DEVICES[2]}" "<address type='pci' bus='0x03' slot='0x00'/>")"
try w2
