//! The vIOMMU that a guest has, as it is written: the attributes of `<driver>` or the properties in `<qemu:commandline>`.

use crate::note::{Code, Note};
use crate::qemu::{self, FoundIommu, KERNEL_IRQCHIP};
use crate::version::Version;

use super::guest::Guest;

/// The attributes that a vIOMMU of the guest has, and whether missing ones are added.
pub(super) struct Written<'a> {
    attributes: Vec<(&'a str, &'a str)>,
    /// Where it is, for messages.
    pub(super) place: &'static str,
    /// It is an `<iommu>`, which libvirt knows.
    pub(super) in_xml: bool,
    /// Missing attributes are added.
    completed: bool,
}

impl<'a> Written<'a> {
    /// Those of the `<iommu>`, if there is one. What it lacks is added or is as `-global` says.
    pub(super) fn of(guest: &'a Guest<'_>) -> Written<'a> {
        let driver = guest.domain.iommus.first().into_iter().flat_map(|iommu| &iommu.driver);
        let mut attributes: Vec<_> = driver.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if guest.as_it_is {
            let lacks = |(name, _): &(&str, &str)| !attributes.iter().any(|(written, _)| written == name);
            let globals = guest.globals.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            attributes.extend(globals.filter(lacks).collect::<Vec<_>>());
        }
        Written { attributes, place: "<iommu>", in_xml: true, completed: !guest.as_it_is }
    }

    /// Those of a vIOMMU in `<qemu:commandline>`, to which nothing can be added.
    pub(super) fn hidden(hidden: &'a FoundIommu, place: &'static str) -> Written<'a> {
        let attributes = hidden.properties.iter();
        let attributes =
            attributes.map(|(name, value)| (hidden.model.attribute(name).unwrap_or(name), value.as_str())).collect();
        Written { attributes, place, in_xml: false, completed: false }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// The attribute is on, or will be. Without intremap QEMU decides by the irqchip.
    pub(super) fn will_be_on(&self, name: &str) -> bool {
        self.get(name).map_or(self.completed, |value| value == "on")
    }

    /// Refuses interrupt remapping with the kernel's irqchip. `<qemu:commandline>` overrides `<ioapic>`.
    pub(super) fn fits_irqchip(&self, guest: &Guest<'_>) -> Result<(), Note> {
        let domain = guest.domain;
        let set = qemu::irqchip(&domain.commandline);
        let remedy = match (set.as_deref(), domain.ioapic.as_deref()) {
            (Some("on"), _) => "but <qemu:commandline> has kernel_irqchip=on: remove it",
            (None, Some("kvm")) => "but the domain has <ioapic driver='kvm'/>: set driver='qemu' or remove it",
            // q35's own default with KVM.
            (None, None) if !self.completed && domain.uses_kvm() && !adds_ioapic(guest) => {
                "and the domain has none: add <ioapic driver='qemu'/> to <features>"
            }
            _ => return Ok(()),
        };
        if !self.will_be_on("intremap") {
            return Ok(());
        }
        let message = format!("interrupt remapping needs the split irqchip, {remedy} (QEMU: \"{KERNEL_IRQCHIP}\")");
        Err(Note::error(Code::IrqchipConflict, message))
    }
}

/// libvirt adds the I/O APIC for an `<iommu>` from 10.10 on.
fn adds_ioapic(guest: &Guest<'_>) -> bool {
    !guest.domain.iommus.is_empty() && guest.libvirt >= Version::new(10, 10)
}
