//! What `auto` becomes: the order of the Nova specification, for a guest that is known to boot with it.
//!
//! A guest finds a virtio-iommu through ACPI. A Linux kernel that knows its table (VIOT) delays every PCI device until the driver
//! is loaded. If the driver is a module that the initramfs lacks, the guest does not find its root disk
//! (docs/proof/boot-matrix.md). So `auto` is virtio only for a guest that is known to have the driver. Kernels have the drivers of
//! the other models built in.

use crate::domain::Driver;
use crate::model::Model;
use crate::request::Purpose;
use crate::version::Version;

use super::choose::Choice;
use super::guest::Guest;
use super::virtio;

/// What is known of the guest's driver for a virtio-iommu.
pub(super) struct Knowledge {
    /// Where the driver is; none where that is unknown.
    pub(super) driver: Option<Driver>,
    /// What is known and from which source, as a part of a sentence.
    pub(super) why: String,
}

impl Guest<'_> {
    /// What the request says about the driver, else what is known about the guest's system. Windows has no driver, whatever the
    /// request says.
    pub(super) fn virtio_driver(&self) -> Knowledge {
        if let Some(has) = self.request.virtio_iommu_driver.filter(|_| !self.is_windows()) {
            let (driver, answer) = if has { (Driver::BuiltIn, "yes") } else { (Driver::Absent, "no") };
            return Knowledge { driver: Some(driver), why: format!("the request says virtio-iommu-driver={answer}") };
        }
        let Some(system) = &self.domain.system else {
            let why = "nothing in the domain says which system the guest runs".to_owned();
            return Knowledge { driver: None, why };
        };
        let name = &system.name;
        let what = match system.driver {
            Some(Driver::BuiltIn) => format!("{name} has the driver for a virtio-iommu in its kernel"),
            Some(Driver::Module) => {
                format!("{name} has the driver for a virtio-iommu as a module that its initramfs lacks")
            }
            Some(Driver::Absent) => format!("{name} has no driver for a virtio-iommu"),
            None => format!("it is not known where {name} has the driver for a virtio-iommu"),
        };
        Knowledge { driver: system.driver, why: format!("{what} ({})", system.evidence) }
    }

    /// Why it is not certain that this host has a virtio-iommu. A guest that ran with one before keeps it.
    fn doubts_virtio(&self) -> Option<String> {
        self.unknown_and_cautious().filter(|_| self.host.recorded != Some(Model::Virtio))
    }

    /// Whether `auto` may take virtio as far as the guest's driver goes.
    fn virtio_fits(&self, known: &Knowledge) -> bool {
        known.driver == Some(Driver::BuiltIn) || self.request.specification_order && !self.is_windows()
    }
}

/// The model for a request of `auto`.
pub(super) fn auto(guest: &Guest<'_>) -> Choice {
    let known = guest.virtio_driver();
    let (model, reasons) = if guest.is_arm() { on_arm(guest, &known) } else { on_x86(guest, &known) };
    let mut reasons: Vec<_> = reasons.into_iter().map(|why| format!("auto is {model}: {why}")).collect();
    // Where something else speaks against virtio too, the driver would change nothing.
    let only_the_driver = model != Model::Virtio && reasons.len() == 1 && !guest.virtio_fits(&known);
    if only_the_driver && known.driver != Some(Driver::Absent) {
        let remedy = "with virtio-iommu-driver=yes in the request, auto takes the driver for built in";
        reasons.push(format!("if the guest's kernel or initramfs does have the driver: {remedy}"));
    }
    Choice { model: Some(model), reasons }
}

/// virtio where it works, else intel, which always exists on q35.
fn on_x86(guest: &Guest<'_>, known: &Knowledge) -> (Model, Vec<String>) {
    let qemu = guest.qemu;
    let hides_ranges = guest.has_or_expects_vfio() && qemu < Version::new(9, 0);
    let only_intel_takes_width = guest.request.aw_bits.is_some() && !virtio::takes_aw_bits(guest);
    let is = |problem: bool, why: &str| problem.then(|| why.to_owned());
    let against = [
        is(guest.needs_eim(), "interrupts for this many vCPUs need interrupt remapping with eim"),
        is(guest.request.purpose == Purpose::Interrupts, "it is to remap interrupts, which a virtio-iommu does not"),
        is(!guest.virtio_fits(known), &known.why),
        hides_ranges.then(|| {
            format!(
                "QEMU {qemu} tells a virtio-iommu neither the host's address width nor its reserved ranges (9.0 does)"
            )
        }),
        guest.aliased().map(|(first, second)| {
            format!("{first} and {second} share a conventional PCI bridge, which virtio-iommu cannot serve")
        }),
        is(!guest.domain.acpi, "virtio-iommu is found through ACPI, which is off"),
        guest.unsupported(Model::Virtio).map(|unsupported| unsupported.why),
        guest.doubts_virtio(),
        is(only_intel_takes_width, "an address width was asked for, which only intel takes here"),
    ];
    let against: Vec<String> = against.into_iter().flatten().collect();
    if against.is_empty() { (Model::Virtio, vec![known.why.clone()]) } else { (Model::Intel, against) }
}

/// virtio for a guest that boots with it, and for VFIO devices, which SMMUv3 cannot serve; otherwise smmuv3.
fn on_arm(guest: &Guest<'_>, known: &Knowledge) -> (Model, Vec<String>) {
    if guest.has_or_expects_vfio() {
        // The checks of virtio refuse what it cannot do, each with its own code.
        return (Model::Virtio, vec!["SMMUv3 cannot serve a VFIO device".to_owned()]);
    }
    let against = if !guest.has_acpi() {
        Some("without UEFI and ACPI the guest would not find a virtio-iommu".to_owned())
    } else if !guest.virtio_fits(known) {
        Some(known.why.clone())
    } else {
        guest.unsupported(Model::Virtio).map(|unsupported| unsupported.why).or_else(|| guest.doubts_virtio())
    };
    match against {
        Some(why) => (Model::Smmuv3, vec![why]),
        None => (Model::Virtio, vec![known.why.clone()]),
    }
}
