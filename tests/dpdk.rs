//! DPDK in a stock Debian 13 guest: testpmd drives two virtio network interfaces behind the vIOMMU through vfio-pci.
//!
//! A real libvirtd starts the guest in software emulation; `tests/lab/dpdk/image.sh` builds it. Run by hand, about 8
//! minutes:
//! `cargo test --test dpdk -- --ignored --nocapture`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test harness; a panic fails the test"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use support::libvirt::{Guest, Libvirt, Suite, shared};

/// Number of frames that the guest forwards.
const FRAMES: u32 = 10_000;
/// A guest boots within a minute on an idle machine.
const PATIENCE: Duration = Duration::from_secs(480);

fn image() -> PathBuf {
    let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| PathBuf::from("target/lab"), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(lab).join("boot/dpdk")
}

fn domain(name: &str, request: &str) -> String {
    let port = |number: u32| {
        format!(
            "<interface type='udp'><mac address='52:54:00:00:00:0{number}'/><source address='127.0.0.1' port='{}'>
               <local address='127.0.0.1' port='{}'/></source><model type='virtio'/></interface>",
            7100 + number,
            7200 + number
        )
    };
    format!(
        "<domain type='qemu'><name>{name}</name>
           <metadata><v:viommu xmlns:v='urn:libvirt-viommu:1' {request}/></metadata>
           <memory unit='MiB'>1024</memory><vcpu>2</vcpu>
           <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/share/vmlinuz</kernel><initrd>/share/initrd</initrd>
             <cmdline>root=UUID=3b6d1f6e-3f5c-4f0a-8a43-5d2f6d8f2b10 ro console=ttyS0 init=/usr/sbin/lab-dpdk mitigations=off \
               no_timer_check intel_iommu=on hugepages=128</cmdline></os>
           <features><acpi/></features><cpu mode='maximum'/>
           <devices>
             <disk type='file'><driver name='qemu' type='raw'/><source file='/share/root.img'/><target dev='vda' bus='virtio'/>
               <readonly/></disk>
             {}{}
             <serial type='file'><source path='/share/{name}.console'/></serial><memballoon model='none'/>
           </devices></domain>",
        port(1),
        port(2)
    )
}

/// The guest's console output since its start, up to one of these texts.
fn console(lab: &Libvirt, name: &str, ends: &[&str]) -> String {
    let begin = Instant::now();
    loop {
        let text = fs::read(lab.share.join(format!("{name}.console"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        if ends.iter().any(|end| text.contains(end)) {
            return text;
        }
        assert!(begin.elapsed() < PATIENCE, "{name} did not print {ends:?}:\n{text}");
        thread::sleep(Duration::from_millis(500));
    }
}

/// The last value of this name in testpmd's statistics, for each port.
fn counted(console: &str, name: &str) -> Vec<u32> {
    let mut ports = vec![0, 0];
    let mut port = 0;
    for line in console.lines() {
        if let Some((_, number)) = line.split_once("NIC statistics for port ") {
            port = number.split(' ').next().unwrap().parse().unwrap();
        }
        let value = line.split_once(name).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        if let Some(value) = value {
            ports[port] = value;
        }
    }
    ports
}

fn values(console: &str, what: &str) -> Vec<String> {
    let lines = console.lines().filter_map(|line| line.split_once(&format!("LAB {what} ")));
    lines.map(|(_, rest)| rest.trim().to_owned()).collect()
}

/// Starts a guest on one of the routes, and returns its console output up to one of these texts.
fn boots<'a>(lab: &'a Libvirt, name: &str, request: &str, route: &str, ends: &[&str]) -> (Guest<'a>, String) {
    let guest = lab.guest(&domain(name, request));
    lab.run(&format!("viommu apply --yes --route {route} {name}")).ok();
    guest.virsh("start", &[]).ok();
    let console = console(lab, name, ends);
    println!("--- {name}\n{}", console.lines().filter(|line| line.contains("LAB")).collect::<Vec<_>>().join("\n"));
    (guest, console)
}

/// Sends frames to the guest's first port and returns the output of the second.
fn pump(lab: &Libvirt, frames: u32) -> String {
    fs::copy("tests/lab/dpdk/pump.pl", lab.share.join("pump.pl")).unwrap();
    lab.run(&format!("perl /share/pump.pl {frames} 7201 7102")).ok()
}

/// Asserts that no option makes VFIO unsafe.
fn is_safe(console: &str) {
    assert_eq!(values(console, "remapping"), ["1"]);
    assert_eq!(values(console, "unsafe interrupts"), ["N"]);
    assert!(["N", "unsupported"].contains(&values(console, "no-IOMMU mode")[0].as_str()), "{console}");
}

/// Asserts that the devices are in groups with translated DMA, and that `vfio-pci` drives both.
fn is_bound(console: &str) {
    assert_eq!(values(console, "bound"), ["2"]);
    let ports = values(console, "port");
    assert!(ports.len() == 2 && ports.iter().all(|port| port.contains(" type DMA")), "{ports:?}");
}

fn forwards(lab: &Libvirt, route: &str, virtio: &str) {
    let ends = ["LAB testpmd ended", "NIC statistics for port 1"];
    let request = format!("model='intel' virtio='{virtio}'");
    let (guest, text) = boots(lab, &format!("dpdk-{route}"), &request, route, &ends);
    is_safe(&text);
    is_bound(&text);
    let pumped = pump(lab, FRAMES);
    println!("{route}: {pumped}");
    assert_eq!(pumped, format!("sent {FRAMES} received {FRAMES}\n"));
    // testpmd prints its statistics every two seconds.
    let begin = Instant::now();
    let counts = loop {
        let text = console(lab, &guest.name, &["LAB"]);
        let counts = (counted(&text, "RX-packets:")[0], counted(&text, "TX-packets:")[1]);
        if counts == (FRAMES, FRAMES) || begin.elapsed() > PATIENCE {
            break counts;
        }
        thread::sleep(Duration::from_millis(500));
    };
    println!("{route}: port 0 received and port 1 sent {counts:?}");
    assert_eq!(counts, (FRAMES, FRAMES));
    guest.virsh("destroy", &[]).ok();
}

/// Without the key `vfio-pci` binds the devices, because the guest's kernel assigns a group to every PCI device. But
/// QEMU does not translate DPDK's addresses, and testpmd's ports never work.
fn does_not_forward(lab: &Libvirt) {
    let (guest, text) = boots(lab, "dpdk-off", "model='intel'", "native", &["Configuring Port 0"]);
    is_safe(&text);
    is_bound(&text);
    assert_eq!(pump(lab, 10), "sent 10 received 0\n");
    let text = console(lab, &guest.name, &["LAB"]);
    assert!(!text.contains("NIC statistics"), "{text}");
    guest.virsh("destroy", &[]).ok();
}

#[test]
#[ignore = "about 8 minutes: cargo test --test dpdk -- --ignored --nocapture"]
fn testpmd_forwards_between_virtio_interfaces() {
    let status = Command::new("tests/lab/dpdk/image.sh").status().unwrap();
    assert!(status.success());
    let lab = shared(Suite::Trixie).unwrap();
    for name in ["vmlinuz", "initrd", "root.img"] {
        fs::hard_link(image().join(name), lab.share.join(name)).unwrap();
    }
    // With `all` the root disk is behind the vIOMMU, too.
    for (route, virtio) in [("wrapper", "all"), ("native", "on")] {
        forwards(&lab, route, virtio);
    }
    does_not_forward(&lab);
}
