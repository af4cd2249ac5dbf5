//! The formats of the newest libvirt and QEMU, in domains from a real libvirt 12.9.0 and QEMU 11.1.3.
//!
//! The domains are not part of this repository: they are in `frontier/` beside Nova's test cases (`VIOMMU_CASES`).
//! Without them the tests print SKIPPED and pass.

#![expect(clippy::disallowed_methods, reason = "a test harness starts programs and reads files")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a panic fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// The domain of this name, if the file exists.
fn domain(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/nova_cases.json");
    let cases = env::var_os("VIOMMU_CASES").map_or_else(beside, PathBuf::from);
    let path = cases.with_file_name("frontier").join(name);
    if !path.is_file() {
        println!("SKIPPED: {name} is not beside Nova's cases (VIOMMU_CASES)");
        return None;
    }
    Some(path)
}

fn viommu(arguments: &[&str], domain: &Path) -> Output {
    let sysfs = concat!(env!("CARGO_TARGET_TMPDIR"), "/frontier-sysfs");
    fs::create_dir_all(format!("{sysfs}/class")).unwrap();
    let host = ["--libvirt-version", "12.9.0", "--qemu-version", "11.1.3", "--host-aw-bits", "48"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_viommu"));
    command.arg("plan").args(host).args(["--sysfs", sysfs, "--config", "/dev/null"]).args(arguments).arg(domain);
    command.output().unwrap()
}

/// The plan in JSON.
fn plan(arguments: &[&str], domain: &Path) -> Value {
    let output = viommu(&[&["--format", "json"], arguments].concat(), domain);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The level and the message of the only note with this code.
#[track_caller]
fn note(plan: &Value, code: &str) -> (String, String) {
    let notes = plan["notes"].as_array().unwrap();
    let found: Vec<_> = notes.iter().filter(|note| note["code"] == code).collect();
    let [note] = found[..] else { panic!("{code} in {notes:#?}") };
    let text = |key: &str| note[key].as_str().unwrap().to_owned();
    (text("level"), text("message"))
}

/// A refusal for a guest that requests `model`, and the same message as a note for a guest without a request.
#[track_caller]
fn refused_and_said(domain: &Path, model: &str, code: &str, words: &str) {
    for (arguments, level) in [(&["--model", model][..], "error"), (&[], "warning")] {
        let (found, message) = note(&plan(arguments, domain), code);
        assert!(found == level && message.contains(words), "{found}: {message}");
    }
    assert_eq!(viommu(&["--model", model], domain).status.code(), Some(1));
}

#[test]
fn amd_serves_no_vfio_device_natively() {
    let Some(domain) = domain("amd-vfio.xml") else { return };
    for model in ["auto", "amd"] {
        refused_and_said(&domain, model, "iommu-conflict", "dma-remap=on only, which libvirt does not write");
    }
}

#[test]
fn qemu_has_removed_the_property_pt_of_amd() {
    let Some(domain) = domain("amd.xml") else { return };
    let late = "Property 'amd-iommu.pt' not found";
    refused_and_said(&domain, "auto", "iommu-conflict", late);
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("amd-pt.log");
    fs::write(&log, format!("2026-11-29T10:00:00.000000Z qemu-system-x86_64: -device {{}}: {late}\n")).unwrap();
    let explained = Command::new(env!("CARGO_BIN_EXE_viommu")).arg("explain").arg(&log).output().unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("passthrough='on'") && !explained.contains("qemu:commandline"), "{explained}");
}

#[test]
fn amd_takes_no_width() {
    let Some(domain) = domain("amd-aw.xml") else { return };
    refused_and_said(&domain, "amd", "iommu-conflict", "iommu model 'amd' doesn't support some additional attributes");
}

#[test]
fn acceleration_without_a_bus_is_dropped_by_libvirt() {
    let Some(domain) = domain("accel-nobus-vfio.xml") else { return };
    refused_and_said(&domain, "smmuv3", "smmuv3-with-vfio", "libvirt ignores accel='on'");
}

#[test]
fn iommufd_beside_a_container_aborts_qemu() {
    let Some(domain) = domain("mixed.xml") else { return };
    let planned = plan(&[], &domain);
    let (level, message) = note(&planned, "iommufd-mixed");
    assert!(level == "warning" && message.contains("0000:01:00.0 and 0000:02:00.0"), "{message}");
    assert_eq!(planned["memlock"]["address_spaces"][0]["backend"], "mixed");
    assert_eq!(plan(&["--model", "intel"], &domain)["memlock"]["address_spaces"].as_array().unwrap().len(), 2);
}

#[test]
fn iommufd_needs_the_same_limit_and_has_no_limit_of_mappings() {
    let Some(domain) = domain("iommufd.xml") else { return };
    let planned = plan(&[], &domain);
    assert_eq!(planned["memlock"]["required_bytes"], 3 * GIB);
    assert_eq!(planned["memlock"]["libvirt_bytes"], 3 * GIB);
    assert_eq!(planned["notes"], json!([]));
    let text = String::from_utf8(viommu(&[], &domain).stdout).unwrap();
    assert_eq!(text.matches("(iommufd, one IOAS)").count(), 2, "{text}");
}

#[test]
fn many_vcpus_with_virtio_need_kvm() {
    let Some(path) = domain("virtio300kvm.xml") else { return };
    let planned = plan(&["--model", "virtio"], &path);
    assert_eq!(planned["iommu"]["model"], "virtio");
    assert_eq!(planned["ioapic"], json!({"driver": "qemu", "origin": "existing"}));
    assert!(note(&planned, "vcpus-need-eim").1.contains("extended destination ids"));
    let emulated = Path::new(env!("CARGO_TARGET_TMPDIR")).join("virtio300tcg.xml");
    fs::write(&emulated, fs::read_to_string(path).unwrap().replace("type='kvm'", "type='qemu'")).unwrap();
    let (level, message) = note(&plan(&["--model", "virtio"], &emulated), "vcpus-need-eim");
    let late = "more than 255 vCPUs require either IOAPIC in QEMU or an iommu device with EIM or XTSup mode enabled";
    assert!(level == "error" && message.contains(late), "{message}");
}

#[test]
fn both_smmus_are_shown() {
    let Some(domain) = domain("smmu2.xml") else { return };
    let planned = plan(&[], &domain);
    assert_eq!(planned["iommu"]["driver"], json!({"pciBus": "1"}));
    assert_eq!(planned["further_iommus"][0]["driver"], json!({"pciBus": "2"}));
    let text = String::from_utf8(viommu(&[], &domain).stdout).unwrap();
    assert!(text.contains("pciBus=1") && text.contains("pciBus=2"), "{text}");
}

#[test]
fn other_architectures_have_no_model() {
    for arch in ["riscv64", "loongarch64"] {
        let domain = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{arch}.xml"));
        let text = format!(
            "<domain type='qemu'><name>{arch}</name><memory unit='GiB'>1</memory><os><type arch='{arch}' machine='virt'>hvm</type></os>\
             <devices/></domain>"
        );
        fs::write(&domain, text).unwrap();
        for model in ["auto", "intel", "amd", "virtio", "smmuv3"] {
            let (_, message) = note(&plan(&["--model", model], &domain), "arch-unsupported");
            assert!(message.starts_with(&format!("libvirt has no vIOMMU for guests of the architecture '{arch}'")));
        }
    }
}
