//! Whether another host has what a guest needs besides a vIOMMU. An unknown fact makes no host unsuitable.

use crate::domain::Domain;
use crate::host::Host;
use crate::note::{Code, Note};

use super::{Plan, memlock};

/// What the host lacks for a guest with this plan; `None` where nothing is known against the host.
#[must_use]
pub fn unsuitable(domain: &Domain, plan: &Plan, host: &Host) -> Option<Note> {
    let lacks = wrong_architecture(domain, host)
        .or_else(|| missing_device(domain, host))
        .or_else(|| memlock::exceeds_host(domain, plan, host));
    lacks.map(|message| Note::error(Code::HostUnsuitable, message))
}

fn wrong_architecture(domain: &Domain, host: &Host) -> Option<String> {
    let (wanted, own) = (domain.arch.as_deref()?, host.arch.as_deref()?);
    // A 64-bit x86 processor runs 32-bit guests too.
    let native = wanted == own || (wanted, own) == ("i686", "x86_64");
    if domain.uses_kvm() && !native {
        return Some(format!("the guest is {wanted} with KVM, and the host is {own}"));
    }
    let emulated = host.emulators.is_empty() || host.emulator_of(domain).is_some();
    (!emulated).then(|| format!("the host has no QEMU for {wanted}"))
}

fn missing_device(domain: &Domain, host: &Host) -> Option<String> {
    if !domain.vfio.is_empty() && host.iommu == Some(false) {
        return Some("the guest has VFIO devices, and the host's IOMMU is off".to_owned());
    }
    // Facts without any group may have been written by hand.
    let known = !host.iommu_groups.is_empty();
    let mut functions = domain.vfio.iter().filter_map(|device| device.source.pci());
    let missing = functions.find(|address| known && !host.iommu_groups.contains_key(*address));
    missing.map(|address| format!("the host has no PCI function {address} in an IOMMU group"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Memory, Requester, VfioDevice, VfioSource};
    use crate::host::Emulator;
    use crate::plan;
    use crate::request::Request;

    fn domain() -> Domain {
        let device = |address: &str| VfioDevice {
            source: VfioSource::Pci(address.to_owned()),
            requester: Requester::Unassigned,
            host_bridge: 0,
            iommufd: false,
            hidden: false,
        };
        Domain {
            virt_type: "kvm".to_owned(),
            arch: Some("x86_64".to_owned()),
            memory: Memory { total: 8 << 30, ..Memory::default() },
            vfio: vec![device("0000:3b:00.0")],
            ..Domain::default()
        }
    }

    fn host() -> Host {
        let emulator = Emulator { path: "/q".to_owned(), arch: Some("x86_64".to_owned()), ..Emulator::default() };
        Host {
            arch: Some("x86_64".to_owned()),
            emulators: vec![emulator],
            iommu: Some(true),
            iommu_groups: [("0000:3b:00.0".to_owned(), 7)].into(),
            memory_bytes: Some(8 << 30),
            ..Host::default()
        }
    }

    #[track_caller]
    fn says(domain: &Domain, host: &Host, words: Option<&str>) {
        says_for(&Request::default(), domain, host, words);
    }

    #[track_caller]
    fn says_for(request: &Request, domain: &Domain, host: &Host, words: Option<&str>) {
        let plan = plan::plan(domain, request, host).unwrap();
        let note = unsuitable(domain, &plan, host);
        match (words, note) {
            (None, None) => {}
            (Some(words), Some(note)) => assert!(note.message.contains(words), "{note:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn known_missing_features_exclude_a_host() {
        says(&domain(), &host(), None);
        says(&domain(), &Host { iommu: Some(false), ..host() }, Some("IOMMU is off"));
        let groups = [("0000:65:00.0".to_owned(), 1)].into();
        says(&domain(), &Host { iommu_groups: groups, ..host() }, Some("no PCI function 0000:3b:00.0"));
        says(&domain(), &Host { memory_bytes: Some((8 << 30) - 1), ..host() }, Some("8 GiB are pinned"));
        says(&domain(), &Host { arch: Some("aarch64".to_owned()), ..host() }, Some("host is aarch64"));
        let emulated = Domain { virt_type: "qemu".to_owned(), arch: Some("aarch64".to_owned()), ..domain() };
        says(&emulated, &host(), Some("no QEMU for aarch64"));
    }

    #[test]
    fn memory_that_the_request_locks_must_fit() {
        let small = Host { memory_bytes: Some(4 << 30), ..host() };
        let domain = Domain { vfio: Vec::new(), ..domain() };
        says(&domain, &small, None);
        let request = Request { locked_memory: true, ..Request::default() };
        says_for(&request, &domain, &small, Some("8 GiB are pinned"));
    }

    #[test]
    fn unknown_facts_exclude_no_host() {
        says(&domain(), &Host::default(), None);
        let unpinned = Domain { vfio: Vec::new(), ..domain() };
        says(&unpinned, &Host { memory_bytes: Some(1), iommu: Some(false), ..host() }, None);
        let old = Domain { arch: Some("i686".to_owned()), ..unpinned };
        let emulator = Emulator { arch: Some("i686".to_owned()), ..Emulator::default() };
        says(&old, &Host { emulators: vec![emulator], ..host() }, None);
    }
}
