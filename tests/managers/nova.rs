//! Every possible request of a Nova guest, on every machine: Nova's rule gives the expected model, and a real libvirt
//! accepts or refuses the XML. viommu supports all that libvirt supports, and refuses the rest with a reason.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use viommu::config::{AutoOrder, Config};
use viommu::domain::Domain;
use viommu::host::{Emulator, Host};
use viommu::note::{Code, Note};
use viommu::plan::plan;
use viommu::request::{Keys, Request};
use viommu::rewrite::rewrite;
use viommu::xml;

use crate::instance::Instance;
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;

const NAMESPACES: [&str; 2] =
    ["http://openstack.org/xmlns/libvirt/nova/1.0", "http://openstack.org/xmlns/libvirt/nova/1.1"];

const MACHINES: [(&str, &str); 5] =
    [("x86_64", "q35"), ("x86_64", "pc-q35-7.2"), ("x86_64", "pc"), ("aarch64", "virt"), ("ppc64le", "pseries")];

const MODELS: [&str; 4] = ["intel", "smmuv3", "virtio", "auto"];

/// The model that Nova chooses (nova/virt/libvirt/driver.py, `_get_iommu_model` and `_guest_add_iommu_device`) with a libvirt
/// that has virtio, or viommu's code for Nova's exception.
fn novas_choice<'m>(model: &'m str, arch: &str, machine: &str) -> Result<&'m str, Code> {
    match arch {
        "x86_64" if machine.contains("q35") => {}
        "aarch64" if machine.contains("virt") => {}
        "x86_64" | "aarch64" => return Err(Code::MachineUnsupported),
        _ => return Err(Code::ArchUnsupported),
    }
    Ok(if model == "auto" { "virtio" } else { model })
}

/// Nova's XML for any model (`_guest_add_iommu_device`).
fn novas_own(case: &Value, namespace: &'static str, model: &str, machine: &str) -> String {
    let eim = if machine.contains("q35") { "on" } else { "off" };
    let devices = format!(
        "<iommu model='{model}'><driver intremap='on' caching_mode='on' aw_bits='48' eim='{eim}' iotlb='on'/></iommu>"
    );
    Instance { devices, features: "<ioapic driver='qemu'/>", ..Instance::of(case, namespace) }.xml()
}

fn case(arch: &str, machine: &str, extra_specs: &Value, image_props: &Value) -> Value {
    json!({"input": {"arch": arch, "machine_type": machine, "extra_specs": extra_specs, "image_props": image_props}})
}

/// Nova's specification does not consider the guest's driver.
fn as_specified() -> Config {
    Config { auto_order: AutoOrder::Specification, ..Config::default() }
}

/// viommu's result for a guest on a host of this suite.
fn ours(text: &str, suite: Suite) -> Result<String, Note> {
    let document = xml::parse(text.as_bytes()).unwrap();
    let domain = Domain::read(&document).unwrap();
    let request = Request::of(&domain, &Keys::default(), &as_specified())?;
    let emulator = Emulator { version: suite.qemu().parse().ok(), ..Emulator::default() };
    let host = Host { libvirt: suite.libvirt().parse().ok(), emulators: vec![emulator], ..Host::default() };
    let plan = plan(&domain, &request, &host).map_err(|refusal| refusal.note)?;
    rewrite(&document, &plan).map(|new| new.unwrap_or_else(|| text.to_owned()))
}

/// The model of a domain's vIOMMU and its attributes.
fn viommu(text: &str) -> Option<(String, BTreeMap<String, String>)> {
    let domain = Domain::read(&xml::parse(text.as_bytes()).unwrap()).unwrap();
    assert!(domain.iommus.len() < 2);
    domain.iommus.into_iter().next().map(|iommu| (iommu.model.as_str().to_owned(), iommu.driver.into_iter().collect()))
}

on_both_suites!(every_request_that_libvirt_supports_is_met);

