//! Compares QEMU's VFIO containers with viommu's address spaces, and QEMU's messages with the quotations in viommu's
//! refusals.
//!
//! The oracle is QEMU 7.2 and 10.0. Their vfio-pci runs on an emulated VFIO (`tests/lab/fakevfio`), without a device,
//! an IOMMU and `/dev/vfio`.

#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic fails the test"
)]

#[path = "lab/fakevfio/device_memory.rs"]
mod device_memory;
#[path = "lab/fakevfio/qemu.rs"]
mod qemu;
mod support;
#[path = "lab/fakevfio/topology.rs"]
mod topology;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, path, thread};

use viommu::config::Config;
use viommu::domain::Domain;
use viommu::host::{Emulator, Host, probe::Places};
use viommu::limit::Limit;
use viommu::note::{Code, Note};
use viommu::plan::{Plan, Refusal, kept, plan};
use viommu::qemu::{Edits, rewrite};
use viommu::request::{Keys, Request, Source};

use qemu::{Container, Fake, Outcome, fake};
use support::libvirt::Suite;
use topology::{Dialect, MEMORY, Topology, topologies};

const GIB: u64 = 1 << 30;
/// Firmware that QEMU maps into a container beside guest memory: 256 KiB on q35.
const FIRMWARE: u64 = 1 << 20;

/// viommu's facts about the emulated host.
fn host(fake: &Fake, suite: Suite, domain: &Domain) -> Host {
    let nowhere = || path::PathBuf::from("/nonexistent");
    let places = Places {
        sysfs: fake.sysfs.clone(),
        devices: nowhere(),
        capabilities: nowhere(),
        networks: [nowhere(), nowhere()],
        memory: || None,
    };
    Host {
        libvirt: Some(suite.libvirt().parse().unwrap()),
        emulators: vec![Emulator { version: Some(suite.qemu().parse().unwrap()), ..Emulator::default() }],
        ..places.host_for(domain)
    }
}

/// viommu's decision about a guest with the wrapper as emulator, and the wrapper's command line.
fn decide(fake: &Fake, topology: &Topology, model: &str, suite: Suite, aw_bits: Option<u8>) -> Result<Plan, Refusal> {
    let xml = topology.xml();
    let domain = Domain::read(&viommu::xml::parse(xml.as_bytes()).unwrap()).unwrap();
    let keys = Keys { model: Some(model.to_owned()), ..Keys::of(Source::Cli) };
    let request = Request::of(&domain, &keys, &Config::default()).unwrap();
    plan(&domain, &request, &Host { aw_bits, ..host(fake, suite, &domain) })
}

/// The edits that a user without experience would write.
fn naive(model: &str) -> Edits {
    let machine = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    match model {
        "intel" => Edits {
            machine: machine("kernel_irqchip", "split"),
            devices: vec!["intel-iommu,id=iommu0,intremap=on,caching-mode=on,aw-bits=48".to_owned()],
            ..Edits::default()
        },
        "virtio" => Edits { devices: vec!["virtio-iommu,id=iommu0,bus=pcie.0".to_owned()], ..Edits::default() },
        "smmuv3" => Edits { machine: machine("iommu", "smmuv3"), ..Edits::default() },
        _ => panic!("{model}"),
    }
}

fn edited(topology: &Topology, dialect: Dialect, edits: &Edits) -> Vec<OsString> {
    rewrite(&topology.command_line(dialect), edits).unwrap()
}

/// The quotation of QEMU's message in a refusal.
fn quoted(refusal: &Note) -> &str {
    let message = &refusal.message;
    let quote = message.split_once("QEMU: \"").and_then(|(_, rest)| rest.split('"').next());
    let quote = quote.or_else(|| message.split_once("QEMU itself would say: ").map(|(_, rest)| rest));
    quote.unwrap_or_else(|| panic!("a refusal that does not quote QEMU: {message}"))
}

/// The address spaces of a plan, in the form of QEMU's containers.
fn expected(plan: &Plan) -> BTreeSet<Container> {
    let spaces = plan.memlock.address_spaces.iter().map(|space| Container {
        devices: space.devices.iter().cloned().collect(),
        groups: space.iommu_groups.iter().copied().collect(),
    });
    spaces.collect()
}

