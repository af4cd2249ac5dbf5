#!/bin/bash
# The domain of s4, and the hook looks: it starts with every libvirt. No wrapper and no request, for libvirt knows the vIOMMU.
. "$(dirname "$0")/../lib.sh"
define w13 ram=1536 devices=2 native=1
try w13
