//! Compares viommu's verdicts with libvirt's: libvirt accepts all rewritten domains, and viommu refuses only domains
//! that libvirt or QEMU refuses.
//!
//! The oracle is libvirt itself: 9.0.0 with QEMU 7.2 and 11.3.0 with QEMU 10.0. The test defines every combination of
//! machine, VFIO devices, vCPUs and ACPI with each model of IOMMU.

#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic fails the test"
)]

mod support;

use std::fmt::{self, Write as _};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use support::libvirt::{Libvirt, Suite, shared};

/// Machines with different sets of IOMMU models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Q35,
    I440fx,
    Virt,
}

/// A domain without an IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Base {
    machine: Machine,
    /// Number of PCI host devices.
    vfio: u8,
    vcpus: u32,
    acpi: bool,
}

/// 288 and 300 exceed the highest number of an xAPIC id (255); 288 is the maximum of q35 in QEMU 7.2.
const VCPUS: [u32; 3] = [4, 288, 300];

/// The models that XML can contain.
const MODELS: [&str; 4] = ["intel", "virtio", "smmuv3", "amd"];

fn base_domains() -> Vec<Base> {
    let mut all = Vec::new();
    for machine in [Machine::Q35, Machine::I440fx, Machine::Virt] {
        for vfio in [0, 1, 3] {
            for vcpus in VCPUS {
                all.extend([true, false].map(|acpi| Base { machine, vfio, vcpus, acpi }));
            }
        }
    }
    all
}

/// The domain's XML.
fn base_domain(base: Base) -> String {
    domain(base, "", "")
}

/// The base domain with this model added by hand, in the shortest form that every libvirt accepts.
fn with_iommu(base: Base, model: &str) -> String {
    if model == "intel" && base.machine == Machine::Q35 && base.vcpus > 255 {
        // 9.0.0 adds neither as a default; 11.3.0 does.
        domain(base, "<ioapic driver='qemu'/>", "<iommu model='intel'><driver intremap='on' eim='on'/></iommu>")
    } else {
        domain(base, "", &format!("<iommu model='{model}'/>"))
    }
}

fn domain(base: Base, more_features: &str, more_devices: &str) -> String {
    let Base { machine, vfio, vcpus, acpi } = base;
    let (arch, machine_type) = match machine {
        Machine::Q35 => ("x86_64", "q35"),
        Machine::I440fx => ("x86_64", "pc"),
        Machine::Virt => ("aarch64", "virt"),
    };
    // On AArch64 only UEFI provides ACPI tables, and more than 8 vCPUs need a GICv3.
    let arm = machine == Machine::Virt;
    let firmware = if arm && acpi { " firmware='efi'" } else { "" };
    let gic = if arm { "<gic version='3'/>" } else { "" };
    let cpu = if arm { "<cpu mode='custom'><model>cortex-a57</model></cpu>" } else { "" };
    let acpi = if acpi { "<acpi/>" } else { "" };
    let mut hostdevs = String::new();
    for bus in 1..=vfio {
        writeln!(
            hostdevs,
            "    <hostdev mode='subsystem' type='pci' managed='no'>\
             <source><address domain='0x0000' bus='0x{bus:02x}' slot='0x00' function='0x0'/></source></hostdev>"
        )
        .unwrap();
    }
    format!(
        "<domain type='qemu'>
  <name>verdict</name>
  <memory unit='MiB'>1024</memory>
  <vcpu>{vcpus}</vcpu>
  <os{firmware}><type arch='{arch}' machine='{machine_type}'>hvm</type></os>
  <features>{acpi}{gic}{more_features}</features>
  {cpu}
  <devices>
{hostdevs}    {more_devices}
  </devices>
</domain>
"
    )
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = match self.machine {
            Machine::Q35 => "q35",
            Machine::I440fx => "i440fx",
            Machine::Virt => "AArch64 virt",
        };
        let acpi = if self.acpi { "yes" } else { "no" };
        write!(f, "{machine} | {} | {} | {acpi}", self.vfio, self.vcpus)
    }
}

/// The reason why a guest cannot start although libvirt accepts its definition.
struct Fact {
    /// viommu's code of the refusal.
    code: &'static str,
    model: &'static str,
    applies: fn(Base, Suite) -> bool,
    /// QEMU's message at a start.
    qemu: &'static str,
}

