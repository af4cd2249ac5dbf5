//! libvirt accepts every rewritten domain of its own test corpus that it accepts in the original form.

#![expect(clippy::print_stdout, reason = "a panic fails the test")]

mod support;

use viommu::config::Config;
use viommu::domain::Domain;
use viommu::host::{Emulator, Host};
use viommu::plan::plan;
use viommu::request::{Keys, Request, Source};
use viommu::rewrite::rewrite;
use viommu::xml;

use support::corpus::documents;
use support::libvirt::{Suite, shared};
use support::on_both_suites;

on_both_suites!(accepted_domains_are_accepted_after_a_rewrite attributes_that_nova_writes_for_every_model_are_corrected);

const MODELS: [&str; 4] = ["intel", "virtio", "smmuv3", "auto"];

fn accepted_domains_are_accepted_after_a_rewrite(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    // The lab has no KVM, and libvirt does not define a domain of a type that the host lacks.
    let domains: Vec<String> = documents()
        .into_iter()
        .map(|(_, text)| text.replacen("type='kvm'", "type='qemu'", 1).replacen("type=\"kvm\"", "type=\"qemu\"", 1))
        .collect();
    let accepted = lab.define_many(&domains);
    let accepted: Vec<&String> =
        domains.iter().zip(&accepted).filter(|(_, verdict)| verdict.is_ok()).map(|(text, _)| text).collect();
    println!("{}: {} of {} domains are accepted", suite.name(), accepted.len(), domains.len());
    for model in MODELS {
        let rewritten: Vec<String> = accepted.iter().filter_map(|text| rewritten(text, model, suite)).collect();
        let verdicts = lab.define_many(&rewritten);
        println!("{}: {} of them can have {model}", suite.name(), rewritten.len());
        assert!(accepted.is_empty() || !rewritten.is_empty(), "{model}: nothing was rewritten");
        for (text, verdict) in rewritten.iter().zip(verdicts) {
            assert_eq!(verdict, Ok(()), "{}, {model}:\n{text}", suite.name());
        }
    }
}

/// Nova 34 writes the attributes of intel for every model, and `<ioapic>` for every architecture.
fn attributes_that_nova_writes_for_every_model_are_corrected(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let novas: Vec<String> =
        [("x86_64", "q35", "virtio"), ("aarch64", "virt", "virtio"), ("aarch64", "virt", "smmuv3")]
            .map(|(arch, machine, model)| of_nova(arch, machine, model))
            .to_vec();
    let before = lab.define_many(&novas);
    assert!(before.iter().all(Result::is_err), "{before:?}");
    let repaired: Vec<String> = novas.iter().filter_map(|text| rewritten(text, "auto", suite)).collect();
    assert_eq!(lab.define_many(&repaired), vec![Ok(()); novas.len()], "{repaired:#?}");
}

fn of_nova(arch: &str, machine: &str, model: &str) -> String {
    let eim = if machine == "q35" { "on" } else { "off" };
    let firmware = if arch == "aarch64" { " firmware='efi'" } else { "" };
    format!(
        "<domain type='qemu'>
  <name>instance-00000001</name>
  <memory>2097152</memory>
  <metadata>
    <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>
      <nova:flavor name='m1.small'>
        <nova:extraSpecs><nova:extraSpec name='hw:viommu_model'>{model}</nova:extraSpec></nova:extraSpecs>
      </nova:flavor>
    </nova:instance>
  </metadata>
  <os{firmware}><type arch='{arch}' machine='{machine}'>hvm</type></os>
  <features>
    <acpi/>
    <ioapic driver='qemu'/>
  </features>
  <devices>
    <iommu model='{model}'>
      <driver intremap='on' caching_mode='on' aw_bits='48' eim='{eim}' iotlb='on'/>
    </iommu>
  </devices>
</domain>"
    )
}

/// The domain with this model; `None` for a refused or unchanged domain.
fn rewritten(text: &str, model: &str, suite: Suite) -> Option<String> {
    let document = xml::parse(text.as_bytes()).ok()?;
    let domain = Domain::read(&document).ok()?;
    let keys = Keys { model: Some(model.to_owned()), ..Keys::of(Source::Cli) };
    let request = Request::of(&domain, &keys, &Config::default()).ok()?;
    let emulator = Emulator { version: suite.qemu().parse().ok(), ..Emulator::default() };
    let host = Host {
        arch: Some("x86_64".to_owned()),
        libvirt: suite.libvirt().parse().ok(),
        emulators: vec![emulator],
        ..Host::default()
    };
    rewrite(&document, &plan(&domain, &request, &host).ok()?).ok()?
}
