#!/bin/bash
# Twenty transient guests at once through hook, guard and wrapper.
. "$(dirname "$0")/../lib.sh"
count=20
for number in $(seq $count); do domain_xml "w7-$number" ram=64 emulator="$WRAPPER" request=intel >"/tmp/w7-$number.xml"; done
begin=$(now)
for number in $(seq $count); do virsh -q create "/tmp/w7-$number.xml" --paused >>/tmp/w7.out 2>&1 & done
wait
seconds=$(since "$begin")
started=0 viommus=0 destroy=
for number in $(seq $count); do
    name=w7-$number
    [ -n "$(pid_of "$name")" ] || continue
    started=$((started + 1))
    viommus=$((viommus + $(viommus_of "$name")))
    destroy+="destroy $name; "
done
states=$(find "$STATE" -name '*.json' | wc -l)
virsh -q "$destroy"
echo "RESULT w7 started=$started viommus=$viommus states=$states seconds=$seconds $(leftovers) message=$(one_line </tmp/w7.out)"