fn every_request_that_libvirt_supports_is_met(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let without_kvm = |text: &str| text.replacen("type='kvm'", "type='qemu'", 1);
    let (mut served, mut of_nova) = (Vec::new(), Vec::new());
    let (mut given, mut without_viommu) = (BTreeSet::new(), BTreeSet::new());
    for (arch, machine) in MACHINES {
        for model in MODELS {
            let asked = json!({"hw:viommu_model": model});
            let image = json!({"hw_viommu_model": model});
            let own = json!({"viommu:model": model});
            let other = json!({"hw_viommu_model": if model == "intel" { "virtio" } else { "intel" }});
            for (specs, properties) in [
                (asked.clone(), json!({})),
                (json!({}), image.clone()),
                (json!({"hw:viommu_model": ""}), image.clone()),
                (asked.clone(), image),
                (asked, other.clone()),
                (own, other),
            ] {
                for namespace in NAMESPACES {
                    let case = case(arch, machine, &specs, &properties);
                    let what = format!("{} {arch} {machine} {specs} {properties}", suite.name());
                    let ours = ours(&Instance::of(&case, namespace).xml(), suite);
                    let chosen = match novas_choice(model, arch, machine) {
                        Ok(chosen) => chosen,
                        Err(code) => {
                            assert_eq!(ours.unwrap_err().code, code, "{what}");
                            continue;
                        }
                    };
                    let novas = without_kvm(&novas_own(&case, namespace, chosen, machine));
                    if (chosen == "intel") == (arch == "aarch64") && chosen != "virtio" {
                        // Nova does not check the architecture. libvirt does, also for the model without attributes.
                        let bare =
                            novas.replace(&novas[novas.find("<driver ").unwrap()..novas.find("</iommu>").unwrap()], "");
                        of_nova.push((bare.replace("<ioapic driver='qemu'/>", ""), false, what.clone()));
                        assert_eq!(ours.unwrap_err().code, Code::ModelArchMismatch, "{what}");
                        continue;
                    }
                    // Nova's own XML, without the parts that libvirt refuses.
                    let own = self::ours(&novas_own(&case, namespace, chosen, machine), suite);
                    served.push((without_kvm(&own.unwrap()), what.clone()));
                    of_nova.push((novas, chosen == "intel", what.clone()));
                    let text = ours.unwrap_or_else(|note| panic!("{what}: {}", note.message));
                    let (name, driver) = viommu(&text).unwrap();
                    assert_eq!(name, chosen, "{what}");
                    given.insert((machine, model));
                    without_viommu.extend((chosen == "intel").then_some((machine, model)));
                    let expected = [("aw_bits", "48"), ("eim", "on"), ("intremap", "on")];
                    let expected = if chosen == "intel" { &expected[..] } else { &[] };
                    let found: Vec<_> = driver.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                    assert_eq!(found, expected, "{what}");
                    assert_eq!(text.contains("<ioapic driver='qemu'/>"), chosen == "intel", "{what}");
                    served.push((without_kvm(&text), what));
                }
            }
        }
    }
    assert!(served.len() > 90, "{}", served.len());
    let row = format!("| four models on five machine types (20) | {} | {1} | {1} |", without_viommu.len(), given.len());
    assert!(include_str!("../../docs/proof/nova.md").contains(&row), "{row}");
    let texts: Vec<&String> = served.iter().map(|(text, _)| text).collect();
    for ((text, what), verdict) in served.iter().zip(lab.define_many(&texts)) {
        assert_eq!(verdict, Ok(()), "{what}:\n{text}");
    }
    let texts: Vec<&String> = of_nova.iter().map(|(text, ..)| text).collect();
    for ((text, accepted, what), verdict) in of_nova.iter().zip(lab.define_many(&texts)) {
        assert_eq!(verdict.is_ok(), *accepted, "{what}: {verdict:?}\n{text}");
    }
}

#[test]
fn a_guest_without_a_request_gets_no_viommu() {
    for (arch, machine) in MACHINES {
        for (specs, properties) in [
            (json!({}), json!({})),
            (json!({"hw:viommu_model": "none"}), json!({})),
            (json!({}), json!({"hw_viommu_model": "none"})),
            (json!({"viommu:model": "none"}), json!({"hw_viommu_model": "intel"})),
            (json!({"viommu:model": "none", "hw:viommu_model": "intel"}), json!({})),
            (json!({"hw_viommu_model": "intel"}), json!({"hw:viommu_model": "intel"})),
        ] {
            let case = case(arch, machine, &specs, &properties);
            let text = Instance::of(&case, NAMESPACES[1]).xml();
            assert_eq!(ours(&text, Suite::Trixie).unwrap(), text);
        }
        // Nova before 32.0.0.
        let old = Instance {
            extra_specs: None,
            properties: None,
            ..Instance::of(&case(arch, machine, &json!({}), &json!({})), NAMESPACES[0])
        };
        assert_eq!(ours(&old.xml(), Suite::Trixie).unwrap(), old.xml());
    }
}

