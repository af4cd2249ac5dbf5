//! viommu reads a domain as libvirt reads it: the test defines documents from a seed in a real libvirt, and compares
//! viommu's result for each document with that for libvirt's dump. Each document contains a few parts that a parser
//! could read in several ways.
//!
//! `VIOMMU_READING_DOCUMENTS=2000 cargo test --test reading -- --nocapture` gives each libvirt this number of documents
//! (default: 300) and prints how many it accepted. A refused document has no dump, and no hook gets it.

#![expect(clippy::print_stdout, reason = "a test prints its counts")]
#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

mod devices;
mod documents;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use viommu::domain::{Domain, Iommu, Requester};
use viommu::xml;

use documents::{Made, document};
use support::libvirt::{Suite, shared};
use support::on_both_suites;

on_both_suites!(domains_are_read_as_libvirt_reads_them);

#[test]
#[ignore = "needs the newest libvirt: cargo test --test reading -- --ignored"]
fn sid() {
    domains_are_read_as_libvirt_reads_them(Suite::Sid);
}

/// Number of documents for each libvirt without `VIOMMU_READING_DOCUMENTS`.
const DOCUMENTS: u64 = 300;

fn domains_are_read_as_libvirt_reads_them(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let count = std::env::var("VIOMMU_READING_DOCUMENTS").map_or(DOCUMENTS, |count| count.parse().unwrap());
    let made: Vec<Made> = (0..count).map(document).collect();
    let xmls: Vec<&str> = made.iter().map(|made| &made.xml[..]).collect();
    let uuids: Vec<String> = made.iter().map(|made| made.uuid.clone()).collect();
    let mut refused = BTreeMap::<String, u32>::new();
    let (mut accepted, mut different) = (0_u64, Vec::new());
    for (made, settled) in made.iter().zip(lab.settled_as(&xmls, &uuids)) {
        match settled {
            Ok(dump) => {
                accepted += 1;
                let differences = differences(&made.xml, &dump);
                if !differences.is_empty() {
                    different.push(format!("{}\n{}\n{dump}", differences.join("\n"), made.xml));
                }
            }
            Err(reason) if reason.starts_with("failed to get domain") => {
                different.push(format!("{reason}\n{}", made.xml));
            }
            Err(reason) => *refused.entry(reason.split('\'').step_by(2).collect()).or_default() += 1,
        }
    }
    println!(
        "{}: {accepted} of {count} documents are accepted, {} are read differently",
        suite.name(),
        different.len()
    );
    println!("refused: {refused:#?}");
    assert!(accepted * 4 > count, "libvirt refuses most documents, so they say little");
    assert!(
        different.is_empty(),
        "{} differences, such as\n{}",
        different.len(),
        different[..different.len().min(5)].join("\n\n")
    );
}

/// The differences between viommu's results for a document and for libvirt's dump of it.
fn differences(original: &str, dump: &str) -> Vec<String> {
    let (Ok(mut original), Ok(mut settled)) = (read(original), read(dump)) else {
        return vec!["cannot be read".to_owned()];
    };
    for domain in [&mut original, &mut settled] {
        // libvirt orders the devices in its own way.
        domain.vfio.sort_by(|left, right| left.source.name().cmp(right.source.name()));
    }
    complete(&mut original, &settled);
    unescape(&mut original);
    let mut differences = Vec::new();
    macro_rules! compare {
        ($($field:ident)*) => { $(if original.$field != settled.$field {
            differences.push(format!("{}: {:?}, libvirt {:?}", stringify!($field), original.$field, settled.$field));
        })* };
    }
    compare!(virt_type name uuid arch machine emulator acpi uefi system launch_security vcpus amd_cpu memory ioapic iommus vfio
        unassigned nvme_disks nvme_images vdpa_interfaces vdpa_images device_memory virtio_ats pci_roots commandline metadata nova);
    differences
}

fn read(text: &str) -> Result<Domain, String> {
    let document = xml::parse(text.as_bytes()).map_err(|note| note.message)?;
    Domain::read(&document).map_err(|note| note.message)
}

/// Adds libvirt's defaults for parts that the document leaves out.
fn complete(original: &mut Domain, settled: &Domain) {
    original.arch = original.arch.take().or_else(|| settled.arch.clone());
    original.emulator = original.emulator.take().or_else(|| settled.emulator.clone());
    original.uuid = original.uuid.or(settled.uuid);
    // libvirt replaces an alias with the machine type.
    let machine = settled.machine.clone().unwrap_or_default();
    let alias = match original.machine.as_deref() {
        None | Some("pc") => machine.starts_with("pc-i440fx-"),
        Some("q35") => machine.starts_with("pc-q35-"),
        Some(_) => false,
    };
    if alias {
        original.machine.clone_from(&settled.machine);
    }
    // libvirt assigns an address to every device.
    for (device, settled) in original.vfio.iter_mut().zip(&settled.vfio) {
        if device.requester == Requester::Unassigned {
            device.requester = settled.requester.clone();
        }
    }
    for iommu in &mut original.iommus {
        known_attributes(iommu);
    }
}

/// libvirt keeps only attributes that it supports, and orders them in its own way.
fn known_attributes(iommu: &mut Iommu) {
    const KNOWN: [&str; 5] = ["intremap", "caching_mode", "eim", "iotlb", "aw_bits"];
    let values = KNOWN.iter().filter_map(|name| Some(((*name).to_owned(), iommu.driver(name)?.to_owned())));
    iommu.driver = values.collect();
}

/// libvirt writes carriage returns, and line feeds in attributes, without escapes; a parser of its output reads other
/// white space.
fn unescape(original: &mut Domain) {
    original.name = original.name.replace('\r', "\n");
    for argument in &mut original.commandline {
        *argument = argument.replace(['\r', '\n', '\t'], " ");
    }
}
