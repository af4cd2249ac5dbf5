//! The acceptance test of the wrapper: its command line equals libvirt's command line of the natively rewritten domain.
//!
//! Both begin with one domain, to which libvirt has assigned all addresses. *Native*: `viommu rewrite`, then libvirt
//! makes the command line. *Wrapped*: libvirt makes the command line, then the wrapper edits it. `line.rs` lists the
//! permitted differences.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic fails the test, and the test prints its counts"
)]

#[path = "../support/mod.rs"]
mod support;

mod domains;
mod line;
mod machines;
mod nics;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use viommu::config::Config;
use viommu::domain::Domain;
use viommu::host::Host;
use viommu::plan::{Route, plan};
use viommu::qemu::{self, Edits};
use viommu::request::{Keys, Purpose, Request, Source, VirtioScope};
use viommu::rewrite::rewrite;
use viommu::xml;

use domains::Case;
use line::Line;
use support::libvirt::{Libvirt, Suite, shared};

/// The tests start in the order of their names, and a libvirtd serves one at a time. This order uses both libvirtds at
/// once.
mod all_devices {
    use super::{Suite, compare_all};

    #[test]
    fn bookworm() {
        compare_all(Suite::Bookworm, 1);
    }

    #[test]
    fn trixie() {
        compare_all(Suite::Trixie, 1);
    }

    #[test]
    #[ignore = "Debian unstable changes: cargo test --test equivalence -- --ignored"]
    fn sid() {
        compare_all(Suite::Sid, 1);
    }

    #[test]
    #[ignore = "Debian's backports change: cargo test --test equivalence -- --ignored"]
    fn backports() {
        compare_all(Suite::Backports, 1);
    }
}

mod network_interfaces {
    use super::{Suite, compare_started};

    #[test]
    fn bookworm() {
        compare_started(Suite::Bookworm);
    }

    #[test]
    fn trixie() {
        compare_started(Suite::Trixie);
    }
}

/// A part of the domains, with the newest libvirts and QEMUs.
mod newest {
    use super::{Suite, compare_all};

    #[test]
    #[ignore = "run by tests/newest, a step of tests/run"]
    fn sid() {
        compare_all(Suite::Sid, 8);
    }

    #[test]
    #[ignore = "run by tests/newest, a step of tests/run"]
    fn backports() {
        compare_all(Suite::Backports, 8);
    }
}

/// A model, and the other key of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Requested(&'static str, Extra);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Extra {
    Nothing,
    /// `virtio=on` and `virtio=all`.
    Interfaces,
    Virtio,
    /// `purpose=interrupts`.
    Interrupts,
}

const REQUESTS: [Requested; 11] = [
    Requested("intel", Extra::Nothing),
    Requested("virtio", Extra::Nothing),
    Requested("smmuv3", Extra::Nothing),
    Requested("intel", Extra::Interfaces),
    Requested("virtio", Extra::Interfaces),
    Requested("smmuv3", Extra::Interfaces),
    Requested("intel", Extra::Virtio),
    Requested("virtio", Extra::Virtio),
    Requested("smmuv3", Extra::Virtio),
    Requested("intel", Extra::Interrupts),
    Requested("amd", Extra::Nothing),
];

/// The minimum number of compared pairs of each request and version.
const ENOUGH: usize = 300;

/// One domain with one request.
struct Pair<'a> {
    case: &'a Case,
    /// The command line of the unchanged domain.
    base: &'a [String],
    request: Requested,
    /// viommu's native result.
    rewritten: String,
    /// The edits for the wrapper.
    edits: Edits,
}

/// The reasons why domains or pairs are not compared, with their names.
type Skipped = BTreeMap<String, Vec<String>>;

/// Compares every `step`th domain.
fn compare_all(suite: Suite, step: usize) {
    let Some(lab) = shared(suite) else { return };
    // libvirt looks for huge pages at a start; none are in use. For an interface it creates a tap device in the lab's
    // own network namespace, and removes it.
    lab.run(
        "mkdir -p /dev/huge-2M /dev/huge-1G; mknod -m 666 /dev/net/tun c 10 200
         mount -t hugetlbfs -o pagesize=2M huge /dev/huge-2M; mount -t hugetlbfs -o pagesize=1G huge /dev/huge-1G",
    );
    lab.restart_libvirtd();
    let host = host_of(&lab);
    let mut skipped = Skipped::new();
    let cases: Vec<Case> =
        domains::all().into_iter().step_by(step).filter(|case| can_have_one(&case.xml, &host)).collect();
    let answers = lab.settled_many(&xmls(&cases));
    let settled = taken(cases, answers, &mut skipped).into_iter();
    let cases: Vec<Case> = settled.map(|(case, xml)| Case { xml: domains::askable(&xml), ..case }).collect();
    let answers = lab.domxml_to_native_many(&xmls(&cases));
    let cases = distinct(taken(cases, answers, &mut skipped), &mut skipped);

    let mut pairs = Vec::new();
    for (case, base) in &cases {
        for request in REQUESTS {
            match decided(&case.xml, request, &host) {
                Ok(Some((rewritten, edits))) if request.counts(&rewritten, &edits) => {
                    pairs.push(Pair { case, base, request, rewritten, edits });
                }
                // Not listed: the pair equals that of the model alone, or belongs to the other architecture.
                Ok(_) if request.1 != Extra::Nothing => {}
                Err(code) if code == "model-arch-mismatch" || request.1 != Extra::Nothing => {}
                Ok(_) => skip(&mut skipped, "has this vIOMMU already, complete", case, request.0),
                Err(code) => skip(&mut skipped, &format!("viommu refuses: {code}"), case, request.0),
            }
        }
    }

    let native = lab.domxml_to_native_many(&pairs.iter().map(|pair| pair.rewritten.as_str()).collect::<Vec<_>>());
    let (compared, wrong) = compared(&pairs, native, Line::without_drivers_of_interfaces, &mut skipped);
    report(suite, cases.len(), &compared, &skipped);
    suite.judge(&wrong);
    for request in REQUESTS {
        let least = match request.1 {
            _ if request.lacks(suite) => 0,
            // `nics.rs` compares the drivers of interfaces.
            Extra::Interfaces => usize::from(step == 1),
            _ if step > 1 => 1,
            _ => ENOUGH,
        };
        assert!(compared.get(&request).copied().unwrap_or_default() >= least, "{request:?} of {compared:?}");
    }
}

