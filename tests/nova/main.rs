//! Nova's own test cases with viommu's decision: the same model, the same precedence, the same refusals; and XML that
//! libvirt accepts, unlike Nova's in many cases.
//!
//! The cases are data taken from Nova's source and runs of it (Apache-2.0), not part of this repository. `VIOMMU_CASES`
//! names the file; the default is `../shared/cases/nova_cases.json` beside the repository. Without the file the tests
//! print SKIPPED and pass, and `tests/run` counts them as skipped. `docs/proof/nova-conformance.md` shows the result of
//! each case.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program that reads the cases and prints its table"
)]

#[path = "../support/cases.rs"]
mod cases;
#[path = "../support/instance.rs"]
mod instance;
mod memory;
mod metadata;
#[path = "../support/page.rs"]
mod page;

use std::fmt::Write;

use cases::{cases, id};
use instance::{Instance, pairs, written};
use serde_json::Value;
use viommu::capability::{gives, offers};
use viommu::config::{AutoOrder, Config};
use viommu::domain::Domain;
use viommu::host::{Emulator, Host};
use viommu::note::{Code, Note};
use viommu::plan::{Plan, plan};
use viommu::request::{Keys, Request, RequestedModel};
use viommu::rewrite::rewrite;
use viommu::version::Version;
use viommu::xml;

/// Nova increases the version in its namespace; both versions are in use.
const NAMESPACES: [&str; 2] =
    ["http://openstack.org/xmlns/libvirt/nova/1.0", "http://openstack.org/xmlns/libvirt/nova/1.1"];

/// The host of a case: the cases only distinguish a libvirt with virtio-iommu from one without (8.3.0).
fn host(case: &Value) -> Host {
    let libvirt = case["input"]["libvirt"].as_str().unwrap_or_default();
    let old = libvirt.contains("< 8.3.0");
    let (libvirt, qemu) = if old { ((8, 2), (6, 2)) } else { ((11, 3), (10, 0)) };
    let emulator = Emulator { version: Some(Version::new(qemu.0, qemu.1)), ..Emulator::default() };
    Host { libvirt: Some(Version::new(libvirt.0, libvirt.1)), emulators: vec![emulator], ..Host::default() }
}

/// Nova's specification does not consider the guest's driver.
fn as_specified() -> Config {
    Config { auto_order: AutoOrder::Specification, ..Config::default() }
}

/// The request of a domain, and the decision about it.
fn decide(text: &str, host: &Host) -> Result<(Request, Plan), Note> {
    let document = xml::parse(text.as_bytes()).unwrap();
    let domain = Domain::read(&document).unwrap();
    let request = Request::of(&domain, &Keys::default(), &as_specified())?;
    match plan(&domain, &request, host) {
        Err(refusal) => Err(refusal.note),
        Ok(plan) => Ok((request, plan)),
    }
}

/// The XML after the plan, possibly unchanged.
fn rewritten(text: &str, plan: &Plan) -> String {
    let document = xml::parse(text.as_bytes()).unwrap();
    rewrite(&document, plan).unwrap().unwrap_or_else(|| text.to_owned())
}

/// viommu's code for Nova's exception, and Nova's reason in viommu's words.
fn refusal(exception: &str) -> (Code, &'static str) {
    match exception {
        "InvalidVIOMMUMachineType" => (Code::MachineUnsupported, "refuses the machine type"),
        "InvalidVIOMMUArchitecture" => (Code::ArchUnsupported, "refuses the architecture"),
        "LockMemoryForbidden" => (Code::LockedMemoryWithoutPageSize, "refuses locked memory without a page size"),
        "FlavorImageLockedMemoryConflict" => (Code::RequestConflict, "refuses a flavor and an image that differ"),
        "ValidationError" | "ValueError" => (Code::ModelUnknown, "refuses the value"),
        other => panic!("Nova raises {other}, which has no code here"),
    }
}

fn nova_refuses(case: &Value) -> Option<(Code, &'static str)> {
    let expect = &case["expect"];
    let raised = match expect["error"].as_str()? {
        // The API returns this for either conflict.
        "badRequest" if expect["message"].as_str()?.contains("conflict") => "FlavorImageLockedMemoryConflict",
        "badRequest" => "LockMemoryForbidden",
        other => other,
    };
    (expect["outcome"] == "error").then(|| refusal(raised))
}