const FACTS: [Fact; 4] = [
    Fact {
        code: "smmuv3-with-vfio",
        model: "smmuv3",
        applies: |base, _| base.vfio > 0,
        qemu: "requires iommu MAP notifier which is not currently supported",
    },
    // Without KVM before QEMU 9.0; the test below starts it.
    Fact {
        code: "vcpus-need-eim",
        model: "intel",
        applies: |base, suite| base.vcpus > 255 && matches!(suite, Suite::Bullseye | Suite::Bookworm),
        qemu: "eim=on requires accel=kvm,kernel-irqchip=split",
    },
    Fact {
        code: "iommu-conflict",
        model: "amd",
        applies: |base, suite| base.vfio > 0 && matches!(suite, Suite::Sid | Suite::Backports),
        qemu: "requires dma-remap=1",
    },
    // libvirt 12.8 accepts the I/O APIC instead, which supports them with KVM.
    Fact {
        code: "vcpus-need-eim",
        model: "virtio",
        applies: |base, suite| {
            base.machine == Machine::Q35 && base.vcpus > 255 && matches!(suite, Suite::Sid | Suite::Backports)
        },
        qemu: "no message; without interrupt remapping no device can interrupt a vCPU with an APIC id above 255",
    },
];

/// The result of `viommu rewrite` for a domain: the new XML, or the code of the refusal.
fn rewrite(xml: &str, model: &str, suite: Suite) -> Result<String, String> {
    // The devices of the test's machine must have no effect.
    let sysfs = concat!(env!("CARGO_TARGET_TMPDIR"), "/sysfs");
    std::fs::create_dir_all(format!("{sysfs}/class")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_viommu"))
        .args(["rewrite", "--model", model, "--libvirt-version", suite.libvirt(), "--qemu-version", suite.qemu()])
        .args(["--sysfs", sysfs, "--config", "tests/data/specification.toml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The domain is smaller than a pipe's buffer, so this cannot block. A refusal may come before it is read.
    let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        Some(1) => {
            let code = stderr.lines().find_map(|line| line.strip_prefix("viommu: error[")?.split_once("]: "));
            Err(code.unwrap_or_else(|| panic!("a refusal without a code: {stderr}")).0.to_owned())
        }
        status => panic!("viommu rewrite --model {model}: {status:?}: {stderr}\n{xml}"),
    }
}

/// libvirt's known error for a model in a domain, in the order of its checks (qemuValidateDomainDef and
/// qemuValidateDomainDeviceDefIOMMU); `None` if libvirt accepts it. The model may be `none`.
fn known_refusal(base: Base, model: &str, suite: Suite) -> Option<String> {
    if model == "amd" {
        return Some("XML error: Invalid value for attribute 'model' in element 'iommu': 'amd'.".to_owned());
    }
    let message = match (base.machine, model) {
        (Machine::Q35, _) if base.vcpus > 288 && suite == Suite::Bookworm => {
            "Maximum CPUs greater than specified machine type limit 288"
        }
        (Machine::I440fx, _) if base.vcpus > 255 => "Maximum CPUs greater than specified machine type limit 255",
        // Since 10.10.0 libvirt adds an IOMMU to a domain that lacks one and needs it.
        (Machine::Q35, "none") if base.vcpus > 255 && suite == Suite::Trixie => return None,
        (Machine::Q35, "none" | "virtio" | "smmuv3") if base.vcpus > 255 => {
            "more than 255 vCPUs require extended interrupt mode enabled on the iommu device"
        }
        (_, "none") | (Machine::Q35, "intel") | (Machine::Virt, "smmuv3") => return None,
        (_, "intel") => "IOMMU device: 'intel' is only supported with Q35 machines",
        (_, "smmuv3") => "IOMMU device: 'smmuv3' is only supported with ARM Virt machines",
        (Machine::I440fx, _) => "IOMMU device: 'virtio' is only supported with Q35 and ARM Virt machines",
        _ if base.acpi => return None,
        _ => "IOMMU device: 'virtio' requires ACPI",
    };
    Some(format!("unsupported configuration: {message}"))
}

/// libvirt's results for a base domain, unchanged and with each of [`MODELS`].
type Results = [Result<(), String>; 5];

/// libvirt's results for each base domain.
fn oracle(lab: &Libvirt) -> Vec<Results> {
    let domains: Vec<String> = base_domains()
        .into_iter()
        .flat_map(|base| std::iter::once(base_domain(base)).chain(MODELS.map(|model| with_iommu(base, model))))
        .collect();
    lab.define_many(&domains).chunks(5).map(|results| results.to_vec().try_into().unwrap()).collect()
}

#[test]
fn libvirts_refusals_equal_the_table() {
    for suite in Suite::ALL {
        let Some(lab) = shared(suite) else { return };
        for (base, results) in base_domains().into_iter().zip(oracle(&lab)) {
            for (model, results) in ["none"].into_iter().chain(MODELS).zip(results) {
                assert_eq!(results.err(), known_refusal(base, model, suite), "{} | {base} | {model}", suite.name());
            }
        }
    }
}

#[test]
fn qemu_7_2_has_no_eim_without_kvm() {
    let eim = Base { machine: Machine::Q35, vfio: 0, vcpus: 4, acpi: true };
    let iommu = "<iommu model='intel'><driver intremap='on' eim='on'/></iommu>";
    for suite in Suite::ALL {
        let Some(lab) = shared(suite) else { return };
        let guest = lab.guest(&domain(eim, "<ioapic driver='qemu'/>", iommu));
        let start = guest.virsh("start", &[]);
        assert_eq!(start.stderr.contains(FACTS[1].qemu), suite == Suite::Bookworm, "{}", start.stderr);
        assert_eq!(start.status == 0, suite == Suite::Trixie, "{}", start.stderr);
    }
}

/// Numbers the texts that several rows of the table share.
#[derive(Default)]
struct Footnotes(Vec<String>);

impl Footnotes {
    fn mark(&mut self, text: String) -> String {
        let index = self.0.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        });
        format!("[{}]", index + 1)
    }
}

