//! `apply` and `remove` on libvirt's own test domains: `remove` restores the original.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use viommu::config::Config;
use viommu::domain::Domain;
use viommu::host::{Emulator, Host};
use viommu::plan::plan;
use viommu::request::{Keys, Request, Source};
use viommu::rewrite::rewrite;
use viommu::xml;

use crate::support::corpus::documents;
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;

on_both_suites!(apply_remove_apply_ends_in_the_same_bytes);

/// The minimum number of compared domains.
const ENOUGH: usize = 50;

fn apply_remove_apply_ends_in_the_same_bytes(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    // The lab has no KVM, and libvirt does not define a domain of a type that the host lacks.
    let domains = documents().into_iter().map(|(path, text)| {
        (path, text.replacen("type='kvm'", "type='qemu'", 1).replacen("type=\"kvm\"", "type=\"qemu\"", 1))
    });
    // Neighbours in the corpus are variants of one domain. The cycle gives each model some of each kind.
    let models = ["auto", "intel", "virtio", "smmuv3"].into_iter().cycle();
    let changing: Vec<_> = domains
        .zip(models)
        .map(|((path, text), model)| (path, if text.contains("aarch64") { model } else { x86(model) }, text))
        .filter(|(_, model, text)| changes(text, model, suite))
        .collect();
    let accepted = lab.define_many(&changing.iter().map(|(_, _, text)| text).collect::<Vec<_>>());
    let accepted = changing.iter().zip(accepted).filter(|(_, verdict)| verdict.is_ok()).map(|(case, _)| case);
    let chosen: Vec<_> = accepted.take(ENOUGH).collect();
    if chosen.is_empty() {
        return; // no corpus
    }
    assert_eq!(chosen.len(), ENOUGH);

    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut dump = String::new();
    for (index, (path, model, text)) in chosen.iter().enumerate() {
        // Many domains of the corpus share a name and a UUID.
        let name = format!("{index}-{}", path.file_stem().unwrap().to_str().unwrap());
        let text = with_text(text, "name", &name);
        let text = with_text(&text, "uuid", &format!("8d3f0c6e-41b2-4f57-9a60-0000000000{index:02}"));
        lab.put(&format!("/tmp/corpus/{index}.xml"), &text);
        write!(names.entry(model).or_default(), " {name}").unwrap();
        writeln!(dump, "dumpxml --inactive --security-info --domain {name}").unwrap();
    }
    lab.put("/tmp/corpus/dump", dump);
    let every_model = |verb: &str| {
        let call = |(model, names): (&&str, &String)| match verb {
            "apply" => format!("viommu apply --yes --model {model} --virtio all {names}"),
            _ => format!("viommu remove --yes {names}"),
        };
        lab.run(&names.iter().map(call).collect::<Vec<_>>().join(" && ")).ok()
    };
    let dumps = || lab.run("virsh -q </tmp/corpus/dump | grep -v '^virsh # '").ok();

    lab.run("for file in /tmp/corpus/*.xml; do virsh -q define $file || exit; done").ok();
    // libvirt changes the order of controllers when it reads some of its own dumps; after that the order stays.
    lab.run(
        "virsh -q list --all --uuid | while read -r uuid; do
             virsh -q dumpxml --inactive --security-info $uuid >/tmp/corpus/settled
             virsh -q define /tmp/corpus/settled || exit
         done",
    )
    .ok();
    let began = dumps();
    let nothing = |printed: &str| printed.lines().filter(|line| line.contains(": nothing to change")).count();
    assert_eq!(nothing(&every_model("apply")), 0);
    let applied = dumps();
    let translated = |dump: &str| dump.lines().filter(|line| line.contains(" iommu='on'")).count();
    assert!(translated(&applied) >= translated(&began) + 10, "{} devices", translated(&applied));
    assert_eq!(nothing(&every_model("apply")), ENOUGH);
    assert_eq!(nothing(&every_model("remove")), 0);
    assert_same(&dumps(), &began, suite);
    assert_eq!(nothing(&every_model("remove")), ENOUGH);
    assert_eq!(nothing(&every_model("apply")), 0);
    assert_same(&dumps(), &applied, suite);
    lab.run("virsh -q list --all --uuid | while read -r uuid; do virsh -q undefine --nvram $uuid; done").ok();
}

/// The domain with another text in the first element of this name.
fn with_text(xml: &str, element: &str, text: &str) -> String {
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let Some((head, rest)) = xml.split_once(&start) else {
        return xml.replacen("<name>", &format!("{start}{text}{end}<name>"), 1);
    };
    format!("{head}{start}{text}{end}{}", rest.split_once(&end).unwrap().1)
}

/// Asserts equal lines; the message shows the first difference only.
#[track_caller]
fn assert_same(found: &str, expected: &str, suite: Suite) {
    let mut name = "";
    for (found, expected) in found.lines().zip(expected.lines()) {
        if found.starts_with("  <name>") {
            name = found;
        }
        assert_eq!(found, expected, "{}{name}", suite.name());
    }
    assert!(found == expected, "{}: one of them has more lines", suite.name());
}

fn x86(model: &'static str) -> &'static str {
    if model == "smmuv3" { "auto" } else { model }
}

/// Whether viommu adds this model to the domain.
fn changes(text: &str, model: &str, suite: Suite) -> bool {
    let changed = || {
        let document = xml::parse(text.as_bytes()).ok()?;
        let domain = Domain::read(&document).ok()?;
        let keys = Keys { model: Some(model.to_owned()), ..Keys::of(Source::Cli) };
        let request = Request::of(&domain, &keys, &Config::default()).ok()?;
        let emulator = Emulator { version: suite.qemu().parse().ok(), ..Emulator::default() };
        let libvirt = suite.libvirt().parse().ok();
        let host = Host { libvirt, emulators: vec![emulator], ..Host::default() };
        rewrite(&document, &plan(&domain, &request, &host).ok()?).ok()?
    };
    changed().is_some()
}