fn libvirt_refused(case: &Value) -> bool {
    case["libvirt_11_3_verdict"].as_str().is_some_and(|verdict| verdict != "ok")
}

/// The reason why libvirt 11.3 refuses an `<iommu>` with its `<ioapic>`; `None` if libvirt accepts them. From
/// `virDomainIOMMUDefValidate` and `qemuValidateDomainDefFeatures`, tested with libvirt 7.0, 11.3 and 12.8. An
/// assertion below compares this function with libvirt's recorded results for Nova's XML; therefore it is valid for
/// viommu's XML, too.
fn libvirt_refuses(text: &str) -> Option<&'static str> {
    let document = xml::parse(text.as_bytes()).unwrap();
    let domain = Domain::read(&document).unwrap();
    let [iommu] = domain.iommus.as_slice() else { return None };
    let arm = domain.arch.as_deref() == Some("aarch64");
    if domain.ioapic.is_some() && arm {
        return Some("refuses the I/O APIC");
    }
    if matches!(iommu.model.as_str(), "virtio" | "smmuv3") && !iommu.driver.is_empty() {
        return Some("refuses the driver attributes");
    }
    if iommu.driver("intremap") == Some("on") && domain.ioapic.as_deref() == Some("kvm") {
        return Some("refuses the kernel's irqchip");
    }
    (arm && iommu.model.as_str() == "intel" || !arm && iommu.model.as_str() == "smmuv3").then_some("refuses the model")
}

/// One line of the page.
struct Line {
    case: String,
    nova: String,
    libvirt: &'static str,
    ours: String,
}

fn attributes(driver: &Value) -> Vec<(String, String)> {
    let mut attributes = pairs(driver);
    attributes.sort();
    attributes
}

fn spelled(attributes: &[(String, String)], quote: &str) -> String {
    attributes.iter().fold(String::new(), |text, (name, value)| text + &format!(" {name}={quote}{value}{quote}"))
}

/// The deliberate differences from Nova's attributes, which are the same for every guest: viommu leaves out attributes
/// that the model does not support or that have no use. The other attributes must equal Nova's, for a guest with
/// passed-through devices and virtio devices with ATS.
fn expected_driver(nova: &Value, vfio: bool, ats: bool) -> Vec<(String, String)> {
    if nova["model"] != "intel" {
        // libvirt refuses every attribute of virtio and smmuv3 before 12.2, and Nova's attributes in all versions.
        return Vec::new();
    }
    let mut driver = attributes(&nova["driver"]);
    // caching_mode causes a VM exit for every mapping, and only VFIO and vDPA devices need it.
    driver.retain(|(name, _)| name != "caching_mode" || vfio);
    // iotlb announces ATS to the guest, and only virtio devices with ATS benefit.
    driver.retain(|(name, _)| name != "iotlb" || ats);
    driver
}

const VFIO: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><source>
    <address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/></source></hostdev>";
const ATS: &str = "<interface type='bridge'><source bridge='br0'/><model type='virtio'/><driver ats='on'/></interface>";

/// The requests for a vIOMMU: model, machine, architecture.
fn guest_config() -> Vec<Line> {
    let mut lines = Vec::new();
    for case in cases("guest-config") {
        let what = id(&case);
        let mut line = None;
        for namespace in NAMESPACES {
            let instance = Instance::of(&case, namespace);
            let ours = decide(&instance.xml(), &host(&case));
            line = Some(match nova_refuses(&case) {
                Some((code, words)) => {
                    assert_eq!(ours.unwrap_err().code, code, "{what}");
                    (words.to_owned(), "", format!("refused: {code}"))
                }
                // Deliberate: viommu refuses at once, with the remedy, what libvirt refuses later.
                None if ours.is_err() && libvirt_refused(&case) => {
                    let model = case["expect"]["iommu"]["model"].as_str().unwrap().to_owned();
                    (model, "refuses", format!("refused: {}", ours.unwrap_err().code))
                }
                None => model_choice(&case, &instance, &ours.unwrap()),
            });

            // A flavor with a request in a namespace that Nova ignores gets the same vIOMMU, without Nova's own XML.
            let mut unseen = Instance::of(&case, namespace);
            for (key, _) in unseen.extra_specs.iter_mut().flatten() {
                *key = key.replace("hw:viommu_model", "viommu:model");
            }
            let codes =
                |decided: Result<(Request, Plan), Note>| decided.map(|(_, plan)| plan.iommu).map_err(|note| note.code);
            let by_hw = codes(decide(&instance.xml(), &host(&case)));
            assert_eq!(codes(decide(&unseen.xml(), &host(&case))), by_hw, "{what}");
        }
        let (nova, libvirt, ours) = line.unwrap();
        lines.push(Line { case: what.to_owned(), nova, libvirt, ours });
    }
    lines
}