/// The program that refuses a model in a domain, and the code if there is only one.
fn impossible(base: Base, model: &str, suite: Suite, results: &Results) -> Option<(String, Option<&'static str>)> {
    if let Err(message) = &results[1 + MODELS.iter().position(|known| *known == model).unwrap()] {
        return Some((format!("libvirt: {message}"), None));
    }
    let fact = FACTS.iter().find(|fact| fact.model == model && (fact.applies)(base, suite))?;
    Some((format!("QEMU: {}", fact.qemu), Some(fact.code)))
}

/// libvirt's result for a model, for the table.
fn theirs(base: Base, model: &str, suite: Suite, results: &Results, notes: &mut Footnotes) -> String {
    match impossible(base, model, suite, results) {
        None => "accepts".to_owned(),
        Some((reason, None)) => format!("refuses {}", notes.mark(reason)),
        Some((reason, Some(_))) => format!("accepts, but {}", notes.mark(reason)),
    }
}

/// The two cells of the table for one libvirt in one row, and their errors.
fn judge(
    (base, model, suite): (Base, &str, Suite),
    results: &Results,
    ours: &Result<String, String>,
    verdict: &Result<(), String>,
    notes: &mut Footnotes,
) -> (String, Option<String>) {
    if model == "none" {
        let theirs = results[0].as_ref().err().map_or_else(
            || "accepts".to_owned(),
            |message| format!("refuses {}", notes.mark(format!("libvirt: {message}"))),
        );
        let unchanged = ours.as_deref() == Ok(&base_domain(base));
        return (format!("unchanged | {theirs}"), (!unchanged).then(|| format!("changed into {ours:?}")));
    }
    let candidates: Vec<&str> = MODELS.into_iter().filter(|candidate| [candidate, "auto"].contains(&model)).collect();
    let cell = |candidate: &&str| {
        let theirs = theirs(base, candidate, suite, results, notes);
        if model == "auto" { format!("{candidate} {theirs}") } else { theirs }
    };
    let theirs: Vec<String> = candidates.iter().map(cell).collect();
    let theirs = theirs.join(", ");
    match ours {
        Ok(xml) => {
            let added = xml.split_once("<iommu model=").and_then(|(_, rest)| rest.get(1..)?.split(['\'', '"']).next());
            let added = added.unwrap_or("nothing");
            let wrong = match verdict {
                Err(message) => Some(format!("libvirt refuses it: {message}\n{xml}")),
                Ok(()) => (!candidates.contains(&added)).then(|| format!("{added} was added")),
            };
            (format!("{added} | {theirs}"), wrong)
        }
        Err(code) => {
            let justified = candidates.iter().all(|candidate| match impossible(base, candidate, suite, results) {
                None => false,
                Some((_, only)) => model == "auto" || only.is_none_or(|only| only == code),
            });
            (format!("`{code}` | {theirs}"), (!justified).then(|| format!("refused as {code} without need: {theirs}")))
        }
    }
}

const INTRODUCTION: &str = "\
# What viommu decides, against what libvirt decides

Written by `tests/verdict.rs` (`VIOMMU_REGENERATE=1` writes it anew), which asks a real libvirt 9.0.0 with QEMU 7.2 and a
real 11.3.0 with QEMU 10.0, both without KVM.

- *viommu*: the model that `viommu rewrite` adds to the domain, or the code with which it refuses. libvirt accepts every
  domain that was rewritten. `auto` is in the order of the specification, in which it is virtio more often.
- *libvirt*: what libvirt says to `<iommu model='...'/>` written into the same domain by hand; with model `none`, to the
  domain as it is. Where viommu refuses, libvirt does too, or QEMU cannot start the guest.