impl Requested {
    /// Whether this suite's libvirt lacks it.
    fn lacks(self, suite: Suite) -> bool {
        match suite {
            Suite::Bullseye | Suite::Bookworm => self.1 == Extra::Interrupts || self.0 == "amd",
            // libvirt has amd since 11.5.
            Suite::Trixie => self.0 == "amd",
            Suite::Sid | Suite::Backports => false,
        }
    }

    /// Whether the pair shows the effect of the request. The wrapper can leave out the translation; libvirt cannot.
    fn counts(self, rewritten: &str, edits: &Edits) -> bool {
        match self.1 {
            Extra::Nothing => true,
            Extra::Interfaces | Extra::Virtio => edits.virtio.is_some(),
            Extra::Interrupts => rewritten.contains("dma_translation='off'"),
        }
    }
}

/// Compares the domains of `nics.rs`.
fn compare_started(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    lab.run("[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200").ok();
    let host = host_of(&lab);
    let mut skipped = Skipped::new();
    let cases = nics::cases();
    let answers = lab.settled_many(&xmls(&cases));
    let settled = taken(cases, answers, &mut skipped).into_iter();
    let cases: Vec<Case> = settled.map(|(case, xml)| Case { xml, ..case }).collect();
    let answers = nics::started(&lab, &xmls(&cases));
    let cases = distinct(taken(cases, answers, &mut skipped), &mut skipped);
    let mut pairs = Vec::new();
    for (case, base) in &cases {
        let here =
            |request: &Requested| request.1 == Extra::Interfaces || *request == Requested("intel", Extra::Virtio);
        for request in REQUESTS.into_iter().filter(here) {
            match decided(&case.xml, request, &host) {
                Ok(decision) => {
                    let (rewritten, edits) = decision.unwrap();
                    pairs.push(Pair { case, base, request, rewritten, edits });
                }
                Err(code) => assert_eq!(code, "model-arch-mismatch", "{}", case.name),
            }
        }
    }
    let native = nics::started(&lab, &pairs.iter().map(|pair| pair.rewritten.as_str()).collect::<Vec<_>>());
    let translated: usize =
        native.iter().flatten().map(|line| line.iter().filter(|word| word.contains("iommu_platform")).count()).sum();
    let (compared, wrong) = compared(&pairs, native, Line::read, &mut skipped);
    println!("{}: {} pairs of started domains, {translated} interfaces with iommu_platform", suite.name(), pairs.len());
    report(suite, cases.len(), &compared, &skipped);
    assert!(wrong.is_empty(), "{} of {} differ on {}:\n{}", wrong.len(), pairs.len(), suite.name(), wrong.join("\n"));
    let on: usize = compared.iter().filter(|(request, _)| request.1 == Extra::Interfaces).map(|(_, count)| count).sum();
    assert!(on >= ENOUGH && translated >= 3 * pairs.len(), "{on} pairs, {translated} interfaces");
}

/// The versions of the lab's libvirt and emulators. This machine's IOMMU has no effect.
fn host_of(lab: &Libvirt) -> Host {
    let known: Host = serde_json::from_str(&lab.run("viommu capabilities --format json").ok()).unwrap();
    Host { arch: known.arch, libvirt: known.libvirt, emulators: known.emulators, ..Host::default() }
}

fn xmls(cases: &[Case]) -> Vec<&str> {
    cases.iter().map(|case| case.xml.as_str()).collect()
}

/// Whether the domain can have any of the models; otherwise the test does not ask libvirt.
fn can_have_one(text: &str, host: &Host) -> bool {
    REQUESTS[..3].iter().any(|request| matches!(decided(text, *request, host), Ok(Some(_))))
}

