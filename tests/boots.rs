//! Boots stock guests with each vIOMMU: `tests/lab/boot/`, in software emulation.
//!
//! Debian 13 (amd64) always boots. The other guests are for releases:
//! `cargo test --test boots -- --ignored --nocapture --test-threads=1`. `VIOMMU_REGENERATE=1` writes the results into
//! `docs/proof/boot-matrix.md`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test harness starts programs and reads the environment"
)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;
use std::{fs, thread};

use viommu::domain::{Domain, Driver};
use viommu::xml;

const PAGE: &str = "docs/proof/boot-matrix.md";
const DISKS: [&str; 2] = ["ahci", "blk"];

/// A guest that boots: its name in `guest.sh` and in libosinfo.
struct Guest {
    name: &'static str,
    osinfo: &'static str,
}

/// The output of `boot.sh` for one boot.
struct Boot {
    viommu: &'static str,
    disk: &'static str,
    end: String,
}

impl Boot {
    /// The guest's report under this name, if the root was mounted.
    fn seen(&self, name: &str) -> Option<&str> {
        self.end.strip_prefix("root ")?.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    fn cell(&self) -> String {
        let (Some(groups), Some(remapping)) = (self.seen("groups"), self.seen("remapping")) else {
            // The order of the two depends on timing.
            let cell =
                if matches!(self.end.as_str(), "deferred" | "alert") { "**no root disk**" } else { self.end.as_str() };
            return cell.to_owned();
        };
        let remapping = if remapping == "yes" { ", interrupts remapped" } else { "" };
        format!("root, {groups} groups{remapping}")
    }
}

impl Guest {
    const DEBIAN_13: Guest = Guest { name: "debian-13", osinfo: "http://debian.org/debian/13" };

    fn is_arm64(&self) -> bool {
        self.name.ends_with("-arm64")
    }

    fn viommus(&self) -> [&'static str; 4] {
        ["none", if self.is_arm64() { "smmuv3" } else { "intel" }, "virtio", "virtio-module"]
    }

    fn lab(&self) -> PathBuf {
        let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| PathBuf::from("target/lab"), PathBuf::from);
        Path::new(env!("CARGO_MANIFEST_DIR")).join(lab).join("boot").join(self.name)
    }

    /// Builds the requested guest; otherwise prints what is missing.
    fn is_there(&self) -> bool {
        let complete = self.lab().join(".complete").exists();
        if !complete || !nix::unistd::geteuid().is_root() {
            let message = format!("only root can boot {0}; tests/lab/boot/guest.sh {0} makes it", self.name);
            assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{message}");
            println!("SKIPPED: {message}");
            return false;
        }
        true
    }

    fn make(&self) {
        let status = Command::new("tests/lab/boot/guest.sh").arg(self.name).status().unwrap();
        assert!(status.success(), "guest.sh {}", self.name);
    }

