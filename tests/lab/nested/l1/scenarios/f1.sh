#!/bin/bash
# Two devices by iommufd, no vIOMMU: one IOAS, RAM locked once under libvirt's limit of RAM + 1 GiB, as with containers (s1).
. "$(dirname "$0")/../lib.sh"
define f1 devices=2 iommufd=2
try f1
