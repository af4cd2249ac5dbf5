//! Domain XML → plan → rewrite: properties of every document, every request and every host.

#[path = "../../tests/support/kept.rs"]
mod kept;

pub(crate) use kept::is_kept;
use viommu::config::Config;
use viommu::domain::Domain;
use viommu::hook::{self, Event};
use viommu::host::probe::Places;
use viommu::host::{Emulator, Host};
use viommu::note::{Code, Level, Note};
use viommu::plan::{DomainEdit, Origin, Plan, plan};
use viommu::request::{Keys, Request, Source};
use viommu::rewrite::rewrite;
use viommu::version::Version;
use viommu::xml::{self, Document, Edit};

/// One document; its bytes determine the request and the host, so that any XML file is a seed.
pub(crate) fn check(data: &[u8]) {
    match xml::parse(data) {
        Ok(document) => {
            let choice =
                data.iter().fold(0_usize, |sum, byte| (sum.wrapping_mul(31) % 1009).wrapping_add(usize::from(*byte)));
            let [oldest, newest] = hosts();
            let host = if choice % 2 == 0 { oldest.1 } else { newest.1 };
            let models = [None, Some("auto"), Some("intel"), Some("virtio"), Some("smmuv3"), Some("amd")];
            let model = models.into_iter().nth(choice / 2 % 5).flatten();
            let locked_memory = (choice / 10 % 4 == 0).then_some(true);
            let keys = Keys { model: model.map(str::to_owned), locked_memory, ..Keys::of(Source::Cli) };
            rewritten("", document.text(), &keys, &host);
            // Without `start`: there the hook also tests its privilege to raise limits.
            for event in [Event::Prepare, Event::Started, Event::Migrate, Event::Stopped] {
                check_prefilter(document.text(), event);
            }
        }
        Err(note) => assert_refusal(&note),
    }
}

/// The prefilter and the parser lead to the same result. A comment that contains "iommu" makes the hook parse the
/// document.
pub(crate) fn check_prefilter(text: &str, event: Event) {
    const COMMENT: &str = "<!-- mmu -->";
    let domain = xml::parse(text.as_bytes()).and_then(|document| Domain::read(&document));
    if domain.is_err_and(|note| note.code == Code::DomainInvalid) {
        return; // libvirt calls no hook for a domain with a value that it does not accept.
    }
    let closely = if text.starts_with('<') && !text.starts_with("<?xml") {
        COMMENT.to_owned() + text
    } else {
        text.to_owned() + COMMENT
    };
    let nowhere = || "/nonexistent".into();
    let places = Places {
        sysfs: nowhere(),
        devices: nowhere(),
        capabilities: nowhere(),
        networks: [nowhere(), nowhere()],
        memory: || None,
    };
    let [outcome, closer] = [text, &closely].map(|text| {
        let outcome =
            hook::decide(event, "-", text.as_bytes(), Ok(Config::default()), &|domain| places.host_for(domain));
        // The printed document contains the comment, and line numbers differ.
        (outcome.print.is_some(), outcome.refusal.map(|note| note.code), outcome.log, outcome.effects, outcome.asks)
    });
    assert_eq!(outcome, closer, "{event:?}\n{text}");
}