    /// All boots of the matrix, two at a time.
    fn boots(&self) -> Vec<Boot> {
        let viommus = self.viommus();
        let wanted = DISKS.iter().flat_map(|disk| viommus.iter().map(move |viommu| (*viommu, *disk)));
        let queue = Mutex::new(wanted.collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>());
        let done = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let Some((viommu, disk)) = queue.lock().unwrap().pop() else { break };
                        let begin = Instant::now();
                        let output =
                            Command::new("tests/lab/boot/boot.sh").args([self.name, viommu, disk]).output().unwrap();
                        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                        let end = String::from_utf8(output.stdout).unwrap().trim().to_owned();
                        println!("{} {viommu} {disk}: {end}, after {} s", self.name, begin.elapsed().as_secs());
                        done.lock().unwrap().push(Boot { viommu, disk, end });
                    }
                });
            }
        });
        let mut boots = done.into_inner().unwrap();
        boots.sort_by_key(|boot| (boot.disk, viommus.iter().position(|viommu| *viommu == boot.viommu)));
        boots
    }

    fn domain(&self) -> String {
        let os = if self.is_arm64() {
            "<os firmware='efi'><type arch='aarch64' machine='virt'>hvm</type></os><features><acpi/><gic version='3'/></features>"
        } else {
            "<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>"
        };
        format!(
            "<domain type='kvm'><name>{}</name><metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
             <l:os id='{}'/></l:libosinfo></metadata><memory unit='GiB'>1</memory><vcpu>1</vcpu>{os}<devices/></domain>",
            self.name, self.osinfo
        )
    }

    /// The model that `auto` selects for this guest.
    fn auto(&self) -> String {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.xml", self.name));
        fs::write(&file, self.domain()).unwrap();
        let mut plan = Command::new(env!("CARGO_BIN_EXE_viommu"));
        plan.args(["plan", "--format", "json", "--model", "auto", "--config", "/dev/null"]);
        plan.args(["--libvirt-version", "11.3.0", "--qemu-version", "10.0.0", "--host-aw-bits", "48"]).arg(&file);
        let output = plan.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        plan.pointer("/iommu/model").and_then(serde_json::Value::as_str).unwrap().to_owned()
    }

    /// The driver's place in the guest's system, by the table of `viommu::domain`.
    fn driver(&self) -> Option<Driver> {
        let text = self.domain();
        Domain::read(&xml::parse(text.as_bytes()).unwrap()).unwrap().system.unwrap().driver
    }

    /// The driver's place in the guest's kernel and its unmodified initramfs.
    fn built(&self) -> Driver {
        let read = |name| fs::read_to_string(self.lab().join(name)).unwrap();
        let config = read("config");
        match config.lines().find_map(|line| line.strip_prefix("CONFIG_VIRTIO_IOMMU=")) {
            Some("y") => Driver::BuiltIn,
            Some("m") if read("modules").is_empty() => Driver::Module,
            Some(other) => panic!("CONFIG_VIRTIO_IOMMU={other}, in the initramfs: {}", read("modules")),
            None => Driver::Absent,
        }
    }
}

/// The guest's row of the page, without the parts that differ between kernels.
fn row(guest: &Guest, boots: &[Boot]) -> String {
    let rows = DISKS.iter().map(|disk| {
        let cells = boots.iter().filter(|boot| boot.disk == *disk).map(Boot::cell);
        format!("| {} | {disk} | {} |\n", guest.name, cells.collect::<Vec<_>>().join(" | "))
    });
    rows.collect()
}

fn keep_or_compare(guest: &Guest, row: &str) {
    let page = fs::read_to_string(PAGE).unwrap();
    let mine = |line: &str| line.starts_with(&format!("| {} |", guest.name));
    let without_numbers = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    if std::env::var_os("VIOMMU_REGENERATE").is_some() {
        let mut lines: Vec<&str> = page.lines().collect();
        let at = lines.iter().position(|line| mine(line)).unwrap_or(lines.len());
        lines.retain(|line| !mine(line));
        lines.splice(at..at, row.lines());
        fs::write(PAGE, lines.join("\n") + "\n").unwrap();
        return;
    }
    let kept: String = page.split_inclusive('\n').filter(|line| mine(line)).collect();
    assert_eq!(without_numbers(&kept), without_numbers(row), "{PAGE}: VIOMMU_REGENERATE=1 writes it anew");
}

fn shows(guest: &Guest) {
    let boots = guest.boots();
    let row = row(guest, &boots);
    println!("{row}");
    assert_eq!(guest.driver(), Some(guest.built()), "the table of systems and the guest's kernel");
    let auto = guest.auto();
    assert!(guest.viommus().contains(&auto.as_str()), "{auto}");
    for boot in &boots {
        let what = format!("{} {} {}: {}", guest.name, boot.viommu, boot.disk, boot.end);
        let mounted = boot.seen("groups").is_some();
        let driven = match boot.viommu {
            "none" => false,
            "intel" | "smmuv3" => true,
            "virtio" => guest.built() == Driver::BuiltIn,
            _ => guest.built() != Driver::Absent,
        };
        // Only a kernel that reads the ACPI table and has the driver as a module does not find its disk. A kernel of
        // 2026 stops waiting: then it finds the disk, and the vIOMMU is unused.
        assert!(mounted || boot.viommu == "virtio" && guest.built() == Driver::Module, "{what}");
        let waits = boot.viommu == "virtio-module" && guest.name.starts_with("debian-unstable");
        assert!(!mounted || waits || (boot.seen("groups") != Some("0")) == driven, "{what}");
        assert_eq!(boot.seen("remapping") == Some("yes"), boot.viommu == "intel", "{what}");
        assert!(boot.viommu != auto || mounted, "auto is {auto}, and {what}");
    }
    keep_or_compare(guest, &row);
}

