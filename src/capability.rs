//! Which vIOMMU models a host can give, and why not the others.
//!
//! Pure, and no second set of rules: the answer for a model is the plan for a minimal guest that asks for it. An unknown fact is
//! a no here, where a plan would assume it: schedulers must be able to rely on a yes.

use crate::domain::{Domain, Memory, Vcpus};
use crate::host::{Emulator, Host};
use crate::model::Machine;
use crate::note::{Code, Note};
use crate::plan::{self, wrapped_emulator};
use crate::request::{Request, RequestedModel, Source};
use crate::version::Version;

/// Whether an emulator gives each model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<'a> {
    /// The guest architecture.
    pub arch: &'static str,
    /// The emulator; none where libvirt knows none of this architecture.
    pub emulator: Option<&'a Emulator>,
    /// For each model that a guest can ask for: the model that it gets, or why it gets none.
    pub models: Vec<(RequestedModel, Result<String, Note>)>,
}

/// What a host offers, by architecture and emulator. Wrappers do not count as emulators.
#[must_use]
pub fn offers(host: &Host) -> Vec<Offer<'_>> {
    let offers = Machine::ALL.into_iter().map(Machine::names).flat_map(|(arch, machine)| {
        let is_of_arch = |emulator: &&Emulator| emulator.arch.as_deref().or(host.arch.as_deref()) == Some(arch);
        let is_wrapper = |emulator: &&Emulator| wrapped_emulator(&emulator.path).is_some();
        let (wrappers, real): (Vec<_>, Vec<_>) = host.emulators.iter().filter(is_of_arch).partition(is_wrapper);
        let known = if real.is_empty() { wrappers } else { real };
        let emulators = if known.is_empty() { vec![None] } else { known.into_iter().map(Some).collect() };
        emulators.into_iter().map(move |emulator| Offer {
            arch,
            emulator,
            models: RequestedModel::models()
                .map(|model| (model, judge(host, arch, machine, emulator, model)))
                .collect(),
        })
    });
    offers.collect()
}