/// Refusals of guests that this QEMU starts. The table contains each of them.
const STRICTER: [(Code, Suite); 1] = [
    // QEMU 9.0 is the first that finds the aliases (`virtio_iommu_set_host_iova_ranges`).
    (Code::VirtioAliasedDevices, Suite::Bookworm),
];

/// The difference between the plan and QEMU's behaviour, if there is one.
fn disagreement(plan: &Plan, outcome: &Outcome) -> Option<String> {
    let spaces = plan.memlock.address_spaces.len() as u64;
    let Some(Limit::Bytes(required)) = plan.memlock.required_bytes else { panic!("{plan:?}") };
    let mut opened = outcome.containers.clone();
    // viommu does not read the groups of mediated devices.
    for container in &mut opened {
        container.groups.retain(|group| *group < 200);
    }
    if !outcome.started {
        Some(format!("QEMU does not start: {}", outcome.stderr))
    } else if opened.len() as u64 != spaces || opened.iter().cloned().collect::<BTreeSet<_>>() != expected(plan) {
        Some(format!("QEMU opens {opened:?}, viommu counts {:?}", plan.memlock.address_spaces))
    } else if outcome.peak < spaces * MEMORY - spaces * FIRMWARE || outcome.peak > required - GIB + spaces * FIRMWARE {
        Some(format!("QEMU maps {} bytes, viommu requires {required}", outcome.peak))
    } else {
        None
    }
}

fn counted(number: usize, word: &str, bytes: u64) -> String {
    let plural = if number == 1 { "" } else { "s" };
    #[expect(clippy::cast_precision_loss, reason = "for a readable message")]
    let gib = bytes as f64 / GIB as f64;
    format!("{number} {word}{plural}, {gib:.1} GiB")
}

/// One QEMU in one row of the table.
#[derive(Default)]
struct Judged {
    /// QEMU's result.
    theirs: String,
    /// viommu's result.
    ours: String,
    /// The differences.
    wrong: Vec<String>,
    /// The code, if viommu refuses a guest that QEMU starts.
    stricter: Option<Code>,
}

fn judge(fake: &Fake, topology: &Topology, model: &str, suite: Suite) -> Judged {
    let outcome = decide(fake, topology, model, suite, None);
    let plan = kept(&outcome);
    let refusal = outcome.as_ref().err().map(|refusal| &refusal.note);
    let (edits, limit) = match (refusal, plan.memlock.required_bytes) {
        (None, Some(Limit::Bytes(bytes))) => (plan.qemu.clone(), bytes),
        (Some(_), _) => (naive(model), u64::MAX),
        (None, other) => panic!("{other:?}"),
    };
    let mut judged = Judged {
        ours: refusal.map_or_else(
            || counted(plan.memlock.address_spaces.len(), "address space", limit),
            |refusal| format!("`{}`", refusal.code),
        ),
        ..Judged::default()
    };
    // The spelling determines the order of creation, which is significant with a vIOMMU.
    let dialects = if model == "none" || refusal.is_some() { &Dialect::ALL[..1] } else { &Dialect::ALL };
    for dialect in dialects {
        let arguments = edited(topology, *dialect, &edits);
        let outcome = fake.run(suite, topology.arch, &arguments, &[("FAKEVFIO_LIMIT", limit)], &[]);
        let opened = counted(outcome.containers.len(), "container", outcome.peak);
        let (theirs, problem) = match refusal {
            None => (opened, disagreement(plan, &outcome)),
            Some(refusal) if outcome.started => {
                judged.stricter = Some(refusal.code);
                (format!("starts, {opened}"), None)
            }
            Some(refusal) => {
                let quote = quoted(refusal);
                let other = format!("QEMU does not say \"{quote}\" but: {}", outcome.stderr);
                (format!("\"{quote}\""), (!outcome.stderr.contains(quote)).then_some(other))
            }
        };
        judged.wrong.extend(problem.map(|problem| format!("{dialect:?}: {problem}")));
        if judged.theirs != theirs {
            judged.theirs += &theirs;
        }
    }
    judged
}

