//! The expected texts are written by hand, like a manual edit.

use super::super::parse;
use super::*;

fn new(name: &'static str, attributes: &[(&'static str, &str)]) -> NewElement {
    let attributes = attributes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    NewElement { name, attributes, children: vec![] }
}

fn features() -> NewElement {
    NewElement { children: vec![new("ioapic", &[("driver", "qemu")])], ..new("features", &[]) }
}

/// Applies the edits that `edits` returns for the root, and checks that the result is well-formed.
fn edited(
    text: &str,
    edits: impl for<'d, 'a> FnOnce(Element<'d, 'a>) -> Vec<Edit<'d, 'a>>,
) -> Result<String, PatchError> {
    let document = parse(text.as_bytes()).unwrap();
    let result = apply(&document, &edits(document.root()))?;
    parse(result.as_bytes()).unwrap_or_else(|note| panic!("{}\n{result}", note.message));
    Ok(result)
}

/// Appends `features()` to the element at `path`.
fn appended(text: &str, path: &[&str]) -> String {
    edited(text, |root| vec![Edit::Append { parent: root.path(path).unwrap(), new: features() }]).unwrap()
}

#[test]
fn no_edits_change_nothing() {
    let text = "\u{feff}<?xml version='1.0'?>\r\n<d  a = \"1\"\t><!-- é --> &#65;<![CDATA[x]]></d >\n\n";
    assert_eq!(edited(text, |_| vec![]).unwrap(), text);
}

#[test]
fn appends_on_lines_of_their_own() {
    assert_eq!(
        appended("<d>\n  <name>x</name>\n</d>\n", &[]),
        "<d>\n  <name>x</name>\n  <features>\n    <ioapic driver='qemu'/>\n  </features>\n</d>\n"
    );
    // The line of the end tag follows a comment and a blank line: they belong to the text above.
    assert_eq!(
        appended("<d>\n    <a/> <!-- b -->\n\n</d>", &[]),
        "<d>\n    <a/> <!-- b -->\n\n    <features>\n      <ioapic driver='qemu'/>\n    </features>\n</d>"
    );
    // Only a comment or white space inside: two spaces deeper than the parent.
    assert_eq!(
        appended("<d>\n   <e>\n   <!-- c -->\n   </e>\n</d>", &["e"]),
        "<d>\n   <e>\n   <!-- c -->\n     <features>\n       <ioapic driver='qemu'/>\n     </features>\n   </e>\n</d>"
    );
    assert_eq!(appended("<d>\n</d>", &[]), "<d>\n  <features>\n    <ioapic driver='qemu'/>\n  </features>\n</d>");
}

#[test]
fn opens_empty_parents() {
    let laid_out = "<d>\n  <e a='1'>\n    <features>\n      <ioapic driver='qemu'/>\n    </features>\n  </e>\n</d>\n";
    for empty in ["<e a='1'/>", "<e a='1'  />", "<e a='1'\n/>", "<e a='1'></e>"] {
        assert_eq!(appended(&format!("<d>\n  {empty}\n</d>\n"), &["e"]), laid_out, "{empty}");
    }
    assert_eq!(
        appended("<d><p:e xmlns:p='urn:p'/></d>", &[]),
        "<d><p:e xmlns:p='urn:p'/><features><ioapic driver='qemu'/></features></d>"
    );
    let prefixed = edited("<d>\n\t<p:e xmlns:p='urn:p' />\n</d>", |root| {
        vec![Edit::Append { parent: root.child_ns("urn:p", "e").unwrap(), new: new("n", &[]) }]
    });
    assert_eq!(prefixed.unwrap(), "<d>\n\t<p:e xmlns:p='urn:p'>\n\t  <n/>\n\t</p:e>\n</d>");
}

