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
mod nics;

use std::collections::BTreeMap;
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
use support::libvirt::{Suite, shared};
use support::on_both_suites;

on_both_suites! {
    the_wrapper_does_what_libvirt_does_natively
    network_interfaces_are_translated_alike
}

/// The same for the newest libvirts and QEMUs, and for a part of the domains, which `tests/newest` asks.
#[test]
#[ignore = "Debian unstable moves: cargo test --test equivalence -- --ignored"]
fn sid_and_backports() {
    compare_all(Suite::Sid, 1);
    compare_all(Suite::Backports, 1);
}

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

const WISHES: [Wish; 10] = [
    Wish("intel", Beside::Nothing),
    Wish("virtio", Beside::Nothing),
    Wish("smmuv3", Beside::Nothing),
    Wish("intel", Beside::Interfaces),
    Wish("virtio", Beside::Interfaces),
    Wish("intel", Beside::Virtio),
    Wish("virtio", Beside::Virtio),
    Wish("smmuv3", Beside::Virtio),
    Wish("intel", Beside::Interrupts),
    Wish("amd", Beside::Nothing),
];

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

fn the_wrapper_does_what_libvirt_does_natively(suite: Suite) {
    compare_all(suite, 1);
}

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
    // Only what the emulators are: this machine's own IOMMU must not count.
    let known: Host = serde_json::from_str(&lab.run("viommu capabilities --format json").ok()).unwrap();
    let host = Host { arch: known.arch, libvirt: known.libvirt, emulators: known.emulators, ..Host::default() };

    let mut skipped = Skipped::new();
    let cases: Vec<Case> =
        domains::all().into_iter().step_by(step).filter(|case| can_have_one(&case.xml, &host)).collect();
    let answers = lab.settled_many(&xmls(&cases));
    let settled = taken(cases, answers, &mut skipped).into_iter();
    let cases: Vec<Case> = settled.map(|(case, xml)| Case { xml: domains::askable(&xml), ..case }).collect();
    let answers = lab.domxml_to_native_many(&xmls(&cases));
    let cases = taken(cases, answers, &mut skipped);

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
    let mut compared: BTreeMap<Wish, usize> = WISHES.map(|wish| (wish, 0)).into();
    let mut wrong = Vec::new();
    for (pair, native) in pairs.iter().zip(native) {
        *compared.get_mut(&pair.wish).unwrap() += 1;
        let difference =
            native.and_then(|native| compare(&native, pair.base, &pair.edits, Line::without_drivers_of_interfaces));
        wrong.extend(difference.err().map(|what| format!("{} {:?}: {what}", pair.case.name, pair.wish)));
    }
    report(suite, cases.len(), &compared, &skipped);
    suite.judge(&wrong);
    let none = |wish: &Wish| match suite {
        Suite::Bullseye | Suite::Bookworm => wish.1 == Beside::Interrupts || wish.0 == "amd",
        // libvirt has amd from 11.5 on.
        Suite::Trixie => wish.0 == "amd",
        Suite::Sid | Suite::Backports => step > 1,
    };
    assert!(compared.iter().all(|(wish, count)| *count > 0 || none(wish)), "{compared:?}");
}

impl Wish {
    /// Whether the pair shows what is asked for. The wrapper can leave the translation out where libvirt cannot.
    fn counts(self, rewritten: &str, edits: &Edits) -> bool {
        match self.1 {
            Beside::Nothing => true,
            Beside::Interfaces | Beside::Virtio => edits.virtio.is_some(),
            Beside::Interrupts => rewritten.contains("dma_translation='off'"),
        }
    }
}

fn network_interfaces_are_translated_alike(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    lab.run("[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200").ok();
    let known: Host = serde_json::from_str(&lab.run("viommu capabilities --format json").ok()).unwrap();
    let host = Host { arch: known.arch, libvirt: known.libvirt, emulators: known.emulators, ..Host::default() };
    let mut skipped = Skipped::new();
    let cases = nics::cases();
    let answers = lab.settled_many(&xmls(&cases));
    let settled = taken(cases, answers, &mut skipped).into_iter();
    let cases: Vec<Case> = settled.map(|(case, xml)| Case { xml, ..case }).collect();
    let answers = nics::started(&lab, &xmls(&cases));
    let cases = taken(cases, answers, &mut skipped);
    let mut pairs = Vec::new();
    for (case, base) in &cases {
        for wish in
            [Wish("intel", Beside::Interfaces), Wish("virtio", Beside::Interfaces), Wish("intel", Beside::Virtio)]
        {
            let (rewritten, edits) = decided(&case.xml, wish, &host).unwrap().unwrap();
            pairs.push(Pair { case, base, wish, rewritten, edits });
        }
    }
    let native = nics::started(&lab, &pairs.iter().map(|pair| pair.rewritten.as_str()).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    let mut translated = 0;
    for (pair, native) in pairs.iter().zip(native) {
        translated += native.iter().flatten().filter(|word| word.contains("iommu_platform")).count();
        let difference = native.and_then(|native| compare(&native, pair.base, &pair.edits, Line::read));
        wrong.extend(difference.err().map(|what| format!("{} {:?}: {what}", pair.case.name, pair.wish)));
    }
    println!("{}: {} pairs of started domains, {translated} interfaces with iommu_platform", suite.name(), pairs.len());
    report(suite, cases.len(), &BTreeMap::new(), &skipped);
    assert!(wrong.is_empty(), "{} of {} differ on {}:\n{}", wrong.len(), pairs.len(), suite.name(), wrong.join("\n"));
    assert!(pairs.len() >= 100 && translated >= 300, "{} pairs, {translated} interfaces", pairs.len());
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

fn skip(skipped: &mut Skipped, reason: &str, case: &Case, model: &str) {
    let name = format!("{} {model}", case.name);
    skipped.entry(reason.to_owned()).or_default().push(name.trim_end().to_owned());
}

/// # Errors
/// How the two command lines differ.
fn compare(native: &[String], base: &[String], edits: &Edits, line: fn(&[String]) -> Line) -> Result<(), String> {
    let words: Vec<OsString> = base[1..].iter().map(OsString::from).collect();
    let wrapped = qemu::rewrite(&words, edits).map_err(|note| format!("{}: {}", note.code, note.message))?;
    let wrapped: Vec<String> = wrapped.into_iter().map(|word| word.into_string().unwrap()).collect();
    line::compare(&line(&native[1..]), &line(&wrapped))
}

fn report(suite: Suite, domains: usize, compared: &BTreeMap<Wish, usize>, skipped: &Skipped) {
    println!("{}: {domains} domains, pairs compared: {compared:?}", suite.name());
    for (reason, names) in skipped {
        println!("{}: {} skipped, because {reason}: {}", suite.name(), names.len(), names.join(", "));
    }
}
