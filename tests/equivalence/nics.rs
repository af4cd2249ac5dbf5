//! Network interfaces, whose `<driver>` `domxml-to-native` drops: libvirt starts these domains with an emulator that
//! ends at once, and its log contains the command line.

use std::fmt::Write as _;
use std::fs;

use super::domains::{Case, Made};
use super::support::libvirt::Libvirt;

/// Interfaces with every combination of machine, backend, model, place and spelling; one domain contains all drivers.
pub(crate) fn cases() -> Vec<Case> {
    let backends = ["<interface type='user'>", "<interface type='ethernet'>", VHOST_USER, UDP];
    let models = ["virtio", "virtio-transitional", "virtio-non-transitional"];
    let places = ["", "root bus", "port", "switch"];
    let mut cases = Vec::new();
    for (backend, model, place) in product(&backends, &models, &places) {
        let devices = interfaces(backend, model, place);
        for (machine, virt) in [("q35", false), ("virt", true)] {
            for (spelling, capabilities) in [("JSON", ""), ("key=value", Made::KEY_VALUE)] {
                let made = Made { virt, memory: SHARED, devices: &devices, capabilities, ..Made::default() };
                let kind = backend.split('\'').nth(1).unwrap();
                cases.push(Case { name: format!("{machine} {kind} {model} {place} {spelling}"), xml: made.xml() });
            }
        }
    }
    cases
}

/// An interface with every driver, and the controllers of their places.
fn interfaces(backend: &str, model: &str, place: &str) -> String {
    let drivers = ["", "<driver iommu='off'/>", "<driver ats='on'/>", "<driver iommu='on'/>", "<driver queues='1'/>"];
    let mut devices = String::new();
    let mut buses = 0;
    let mut bus = |devices: &mut String, controller: &str| {
        buses += 1;
        write!(devices, "<controller type='pci' index='{buses}' model='pcie-{controller}-port'/>").unwrap();
        buses
    };
    if place == "switch" {
        bus(&mut devices, "root");
        bus(&mut devices, "switch-upstream");
    }
    for (number, driver) in drivers.iter().enumerate() {
        let port = 7000 + 2 * number;
        let backend = backend.replace("PORT", &port.to_string()).replace("LOCAL", &(port + 1).to_string());
        let (bus, slot) = match place {
            "port" => (bus(&mut devices, "root"), 0),
            "switch" => (bus(&mut devices, "switch-downstream"), 0),
            _ => (0, 9 + number),
        };
        let address =
            if place.is_empty() { String::new() } else { format!("<address type='pci' bus='{bus}' slot='{slot}'/>") };
        write!(
            devices,
            "{backend}<mac address='52:54:00:00:01:0{number}'/><model type='{model}'/>{driver}{address}</interface>"
        )
        .unwrap();
    }
    devices
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

/// Number of domains that libvirt starts at once: it mostly waits.
const AT_ONCE: usize = 4;

/// The command lines with which libvirt starts these domains.
pub(crate) fn started(lab: &Libvirt, domains: &[&str]) -> Vec<Result<Vec<String>, String>> {
    for arch in ["x86_64", "aarch64"] {
        lab.put(
            &format!("/usr/bin/that-ends-{arch}"),
            format!(
                "#!/bin/bash\ncase \" $* \" in *' -uuid '*) exit 1 ;; esac\nexec /usr/bin/qemu-system-{arch} \"$@\"\n"
            ),
        );
    }
    let directory = lab.share.join("started");
    fs::create_dir_all(&directory).unwrap();
    for (index, xml) in domains.iter().enumerate() {
        let own = index % AT_ONCE;
        let xml = xml.replace("<name>made</name>", &format!("<name>started{own}</name>"));
        let xml = xml.replace(Made::UUID, &uuid(own)).replace("/made_VARS.fd", &format!("/started{own}_VARS.fd"));
        let xml = xml.replace("<emulator>/usr/bin/qemu-system-", "<emulator>/usr/bin/that-ends-");
        fs::write(directory.join(index.to_string()), xml).unwrap();
    }
    // libvirt appends to the log; each start adds its time, the command line, and its result.
    let script = "cd /share/started
        for ((own = 0; own < AT_ONCE; own++)); do
            log=/var/log/libvirt/qemu/started$own.log
            for ((n = own; n < COUNT; n += AT_ONCE)); do
                : >$log
                # virtlogd may still have the log of the start before.
                for try in {1..100}; do
                    virsh -q create $n 2>$n.complaint
                    grep -q 'Device or resource busy' $n.complaint || break
                    sleep 0.1
                done
                sed -n '/^[A-Z_]*=.*\\\\$/,/[^\\\\]$/p' $log >$n.line
            done &
        done
        wait
        for ((n = 0; n < COUNT; n++)); do
            [ -s $n.line ] || { printf '1\\0%s\\0' \"$(<$n.complaint)\"; continue; }
            eval \"set -- $(<$n.line)\"
            while [[ $1 == [A-Z_]*=* ]]; do shift; done
            printf '%s\\0' $# \"$@\"
        done";
    let script = script.replace("COUNT", &domains.len().to_string()).replace("AT_ONCE", &AT_ONCE.to_string());
    let words = lab.run(&script).ok();
    fs::remove_dir_all(&directory).unwrap();
    let mut words = words.split_terminator('\0').map(str::to_owned);
    let mut own = || {
        let count = words.next().unwrap().trim().parse().unwrap();
        words.by_ref().take(count).collect::<Vec<_>>()
    };
    let lines: Vec<_> = domains.iter().map(|_| own()).collect();
    let answer = |(index, line): (usize, Vec<String>)| match <[String; 1]>::try_from(line) {
        Ok([complaint]) => Err(complaint),
        Err(line) => Ok(masked(line, index % AT_ONCE)),
    };
    lines.into_iter().enumerate().map(answer).collect()
}

/// Removes the numbers of the start and of its place.
fn masked(line: Vec<String>, own: usize) -> Vec<String> {
    let (name, uuid) = (format!("started{own}"), uuid(own));
    let word = |word: String| {
        let word = word.split("/domain-").next().unwrap();
        word.replace(&name, "started").replace(&uuid, Made::UUID)
    };
    line.into_iter().map(word).collect()
}

fn uuid(own: usize) -> String {
    format!("{}{own}", &Made::UUID[..35])
}
