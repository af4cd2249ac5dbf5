//! Which model: the machine must have one, `auto` has to become one, and one that is there already stays.

use crate::domain::{Requester, VfioDevice};
use crate::note::{Code, Note};
use crate::qemu::{Edits, FoundIommu};
use crate::request::Model;
use crate::version::Version;

use super::Guest;

/// The machines that libvirt gives a vIOMMU to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// x86 with PCI Express.
    Q35,
    /// The generic Arm board.
    ArmVirt,
}

/// The models that can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Intel,
    Smmuv3,
    Virtio,
    /// A model that libvirt knows and we never add (`amd`): it stays as its user wrote it.
    Foreign,
}

/// A model, and why it is this one.
pub(super) struct Choice {
    pub(super) model: Kind,
    pub(super) reasons: Vec<String>,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Intel => "intel",
            Kind::Smmuv3 => "smmuv3",
            Kind::Virtio => "virtio",
            Kind::Foreign => "other",
        }
    }

    /// The model of this name, if it is one that we add.
    pub(super) fn from_name(name: &str) -> Option<Kind> {
        [Kind::Intel, Kind::Smmuv3, Kind::Virtio].into_iter().find(|kind| kind.as_str() == name)
    }

    /// What libvirt writes for a new `<iommu>` of this model (`qemuBuildIOMMUCommandLine`), as the wrapper writes it. The id
    /// differs from libvirt's `iommu0`, so that both could stand on one command line without a silent mix-up.
    pub(super) fn on_command_line(self, driver: &[(&'static str, String)], edits: &mut Edits) {
        let device = match self {
            Kind::Intel => "intel-iommu,id=ua-viommu0",
            // The wrapper adds the slot: only the command line tells which one is free.
            Kind::Virtio => "virtio-iommu,id=ua-viommu0,bus=pcie.0",
            Kind::Smmuv3 => {
                edits.machine.insert("iommu".into(), "smmuv3".into());
                return;
            }
            Kind::Foreign => return,
        };
        let properties = properties(driver).map(|(name, value)| format!(",{name}={value}"));
        edits.devices.push(format!("{device}{}", properties.collect::<String>()));
    }
}

/// libvirt's attribute names in QEMU's words (`qemuBuildIOMMUCommandLine`).
pub(super) fn properties<'a>(driver: &'a [(&'static str, String)]) -> impl Iterator<Item = (String, String)> + use<'a> {
    driver.iter().map(|(name, value)| {
        let property = match *name {
            "caching_mode" => "caching-mode",
            "iotlb" => "device-iotlb",
            "aw_bits" => "aw-bits",
            other => other,
        };
        (property.to_owned(), value.clone())
    })
}

/// The machine, if libvirt gives it a vIOMMU (`qemuValidateDomainDeviceDefIOMMU`; names as in `qemuDomainMachineIsQ35`,
/// `qemuDomainMachineIsARMVirt`, and Ubuntu's aliases).
pub(super) fn machine(guest: &Guest<'_>) -> Result<Machine, Note> {
    let (arch, machine) = (guest.arch(), guest.domain.machine.as_deref());
    let unsupported = |default: &str, wanted: &str| {
        let message = format!(
            "vIOMMU is not supported by machine type '{}' ({arch}): use machine type '{wanted}'",
            machine.unwrap_or(default)
        );
        Err(Note::error(Code::MachineUnsupported, message))
    };
    match arch {
        "x86_64" | "i686" => match machine {
            Some(name) if name == "q35" || name.contains("-q35") => Ok(Machine::Q35),
            // libvirt's default machine is the first that QEMU names: i440fx.
            _ => unsupported("pc", "q35"),
        },
        "aarch64" => match machine {
            None => Ok(Machine::ArmVirt),
            Some(name) if name == "virt" || name.starts_with("virt-") => Ok(Machine::ArmVirt),
            Some(_) => unsupported("virt", "virt"),
        },
        _ => {
            let source = guest.request.source.describe();
            let message = format!(
                "a vIOMMU needs an x86 or AArch64 guest, and this one's architecture is '{arch}': remove the request from {source}"
            );
            Err(Note::error(Code::ArchUnsupported, message))
        }
    }
}

/// QEMU takes one vIOMMU, and libvirt 12 does not say so; only SMMUv3 can be there once for each host bridge (QEMU 10.2).
pub(super) fn one_viommu(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let written = guest.domain.iommus.iter().map(|iommu| iommu.model.as_str());
    let hidden = guest.hidden.iter().map(|found| found.driver.as_str());
    let models: Vec<&str> = written.chain(hidden).collect();
    if models.len() < 2 || models.iter().all(|model| model.ends_with("smmuv3")) {
        return Ok(());
    }
    let late = match machine {
        Machine::Q35 => "QEMU does not support multiple vIOMMUs for x86 yet.",
        Machine::ArmVirt => "virt machine does not support multiple IOMMUs",
    };
    let message =
        format!("the domain has several vIOMMUs ({}): keep one of them (QEMU: \"{late}\")", models.join(", "));
    Err(Note::error(Code::IommuConflict, message))
}

/// A vIOMMU in `<qemu:commandline>` stays; one that was asked for under another name contradicts it.
pub(super) fn matches_hidden(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let same = match guest.request.model {
        Model::Intel => hidden.driver == "intel-iommu",
        Model::Virtio => hidden.driver.starts_with("virtio-iommu"),
        Model::Smmuv3 => hidden.driver.contains("smmuv3"),
        Model::None | Model::Auto => true,
    };
    if same { Ok(()) } else { Err(conflict(guest, &format!("'{}' in <qemu:commandline>", hidden.driver))) }
}

fn conflict(guest: &Guest<'_>, present: &str) -> Note {
    let message = format!(
        "{} asks for the vIOMMU model '{}', but the domain already has {present}: remove one of the two",
        guest.request.source.describe(),
        guest.request.model.as_str()
    );
    Note::error(Code::IommuConflict, message)
}

/// The model of the guest.
pub(super) fn choose(guest: &Guest<'_>, machine: Machine) -> Result<Choice, Note> {
    let wanted = match guest.request.model {
        Model::Intel => Some(Kind::Intel),
        Model::Smmuv3 => Some(Kind::Smmuv3),
        Model::Virtio => Some(Kind::Virtio),
        Model::None | Model::Auto => None,
    };
    let choice = match (guest.domain.iommus.first(), wanted) {
        (Some(existing), Some(kind)) if existing.model != kind.as_str() => {
            return Err(conflict(guest, &format!("<iommu model='{}'>", existing.model)));
        }
        (_, Some(model)) => Choice { model, reasons: Vec::new() },
        (Some(existing), None) => Choice {
            model: Kind::from_name(&existing.model).unwrap_or(Kind::Foreign),
            reasons: vec![format!("the domain already has an <iommu model='{}'>", existing.model)],
        },
        (None, None) if machine == Machine::Q35 => auto_x86(guest),
        (None, None) => auto_arm(guest),
    };
    let instead = match (choice.model, machine) {
        (Kind::Smmuv3, Machine::Q35) => "intel",
        (Kind::Intel, Machine::ArmVirt) => "smmuv3",
        _ => return Ok(choice),
    };
    let message = format!(
        "the vIOMMU model '{}' does not exist on this guest's architecture: use {instead}, virtio or auto",
        choice.model.as_str()
    );
    Err(Note::error(Code::ModelArchMismatch, message))
}

/// `auto` is virtio, as in the Nova specification, unless virtio would not work: then intel, which always exists on q35.
fn auto_x86(guest: &Guest<'_>) -> Choice {
    let mut against: Vec<String> = Vec::new();
    let mut unless = |problem: Option<String>| against.extend(problem);
    unless(needs_eim(guest).then(|| "interrupts for this many vCPUs need interrupt remapping with eim".into()));
    unless(guest.is_windows().then(|| "Windows has no driver for virtio-iommu".into()));
    unless((has_or_expects_vfio(guest) && guest.qemu < Version::new(9, 0)).then(|| {
        let qemu = guest.qemu;
        format!("QEMU {qemu} tells a virtio-iommu neither the host's address width nor its reserved ranges (9.0 does)")
    }));
    unless(aliased(guest).map(|(first, second)| {
        format!("{first} and {second} share a conventional PCI bridge, which virtio-iommu cannot serve")
    }));
    unless((!guest.domain.acpi).then(|| "virtio-iommu is found through ACPI, which is off".into()));
    unless(virtio_unsupported(guest).map(|unsupported| unsupported.why));
    let only_intel_takes_it = guest.request.aw_bits.is_some() && !virtio_takes_aw_bits(guest);
    unless(only_intel_takes_it.then(|| "an address width was asked for, which only intel takes here".into()));
    let model = if against.is_empty() { Kind::Virtio } else { Kind::Intel };
    if against.is_empty() {
        against.push("libvirt and QEMU support it, and nothing in the guest speaks against it".into());
    }
    Choice { model, reasons: against.into_iter().map(|why| format!("auto is {}: {why}", model.as_str())).collect() }
}

/// On AArch64 virtio too. SMMUv3 takes its place where there is no passed-through device to serve.
fn auto_arm(guest: &Guest<'_>) -> Choice {
    let vfio = has_or_expects_vfio(guest);
    let against = if has_acpi(guest) {
        virtio_unsupported(guest).map(|unsupported| unsupported.why)
    } else {
        Some("without UEFI and ACPI the guest would not find a virtio-iommu".to_owned())
    };
    match against {
        Some(why) if !vfio => Choice { model: Kind::Smmuv3, reasons: vec![format!("auto is smmuv3: {why}")] },
        // With VFIO the refusals say what stands against virtio, with their own code.
        _ => {
            let why = if vfio { "SMMUv3 cannot serve a VFIO device" } else { "libvirt and QEMU support it" };
            Choice { model: Kind::Virtio, reasons: vec![format!("auto is virtio: {why}")] }
        }
    }
}

/// Why a host has no virtio-iommu.
pub(super) struct Unsupported {
    pub(super) code: Code,
    /// Half a sentence.
    pub(super) why: String,
    /// What libvirt says to a domain that has one.
    pub(super) late: &'static str,
}

/// libvirt knows virtio from 8.3.0 on (docs/formatdomain.rst) and wants QEMU's boot-bypass property, hence QEMU 7.0.
pub(super) fn virtio_unsupported(guest: &Guest<'_>) -> Option<Unsupported> {
    let (libvirt, qemu) = (guest.libvirt, guest.qemu);
    if libvirt < Version::new(8, 3) {
        return Some(Unsupported {
            code: Code::ModelUnsupportedByLibvirt,
            why: format!("libvirt {libvirt} does not know the vIOMMU model 'virtio' (8.3.0 does)"),
            late: "unknown IOMMU model: virtio",
        });
    }
    let known = guest.emulator_has("virtio-iommu-pci").zip(guest.emulator_has("virtio-iommu.boot-bypass"));
    let supported = known.map_or(qemu >= Version::new(7, 0), |(device, bypass)| device && bypass);
    (!supported).then(|| Unsupported {
        code: Code::ModelUnsupportedByQemu,
        why: format!("QEMU {qemu} has no virtio-iommu that libvirt accepts (7.0 has)"),
        late: "IOMMU device: 'virtio' is not supported with this QEMU binary",
    })
}

/// libvirt takes `aw_bits` for virtio from 12.2.0 on, where QEMU has the property: from 9.0 on.
pub(super) fn virtio_takes_aw_bits(guest: &Guest<'_>) -> bool {
    guest.libvirt >= Version::new(12, 2)
        && guest.emulator_has("virtio-iommu.aw-bits").unwrap_or(guest.qemu >= Version::new(9, 0))
}

/// More vCPUs than 8-bit APIC ids can address: 255 is the broadcast id. QEMU counts ids, which leave gaps in an uneven
/// topology; libvirt counts vCPUs (`qemuValidateDomainVCpuTopology`: 255), of which the last never has an id below 255 where
/// there are more.
pub(super) fn needs_eim(guest: &Guest<'_>) -> bool {
    guest.domain.vcpus.highest_apic_id() > 254
}

/// VFIO devices now, of those that the vIOMMU gets to see.
pub(super) fn has_vfio(guest: &Guest<'_>) -> bool {
    guest.domain.vfio.iter().any(|device| device.requester != Requester::Bypass)
}

/// VFIO devices now or later.
pub(super) fn has_or_expects_vfio(guest: &Guest<'_>) -> bool {
    guest.request.hotplug || has_vfio(guest)
}

/// On AArch64 libvirt gives ACPI to UEFI guests only ("ACPI requires UEFI on this architecture").
pub(super) fn has_acpi(guest: &Guest<'_>) -> bool {
    guest.domain.acpi && (guest.domain.uefi || guest.arch() != "aarch64")
}

/// Two VFIO devices that the vIOMMU sees under one requester id.
pub(super) fn aliased<'a>(guest: &Guest<'a>) -> Option<(&'a str, &'a str)> {
    let behind_bridge = |device: &VfioDevice| match device.requester {
        Requester::Bridge { controller } => Some(controller),
        _ => None,
    };
    let vfio = &guest.domain.vfio;
    vfio.iter().enumerate().find_map(|(index, first)| {
        let bridge = behind_bridge(first)?;
        let second = vfio.iter().skip(index + 1).find(|device| behind_bridge(device) == Some(bridge))?;
        Some((first.source.name(), second.source.name()))
    })
}
