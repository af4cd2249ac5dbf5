//! The measure of the wrapper: its command line is the one that libvirt makes of the natively rewritten domain.
//!
//! Both begin with one domain, whose addresses libvirt has settled before. *Native*: `viommu rewrite`, and then libvirt makes
//! a command line of it. *Wrapped*: libvirt makes a command line of it, and then the wrapper edits that. What may differ is
//! said in `line.rs`, and nothing else may.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what fails here fails the test, which says what it counted"
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

/// The tests start in the order of their names, and a libvirtd serves one at a time: so the two libvirtds work at once.
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
    #[ignore = "Debian unstable moves: cargo test --test equivalence -- --ignored"]
    fn sid() {
        compare_all(Suite::Sid, 1);
    }

    #[test]
    #[ignore = "Debian's backports move: cargo test --test equivalence -- --ignored"]
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

/// A model, and what is asked of it beside that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wish(&'static str, Beside);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    Nothing,
    /// `virtio=on` and `virtio=all`.
    Interfaces,
    Virtio,
    /// `purpose=interrupts`.
    Interrupts,
}

const WISHES: [Wish; 11] = [
    Wish("intel", Beside::Nothing),
    Wish("virtio", Beside::Nothing),
    Wish("smmuv3", Beside::Nothing),
    Wish("intel", Beside::Interfaces),
    Wish("virtio", Beside::Interfaces),
    Wish("smmuv3", Beside::Interfaces),
    Wish("intel", Beside::Virtio),
    Wish("virtio", Beside::Virtio),
    Wish("smmuv3", Beside::Virtio),
    Wish("intel", Beside::Interrupts),
    Wish("amd", Beside::Nothing),
];

/// How many pairs show that the two are the same, of each wish and version.
const ENOUGH: usize = 300;

/// One domain with one wish.
struct Pair<'a> {
    case: &'a Case,
    /// The command line of the domain as it is.
    base: &'a [String],
    wish: Wish,
    /// What viommu makes of the domain natively.
    rewritten: String,
    /// What viommu tells the wrapper.
    edits: Edits,
}

/// Why a domain or a pair has no part in the comparison, with the names.
type Skipped = BTreeMap<String, Vec<String>>;

/// Compares every `step`th domain.
fn compare_all(suite: Suite, step: usize) {
    let Some(lab) = shared(suite) else { return };
    // libvirt looks for huge pages when it starts; none are taken.
    // For an interface it makes a tap device, which lives in the lab's own network and goes at once.
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
        for wish in WISHES {
            match decided(&case.xml, wish, &host) {
                Ok(Some((rewritten, edits))) if wish.counts(&rewritten, &edits) => {
                    pairs.push(Pair { case, base, wish, rewritten, edits });
                }
                // Not worth a line: the pair is one of the model alone, or of the other architecture.
                Ok(_) if wish.1 != Beside::Nothing => {}
                Err(code) if code == "model-arch-mismatch" || wish.1 != Beside::Nothing => {}
                Ok(_) => skip(&mut skipped, "has this vIOMMU already, complete", case, wish.0),
                Err(code) => skip(&mut skipped, &format!("viommu refuses: {code}"), case, wish.0),
            }
        }
    }

    let native = lab.domxml_to_native_many(&pairs.iter().map(|pair| pair.rewritten.as_str()).collect::<Vec<_>>());
    let (compared, wrong) = compared(&pairs, native, Line::without_drivers_of_interfaces, &mut skipped);
    report(suite, cases.len(), &compared, &skipped);
    suite.judge(&wrong);
    for wish in WISHES {
        let least = match wish.1 {
            _ if wish.lacks(suite) => 0,
            // The drivers of interfaces are compared in `nics.rs`.
            Beside::Interfaces => usize::from(step == 1),
            _ if step > 1 => 1,
            _ => ENOUGH,
        };
        assert!(compared.get(&wish).copied().unwrap_or_default() >= least, "{wish:?} of {compared:?}");
    }
}

impl Wish {
    /// Whether libvirt lacks it there.
    fn lacks(self, suite: Suite) -> bool {
        match suite {
            Suite::Bullseye | Suite::Bookworm => self.1 == Beside::Interrupts || self.0 == "amd",
            // libvirt has amd from 11.5 on.
            Suite::Trixie => self.0 == "amd",
            Suite::Sid | Suite::Backports => false,
        }
    }