#[test]
fn debian_13_boots_with_what_auto_gives() {
    if Guest::DEBIAN_13.is_there() {
        shows(&Guest::DEBIAN_13);
    }
}

/// The AMD vIOMMU as the wrapper writes it.
fn amd_of_the_wrapper(guest: &Guest) -> String {
    let wrapped = "<devices><emulator>/usr/bin/viommu-qemu-system-x86_64</emulator></devices>";
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("amd-by-the-wrapper.xml");
    fs::write(&file, guest.domain().replace("<devices/>", wrapped)).unwrap();
    let mut plan = Command::new(env!("CARGO_BIN_EXE_viommu"));
    plan.args(["plan", "--format", "json", "--model", "amd", "--config", "/dev/null"]);
    plan.args(["--libvirt-version", "12.9.0", "--qemu-version", "11.1.3"]).arg(&file);
    let plan: serde_json::Value = serde_json::from_slice(&plan.output().unwrap().stdout).unwrap();
    let devices = plan.pointer("/qemu/devices").and_then(serde_json::Value::as_array).unwrap();
    devices.iter().map(|device| device.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The same for `<iommu model='amd'><driver intremap='on' xtsup='on'/></iommu>` by libvirt 12.9.0.
const AMD_OF_LIBVIRT: &str = r#"{"driver":"AMDVI-PCI","id":"iommu0","bus":"pcie.0","addr":"0x1e"}
{"driver":"amd-iommu","pci-id":"iommu0","intremap":"on","xtsup":true}"#;

#[test]
#[ignore = "ten minutes: cargo test --test boots -- --ignored --nocapture amd"]
fn amd_translates_by_the_wrapper_only() {
    let guest = &Guest::DEBIAN_13;
    let boot = |devices: &str, disk: &str, vcpus: &str| {
        let mut boot = Command::new("tests/lab/boot/boot.sh");
        boot.args([guest.name, "given", disk]).env("DEVICES", devices).env("SUITE", "backports");
        boot.env("VCPUS", vcpus).env("LIMIT", "900");
        let output = boot.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let end = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        println!("{vcpus} vCPUs, {disk}, {devices}: {end}");
        end
    };
    if !guest.is_there() {
        return;
    }
    let ours = amd_of_the_wrapper(guest);
    assert_eq!(boot(&ours, "net", "2"), "lease");
    assert_eq!(boot(AMD_OF_LIBVIRT, "net", "2"), "no lease");
    for vcpus in ["2", "300"] {
        assert!(boot(&ours, "ahci", vcpus).starts_with("root groups=2"), "{vcpus}");
        let log = String::from_utf8_lossy(&fs::read(guest.lab().join("given-ahci.log")).unwrap()).into_owned();
        assert!(log.contains("AMD-Vi: Interrupt remapping enabled") && log.contains("AMD-Vi: X2APIC enabled"));
    }
}

#[test]
#[ignore = "about 40 minutes: cargo test --test boots -- --ignored --nocapture other"]
fn other_guests_boot_with_what_auto_gives() {
    all_show(&[
        Guest { name: "debian-12", osinfo: "http://debian.org/debian/12" },
        Guest { name: "ubuntu-24.04", osinfo: "http://ubuntu.com/ubuntu/24.04" },
        Guest { name: "debian-unstable", osinfo: "http://debian.org/debian/testing" },
    ]);
}

#[test]
#[ignore = "half an hour: cargo test --test boots -- --ignored --nocapture arm64"]
fn arm64_boots_with_what_auto_gives() {
    all_show(&[
        Guest { name: "debian-12-arm64", osinfo: "http://debian.org/debian/12" },
        Guest { name: "debian-13-arm64", osinfo: "http://debian.org/debian/13" },
        Guest { name: "debian-unstable-arm64", osinfo: "http://debian.org/debian/testing" },
    ]);
}

/// Builds each missing guest and boots it.
fn all_show(guests: &[Guest]) {
    for guest in guests {
        guest.make();
        shows(guest);
    }
}
