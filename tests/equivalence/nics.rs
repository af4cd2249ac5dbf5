//! Network interfaces, of which `domxml-to-native` forgets the `<driver>`: libvirt starts these domains, with an emulator that ends at
//! once, and its log has the command line.

use std::fmt::Write as _;
use std::fs;

use super::domains::{Case, Made};
use super::support::libvirt::Libvirt;

/// Interfaces with every combination of backend, model, place and driver; the last vary in one domain.
pub(crate) fn cases() -> Vec<Case> {
    let backends = ["<interface type='user'>", "<interface type='ethernet'>", VHOST_USER, UDP];
    let models = ["virtio", "virtio-transitional", "virtio-non-transitional"];
    let places = ["", "root bus", "port"];
    let drivers = ["", "<driver iommu='off'/>", "<driver ats='on'/>", "<driver iommu='on'/>", "<driver queues='1'/>"];
    let mut cases = Vec::new();
    for (backend, model, place) in product(&backends, &models, &places) {
        let mut devices = String::new();
        for (number, driver) in drivers.iter().enumerate() {
            let port = 7000 + 2 * number;
            let backend = backend.replace("PORT", &port.to_string()).replace("LOCAL", &(port + 1).to_string());
            let address = match place {
                "port" => format!("<address type='pci' bus='{}' slot='0'/>", number + 1),
                "root bus" => format!("<address type='pci' bus='0' slot='{}'/>", 9 + number),
                _ => String::new(),
            };
            if place == "port" {
                write!(devices, "<controller type='pci' index='{}' model='pcie-root-port'/>", number + 1).unwrap();
            }
            write!(
                devices,
                "{backend}<mac address='52:54:00:00:01:0{number}'/><model type='{model}'/>{driver}{address}</interface>"
            )
            .unwrap();
        }
        for (spelling, capabilities) in [("JSON", ""), ("key=value", Made::KEY_VALUE)] {
            let made = Made { memory: SHARED, devices: &devices, capabilities, ..Made::default() };
            let kind = backend.split('\'').nth(1).unwrap();
            cases.push(Case { name: format!("{kind} {model} {place} {spelling}"), xml: made.xml() });
        }
    }
    cases
}

const SHARED: &str = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
const VHOST_USER: &str = "<interface type='vhostuser'><source type='unix' path='/run/PORT' mode='client'/>";
const UDP: &str =
    "<interface type='udp'><source address='127.0.0.1' port='PORT'><local address='127.0.0.1' port='LOCAL'/></source>";

fn product<'a>(
    first: &'a [&'a str],
    second: &'a [&'a str],
    third: &'a [&'a str],
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    first.iter().flat_map(move |a| second.iter().flat_map(move |b| third.iter().map(move |c| (*a, *b, *c))))
}

/// The command lines with which libvirt starts these domains.
pub(crate) fn started(lab: &Libvirt, domains: &[&str]) -> Vec<Result<Vec<String>, String>> {
    lab.put(
        "/usr/bin/qemu-that-ends",
        "#!/bin/bash\ncase \" $* \" in *' -uuid '*) exit 1 ;; esac\nexec /usr/bin/qemu-system-x86_64 \"$@\"\n",
    );
    let directory = lab.share.join("started");
    fs::create_dir_all(&directory).unwrap();
    for (index, xml) in domains.iter().enumerate() {
        let xml = xml.replace("<name>made</name>", "<name>started</name>");
        let xml = xml.replace("<emulator>/usr/bin/qemu-system-x86_64<", "<emulator>/usr/bin/qemu-that-ends<");
        fs::write(directory.join(index.to_string()), xml).unwrap();
    }
    // libvirt appends to the log; each start adds its time, the command line, and how it ended.
    let script = "log=/var/log/libvirt/qemu/started.log; cd /share/started; : >complaints
        for ((n = 0; n < COUNT; n++)); do
            : >$log
            virsh -q create $n 2>>complaints
            sed -n '/^[A-Z_]*=.*\\\\$/,/[^\\\\]$/p' $log >$n.line
        done
        for ((n = 0; n < COUNT; n++)); do
            [ -s $n.line ] || { printf '0\\0'; continue; }
            eval \"set -- $(<$n.line)\"
            while [[ $1 == [A-Z_]*=* ]]; do shift; done
            printf '%s\\0' $# \"$@\"
        done";
    let words = lab.run(&script.replace("COUNT", &domains.len().to_string())).ok();
    let complaints = fs::read_to_string(directory.join("complaints")).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let mut words = words.split_terminator('\0').map(str::to_owned);
    let mut own = || {
        let count = words.next().unwrap().trim().parse().unwrap();
        words.by_ref().take(count).collect::<Vec<_>>()
    };
    let lines: Vec<_> = domains.iter().map(|_| own()).collect();
    let why = || complaints.lines().find(|line| !line.contains("exited")).unwrap_or_default().to_owned();
    lines.into_iter().map(|line| if line.is_empty() { Err(why()) } else { Ok(masked(line)) }).collect()
}

/// The number of a start is in the names of its files.
fn masked(line: Vec<String>) -> Vec<String> {
    line.into_iter().map(|word| word.split("/domain-").next().unwrap().to_owned()).collect()
}
