//! Explains codes of viommu, and log lines of QEMU, libvirt and the kernel.
//!
//! The explanations are compiled in from the documentation. A page is the text below a `###` heading of
//! `docs/troubleshooting.md` (one page per code) or `docs/messages.md` (one page per kind of line, which begins with a block
//! of the lines). This module depends on the form of these two files only. Messages of libvirt in other languages are looked up in
//! its catalogues.

mod log;
mod translation;
mod words;

pub use log::{Finding, Findings};
pub use words::plain;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use crate::note::Code;

const CODES: &str = include_str!("../../docs/troubleshooting.md");
const MESSAGES: &str = include_str!("../../docs/messages.md");
/// The heading above the pages whose lines carry no reason of a failure.
const REASONLESS: &str = "\n## Lines without the reason\n";
/// Stands for any text in a line of a page.
const ANYTHING: char = '…';

/// An explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The heading.
    pub title: &'static str,
    /// The text, Markdown.
    pub text: &'static str,
    /// The lines that the page explains; empty for the page of a code.
    lines: Vec<Pattern>,
    /// Whether its lines carry no reason of a failure: they are harmless, or point to another line.
    reasonless: bool,
}

/// The known parts of a line, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<String>);

/// The page of a code. A test checks that every code has one.
#[must_use]
pub fn code(code: Code) -> Option<&'static Page> {
    static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
        sections(CODES).map(|(title, text)| Page { title, text, lines: Vec::new(), reasonless: false }).collect()
    });
    PAGES.iter().find(|page| page.title == code.as_str())
}

/// The pages about lines. The first page that matches a line explains it.
#[must_use]
pub fn messages() -> &'static [Page] {
    static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
        let (reasons, others) = MESSAGES.split_once(REASONLESS).unwrap_or((MESSAGES, ""));
        let read =
            |document, reasonless| sections(document).filter_map(move |(title, body)| message(title, body, reasonless));
        read(reasons, false).chain(read(others, true)).collect()
    });
    &PAGES
}

fn index() -> Option<&'static Index> {
    static INDEX: LazyLock<Option<Index>> = LazyLock::new(|| Index::of(messages()));
    INDEX.as_ref()
}

/// The first page that explains a line.
fn page_of(line: &str) -> Option<&'static Page> {
    index()?.find(line)
}

/// Whether a page may explain lines of this format.
fn may_have_a_page(format: &str) -> bool {
    index().is_some_and(|index| index.search.is_match(format))
}

/// Searches a line for the longest parts of all patterns at once. Only patterns whose longest part is found are compared.
struct Index {
    search: AhoCorasick,
    /// The page and the pattern of each longest part, in the order of the pages.
    patterns: Vec<(&'static Page, &'static Pattern)>,
}

impl Index {
    fn of(pages: &'static [Page]) -> Option<Index> {
        let patterns: Vec<_> = pages.iter().flat_map(|page| page.lines.iter().map(move |line| (page, line))).collect();
        let longest = patterns
            .iter()
            .map(|(_, Pattern(parts))| parts.iter().max_by_key(|part| part.len()).map_or("", String::as_str));
        Some(Index { search: AhoCorasick::builder().ascii_case_insensitive(true).build(longest).ok()?, patterns })
    }

    fn find(&self, line: &str) -> Option<&'static Page> {
        let found = self.search.find_overlapping_iter(line).map(|found| found.pattern().as_usize());
        let found: BTreeSet<usize> = found.collect();
        let line = line.to_ascii_lowercase();
        let mut patterns = found.into_iter().filter_map(|found| self.patterns.get(found));
        patterns.find(|(_, pattern)| pattern.is_in(&line)).map(|(page, _)| *page)
    }
}

fn message(title: &'static str, body: &'static str, reasonless: bool) -> Option<Page> {
    let (block, text) = body.strip_prefix("```text\n")?.split_once("\n```")?;
    Some(Page { title, text: text.trim(), lines: block.lines().map(Pattern::of).collect(), reasonless })
}

/// The `###` headings of a document, each with the text below it.
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
}

impl Pattern {
    fn of(line: &'static str) -> Pattern {
        Pattern(line.split(ANYTHING).filter(|part| !part.is_empty()).map(str::to_ascii_lowercase).collect())
    }

    /// Whether a line in lower case contains the parts in their order. The first occurrence of each part is enough, because any
    /// text may stand between them; so the time is linear in the length of the line.
    fn is_in(&self, line: &str) -> bool {
        let mut rest = line;
        self.0.iter().all(|part| rest.split_once(part.as_str()).map(|(_, after)| rest = after).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_their_order() {
        let pattern = Pattern::of("dma_map(…) = -12 (…)");
        assert!(pattern.is_in("x: vfio_dma_map(0x1, 0x2) = -12 (cannot allocate memory)"));
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
                let (before, after) = rest.split_once(label).unwrap_or_else(|| panic!("{known}: {label:?} is missing"));
                assert!(before.len() >= 10 && !before.contains("\n- **"), "{known}: {before:?} before {label:?}");
                rest = after;
            }
            assert!(rest.trim_end().ends_with('.') && !rest.contains("\n\n"), "{known}: {rest:?} ends the page");
        }
        assert_eq!(sections(CODES).count(), Code::ALL.len(), "a heading that is not a code, or a duplicate");
    }

    #[test]
    fn every_kind_of_line_has_lines_and_words() {
        let pages = messages();
        assert_eq!(pages.len(), sections(MESSAGES).count(), "a page does not begin with its lines");
        for page in pages {
            assert!(page.text.len() > 20 && !page.text.contains("```"), "{page:?}");
            for (number, Pattern(parts)) in page.lines.iter().enumerate() {
                assert!(parts.iter().map(String::len).sum::<usize>() >= 10, "{}: {parts:?}", page.title);
                let line = parts.join("\0");
                let mut others = page.lines.iter().enumerate().filter(|(other, _)| *other != number);
                let covering = others.find(|(_, pattern)| pattern.is_in(&line));
                assert_eq!(covering, None, "{}: it covers {parts:?}", page.title);
            }
        }
    }
}
