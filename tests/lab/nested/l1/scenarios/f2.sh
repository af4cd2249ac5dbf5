#!/bin/bash
# Two and four devices by iommufd behind a vIOMMU in libvirt's XML: one IOAS for each, and libvirt counts all of them.
. "$(dirname "$0")/../lib.sh"
for count in 2 4; do
    define f2-$count devices=$count iommufd=$count native=1
    try f2-$count
done
