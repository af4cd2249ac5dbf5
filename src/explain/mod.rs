//! What a code means, and what a line of QEMU's, libvirt's or the kernel's means.
//!
//! The documentation itself is what is read: a page is what stands under a `###` heading of `docs/troubleshooting.md` (one
//! for each code) or `docs/messages.md` (one for each kind of line, with the lines themselves in a block). Knows the form of
//! these two files and nothing of other files, terminals or the host.

mod log;
mod pairs;
mod words;

pub use log::{Finding, Findings, Subject};
pub use words::plain;

use std::sync::LazyLock;

use crate::note::Code;
use pairs::Pairs;

const CODES: &str = include_str!("../../docs/troubleshooting.md");
const MESSAGES: &str = include_str!("../../docs/messages.md");
/// What stands for any text in the line of a page.
const ANYTHING: char = '…';

/// An explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its heading.
    pub title: &'static str,
    /// What it says, as Markdown.
    pub text: &'static str,
    /// The lines that it explains; none where it explains a code.
    lines: Vec<Pattern>,
}

/// A line of which parts are known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// In their order.
    parts: Vec<&'static str>,
    /// All that stand in the parts.
    pairs: Vec<u16>,
}

/// The page of a code. Tests keep it from being `None`.
#[must_use]
pub fn code(code: Code) -> Option<Page> {
    static PAGES: LazyLock<Vec<Page>> =
        LazyLock::new(|| sections(CODES).map(|(title, text)| Page { title, text, lines: Vec::new() }).collect());
    PAGES.iter().find(|page| page.title == code.as_str()).cloned()
}

/// The pages about lines, in the order in which they count.
#[must_use]
pub fn messages() -> &'static [Page] {
    static PAGES: LazyLock<Vec<Page>> =
        LazyLock::new(|| sections(MESSAGES).filter_map(|(title, body)| message(title, body)).collect());
    &PAGES
}

fn message(title: &'static str, body: &'static str) -> Option<Page> {
    let (block, text) = body.strip_prefix("```text\n")?.split_once("\n```")?;
    Some(Page { title, text: text.trim(), lines: block.lines().map(Pattern::of).collect() })
}

/// The `###` headings of a document, each with what stands below it.
fn sections(document: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    document.split("\n### ").skip(1).filter_map(|section| {
        let section = section.split("\n## ").next()?;
        let (title, body) = section.split_once('\n')?;
        Some((title, body.trim()))
    })
}

impl Page {
    /// The codes whose pages this one points to.
    pub fn codes(&self) -> impl Iterator<Item = Code> {
        let anchors = self.text.split("](troubleshooting.md#").skip(1).filter_map(|link| link.split(')').next());
        anchors.filter_map(Code::from_name)
    }

    /// Whether this page is about the line, which has these pairs.
    fn explains(&self, line: &str, pairs: &Pairs) -> bool {
        self.lines.iter().any(|pattern| pairs.have(&pattern.pairs) && pattern.is_in(line))
    }
}

impl Pattern {
    fn of(line: &'static str) -> Pattern {
        let parts: Vec<&str> = line.split(ANYTHING).filter(|part| !part.is_empty()).collect();
        Pattern { pairs: parts.iter().copied().flat_map(pairs::in_text).collect(), parts }
    }

    /// Whether the parts stand in the line in their order. Taking the first place for each is enough, because anything may
    /// stand between them; so the line is walked through once, whoever wrote it.
    fn is_in(&self, line: &str) -> bool {
        let mut rest = line;
        self.parts.iter().all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_their_order() {
        let pattern = Pattern::of("dma_map(…) = -12 (…)");
        assert!(pattern.is_in("x: vfio_dma_map(0x1, 0x2) = -12 (Cannot allocate memory)"));
        assert!(!pattern.is_in("x: = -12 () vfio_dma_map(0x1"));
        assert!(!pattern.is_in("vfio_dma_map(0x1, 0x2) = -1"));
        assert!(Pattern::of("…a…").is_in("bab") && !Pattern::of("aa").is_in("a a"));
    }

    #[test]
    fn every_code_has_a_page_of_the_agreed_form() {
        for known in Code::ALL {
            let page = code(*known).unwrap_or_else(|| panic!("docs/troubleshooting.md has no page for {known}"));
            let mut rest = page.text;
            for label in ["\n\n- **Why:** ", "\n- **Do:** ", "\n- **Source:** "] {
                let (before, after) = rest.split_once(label).unwrap_or_else(|| panic!("{known}: where is {label:?}?"));
                assert!(before.len() >= 10 && !before.contains("\n- **"), "{known}: {before:?} before {label:?}");
                rest = after;
            }
            assert!(rest.trim_end().ends_with('.') && !rest.contains("\n\n"), "{known}: {rest:?} ends the page");
        }
        assert_eq!(sections(CODES).count(), Code::ALL.len(), "a heading that is no code, or one that stands twice");
    }

    #[test]
    fn every_kind_of_line_has_lines_and_words() {
        let pages = messages();
        assert_eq!(pages.len(), sections(MESSAGES).count(), "a page does not begin with its lines");
        for page in pages {
            assert!(page.text.len() > 20 && !page.text.contains("```"), "{page:?}");
            for Pattern { parts, .. } in &page.lines {
                assert!(parts.iter().map(|part| part.len()).sum::<usize>() >= 10, "{}: {parts:?}", page.title);
            }
        }
    }
}