/// The oldest and the newest supported host, by their versions.
pub(crate) fn hosts() -> [(&'static str, Host); 2] {
    let host = |libvirt, qemu| Host {
        libvirt: Some(libvirt),
        emulators: vec![Emulator { version: Some(qemu), ..Emulator::default() }],
        ..Host::default()
    };
    [
        ("libvirt 7.0", host(Version::new(7, 0), Version::new(5, 2))),
        ("libvirt 12.8", host(Version::new(12, 8), Version::new(11, 1))),
    ]
}

fn decide(document: &Document<'_>, keys: &Keys, host: &Host) -> Result<(Domain, Plan), Note> {
    let domain = Domain::read(document)?;
    let request = Request::of(&domain, keys, &Config::default())?;
    let plan = plan(&domain, &request, host).map_err(|refusal| {
        serde_json::to_string(&refusal).unwrap();
        assert!(refusal.unchanged.changes.is_empty(), "a refused guest was changed");
        refusal.note
    })?;
    Ok((domain, plan))
}

/// Rewrites the document once and checks all properties; returns the result as a word.
pub(crate) fn rewritten(what: &str, text: &str, keys: &Keys, host: &Host) -> String {
    let document = xml::parse(text.as_bytes()).unwrap();
    let (domain, plan) = match decide(&document, keys, host) {
        Ok(decided) => decided,
        Err(note) => {
            assert_refusal(&note);
            return note.code.to_string();
        }
    };
    serde_json::to_string(&plan).unwrap();
    for note in &plan.notes {
        assert!(Code::from_name(note.code.as_str()) == Some(note.code) && !note.message.is_empty(), "{what}: {note:?}");
    }
    let Some(out) = rewrite(&document, &plan).unwrap() else {
        assert!(plan.changes.is_empty(), "{what}: {:?}", plan.changes);
        return "unchanged".to_owned();
    };
    assert!(is_kept(text, &out) && out.len() > text.len(), "{what}\n{out}");

    let again = xml::parse(out.as_bytes()).unwrap();
    let (after, second) = decide(&again, keys, host).unwrap();
    assert!(second.changes.is_empty(), "{what}: {second:?}\n{out}");
    // libvirt reads the vIOMMU that the plan describes, and the rest of the domain is unchanged.
    let promised = plan.iommu.as_ref().map(|iommu| (&iommu.name, &iommu.driver));
    let found = second.iommu.as_ref().map(|iommu| (&iommu.name, &iommu.driver));
    assert_eq!(found, promised, "{what}\n{out}");
    assert!(second.iommu.is_none_or(|iommu| matches!(iommu.origin, Origin::Existing | Origin::Commandline)), "{what}");
    assert_eq!(second.memlock.required_bytes, plan.memlock.required_bytes, "{what}");
    assert_removable(what, &document, &again, &plan);
    let mut expected = domain;
    expected.iommus.clone_from(&after.iommus);
    expected.ioapic.clone_from(&after.ioapic);
    expected.memory.locked = after.memory.locked;
    expected.memory.nosharepages = after.memory.nosharepages;
    assert_eq!(after, expected, "{what}");
    "rewritten".to_owned()
}

/// Where all insertions are new elements among siblings, their removal restores the original bytes.
fn assert_removable(what: &str, before: &Document<'_>, after: &Document<'_>, plan: &Plan) {
    let mut removals = Vec::new();
    for change in &plan.changes {
        let (parent, name) = match change.edit {
            DomainEdit::AddIommu { .. } => ("devices", "iommu"),
            DomainEdit::SplitIoapic if before.root().path(&["features", "ioapic"]).is_none() => ("features", "ioapic"),
            DomainEdit::LockMemory => ("memoryBacking", "locked"),
            // Attributes and children that were added to an existing element stay.
            _ => return,
        };
        // A parent that was created or opened for the new child stays.
        if before.root().child(parent).is_none_or(|parent| parent.elements().next().is_none()) {
            return;
        }
        let added = after.root().child(parent).and_then(|parent| parent.children(name).last());
        removals.extend(added.map(|element| Edit::Remove { element }));
    }
    assert_eq!(removals.len(), plan.changes.len(), "{what}");
    assert_eq!(xml::apply(after, &removals).unwrap(), before.text(), "{what}");
}

/// A refusal is one line with a known code and a short quotation.
fn assert_refusal(note: &Note) {
    assert!(note.level == Level::Error && Code::from_name(note.code.as_str()) == Some(note.code), "{note:?}");
    assert!(!note.message.is_empty(), "{note:?}");
    if note.code.as_str().starts_with("xml-") {
        assert!(note.message.len() < 400 && !note.message.contains(char::is_control), "{note:?}");
    }
}
