#!/bin/bash
# The domain of s4 with viommu's hook: it starts with every libvirt. Without the wrapper and a request, because libvirt's
# XML contains the vIOMMU.
. "$(dirname "$0")/../lib.sh"
define w13 ram=1536 devices=2 native=1
try w13
