#!/bin/bash
# The same behind AMD's vIOMMU by the wrapper (dma-remap=on), with two NICs by containers.
MODEL=amd LABEL=f9 exec bash "$(dirname "$0")/os.sh"
