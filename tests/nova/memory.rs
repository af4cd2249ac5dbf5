//! Locked memory: the requests, the results, and the final XML.

use serde_json::Value;
use viommu::domain::Domain;
use viommu::xml;

use crate::cases::{cases, id};
use crate::instance::Instance;
use crate::{Line, NAMESPACES, decide, host, nova_refuses, rewritten};

/// The guests that get locked memory.
pub(crate) fn locked_memory() -> Vec<Line> {
    let mut lines = Vec::new();
    for case in cases("locked-memory").into_iter().chain(cases("api")) {
        let what = id(&case);
        let mut ours = Vec::new();
        for namespace in NAMESPACES {
            ours.push(decide(&Instance::of(&case, namespace).xml(), &host(&case)));
        }
        let expect = &case["expect"];
        let expected = expect.get("locked").or(expect.get("needs_locked_memory")).and_then(Value::as_bool);
        let words = |locked: bool| if locked { "locked" } else { "not locked" }.to_owned();
        for ours in &ours {
            match (nova_refuses(&case), ours) {
                (Some((code, _)), Err(note)) => assert_eq!(note.code, code, "{what}"),
                (None, Ok((request, _))) => assert_eq!(Some(request.locked_memory), expected, "{what}"),
                (nova, ours) => panic!("{what}: {nova:?} and {ours:?}"),
            }
        }
        lines.push(Line {
            case: what.to_owned(),
            nova: nova_refuses(&case).map_or_else(|| words(expected.unwrap()), |(_, words)| words.to_owned()),
            libvirt: "",
            ours: match &ours[0] {
                Ok((request, _)) => words(request.locked_memory),
                Err(note) => format!("refused: {}", note.code),
            },
        });
    }
    lines
}

/// The final `<memoryBacking>`, written by Nova or not.
pub(crate) fn memory_backing() -> Vec<Line> {
    let mut lines = Vec::new();
    for case in cases("memory-backing") {
        let what = id(&case);
        let nova = &case["expect"]["memory_backing"];
        let (locked, nosharepages) = (nova["locked"] == true, nova["sharedpages"] == false);
        let of_nova = match (locked, nosharepages) {
            (true, true) => "<memoryBacking><nosharepages/><locked/></memoryBacking>",
            (true, false) => "<memoryBacking><locked/></memoryBacking>",
            (false, _) => "",
        };
        for namespace in NAMESPACES {
            for backing in ["", of_nova] {
                let text = Instance { backing, ..Instance::of(&case, namespace) }.xml();
                let (_, plan) = decide(&text, &host(&case)).unwrap();
                let text = rewritten(&text, &plan);
                let document = xml::parse(text.as_bytes()).unwrap();
                let memory = Domain::read(&document).unwrap().memory;
                assert_eq!((memory.locked, memory.nosharepages), (locked, nosharepages), "{what}:\n{text}");
                assert_eq!(plan.changes.is_empty(), backing == of_nova, "{what}: {:?}", plan.changes);
            }
        }
        let words = match (locked, nosharepages) {
            (true, true) => "locked, no shared pages",
            (true, false) => "locked",
            (false, _) => "nothing",
        };
        lines.push(Line { case: what.to_owned(), nova: words.to_owned(), libvirt: "", ours: words.to_owned() });
    }
    lines
}
