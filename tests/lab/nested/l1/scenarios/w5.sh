#!/bin/bash
# A vIOMMU in <qemu:commandline> and no wrapper, the domain of s3: the guard alone, against the clock.
. "$(dirname "$0")/../lib.sh"
define w5 devices=4 hidden=1 request=intel
try w5