#[test]
fn one_line_gets_no_white_space() {
    let inner = "<features><ioapic driver='qemu'/></features>";
    assert_eq!(appended("<d><a/></d>", &[]), format!("<d><a/>{inner}</d>"));
    assert_eq!(appended("<d><e/></d>\n", &["e"]), format!("<d><e>{inner}</e></d>\n"));
    assert_eq!(appended("<d/>", &[]), format!("<d>{inner}</d>"));
    assert_eq!(appended("<d></d>", &[]), format!("<d>{inner}</d>"));
    assert_eq!(appended("<d> <a/> </d>", &[]), format!("<d> <a/> {inner}</d>"));
    assert_eq!(appended("<d>text</d>\n", &[]), format!("<d>text{inner}</d>\n"));
    // An element on a shared line stays on that line.
    assert_eq!(appended("<d>\n  <a/><e/>\n</d>", &["e"]), format!("<d>\n  <a/><e>{inner}</e>\n</d>"));
    assert_eq!(appended("<d>\n  <e/><a/>\n</d>", &["e"]), format!("<d>\n  <e>{inner}</e><a/>\n</d>"));
}

#[test]
fn a_shared_last_line_stays_shared() {
    assert_eq!(
        appended("<d>\n <a/>\n <b/></d>\n", &[]),
        "<d>\n <a/>\n <b/><features><ioapic driver='qemu'/></features></d>\n"
    );
}

#[test]
fn follows_line_ends_and_keeps_the_byte_order_mark() {
    assert_eq!(
        appended("\u{feff}<d t=\"x\">\r\n\t<a/>\r\n</d>\r\n", &[]),
        "\u{feff}<d t=\"x\">\r\n\t<a/>\r\n\t<features>\r\n\t  <ioapic driver='qemu'/>\r\n\t</features>\r\n</d>\r\n"
    );
    assert_eq!(appended("<d>\r</d>", &[]), "<d>\r  <features>\r    <ioapic driver='qemu'/>\r  </features>\r</d>");
    // Line ends inside CDATA and comments are content; the last one is not part of the layout.
    assert_eq!(
        appended("<d>\n  <a/><![CDATA[\n]]></d>", &[]),
        "<d>\n  <a/><![CDATA[\n]]><features><ioapic driver='qemu'/></features></d>"
    );
}

#[test]
fn several_children_of_one_parent_keep_their_order() {
    let two = |text: &str| {
        edited(text, |root| {
            let parent = root.child("e").unwrap();
            vec![
                Edit::Append { parent, new: new("x", &[]) },
                Edit::Append { parent: root, new: new("y", &[]) },
                Edit::Append { parent, new: new("z", &[]) },
            ]
        })
        .unwrap()
    };
    assert_eq!(two("<d>\n  <e/>\n</d>"), "<d>\n  <e>\n    <x/>\n    <z/>\n  </e>\n  <y/>\n</d>");
    assert_eq!(
        two("<d>\n  <e>\n    <a/>\n  </e>\n</d>"),
        "<d>\n  <e>\n    <a/>\n    <x/>\n    <z/>\n  </e>\n  <y/>\n</d>"
    );
    assert_eq!(two("<d><e></e></d>"), "<d><e><x/><z/></e><y/></d>");
}

#[test]
fn sets_attributes() {
    let set = |text: &str| {
        edited(text, |root| {
            let element = root;
            let set = |name, value: &str| Edit::SetAttribute { element, name, value: value.to_owned() };
            vec![set("eim", "on"), set("driver", "q'<\"&"), set("caching", "1")]
        })
        .unwrap()
    };
    let added = "eim='on' driver='q&apos;&lt;&quot;&amp;' caching='1'";
    assert_eq!(set("<d/>"), format!("<d {added}/>"));
    assert_eq!(set("<d ></d>"), format!("<d {added} ></d>"));
    assert_eq!(set("<d a='>' xmlns:p='/'>\n</d>"), format!("<d a='>' xmlns:p='/' {added}>\n</d>"));
    assert_eq!(set("<d a='1'\n   b='2'\n>x</d>"), format!("<d a='1'\n   b='2' {added}\n>x</d>"));
    assert_eq!(set("<d a=\"1\" />"), format!("<d a=\"1\" {added} />"));
    // Existing values are replaced in place, with their own quotes; attributes with a namespace are different ones.
    assert_eq!(
        set("<d eim = \"off\" xmlns:p='u' p:driver='x' driver=''/>"),
        "<d eim = \"on\" xmlns:p='u' p:driver='x' driver='q&apos;&lt;&quot;&amp;' caching='1'/>"
    );
    // The same value in another spelling is not a change.
    assert_eq!(
        set("<d eim='o&#110;' driver=\"q'&lt;&#34;&amp;\" caching='1'/>"),
        "<d eim='o&#110;' driver=\"q'&lt;&#34;&amp;\" caching='1'/>"
    );
}

