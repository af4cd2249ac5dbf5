#!/bin/bash
# A vIOMMU in <qemu:commandline> without the wrapper, the domain of s3: the guard alone must raise the limit in time. (QEMU
# 5.2 leaves the devices outside of the vIOMMU, as in s3.) Then the limit is lowered to the value that a late guard would
# leave: viommu reports it, and corrects it at `started`.
. "$(dirname "$0")/../lib.sh"
define w5 devices=4 hidden=1 request=intel
start w5
echo "RESULT w5 status=$status seconds=$seconds $(figures w5) message=$message"
prlimit --pid "$(pid_of w5)" --memlock=$((1408 << 20))
said viommu memlock w5
echo "RESULT w5-low status=$status limit=$(limit_of w5) message=$message"
virsh -q dumpxml w5 >/tmp/w5.xml
said /etc/libvirt/hooks/qemu w5 started begin - </tmp/w5.xml
echo "RESULT w5-started status=$status limit=$(limit_of w5) message=$message"
virsh -q destroy w5
echo "RESULT w5-end $(leftovers)"
