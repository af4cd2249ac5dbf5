#!/bin/bash
# DPDK in L2: testpmd forwards between two passed-through ports of igb, which are in groups of type DMA of the guest's own
# vfio-pci, once by each of the ROUTES (native and wrapper). L1's interfaces at the other ends of the two wires send and
# count the frames.
. "$(dirname "$0")/../lib.sh"
: "${FRAMES:=10000}"
ports=("${DEVICES[3]}" "${DEVICES[4]}")
cp /lab/vmlinux /lab/l2-dpdk /var/lib/libvirt/images/
fast="$FAST init_on_alloc=0 transparent_hugepage=never nowatchdog"
# DPDK needs SSE 4.2.
cpu="<cpu mode='custom' match='exact' check='none'><model>Nehalem</model></cpu>"

# The other ends of port 0 and port 1; only the generator's frames may pass there.
modprobe virtio_net
far=()
for number in 4 5; do
    wait_for 10 grep -q "52:54:00:bb:00:0$number" /sys/class/net/*/address
    name=$(basename "$(dirname "$(grep -l "52:54:00:bb:00:0$number" /sys/class/net/*/address)")")
    echo 1 >"/proc/sys/net/ipv6/conf/$name/disable_ipv6"
    # The frames' addresses belong to no interface, and virtio-net without promisc drops them.
    ip link set "$name" up promisc on arp off multicast off
    far+=("$name")
done
counted() { cat "/sys/class/net/$1/statistics/$2"; }

console() { tr -d '\r' <"/var/log/libvirt/qemu/$1-console.log"; }
# reads NAME WORDS: the guest's output after these words, on one line, without blanks.
reads() { console "$1" | sed -n "s/^L2: $2 //p" | tr ' \n' '-,' | sed 's/,$//'; }
# reaches NAME WORDS: waits for these words. A long interval, because each check costs L2 CPU time.
reaches() { until console "$1" | grep -qE "$2|L2: done" || [ "$(virsh -q domstate "$1")" != running ]; do sleep 2; done; }

# dpdk NAME ROUTE
dpdk() {
    local console=/var/log/libvirt/qemu/$1-console.log begin applied
    rm -f "$console"
    domain_xml "$1" ram=256 request=intel arguments='-icount shift=5' \
        os="<kernel>/var/lib/libvirt/images/vmlinux</kernel><initrd>/var/lib/libvirt/images/l2-dpdk</initrd>
            <cmdline>console=ttyS0 quiet $fast intel_iommu=on no_timer_check panic=-1 hugepages=24 FRAMES=$FRAMES</cmdline>" \
        inside="<serial type='file'><source path='$console'/></serial>$(for port in "${ports[@]}"; do hostdev "$port"; done)" |
        sed "s|<devices>|$cpu&|" >"/tmp/$1.xml"
    define_file "$1" "/tmp/$1.xml"
    viommu apply --yes --route "$2" "$1"
    applied=$?
    begin=$(now)
    start "$1"
    virsh -q resume "$1"
    reaches "$1" 'NIC statistics for port 1'
    booted=$(since "$begin")
    pumped=none
    sent=$(counted "${far[0]}" tx_packets) received=$(counted "${far[1]}" rx_packets)
    if console "$1" | grep -q 'NIC statistics'; then
        begin=$(now)
        pumped=$(perl /lab/pump.pl "$FRAMES" "${far[0]}" "${far[1]}" 2>&1 | one_line)
        pump_seconds=$(since "$begin")
        reaches "$1" 'L2: done'
    fi
    echo "RESULT $1 status=$status applied=$applied viommus=$(viommus_of "$1")" \
        "emulator=$(virsh -q dumpxml "$1" | sed -n 's|.*<emulator>.*/\(.*\)</emulator>.*|\1|p')" \
        "native=$(virsh -q dumpxml "$1" | grep -c "<iommu model='intel'>")" \
        "remapping=$(reads "$1" remapping) unsafe_interrupts=$(reads "$1" unsafe-interrupts) no_iommu=$(reads "$1" no-iommu)" \
        "ports=$(reads "$1" port) bound=$(reads "$1" bound) devices=$(reads "$1" groups)" \
        "wire_sent=$(($(counted "${far[0]}" tx_packets) - sent)) wire_received=$(($(counted "${far[1]}" rx_packets) - received))" \
        "port0=$(reads "$1" 'port-0') port1=$(reads "$1" 'port-1') testpmd=$(reads "$1" 'testpmd ended with')" \
        "booted_seconds=$booted pump_seconds=${pump_seconds:-} message=$message $pumped"
    console "$1"
    virsh -q destroy "$1"
    echo "RESULT $1-end $(leftovers)"
}
for route in ${ROUTES:-native wrapper}; do dpdk "dpdk-$route" "$route"; done