/// viommu's native result for a domain, and the edits for the wrapper; `None` for no change.
///
/// # Errors
///
/// The code of the refusal.
fn decided(text: &str, request: Requested, host: &Host) -> Result<Option<(String, Edits)>, String> {
    let code = |note: viommu::note::Note| note.code.to_string();
    let Requested(model, extra) = request;
    let mut keys = Keys { model: Some(model.to_owned()), ..Keys::of(Source::Cli) };
    match extra {
        Extra::Nothing => {}
        Extra::Interfaces => keys.virtio = Some(VirtioScope::On),
        Extra::Virtio => keys.virtio = Some(VirtioScope::All),
        Extra::Interrupts => keys.purpose = Some(Purpose::Interrupts),
    }
    let planned = |text: &str| {
        let document = xml::parse(text.as_bytes()).map_err(code)?;
        let domain = Domain::read(&document).map_err(code)?;
        let request = Request::of(&domain, &keys, &Config::default()).map_err(code)?;
        let plan = plan(&domain, &request, host).map_err(|refusal| code(refusal.note))?;
        Ok::<_, String>((rewrite(&document, &plan).map_err(code)?, plan))
    };
    let (rewritten, _) = planned(text)?;
    let (_, plan) = planned(&text.replace("<emulator>/usr/bin/qemu-", "<emulator>/usr/bin/viommu-qemu-"))?;
    assert_eq!(plan.route == Route::Wrapper, text.contains("<emulator>/usr/bin/qemu-"), "{text}");
    assert_eq!(rewritten.is_none(), plan.qemu.is_empty(), "{model}: {:?} in\n{text}", plan.qemu);
    Ok(rewritten.map(|rewritten| (rewritten, plan.qemu)))
}

/// The cases for which libvirt has a result, with the result.
fn taken<T>(cases: Vec<Case>, answers: Vec<Result<T, String>>, skipped: &mut Skipped) -> Vec<(Case, T)> {
    let mut taken = Vec::new();
    for (case, answer) in cases.into_iter().zip(answers) {
        match answer {
            Ok(answer) => taken.push((case, answer)),
            Err(reason) => skip(skipped, &format!("libvirt refuses: {reason}"), &case, ""),
        }
    }
    taken
}

/// The first case of each command line, so that no two pairs have the same devices.
fn distinct(cases: Vec<(Case, Vec<String>)>, skipped: &mut Skipped) -> Vec<(Case, Vec<String>)> {
    let mut seen = BTreeSet::new();
    let (first, again): (Vec<_>, Vec<_>) = cases.into_iter().partition(|(_, line)| seen.insert(line::hardware(line)));
    for (case, _) in &again {
        skip(skipped, "another domain has the same devices", case, "");
    }
    first
}

fn skip(skipped: &mut Skipped, reason: &str, case: &Case, model: &str) {
    let name = format!("{} {model}", case.name);
    skipped.entry(reason.to_owned()).or_default().push(name.trim_end().to_owned());
}

/// Number of compared pairs of each request, and the differences. A pair that both libvirt and the wrapper refuse is
/// not compared.
fn compared(
    pairs: &[Pair<'_>],
    native: Vec<Result<Vec<String>, String>>,
    read: fn(&[String]) -> Line,
    skipped: &mut Skipped,
) -> (BTreeMap<Requested, usize>, Vec<String>) {
    let mut compared = BTreeMap::new();
    let mut wrong = Vec::new();
    for (pair, native) in pairs.iter().zip(native) {
        let difference = match (native, wrapped(pair)) {
            (Ok(native), Ok(wrapped)) => line::compare(&read(&native[1..]), &read(&wrapped)),
            (Err(native), Err(wrapped)) => {
                let reason = format!("libvirt refuses: {native}, and the wrapper: {wrapped}");
                skip(skipped, &reason, pair.case, pair.request.0);
                continue;
            }
            (Err(native), Ok(_)) => Err(format!("libvirt alone refuses: {native}")),
            (Ok(_), Err(wrapped)) => Err(format!("the wrapper alone refuses: {wrapped}")),
        };
        *compared.entry(pair.request).or_default() += 1;
        wrong.extend(difference.err().map(|what| format!("{} {:?}: {what}", pair.case.name, pair.request)));
    }
    (compared, wrong)
}

/// The wrapper's command line without `argv[0]`.
///
/// # Errors
///
/// The wrapper's refusal.
fn wrapped(pair: &Pair<'_>) -> Result<Vec<String>, String> {
    let words: Vec<OsString> = pair.base[1..].iter().map(OsString::from).collect();
    let wrapped = qemu::rewrite(&words, &pair.edits).map_err(|note| format!("{}: {}", note.code, note.message))?;
    Ok(wrapped.into_iter().map(|word| word.into_string().unwrap()).collect())
}

fn report(suite: Suite, domains: usize, compared: &BTreeMap<Requested, usize>, skipped: &Skipped) {
    println!("{}: {domains} domains, pairs compared: {compared:?}", suite.name());
    for (reason, names) in skipped {
        println!("{}: {} skipped, because {reason}: {}", suite.name(), names.len(), names.join(", "));
    }
}