/// oslo_utils.strutils.bool_from_string, not strict.
fn truth(text: &str) -> bool {
    ["1", "t", "true", "on", "y", "yes"].contains(&text.trim().to_lowercase().as_str())
}

/// nova/virt/hardware.py, `get_locked_memory_constraint`.
fn novas_lock(flavor: Option<&str>, image: Option<&str>, page_size: bool) -> Result<bool, Code> {
    let (flavor, image) = (flavor.map(truth), image.map(truth));
    if flavor.is_some() && image.is_some() && flavor != image {
        return Err(Code::RequestConflict);
    }
    let locked = flavor.or(image).unwrap_or(false);
    if locked && !page_size { Err(Code::LockedMemoryWithoutPageSize) } else { Ok(locked) }
}

#[test]
fn memory_is_locked_when_nova_locks_it() {
    let values =
        [None, Some("True"), Some("False"), Some("true"), Some("yes"), Some("1"), Some("no"), Some(" T "), Some("2")];
    let sizes = ["small", "large", "any", "2048", "1GB"];
    let mut count = 0;
    for (arch, machine) in [MACHINES[0], MACHINES[2], MACHINES[3]] {
        for model in [None, Some("auto")] {
            for (flavor, image) in values.iter().flat_map(|flavor| values.map(|image| (*flavor, image))) {
                // 0 is absent, odd numbers are values of the flavor, even numbers of the image.
                for at in 0..=sizes.len() {
                    let (mut specs, mut properties) = (json!({}), json!({}));
                    for (place, key, value) in
                        [(&mut specs, "hw:locked_memory", flavor), (&mut properties, "hw_locked_memory", image)]
                    {
                        if let Some(value) = value {
                            place[key] = value.into();
                        }
                    }
                    if let Some(model) = model {
                        specs["hw:viommu_model"] = model.into();
                    }
                    match at {
                        0 => {}
                        at if at % 2 == 1 => specs["hw:mem_page_size"] = sizes[at - 1].into(),
                        at => properties["hw_mem_page_size"] = sizes[at - 1].into(),
                    }
                    let what = format!("{arch} {machine} {specs} {properties}");
                    let case = case(arch, machine, &specs, &properties);
                    let ours =
                        ours(&Instance::of(&case, NAMESPACES[at % 2]).xml(), Suite::Trixie).map_err(|note| note.code);
                    // The two checks are independent: an error of either refuses the guest.
                    let mut expected = novas_lock(flavor, image, at > 0);
                    if let (Ok(_), Some("auto"), Err(code)) = (&expected, model, novas_choice("auto", arch, machine)) {
                        expected = Err(code);
                    }
                    let locked =
                        ours.map(|text| Domain::read(&xml::parse(text.as_bytes()).unwrap()).unwrap().memory.locked);
                    assert_eq!(locked, expected, "{what}");
                    count += 1;
                }
            }
        }
    }
    assert_eq!(count, 3 * 2 * 81 * 6);
}

#[test]
fn viommus_keys_add_settings_without_a_nova_key() {
    let of = |specs: &Value| {
        let case = case("x86_64", "q35", specs, &json!({}));
        let text = ours(&Instance::of(&case, NAMESPACES[1]).xml(), Suite::Trixie).map_err(|note| note.code)?;
        Ok(viommu(&text)
            .map(|(model, driver)| (model, driver.get("aw_bits").cloned(), driver.contains_key("caching_mode"))))
    };
    let got = |model: &str, width: &str, caching| Ok(Some((model.to_owned(), Some(width.to_owned()), caching)));
    assert_eq!(of(&json!({"viommu:model": "intel", "viommu:aw_bits": "39"})), got("intel", "39", false));
    assert_eq!(of(&json!({"hw:viommu_model": "intel", "viommu:hotplug": "True"})), got("intel", "48", true));
    // With a width that virtio does not support here, auto becomes another model.
    assert_eq!(of(&json!({"viommu:model": "auto", "viommu:aw_bits": "48"})), got("intel", "48", false));
    assert_eq!(of(&json!({"viommu:model": "virtio", "viommu:aw_bits": "48"})), Err(Code::RequestConflict));
    assert_eq!(of(&json!({"viommu:model": "Virtio"})), Err(Code::ModelUnknown));
    assert_eq!(of(&json!({"viommu:aw_bits": "64", "viommu:model": "intel"})), Err(Code::RequestConflict));
    // These keys alone request no vIOMMU and change nothing.
    assert_eq!(of(&json!({"viommu:aw_bits": "39", "viommu:hotplug": "yes"})), Ok(None));
}