/// Whether any emulator of the host gives a model.
///
/// # Errors
/// Why not: what the emulator of the host's own architecture says, where the architecture can have the model.
pub fn gives(host: &Host, offers: &[Offer<'_>], model: RequestedModel) -> Result<(), Note> {
    let mut refusals = Vec::new();
    for offer in offers {
        for (_, outcome) in offer.models.iter().filter(|(asked, _)| *asked == model) {
            match outcome {
                Ok(_) => return Ok(()),
                Err(note) => refusals.push((offer.arch, note)),
            }
        }
    }
    // What would have to change for the model to be there says more than that another architecture has none.
    let of_the_model =
        |(arch, note): &&(&str, &Note)| (note.code == Code::ModelArchMismatch, host.arch.as_deref() != Some(*arch));
    let refusal = refusals.iter().min_by_key(of_the_model);
    Err(refusal.map_or_else(|| missing(host, "x86_64"), |(_, note)| (*note).clone()))
}

/// Whether guests can have `<driver iommufd='yes'/>`; none where the kernel or libvirt is not known.
///
/// # Errors
/// Why not.
#[must_use]
pub fn iommufd(host: &Host) -> Option<Result<(), String>> {
    const DRIVER: Version = Version::new(12, 1);
    match (host.iommufd, host.libvirt) {
        (Some(false), _) => Some(Err("the kernel has no /dev/iommu (CONFIG_IOMMUFD)".to_owned())),
        (_, Some(libvirt)) if libvirt < DRIVER => {
            Some(Err(format!("libvirt {libvirt} ignores <driver iommufd='yes'/>, which came with {DRIVER}")))
        }
        (Some(true), Some(_)) => Some(Ok(())),
        _ => None,
    }
}

/// Why an architecture has no emulator: none is installed, or that is unknown.
fn missing(host: &Host, arch: &str) -> Note {
    if host.libvirt.is_some() {
        let message =
            format!("this host's libvirt knows no emulator for {arch}: install one, and run 'virsh capabilities'");
        return Note::error(Code::ModelUnsupportedByQemu, message);
    }
    let message = "this host's libvirt and its emulators are unknown: run this as root, after 'virsh capabilities'";
    Note::error(Code::HostFactAssumed, message)
}

fn judge(
    host: &Host,
    arch: &'static str,
    machine: &str,
    emulator: Option<&Emulator>,
    model: RequestedModel,
) -> Result<String, Note> {
    let domain = minimal_domain(host, arch, machine, emulator);
    let request = Request { model, source: Source::Cli, ..Request::default() };
    let outcome = plan::plan(&domain, &request, host);
    // Before the emulator: no emulator at all would give it.
    let refusal = outcome.as_ref().err().map(|refusal| &refusal.note);
    if let Some(refusal) = refusal.filter(|refusal| refusal.code == Code::ModelArchMismatch) {
        return Err(refusal.clone());
    }
    if emulator.is_none() {
        return Err(missing(host, arch));
    }
    if let Some(note) = plan::kept(&outcome).notes.iter().find(|note| note.code == Code::HostFactAssumed) {
        return Err(note.clone());
    }
    outcome.map(|plan| plan.iommu.map(|iommu| iommu.name).unwrap_or_default()).map_err(|refusal| refusal.note)
}

/// A guest to which only its architecture and its emulator can deny a vIOMMU.
fn minimal_domain(host: &Host, arch: &str, machine: &str, emulator: Option<&Emulator>) -> Domain {
    let native = host.arch.as_deref() == Some(arch);
    Domain {
        virt_type: if native { "kvm" } else { "qemu" }.to_owned(),
        arch: Some(arch.to_owned()),
        machine: Some(machine.to_owned()),
        emulator: emulator.map(|emulator| emulator.path.clone()),
        acpi: true,
        uefi: true,
        vcpus: Vcpus { maximum: 1, topology: None },
        memory: Memory { total: 1 << 30, ..Memory::default() },
        ..Domain::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn emulator(path: &str, arch: &str, qemu: (u32, u32)) -> Emulator {
        let version = Some(Version::new(qemu.0, qemu.1));
        Emulator { path: path.to_owned(), arch: Some(arch.to_owned()), version, flags: None }
    }

    /// An x86 host with this libvirt, this QEMU for both architectures, and the wrapper in libvirt's list of emulators.
    fn host(libvirt: (u32, u32), qemu: (u32, u32)) -> Host {
        Host {
            arch: Some("x86_64".to_owned()),
            libvirt: Some(Version::new(libvirt.0, libvirt.1)),
            emulators: vec![
                emulator("/usr/bin/qemu-system-aarch64", "aarch64", qemu),
                emulator("/usr/bin/qemu-system-i386", "i686", qemu),
                emulator("/usr/bin/qemu-system-x86_64", "x86_64", qemu),
                emulator("/usr/bin/viommu-qemu-system-x86_64", "x86_64", qemu),
            ],
            ..Host::default()
        }
    }

    fn words(host: &Host) -> Vec<String> {
        let of = |(model, outcome): &(RequestedModel, Result<String, Note>)| match outcome {
            Ok(given) => format!("{}={given}", model.as_str()),
            Err(note) => format!("{}:{}", model.as_str(), note.code),
        };
        offers(host).iter().map(|offer| offer.models.iter().map(of).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn each_emulator_has_its_models() {
        // Debian 12; tests/live shows the same with its libvirt and QEMU.
        assert_eq!(
            words(&host((9, 0), (7, 2))),
            [
                "intel=intel smmuv3:model-arch-mismatch virtio=virtio amd:model-unsupported-by-libvirt auto=intel",
                "intel:model-arch-mismatch smmuv3=smmuv3 virtio=virtio amd:model-arch-mismatch auto=smmuv3",
            ]
        );
        // Debian 11: libvirt 7.0 says "unknown IOMMU model: virtio".
        assert_eq!(
            words(&host((7, 0), (5, 2))),
            [
                "intel=intel smmuv3:model-arch-mismatch virtio:model-unsupported-by-libvirt amd:model-unsupported-by-libvirt auto=intel",
                "intel:model-arch-mismatch smmuv3=smmuv3 virtio:model-unsupported-by-libvirt amd:model-arch-mismatch auto=smmuv3",
            ]
        );
    }

    #[test]
    fn unknown_facts_support_no_model() {
        let nothing = Host { arch: Some("x86_64".to_owned()), ..Host::default() };
        let line = "intel:host-fact-assumed smmuv3:model-arch-mismatch virtio:host-fact-assumed amd:host-fact-assumed auto:host-fact-assumed";
        assert_eq!(words(&nothing)[0], line);
        let mut cut = host((9, 0), (7, 2));
        cut.emulators[2].version = None;
        assert_eq!(words(&cut)[0], line);
        let without = Host { libvirt: None, ..host((9, 0), (7, 2)) };
        assert_eq!(words(&without)[0], line);
    }

    #[test]
    fn any_emulator_can_provide_a_model_and_the_reason_is_the_fixable_one() {
        let of = |host: &Host, model| gives(host, &offers(host), model).map_err(|note| note.code);
        let both = host((12, 9), (11, 1));
        assert!(RequestedModel::models().all(|model| of(&both, model).is_ok()));
        let mut x86_only = host((7, 0), (5, 2));
        x86_only.emulators.remove(0);
        assert_eq!(of(&x86_only, RequestedModel::Model(Model::Intel)), Ok(()));
        assert_eq!(of(&x86_only, RequestedModel::Model(Model::Virtio)), Err(Code::ModelUnsupportedByLibvirt));
        assert_eq!(of(&x86_only, RequestedModel::Model(Model::Smmuv3)), Err(Code::ModelUnsupportedByQemu));
        assert_eq!(of(&x86_only, RequestedModel::Auto), Ok(()));
    }

    #[test]
    fn iommufd_takes_a_kernel_and_a_libvirt() {
        let of = |kernel, libvirt: Option<(u32, u32)>| {
            let libvirt = libvirt.map(|(major, minor)| Version::new(major, minor));
            iommufd(&Host { iommufd: kernel, libvirt, ..Host::default() })
                .map(|can| can.map_err(|why| why[..10].to_owned()))
        };
        assert_eq!(of(Some(true), Some((12, 1))), Some(Ok(())));
        assert_eq!(of(Some(true), Some((12, 0))), Some(Err("libvirt 12".to_owned())));
        assert_eq!(of(None, Some((11, 3))), Some(Err("libvirt 11".to_owned())));
        assert_eq!(of(Some(false), None), Some(Err("the kernel".to_owned())));
        assert_eq!((of(None, Some((12, 9))), of(Some(true), None)), (None, None));
    }

    #[test]
    fn a_recorded_emulator_without_an_architecture_has_the_hosts() {
        let mut described = host((11, 3), (10, 0));
        described.emulators = vec![Emulator { version: Some(Version::new(10, 0)), ..Emulator::default() }];
        assert!(offers(&described)[0].models.iter().any(|(_, outcome)| outcome.is_ok()));
        assert!(offers(&described)[1].emulator.is_none());
    }
}
