//! Proves the output of `viommu capabilities` for this host: each supported model by a guest that starts with that
//! vIOMMU, each unsupported one by the error of libvirt or QEMU.

use serde_json::Value;

use crate::guests::{Arch, domain, driver_of, start, viommu};
use crate::support::libvirt::{Libvirt, Suite, shared};
use crate::support::on_both_suites;

on_both_suites!(every_result_is_proven);

fn every_result_is_proven(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let answers = [Arch::X86, Arch::Arm].map(|arch| prove(&lab, arch));
    // Debian 12 and 13 have both emulators, and their libvirts refuse a model only for its architecture.
    let expected = [
        "amd:refused auto=intel intel=intel smmuv3:refused virtio=virtio",
        "amd:refused auto=smmuv3 intel:refused smmuv3=smmuv3 virtio=virtio",
    ];
    assert_eq!(answers, expected, "{}", suite.name());
}

/// libvirt 7.0 does not support virtio-iommu, on both architectures.
#[test]
#[ignore = "Debian unstable changes: cargo test --test live -- --ignored"]
fn the_oldest_and_the_newest_libvirt() {
    for suite in Suite::OTHERS {
        let Some(lab) = shared(suite) else { return };
        let answers = [Arch::X86, Arch::Arm].map(|arch| prove(&lab, arch));
        let virtio = answers.iter().all(|answer| answer.contains("virtio=virtio"));
        assert_eq!(virtio, suite != Suite::Bullseye, "{answers:?}");
        assert_eq!(answers[0].contains("amd=amd"), suite != Suite::Bullseye, "{answers:?}");
    }
}

/// The results for one emulator, in the order of their names.
fn prove(lab: &Libvirt, arch: Arch) -> String {
    let facts: Value = serde_json::from_str(&lab.run("viommu capabilities --format ansible").ok()).unwrap();
    let emulators = facts["emulators"].as_array().unwrap();
    let own: Vec<&Value> = emulators.iter().filter(|emulator| emulator["path"] == arch.real()).collect();
    assert_eq!(own.len(), 1, "{facts}");
    let models = own[0]["models"].as_object().unwrap();
    assert_eq!(models.len(), 5, "{facts}");
    models
        .iter()
        .map(|(model, answer)| {
            if answer["supported"] == true {
                format!("{model}={}", given(lab, arch, model))
            } else {
                let (reason, error) = (answer["reason"].as_str().unwrap(), refusal(lab, arch, model));
                assert!(error.to_lowercase().contains("iommu"), "{model}: {reason}\n{error}");
                format!("{model}:refused")
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The vIOMMU model of a started guest that requested this model.
fn given<'m>(lab: &Libvirt, arch: Arch, model: &'m str) -> &'m str {
    let xml = domain(arch, arch.real(), "");
    lab.put("/run/asks.xml", &xml);
    let rewritten = lab.run(&format!("viommu rewrite --model {model} /run/asks.xml")).ok();
    let guest = lab.guest(&rewritten);
    start(&guest);
    let driver = viommu(&guest).driver;
    let models = if model == "auto" { &["intel", "virtio", "smmuv3"][..] } else { &[model] };
    models.iter().copied().find(|model| driver_of(model) == driver).unwrap_or_else(|| panic!("{model}: {driver}"))
}

/// The error of libvirt or QEMU for a domain with a hand-written vIOMMU of this model.
fn refusal(lab: &Libvirt, arch: Arch, model: &str) -> String {
    let xml = domain(arch, arch.real(), "").replace("</devices>", &format!("<iommu model='{model}'/></devices>"));
    if let Err(message) = lab.define(&xml) {
        return message;
    }
    let output = lab.guest(&xml).virsh("start", &["--paused"]);
    assert_ne!(output.status, 0, "{model} is reported as unsupported, and the guest starts");
    output.stderr
}