#[test]
fn attributes_and_children_are_added_to_one_tag() {
    for empty in ["<e/>", "<e />", "<e></e>"] {
        let text = format!("<d>\n  {empty}\n</d>");
        let result = edited(&text, |root| {
            let element = root.child("e").unwrap();
            vec![
                Edit::Append { parent: element, new: new("n", &[("v", "1")]) },
                Edit::SetAttribute { element, name: "a", value: "1".into() },
                Edit::SetAttribute { element, name: "b", value: "2".into() },
            ]
        });
        assert_eq!(result.unwrap(), "<d>\n  <e a='1' b='2'>\n    <n v='1'/>\n  </e>\n</d>");
    }
}

#[test]
fn inserts_behind_a_sibling() {
    let after = |text: &str| {
        edited(text, |root| {
            let sibling = root.child("os").unwrap();
            vec![
                Edit::Append { parent: root, new: new("last", &[]) },
                Edit::InsertAfter { sibling, new: features() },
                Edit::InsertAfter { sibling, new: new("second", &[]) },
            ]
        })
        .unwrap()
    };
    assert_eq!(
        after("<d>\n  <os>\n    <t/>\n  </os>\n  <z/>\n</d>"),
        "<d>\n  <os>\n    <t/>\n  </os>\n  <features>\n    <ioapic driver='qemu'/>\n  </features>\n  <second/>\n  <z/>\n  <last/>\n</d>"
    );
    // A comment at the end of the line stays with its element.
    assert_eq!(
        after("<d>\r\n\t<os/> <!-- boot --> \r\n</d>"),
        "<d>\r\n\t<os/> <!-- boot --> \r\n\t<features>\r\n\t  <ioapic driver='qemu'/>\r\n\t</features>\r\n\t<second/>\r\n\t<last/>\r\n</d>"
    );
    let inner = "<features><ioapic driver='qemu'/></features><second/>";
    assert_eq!(after("<d><os/><z/></d>"), format!("<d><os/>{inner}<z/><last/></d>"));
    assert_eq!(after("<d><os/></d>"), format!("<d><os/>{inner}<last/></d>"));
}

#[test]
fn removes_with_the_line() {
    let without = |text: &str| edited(text, |root| vec![Edit::Remove { element: root.child("e").unwrap() }]).unwrap();
    assert_eq!(without("<d>\n  <a/>\n  <e>\n   x</e> \n  <b/>\n</d>"), "<d>\n  <a/>\n  <b/>\n</d>");
    assert_eq!(without("<d>\r\n\t<e/>\r\n</d>"), "<d>\r\n</d>");
    assert_eq!(without("<d>\n  <e/><b/>\n</d>"), "<d>\n  <b/>\n</d>");
    assert_eq!(without("<d>\n  <a/> <e/>\n</d>"), "<d>\n  <a/> \n</d>");
    assert_eq!(without("<d>\n  <e/> <!-- c -->\n</d>"), "<d>\n   <!-- c -->\n</d>");
    assert_eq!(without("<d>\n  <e/></d>"), "<d>\n  </d>");
    assert_eq!(without("<d><a/><e/></d>"), "<d><a/></d>");
    let last_gives_way = edited("<d>\n  <e/>\n</d>", |root| {
        vec![Edit::Append { parent: root, new: new("n", &[]) }, Edit::Remove { element: root.child("e").unwrap() }]
    });
    assert_eq!(last_gives_way.unwrap(), "<d>\n  <n/>\n</d>");
}