    /// Whether the pair shows what is asked for. The wrapper can leave the translation out where libvirt cannot.
    fn counts(self, rewritten: &str, edits: &Edits) -> bool {
        match self.1 {
            Beside::Nothing => true,
            Beside::Interfaces | Beside::Virtio => edits.virtio.is_some(),
            Beside::Interrupts => rewritten.contains("dma_translation='off'"),
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
        let here = |wish: &Wish| wish.1 == Beside::Interfaces || *wish == Wish("intel", Beside::Virtio);
        for wish in WISHES.into_iter().filter(here) {
            match decided(&case.xml, wish, &host) {
                Ok(decision) => {
                    let (rewritten, edits) = decision.unwrap();
                    pairs.push(Pair { case, base, wish, rewritten, edits });
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
    let on: usize = compared.iter().filter(|(wish, _)| wish.1 == Beside::Interfaces).map(|(_, count)| count).sum();
    assert!(on >= ENOUGH && translated >= 3 * pairs.len(), "{on} pairs, {translated} interfaces");
}

/// What the lab's libvirt and emulators are. The IOMMU of this machine must not count.
fn host_of(lab: &Libvirt) -> Host {
    let known: Host = serde_json::from_str(&lab.run("viommu capabilities --format json").ok()).unwrap();
    Host { arch: known.arch, libvirt: known.libvirt, emulators: known.emulators, ..Host::default() }
}

fn xmls(cases: &[Case]) -> Vec<&str> {
    cases.iter().map(|case| case.xml.as_str()).collect()
}

/// Whether there is a model that the domain could have, so that libvirt need not be asked about all the others.
fn can_have_one(text: &str, host: &Host) -> bool {
    WISHES[..3].iter().any(|wish| matches!(decided(text, *wish, host), Ok(Some(_))))
}

/// What viommu makes of a domain natively, and what it tells the wrapper; nothing where nothing is to be done.
///
/// # Errors
/// The code of the refusal.
fn decided(text: &str, wish: Wish, host: &Host) -> Result<Option<(String, Edits)>, String> {
    let code = |note: viommu::note::Note| note.code.to_string();
    let Wish(model, beside) = wish;
    let mut keys = Keys { model: Some(model.to_owned()), ..Keys::of(Source::Cli) };
    match beside {
        Beside::Nothing => {}
        Beside::Interfaces => keys.virtio = Some(VirtioScope::On),
        Beside::Virtio => keys.virtio = Some(VirtioScope::All),
        Beside::Interrupts => keys.purpose = Some(Purpose::Interrupts),
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

/// The cases for which libvirt has an answer, with it.
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

/// The first case of every command line, so that each pair is one of other devices.
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

/// How many pairs of each wish were compared, and what differs in which. Where libvirt and the wrapper refuse both, nothing is
/// compared.
fn compared(
    pairs: &[Pair<'_>],
    native: Vec<Result<Vec<String>, String>>,
    read: fn(&[String]) -> Line,
    skipped: &mut Skipped,
) -> (BTreeMap<Wish, usize>, Vec<String>) {
    let mut compared = BTreeMap::new();
    let mut wrong = Vec::new();
    for (pair, native) in pairs.iter().zip(native) {
        let difference = match (native, wrapped(pair)) {
            (Ok(native), Ok(wrapped)) => line::compare(&read(&native[1..]), &read(&wrapped)),
            (Err(native), Err(wrapped)) => {
                let reason = format!("libvirt refuses: {native}, and the wrapper: {wrapped}");
                skip(skipped, &reason, pair.case, pair.wish.0);
                continue;
            }
            (Err(native), Ok(_)) => Err(format!("libvirt alone refuses: {native}")),
            (Ok(_), Err(wrapped)) => Err(format!("the wrapper alone refuses: {wrapped}")),
        };
        *compared.entry(pair.wish).or_default() += 1;
        wrong.extend(difference.err().map(|what| format!("{} {:?}: {what}", pair.case.name, pair.wish)));
    }
    (compared, wrong)
}

/// The wrapper's command line without `argv[0]`.
///
/// # Errors
/// Why it refuses.
fn wrapped(pair: &Pair<'_>) -> Result<Vec<String>, String> {
    let words: Vec<OsString> = pair.base[1..].iter().map(OsString::from).collect();
    let wrapped = qemu::rewrite(&words, &pair.edits).map_err(|note| format!("{}: {}", note.code, note.message))?;
    Ok(wrapped.into_iter().map(|word| word.into_string().unwrap()).collect())
}

fn report(suite: Suite, domains: usize, compared: &BTreeMap<Wish, usize>, skipped: &Skipped) {
    println!("{}: {domains} domains, pairs compared: {compared:?}", suite.name());
    for (reason, names) in skipped {
        println!("{}: {} skipped, because {reason}: {}", suite.name(), names.len(), names.join(", "));
    }
}
