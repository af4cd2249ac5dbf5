#!/bin/bash
# The native route with two and with four devices: `viommu rewrite` writes the virtio-iommu, and libvirt counts it.
. "$(dirname "$0")/../lib.sh"
for devices in 2 4; do
    name=native-$devices
    domain_xml $name devices=$devices request=virtio >/tmp/$name-request.xml
    viommu rewrite /tmp/$name-request.xml >/tmp/$name.xml
    define_file $name /tmp/$name.xml
    echo "RESULT $name-plan required=$(required_of $name)"
    try $name
done
