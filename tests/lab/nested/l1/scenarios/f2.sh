#!/bin/bash
# Two and four devices by iommufd behind a vIOMMU that libvirt knows: an IOAS each, and libvirt counts so.
. "$(dirname "$0")/../lib.sh"
for count in 2 4; do
    define f2-$count devices=$count iommufd=$count native=1
    try f2-$count
done