/// A case in which Nova adds a vIOMMU, or none because there is no request.
fn model_choice(case: &Value, instance: &Instance, (_, plan): &(Request, Plan)) -> (String, &'static str, String) {
    let what = id(case);
    let nova = &case["expect"]["iommu"];
    let model = nova["model"].as_str();
    assert_eq!(plan.iommu.as_ref().map(|iommu| iommu.name.as_str()), model, "{what}");
    let Some(model) = model else { return ("no vIOMMU".to_owned(), "", "no vIOMMU".to_owned()) };

    let driver = |plan: &Plan| {
        let mut driver = plan.iommu.as_ref().map(|iommu| iommu.driver.clone()).unwrap_or_default();
        driver.sort();
        driver
    };
    assert_eq!(driver(plan), expected_driver(nova, false, false), "{what}");
    // The I/O APIC belongs to intel's interrupt remapping; AArch64 has none, and Nova writes one on every machine.
    let ioapic = (model == "intel").then_some("qemu");
    assert_eq!(case["expect"]["ioapic"]["driver"], "qemu", "{what}");
    assert_eq!(plan.ioapic.as_ref().map(|ioapic| ioapic.driver.as_str()), ioapic, "{what}");

    // Nova's own XML, and libvirt's result for it.
    let of_nova = spelled(&attributes(&nova["driver"]), "'");
    let devices = format!("<iommu model='{model}'><driver{of_nova}/></iommu>");
    let novas = Instance { devices, features: "<ioapic driver='qemu'/>", ..Instance::of(case, instance.namespace) };
    let verdict = libvirt_refuses(&novas.xml());
    assert_eq!(verdict.is_some(), libvirt_refused(case), "{what}: {}", case["libvirt_11_3_verdict"]);
    assert_eq!(libvirt_refuses(&rewritten(&instance.xml(), plan)), None, "{what}");
    if model != "intel" {
        // Nova's own XML as input of `rewrite`.
        let text = novas.xml();
        let (_, plan) = decide(&text, &host(case)).unwrap();
        assert_eq!(libvirt_refuses(&rewritten(&text, &plan)), None, "{what}");
        assert_eq!(plan.iommu.map(|iommu| iommu.name).as_deref(), Some(model), "{what}");
    }

    with_devices(case, instance);
    let driver = spelled(&driver(plan), "");
    (model.to_owned(), verdict.unwrap_or("accepts"), format!("{model}{driver}"))
}

/// The same guest with a passed-through device and a virtio device with ATS.
fn with_devices(case: &Value, instance: &Instance) {
    let what = id(case);
    let nova = &case["expect"]["iommu"];
    let instance = Instance { devices: format!("{VFIO}{ATS}"), ..Instance::of(case, instance.namespace) };
    let decided = decide(&instance.xml(), &host(case));
    if nova["model"] == "smmuv3" {
        // Deliberate: QEMU's SMMUv3 cannot serve a passed-through device, and this libvirt has no other model.
        assert_eq!(decided.unwrap_err().code, Code::ModelUnsupportedByLibvirt, "{what}");
        return;
    }
    let iommu = decided.unwrap().1.iommu.unwrap();
    assert_eq!(nova["model"], *iommu.name, "{what}");
    let mut driver = iommu.driver;
    driver.sort();
    assert_eq!(driver, expected_driver(nova, true, true), "{what}: with devices");
}