#[test]
fn sets_text() {
    let set = |text: &str| edited(text, |root| vec![Edit::SetText { element: root, value: "a<b".into() }]);
    for text in ["<d>x</d>", "<d>\n x<![CDATA[</d>]]>y\r\n</d>", "<d></d>", "<d/>", "<d />"] {
        assert_eq!(set(text).unwrap(), "<d>a&lt;b</d>", "{text}");
    }
    assert_eq!(set("<d><![CDATA[a<b]]></d>").unwrap(), "<d><![CDATA[a<b]]></d>", "the same text");
    for text in ["<d>x<e/></d>", "<d><!-- c --></d>", "<d>x<?p?></d>"] {
        assert_eq!(set(text), Err(PatchError::NotText("d".into())), "{text}");
    }
}

#[test]
fn conflicting_edits_are_refused() {
    type Make = for<'d, 'a> fn(Element<'d, 'a>) -> Vec<Edit<'d, 'a>>;
    let cases: [(&str, Make); 5] = [
        ("<d><e/></d>", |root| {
            let element = root.child("e").unwrap();
            vec![Edit::Remove { element }, Edit::SetAttribute { element, name: "a", value: "1".into() }]
        }),
        ("<d><e/></d>", |root| {
            let element = root.child("e").unwrap();
            vec![Edit::Append { parent: element, new: new("n", &[]) }, Edit::Remove { element }]
        }),
        ("<d><e/></d>", |root| {
            let element = root.child("e").unwrap();
            vec![Edit::Append { parent: element, new: new("n", &[]) }, Edit::SetText { element, value: "x".into() }]
        }),
        ("<d/>", |element| ["1", "2"].map(|v| Edit::SetAttribute { element, name: "a", value: v.into() }).to_vec()),
        ("<d a=''/>", |element| ["1", ""].map(|v| Edit::SetAttribute { element, name: "a", value: v.into() }).to_vec()),
    ];
    for (text, make) in cases {
        assert_eq!(edited(text, make), Err(PatchError::Overlap), "{text}");
    }
}

#[test]
fn impossible_edits_are_refused() {
    let append = |text: &str| edited(text, |parent| vec![Edit::Append { parent, new: new("n", &[]) }]);
    assert_eq!(append("<d xmlns='urn:d'/>"), Err(PatchError::DefaultNamespace("d".into())));
    assert_eq!(append("<p:d xmlns:p='urn:d'/>").unwrap(), "<p:d xmlns:p='urn:d'><n/></p:d>");
    assert_eq!(append("<d xmlns=''/>").unwrap(), "<d xmlns=''><n/></d>");
    let inner = edited("<d xmlns='urn:d'><e xmlns=''/></d>", |root| {
        vec![Edit::InsertAfter { sibling: root.child("e").unwrap(), new: new("n", &[]) }]
    });
    assert_eq!(inner, Err(PatchError::DefaultNamespace("d".into())), "the sibling's own scope does not count");

    let root_gone = edited("<d/>", |element| vec![Edit::Remove { element }]);
    assert_eq!(root_gone, Err(PatchError::Root("d".into())));
    let second_root = edited("<d/>", |sibling| vec![Edit::InsertAfter { sibling, new: new("n", &[]) }]);
    assert_eq!(second_root, Err(PatchError::Root("d".into())));
    let control = edited("<d/>", |element| vec![Edit::SetAttribute { element, name: "a", value: "\u{1b}".into() }]);
    assert_eq!(control, Err(PatchError::Unwritable('\u{1b}')));

    let (one, other) = (parse(b"<d/>").unwrap(), parse(b"<d/>").unwrap());
    let stray = [Edit::Remove { element: other.root() }];
    assert_eq!(apply(&one, &stray), Err(PatchError::OtherDocument("d".into())));
}