";

const INTRODUCTION_OTHERS: &str = "\
# What viommu decides, against the oldest and the newest libvirt

Written by `VIOMMU_REGENERATE=1 cargo test --test verdict -- --ignored`, as root: a real libvirt 7.0.0 with QEMU 5.2 (Debian
11), 12.8.0 with QEMU 11.1.3 (Debian unstable) and 12.9.0 with QEMU 11.1.3 (Debian 13's backports), all without KVM. The
columns are those of [verdict](verdict.md).

";

#[test]
fn rewritten_domains_are_accepted_and_refusals_are_justified() {
    let Some(table) = table(INTRODUCTION, &Suite::ALL) else { return };
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("verdict.md"), &table).unwrap();
    compare(&table, "docs/proof/verdict.md");
}

/// The same for the oldest and the newest libvirt, of Debian 11 and unstable.
#[test]
#[ignore = "Debian unstable changes: cargo test --test verdict -- --ignored"]
fn the_oldest_and_the_newest_libvirt() {
    let Some(table) = table(INTRODUCTION_OTHERS, &Suite::OTHERS) else { return };
    compare(&table, "docs/proof/verdict-oldest-newest.md");
}

/// Debian's current versions with the rules for the newest supported versions. For `tests/newest`.
mod newest {
    use super::*;

    #[test]
    #[ignore = "tests/newest"]
    fn sid() {
        judge_all(Suite::Sid);
    }

    #[test]
    #[ignore = "tests/newest"]
    fn backports() {
        judge_all(Suite::Backports);
    }

    fn judge_all(suite: Suite) {
        if let Some((_, wrong)) = compared("", &[suite]) {
            suite.judge(&wrong);
        }
    }
}

/// The table of all combinations for these suites; panics if it contains an error.
fn table(introduction: &str, suites: &[Suite]) -> Option<String> {
    let (table, wrong) = compared(introduction, suites)?;
    print!("{table}");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Some(table)
}

/// The table, and its errors.
fn compared(introduction: &str, suites: &[Suite]) -> Option<(String, Vec<String>)> {
    let models = ["auto", "intel", "virtio", "smmuv3", "amd", "none"];
    let rows: Vec<(Base, &str)> =
        base_domains().into_iter().flat_map(|base| models.map(|model| (base, model))).collect();
    let mut notes = Footnotes::default();
    let mut wrong = Vec::new();
    let mut columns = Vec::new();
    for &suite in suites {
        let lab = shared(suite)?;
        let ours: Vec<_> = rows.iter().map(|(base, model)| rewrite(&base_domain(*base), model, suite)).collect();
        let results = oracle(&lab);
        // A refusal has no XML to define; an empty document keeps the order of the results.
        let verdicts = lab.define_many(&ours.iter().map(|ours| ours.as_deref().unwrap_or("")).collect::<Vec<_>>());
        let mut column = Vec::new();
        for (index, ((base, model), ours)) in rows.iter().zip(&ours).enumerate() {
            let results = &results[index / models.len()];
            let (cells, problem) = judge((*base, model, suite), results, ours, &verdicts[index], &mut notes);
            wrong.extend(problem.map(|problem| format!("{} | {base} | {model}: {problem}", suite.name())));
            column.push(cells);
        }
        columns.push(column);
    }

    let mut table = introduction.to_owned();
    let versions = suites.iter().map(|suite| format!(" viommu, {0} | libvirt {0} |", suite.libvirt()));
    writeln!(table, "| machine | VFIO devices | vCPUs | ACPI | model |{}", versions.collect::<String>()).unwrap();
    writeln!(table, "{}|", "|---".repeat(5 + 2 * suites.len())).unwrap();
    for (index, (base, model)) in rows.iter().enumerate() {
        let cells = columns.iter().map(|column| format!(" {} |", column[index]));
        writeln!(table, "| {base} | {model} |{}", cells.collect::<String>()).unwrap();
    }
    table += "\n";
    for (index, note) in notes.0.iter().enumerate() {
        writeln!(table, "[{}] {note}  ", index + 1).unwrap();
    }
    Some((table, wrong))
}

/// Compares the table with the one in the documentation, or writes it there.
fn compare(table: &str, page: &str) {
    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    if std::env::var_os("VIOMMU_REGENERATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(documented.parent().unwrap()).unwrap();
        fs::write(&documented, table).unwrap();
    } else if let Ok(old) = fs::read_to_string(&documented) {
        let changed = old.lines().zip(table.lines()).find(|(old, new)| old != new);
        assert!(old == table, "{page} is out of date, first here: {changed:#?}");
    }
}