/// Values of `hw:viommu_model`. viommu has `none`; Nova does not.
fn extra_spec_validation() -> Vec<Line> {
    let mut lines = Vec::new();
    for case in cases("extra-spec-validation") {
        let what = id(&case);
        let value = written(&case["input"]["extra_specs"]["hw:viommu_model"]);
        let (arch, machine) = if value == "smmuv3" { ("aarch64", "virt") } else { ("x86_64", "q35") };
        let mut instance = Instance::of(&case, NAMESPACES[1]);
        (instance.arch, instance.machine, instance.uefi) = (arch.to_owned(), machine.to_owned(), true);
        let ours = decide(&instance.xml(), &host(&case)).map(|(request, _)| request.model.as_str());
        let ours = ours.map_err(|note| note.code);
        assert_eq!(ours, nova_refuses(&case).map_or(Ok(value.as_str()), |(code, _)| Err(code)), "{what}");
        lines.push(Line {
            case: what.to_owned(),
            nova: nova_refuses(&case).map_or_else(|| "accepts".to_owned(), |(_, words)| words.to_owned()),
            libvirt: "",
            ours: ours.map_or_else(|code| format!("refused: {code}"), |_| "accepted".to_owned()),
        });
    }
    // Deliberate: a stronger source needs a value that cancels a weaker one, so `none` is a value.
    if let Some(case) = cases("extra-spec-validation").first() {
        let none = vec![("hw:viommu_model".to_owned(), "none".to_owned())];
        let instance = Instance { extra_specs: Some(none), ..Instance::of(case, NAMESPACES[1]) };
        assert_eq!(decide(&instance.xml(), &host(case)).unwrap().1.iommu, None);
    }
    lines
}

/// A host's traits among those that Nova reports. Deliberate: a host without an emulator does not have `auto` either.
fn traits() -> Vec<Line> {
    let mut lines = Vec::new();
    for case in cases("traits") {
        let mut host = host(&case);
        let described = host.emulators.remove(0);
        host.arch = Some("x86_64".to_owned());
        for arch in case["input"]["domcaps_arches"].as_array().unwrap() {
            let arch = arch.as_str().map(str::to_owned);
            host.emulators.push(Emulator { path: "/usr/bin/qemu".to_owned(), arch, ..described.clone() });
        }
        let offers = offers(&host);
        let given = |name: &str| {
            let model = RequestedModel::models()
                .find(|model| name == format!("COMPUTE_VIOMMU_MODEL_{}", model.as_str().to_uppercase()));
            gives(&host, &offers, model.unwrap()).is_ok()
        };
        let expected = case["expect"]["traits"].as_object().unwrap();
        let expected = expected.iter().filter(|(name, _)| name.starts_with("COMPUTE_VIOMMU_MODEL_"));
        let mut has = Vec::new();
        for (name, value) in expected {
            assert_eq!(given(name), value.as_bool().unwrap() && !host.emulators.is_empty(), "{}: {name}", id(&case));
            has.extend(given(name).then_some(name.trim_start_matches("COMPUTE_VIOMMU_MODEL_")));
        }
        let words = has.join(" ");
        lines.push(Line { case: id(&case).to_owned(), nova: words.clone(), libvirt: "", ours: words });
    }
    lines
}

#[test]
fn decides_as_nova_does() {
    let mut page = String::new();
    let mut requests = Vec::new();
    let layers = [
        ("Requests for a vIOMMU", guest_config()),
        ("Values of the request", extra_spec_validation()),
        ("Locked memory", memory::locked_memory()),
        ("Memory backing", memory::memory_backing()),
        ("Metadata", metadata::metadata()),
        ("Traits", traits()),
    ];
    for (title, lines) in layers {
        writeln!(page, "\n## {title}\n\n| case | Nova | libvirt 11.3 on Nova's XML | viommu |\n|---|---|---|---|")
            .unwrap();
        for Line { case, nova, libvirt, ours } in &lines {
            writeln!(page, "| {case} | {nova} | {libvirt} | {ours} |").unwrap();
        }
        if title == "Requests for a vIOMMU" {
            requests = lines;
        }
    }
    requests.retain(|line| line.nova != "no vIOMMU");
    let all = requests.len();
    let refused = requests.iter().filter(|line| line.ours.starts_with("refused")).count();
    let accepted = requests.iter().filter(|line| line.libvirt == "accepts").count();
    writeln!(
        page,
        "\nlibvirt accepts Nova's XML for {accepted} of {all} requests for a vIOMMU, and ours for {} of {all}; {refused} are refused \
         with the reason, by Nova as by us.\n",
        all - refused
    )
    .unwrap();
    println!("{page}");
    if all > 0 {
        page::check("proof/nova-conformance.md", "nova", &page);
    }
}
