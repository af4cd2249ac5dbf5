#!/bin/bash
# A few starts of "starts" in a container.
CONTAINER=1 IDLE=2 LOAD=0 BARE=1 exec bash "$(dirname "$0")/starts.sh"
