#!/bin/bash
# QEMU hangs between its exec and its monitor, and libvirt waits for it until the guest is destroyed. The wrapper executes a
# QEMU that stops itself when it has a guest's arguments.
. "$(dirname "$0")/../lib.sh"
stuck=/usr/local/bin/stuck-qemu
cat >$stuck <<END
#!/bin/bash
[[ " \$* " != *' -uuid '* ]] || kill -STOP \$\$
exec $QEMU "\$@"
END
chmod 755 $stuck
printf '[emulators]\nx86_64 = "%s"\n' $stuck >/etc/viommu.toml
define w12 devices=2 emulator="$WRAPPER" request=intel

stopped() { [ -n "$(pid_of w12)" ] && grep -qs '^State:.T' "/proc/$(pid_of w12)/status"; }
virsh -q start w12 --paused >/tmp/w12.out 2>&1 &
start=$!
wait_for 60 stopped
limit=$(limit_of w12)
echo "RESULT w12-stuck limit=$limit holders=$(holders "$limit") $(leftovers)"
virsh -q destroy w12
destroyed=$?
wait $start
echo "RESULT w12 destroyed=$destroyed status=$? holders=$(holders "$limit") $(leftovers) message=$(one_line </tmp/w12.out)"
rm /etc/viommu.toml
try w12 w12-after