/// Computes all results of `0..count` in a few threads, and keeps the order.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = work(index);
                    done.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn qemu_opens_a_container_for_each_address_space() {
    let Some(fake) = fake() else { return };
    let topologies = topologies();
    let rows: Vec<(&Topology, &str)> = topologies
        .iter()
        .flat_map(|topology| {
            let models =
                if topology.arch == "aarch64" { ["none", "virtio", "smmuv3"] } else { ["none", "intel", "virtio"] };
            models.map(|model| (topology, model))
        })
        .collect();
    let judged = in_parallel(2 * rows.len(), |index| {
        let (topology, model) = rows[index / 2];
        judge(fake, topology, model, Suite::ALL[index % 2])
    });
    let mut table = String::from("| machine | VFIO devices | vIOMMU | QEMU 7.2 | QEMU 10.0 | viommu |\n");
    writeln!(table, "{}|", "|---".repeat(6)).unwrap();
    let mut wrong = Vec::new();
    for ((topology, model), judged) in rows.iter().zip(judged.chunks(2)) {
        let name = topology.name;
        let machine = if topology.arch == "aarch64" { "AArch64 virt" } else { "q35" };
        let [old, new] = judged else { unreachable!() };
        assert_eq!(old.ours, new.ours, "{machine}, {name}, {model}: the table has one column for both");
        writeln!(table, "| {machine} | {name} | {model} | {} | {} | {} |", old.theirs, new.theirs, old.ours).unwrap();
        for (suite, judged) in Suite::ALL.iter().zip(judged) {
            let place = format!("{machine}, {name}, {model}, QEMU {}", suite.qemu());
            wrong.extend(judged.wrong.iter().map(|problem| format!("{place}: {problem}")));
            let known = judged.stricter.is_none_or(|code| STRICTER.contains(&(code, *suite)));
            wrong.extend((!known).then(|| format!("{place}: refused without need")));
        }
    }
    print!("{table}");
    fs::write(path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("containers.md"), &table).unwrap();
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    for (code, suite) in STRICTER {
        let met = judged.chunks(2).flat_map(|judged| Suite::ALL.iter().zip(judged));
        let met = met.filter(|(met, judged)| **met == suite && judged.stricter == Some(code)).count();
        assert!(met > 0, "{code} is no longer stricter than QEMU {}: drop it from STRICTER", suite.qemu());
    }
}

#[test]
fn devices_before_the_viommu_bypass_it_without_an_error() {
    let Some(fake) = fake() else { return };
    let topology = three();
    for suite in Suite::ALL {
        // This is why rewrite() inserts it before the first device. QEMU creates devices in JSON last at any position.
        for (dialect, containers) in [(Dialect::KeyValue, 1), (Dialect::Json, 3)] {
            let mut arguments = topology.command_line(dialect);
            arguments.extend(["-device".into(), "intel-iommu,caching-mode=on".into()]);
            let outcome = fake.run(suite, "x86_64", &arguments, &[], &[]);
            assert_eq!(
                (outcome.started, outcome.containers.len()),
                (true, containers),
                "{dialect:?} {}",
                outcome.stderr
            );
        }
    }
}

#[test]
fn the_gibibyte_beside_guest_memory_is_needed() {
    let Some(fake) = fake() else { return };
    let topology = three();
    for suite in Suite::ALL {
        let plan = decide(fake, &topology, "intel", suite, None).unwrap();
        let Some(Limit::Bytes(required)) = plan.memlock.required_bytes else { panic!("{plan:?}") };
        let arguments = edited(&topology, Dialect::Json, &plan.qemu);
        let outcome = fake.run(suite, "x86_64", &arguments, &[("FAKEVFIO_LIMIT", required - GIB)], &[]);
        assert!(!outcome.started && outcome.stderr.contains("= -12 (Cannot allocate memory)"), "{}", outcome.stderr);
    }
}

#[test]
fn memory_that_is_plugged_later_is_within_the_limit() {
    let Some(fake) = fake() else { return };
    let maximum = MEMORY + 2 * GIB;
    let topology = three().max_memory(maximum);
    let plug = [
        r#"{"execute":"object-add","arguments":{"qom-type":"memory-backend-ram","id":"more","size":2147483648}}"#,
        r#"{"execute":"device_add","arguments":{"driver":"pc-dimm","id":"dimm0","memdev":"more"}}"#,
    ];
    for suite in Suite::ALL {
        let plan = decide(fake, &topology, "intel", suite, None).unwrap();
        let Some(Limit::Bytes(required)) = plan.memlock.required_bytes else { panic!("{plan:?}") };
        let arguments = edited(&topology, Dialect::Json, &plan.qemu);
        let run = |limit| fake.run(suite, "x86_64", &arguments, &[("FAKEVFIO_LIMIT", limit)], &plug);
        let outcome = run(required);
        assert!(outcome.started && !outcome.answers.contains("error"), "{} {}", outcome.stderr, outcome.answers);
        assert!(outcome.peak >= 3 * maximum, "{} bytes were mapped", outcome.peak);
        // If the formula left out <maxMemory>, the guest would fail without a warning.
        let outcome = run(3 * MEMORY + GIB);
        assert!(!outcome.started, "{}", outcome.answers);
        assert!(outcome.stderr.contains("vfio: DMA mapping failed, unable to continue"), "{}", outcome.stderr);
    }
}

