#!/bin/bash
# Writes one suite's part of docs/proof/nova.md, with the real Nova of that Debian suite. 11 minutes on two busy cores the
# first time, then 9.
#
#   tests/lab/nova/page.sh sid         Nova 34: the table, the messages of refusals, and the operations of three instances
#   tests/lab/nova/page.sh trixie      Nova 31: the table
#
# Needs root, mmdebstrap, 2 GB below $VIOMMU_LAB/roots and 4 GB of memory. The root is kept; all other files and processes
# end with the script. The logs of the services are in $VIOMMU_LAB/nova.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
sid) debian=unstable lives=lives ;;
trixie) debian=13 lives= ;;
*)
    echo "usage: page.sh sid|trixie" >&2
    exit 2
    ;;
esac
suite=$1
cd "$here/../../.."
export VIOMMU_LAB=${VIOMMU_LAB:-$PWD/target/lab}
"$here/root.sh" "$suite" "$VIOMMU_LAB/roots/nova-$suite"
cargo build --quiet --locked
share=$VIOMMU_LAB/nova
rm -rf "$share"
mkdir -p "$share"/{checkout,services,stock,route,native,page}
cp -r tests/lab/nova "$share/"
git ls-files -z install.sh hooks examples docs man completions packaging '*.md' LICENSE* | xargs -0 cp --parents -t "$share/checkout"
cp examples/nova/viommu.py "$share/"
cp target/x86_64-unknown-linux-gnu/debug/viommu "$share/binary"

table='python3 /share/nova/table.py'
cat >"$share/services/script" <<SCRIPT
set -e
bash /share/nova/services.sh
cd /share/checkout
VIOMMU_BINARY=/share/binary ./install.sh
# Without systemd no script has reloaded libvirtd for its new hook.
kill -HUP "\$(cat /run/lab-libvirtd.pid)"
cat >/etc/viommu.toml <<'RULES'
[[domain]]
nova-flavor = "nfv"
model = "virtio"
[[domain]]
nova-project = "telco"
model = "intel"
RULES
SCRIPT
echo "$table stock /share/results $lives" >"$share/stock/script"
cat >"$share/route/script" <<SCRIPT
set -e
source /run/lab.sh
source /share/nova/services.sh
viommu host-route on
stop_libvirtd
PATH=/usr/lib/libvirt-host-route:\$PATH start_libvirtd
# nova-compute may notice the restart of libvirtd late, and disables its host then.
stop_compute
start_compute libvirt.LibvirtDriver
$table route /share/results $lives
SCRIPT
cat >"$share/native/script" <<SCRIPT
set -e
source /run/lab.sh
source /share/nova/services.sh
viommu host-route off
stop_libvirtd
start_libvirtd
cp /share/viommu.py /usr/lib/python3/dist-packages/nova/virt/viommu.py
stop_compute
start_compute viommu.Driver
$table native /share/results $lives
SCRIPT
echo "$table page /share/results 'Debian $debian'" >"$share/page/script"

printf '%s\n' services stock route native page | tests/lab/libvirtd.sh "nova-$suite" "$share" | while read -r step status; do
    echo "$(date +%T) $step $status"
    [ "$step" = ready ] || [ "$status" = 0 ] || {
        cat "$share/$step/stderr" >&2
        exit 1
    }
done
page=docs/proof/nova.md
awk -v part="$share/page/stdout" -v marker="<!-- generated: tests/lab/nova/page.sh $suite -->" '
    $0 == marker { print; print ""; while ((getline line < part) > 0) print line; skipped = 1 }
    /<!-- end of the generated part -->/ { if (skipped) print ""; skipped = 0 }
    !skipped' "$page" >"$page.new"
mv "$page.new" "$page"
