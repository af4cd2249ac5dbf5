# shellcheck shell=bash disable=SC2034,SC2153
# Settings and functions for an L1 on AArch64; lib.sh sources this file, which replaces its own.
QEMU=/usr/bin/qemu-system-aarch64
WRAPPER=/usr/bin/viommu-qemu-system-aarch64

# As in lib.sh, with native=MODEL. UEFI provides ACPI on AArch64, and the guest finds a virtio-iommu through ACPI.
domain_xml() {
    local name=$1 ram=384 devices=0 emulator=$QEMU request='' native='' hidden='' inside='' os='' device
    shift
    [ $# -eq 0 ] || local "$@"
    echo "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
    echo "<name>$name</name><memory unit='MiB'>$ram</memory><vcpu>1</vcpu>"
    [ -z "$request" ] || echo "<metadata><viommu xmlns='urn:libvirt-viommu:1' model='$request'/></metadata>"
    echo "<os firmware='efi'><type arch='aarch64' machine='virt'>hvm</type>"
    echo "<firmware><feature enabled='no' name='secure-boot'/></firmware>$os</os>"
    echo "<features><acpi/><gic version='3'/></features><cpu mode='custom'><model>cortex-a57</model></cpu>"
    echo "<devices><emulator>$emulator</emulator><controller type='usb' model='none'/><memballoon model='none'/>"
    for device in "${DEVICES[@]:0:$devices}"; do hostdev "$device"; done
    [ -z "$native" ] || echo "<iommu model='$native'/>"
    echo "$inside</devices>"
    [ -z "$hidden" ] || echo "<qemu:commandline><qemu:arg value='-device'/>" \
        "<qemu:arg value='virtio-iommu-pci,bus=pcie.0,addr=0x1e'/></qemu:commandline>"
    echo "</domain>"
}

# The firmware's variables are removed with the domain.
define_file() { # NAME FILE
    virsh -q undefine "$1" --nvram >/dev/null 2>&1
    virsh -q define "$2"
}

# The locked memory that a domain needs, in bytes, from viommu's plan.
required_of() { viommu plan --format json "/tmp/$1.xml" | sed -n 's/.*"required_bytes": *\([0-9]*\).*/\1/p'; }