#[test]
fn a_narrow_host_gets_a_narrow_viommu() {
    let Some(fake) = fake() else { return };
    let topology = three();
    for suite in Suite::ALL {
        let plan = decide(fake, &topology, "intel", suite, Some(39)).unwrap();
        let arguments = edited(&topology, Dialect::Json, &plan.qemu);
        let outcome = fake.run(suite, "x86_64", &arguments, &[("FAKEVFIO_AW_BITS", 39)], &[]);
        assert_eq!(disagreement(&plan, &outcome), None);
    }
}

/// The guest of tests that do not depend on the topology.
fn three() -> Topology {
    Topology::q35("").root_ports(&topology::THREE)
}

/// Compares a refusal's quotation with the message of a QEMU that starts the refused guest.
#[track_caller]
fn assert_quoted(refusal: &Note, code: Code, outcome: &Outcome) {
    assert_eq!(refusal.code, code);
    let quote = quoted(refusal);
    assert!(!outcome.started && outcome.stderr.contains(quote), "not \"{quote}\" but: {}", outcome.stderr);
}

#[test]
fn a_wide_viommu_on_a_narrow_host() {
    let Some(fake) = fake() else { return };
    let written = "<iommu model='intel'><driver aw_bits='48'/></iommu>";
    let topology = three().more_devices(written);
    let run = |suite| {
        let arguments = edited(&topology, Dialect::Json, &naive("intel"));
        fake.run(suite, "x86_64", &arguments, &[("FAKEVFIO_AW_BITS", 39)], &[])
    };
    let refused = |suite| decide(fake, &topology, "auto", suite, Some(39)).unwrap_err().note;
    assert_quoted(&refused(Suite::Trixie), Code::AwBitsExceedHost, &run(Suite::Trixie));
    // QEMU 9.1 is the first that checks the width; before, the guest's mappings fail one by one.
    assert_eq!(refused(Suite::Bookworm).code, Code::AwBitsExceedHost);
    assert!(run(Suite::Bookworm).started);
}

#[test]
fn vfio_without_caching_mode() {
    let Some(fake) = fake() else { return };
    let written = "<iommu model='intel'><driver caching_mode='off'/></iommu>";
    let topology = three().more_devices(written);
    let edits = Edits { devices: vec!["intel-iommu,id=iommu0".to_owned()], ..Edits::default() };
    for suite in Suite::ALL {
        let plan = decide(fake, &topology, "intel", suite, None);
        let outcome = fake.run(suite, "x86_64", &edited(&topology, Dialect::Json, &edits), &[], &[]);
        assert_quoted(&plan.unwrap_err().note, Code::IommuConflict, &outcome);
    }
}

#[test]
fn two_viommus() {
    let Some(fake) = fake() else { return };
    let virtio = "virtio-iommu-pci,bus=pcie.0,addr=0x1e";
    let intel = Topology::q35("").arguments(&["-device", "intel-iommu"]);
    let smmuv3 = Topology::virt("").arguments(&["-machine", "iommu=smmuv3"]);
    for topology in [intel, smmuv3] {
        for suite in Suite::ALL {
            let mut arguments = topology.command_line(Dialect::Json);
            let edits = Edits { devices: vec![virtio.to_owned()], ..Edits::default() };
            let refusal = rewrite(&arguments, &edits).unwrap_err();
            arguments.extend(["-device".into(), virtio.into()]);
            let outcome = fake.run(suite, topology.arch, &arguments, &[], &[]);
            assert_quoted(&refusal, Code::IommuConflict, &outcome);
        }
    }
}
