//! Guests with a request for a vIOMMU, and the vIOMMU of their QEMU.

use std::collections::BTreeMap;

use crate::support::libvirt::{Guest, Libvirt};

/// The configuration that the tests write.
pub(crate) const CONFIG: &str = "/etc/viommu.toml";

/// The UUID of all guests in these tests; one exists at a time.
pub(crate) const UUID: &str = "6a1f3c52-0d47-4b8e-9c11-5e2d7f80a913";

/// The hook's state file for the wrapper.
pub(crate) const STATE: &str = "/run/viommu/6a1f3c52-0d47-4b8e-9c11-5e2d7f80a913.json";

/// The record of the guest's vIOMMU, which a later restore needs.
pub(crate) const RECORD: &str = "/var/lib/viommu/6a/6a1f3c52-0d47-4b8e-9c11-5e2d7f80a913.json";

/// Every model with its architecture.
pub(crate) const MODELS: [(Arch, &str); 4] =
    [(Arch::X86, "intel"), (Arch::X86, "virtio"), (Arch::Arm, "smmuv3"), (Arch::Arm, "virtio")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86,
    Arm,
}

impl Arch {
    pub(crate) fn real(self) -> &'static str {
        match self {
            Arch::X86 => "/usr/bin/qemu-system-x86_64",
            Arch::Arm => "/usr/bin/qemu-system-aarch64",
        }
    }

    pub(crate) fn wrapper(self) -> &'static str {
        match self {
            Arch::X86 => "/usr/bin/viommu-qemu-system-x86_64",
            Arch::Arm => "/usr/bin/viommu-qemu-system-aarch64",
        }
    }
}

/// A guest without a disk, with this emulator, and these attributes in its metadata; empty `attributes` writes no
/// metadata.
pub(crate) fn domain(arch: Arch, emulator: &str, attributes: &str) -> String {
    // On AArch64 only UEFI provides the ACPI tables that virtio-iommu needs.
    let (system, cpu) = match arch {
        Arch::X86 => ("<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>", ""),
        Arch::Arm => (
            "<os firmware='efi'><type arch='aarch64' machine='virt'>hvm</type></os>
             <features><acpi/><gic version='3'/></features>",
            "<cpu mode='custom'><model>cortex-a57</model></cpu>",
        ),
    };
    let metadata = if attributes.is_empty() {
        String::new()
    } else {
        format!("<metadata><viommu xmlns='urn:libvirt-viommu:1' {attributes}/></metadata>")
    };
    // A virtio device on the root bus, so that its slots are significant.
    format!(
        "<domain type='qemu'><name>live</name><uuid>{UUID}</uuid>{metadata}
           <memory unit='MiB'>128</memory><vcpu>1</vcpu>{system}{cpu}
           <devices><emulator>{emulator}</emulator>
             <rng model='virtio'><backend model='random'>/dev/urandom</backend>
               <address type='pci' domain='0' bus='0' slot='5' function='0'/></rng>
           </devices>
         </domain>"
    )
}

/// [`domain`] with the wrapper, and a request for this model.
pub(crate) fn wrapped(arch: Arch, model: &str) -> String {
    domain(arch, arch.wrapper(), &format!("model='{model}'"))
}

/// A vIOMMU in QEMU's device tree: the type, and every property with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Viommu {
    pub(crate) driver: String,
    pub(crate) properties: BTreeMap<String, String>,
}

/// libvirt's name of the device that implements a model.
pub(crate) fn driver_of(model: &str) -> &'static str {
    match model {
        "intel" => "intel-iommu",
        "virtio" => "virtio-iommu-pci",
        "smmuv3" => "arm-smmuv3",
        "amd" => "amd-iommu",
        _ => panic!("{model} is no model"),
    }
}

/// The vIOMMUs of a running guest in QEMU's device tree.
pub(crate) fn viommus(guest: &Guest<'_>) -> Vec<Viommu> {
    viommus_in(&guest.virsh("qemu-monitor-command", &["--hmp", "info qtree"]).ok())
}

/// The vIOMMUs in QEMU's output of its device tree.
pub(crate) fn viommus_in(tree: &str) -> Vec<Viommu> {
    let lines: Vec<&str> = tree.lines().collect();
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(device) = line.trim_start().strip_prefix("dev: ") else { continue };
        let driver = device.split(',').next().unwrap();
        if !["intel-iommu", "virtio-iommu-pci", "arm-smmuv3", "amd-iommu"].contains(&driver) {
            continue;
        }
        let own = lines[at + 1..].iter().take_while(|next| indentation(next) > indentation(line));
        // The child buses of a device follow its properties.
        let own = own.take_while(|next| !next.trim_start().starts_with("bus: "));
        let properties = own.filter_map(|next| next.trim().split_once(" = "));
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        found.push(Viommu { driver: driver.to_owned(), properties });
    }
    found
}

/// The only vIOMMU of a running guest.
#[track_caller]
pub(crate) fn viommu(guest: &Guest<'_>) -> Viommu {
    let mut all = viommus(guest);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// libvirt's pid of the guest.
pub(crate) fn pid(lab: &Libvirt) -> u32 {
    lab.get("/run/libvirt/qemu/live.pid").trim().parse().unwrap()
}

/// The command line of the running guest, argv[0] first.
pub(crate) fn command_line(lab: &Libvirt) -> Vec<String> {
    let line = lab.get(&format!("/proc/{}/cmdline", pid(lab)));
    line.split_terminator('\0').map(str::to_owned).collect()
}

/// A command line without the parts that differ between two starts of one guest: libvirt's id and the numbers of
/// descriptors.
pub(crate) fn without_numbers(words: &[String]) -> Vec<String> {
    let mask = |word: &str, before: &str, after: char| {
        let Some((head, tail)) = word.split_once(before) else { return word.to_owned() };
        format!("{head}{before}#{}", &tail[tail.find(after).unwrap_or(tail.len())..])
    };
    words.iter().map(|word| mask(&mask(word, "/domain-", '-'), ",fd=", ',')).collect()
}

/// The values of an option on a command line.
pub(crate) fn values<'a>(words: &'a [String], option: &str) -> Vec<&'a str> {
    words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
}

/// Starts a guest paused: running guests would take most of the test's time.
#[track_caller]
pub(crate) fn start(guest: &Guest<'_>) {
    guest.virsh("start", &["--paused"]).ok();
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "paused");
}

/// Asserts that the start of a guest is refused with this code in virsh's output, and that the guest does not run.
#[track_caller]
pub(crate) fn refused_with(guest: &Guest<'_>, command: &str, arguments: &[&str], code: &str) {
    let output = guest.virsh(command, arguments);
    assert_ne!(output.status, 0, "{command} should have been refused with {code}");
    assert!(output.stderr.contains(&format!("viommu: error[{code}]: ")), "no {code} in: {}", output.stderr);
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
}
