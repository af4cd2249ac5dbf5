//! Properties of edits on libvirt's own test domains, in several formats: every original byte stays, in order, and the
//! rest of the tree is unchanged.

#![expect(clippy::unwrap_used, reason = "a test program")]

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/kept.rs"]
mod kept;

use corpus::documents;
use kept::is_kept;
use viommu::xml::{self, Edit, Element, NewElement};

/// Names that no test domain contains, so that additions can be distinguished from the original.
const ELEMENT: &str = "added-features";
const ATTRIBUTE: &str = "added-model";
const VALUE: &str = "it's \"<&>\"";

/// The document in the formats of other authors.
fn variants(plain: &str) -> Vec<(&'static str, String)> {
    let per_line = |change: &dyn Fn(&str) -> String| plain.split_inclusive('\n').map(change).collect::<String>();
    let tabs = per_line(&|line| {
        let content = line.trim_start_matches("  ");
        "\t".repeat((line.len() - content.len()) / 2) + content
    });
    let one_line = per_line(&|line| line.trim().to_owned() + if line.trim().ends_with('>') { "" } else { " " });
    let mut variants = vec![
        ("plain", plain.to_owned()),
        ("crlf", plain.replace('\n', "\r\n")),
        ("tabs", tabs),
        ("one line", one_line),
        ("mark", format!("\u{feff}{plain}")),
        ("declaration", format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{plain}")),
    ];
    if !plain.contains('"') {
        variants.push(("double quotes", plain.replace('\'', "\"")));
    }
    variants
}

fn new() -> NewElement {
    let child = NewElement { name: "added-ioapic", attributes: vec![("driver", VALUE.to_owned())], children: vec![] };
    NewElement { name: ELEMENT, attributes: vec![], children: vec![child] }
}

/// Appends to the root and to every child of `<devices>`, inserts after the first element, sets attributes.
fn insertions<'d, 'a>(root: Element<'d, 'a>) -> Vec<Edit<'d, 'a>> {
    let attribute = |element| Edit::SetAttribute { element, name: ATTRIBUTE, value: VALUE.to_owned() };
    let mut edits = vec![Edit::Append { parent: root, new: new() }, attribute(root)];
    edits.extend(root.elements().next().map(|sibling| Edit::InsertAfter { sibling, new: new() }));
    for device in root.child("devices").into_iter().flat_map(Element::elements) {
        edits.extend([attribute(device), Edit::Append { parent: device, new: new() }]);
    }
    edits
}

/// The whole tree except for additions and the white space between elements.
fn outline(text: &str) -> Vec<String> {
    let tree = roxmltree::Document::parse(text).unwrap();
    let added = |node: roxmltree::Node<'_, '_>| node.ancestors().any(|node| node.tag_name().name() == ELEMENT);
    let mut outline = vec![];
    for node in tree.descendants().filter(|node| !added(*node)) {
        if node.is_element() {
            outline.push(format!("{:?}", node.tag_name()));
            let attributes = node.attributes().filter(|attribute| attribute.name() != ATTRIBUTE);
            outline.extend(attributes.map(|attribute| format!("{attribute:?}")));
        } else if let Some(content) = node.text().map(str::trim).filter(|content| !content.is_empty()) {
            outline.push(content.to_owned());
        }
    }
    outline
}

#[test]
fn insertions_keep_every_byte() {
    for (path, plain) in documents() {
        for (variant, text) in variants(&plain) {
            let what = format!("{}, {variant}", path.display());
            let document = xml::parse(text.as_bytes()).unwrap_or_else(|note| panic!("{what}: {}", note.message));
            let root = document.root();
            assert_eq!(xml::apply(&document, &[]).unwrap(), text, "{what}");

            let edits = insertions(root);
            let Ok(out) = xml::apply(&document, &edits) else { panic!("{what}: {:?}", xml::apply(&document, &edits)) };
            let again = xml::parse(out.as_bytes()).unwrap_or_else(|note| panic!("{what}: {}\n{out}", note.message));
            assert!(is_kept(&text, &out), "{what}:\n{out}");
            assert_eq!(outline(&out), outline(&text), "{what}:\n{out}");
            let last = again.root().elements().last().unwrap();
            assert!(last.is(ELEMENT) && last.path(&["added-ioapic"]).unwrap().attr("driver") == Some(VALUE), "{what}");
            assert_eq!(again.root().attr(ATTRIBUTE), Some(VALUE), "{what}");

            // The newline style: only the document's own kind of line ends, none in a one-line document.
            let bare = |text: &str| text.matches('\n').count() - text.matches("\r\n").count();
            if text.contains("\r\n") {
                assert_eq!(bare(&out), bare(&text), "{what}:\n{out}");
            } else {
                assert!(!out.contains('\r') && (text.contains('\n') || !out.contains('\n')), "{what}:\n{out}");
            }
            // If the end tag is on its own line, so is the last insertion before it.
            if variant == "plain" && text.ends_with("\n</domain>\n") {
                assert!(out.ends_with("  </added-features>\n</domain>\n"), "{what}:\n{out}");
            }
        }
    }
}

#[test]
fn removal_undoes_insertion() {
    for (path, plain) in documents() {
        for (variant, text) in variants(&plain) {
            let document = xml::parse(text.as_bytes()).unwrap();
            let root = document.root();
            let mut edits = vec![Edit::Append { parent: root, new: new() }];
            edits.extend(root.elements().next().map(|sibling| Edit::InsertAfter { sibling, new: new() }));
            // An edit that opened `<a/>` leaves it open.
            if root.elements().next().is_none() {
                continue;
            }
            let changed = xml::apply(&document, &edits).unwrap();
            let changed = xml::parse(changed.as_bytes()).unwrap();
            let removals: Vec<_> = changed.root().children(ELEMENT).map(|element| Edit::Remove { element }).collect();
            assert_eq!(removals.len(), 2);
            assert_eq!(xml::apply(&changed, &removals).unwrap(), text, "{}, {variant}", path.display());
        }
    }
}

/// Random damage: a document that parses can be edited, and the result parses.
#[test]
fn damaged_documents_never_panic() {
    const PIECES: [&str; 20] = [
        "<",
        ">",
        "/>",
        "</",
        "'",
        "\"",
        "=",
        "&",
        ";",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "\r",
        "\n",
        "\t",
        " ",
        "<x/>",
        "xmlns=''",
        "<?p ?>",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64; // xorshift64: the same damage every time
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let documents = documents();
    let mut edited = 0;
    for round in 0..documents.len() * 5 {
        let mut text = documents[round % documents.len()].1.clone();
        for _ in 0..=random(3) {
            let mut at = random(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            if random(3) == 0 {
                text.truncate(at);
                text += "</domain>";
            } else {
                text.insert_str(at, PIECES[random(PIECES.len())]);
            }
        }
        let Ok(document) = xml::parse(text.as_bytes()) else { continue };
        if let Ok(out) = xml::apply(&document, &insertions(document.root())) {
            assert!(xml::parse(out.as_bytes()).is_ok(), "{text}\n---\n{out}");
            assert!(is_kept(&text, &out), "{text}\n---\n{out}");
            assert_eq!(outline(&out), outline(&text), "{text}\n---\n{out}");
            edited += 1;
        }
    }
    assert!(documents.is_empty() || edited > documents.len() / 2, "{edited} documents edited");
}
