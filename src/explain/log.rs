//! Finds the lines of a log that have an explanation.
//!
//! Tenants control parts of such logs (names, addresses, the cause of a QEMU error). So each line is cut to a maximum length
//! and searched in linear time, and only one line per page is kept.

use std::cell::LazyCell;
use std::io::{self, BufRead, Read};

use super::translation::Translations;
use super::{Page, code, page_of};
use crate::note::{Code, Level};
use crate::text::printable;

/// Bytes of a line that are searched. The longest lines are errors of libvirt, which quote a command and 1 KiB of its output.
const MAX_LINE: u64 = 64 * 1024;
/// libvirt's line at the beginning of each start of a guest (`qemuLogOperation`).
const START: &str = ": starting up libvirt version: ";
/// Characters of a line that are shown.
const MAX_SHOWN: usize = 400;

/// An explained line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What explains it.
    pub page: &'static Page,
    /// Number of lines with this page.
    pub count: u64,
    /// The last such line, printable.
    pub line: String,
    /// The number of that line, from 1.
    number: u64,
}

/// All explained lines of a log.
#[derive(Debug)]
pub struct Findings {
    /// The lines with a page, the newest first.
    pub found: Vec<Finding>,
    /// The number of the line with which the current start of the guest begins.
    start: u64,
    /// Number of lines read.
    pub lines: u64,
}

impl Findings {
    /// Reads a log to its end. `catalogues` gives the message catalogues of other languages, and is called if a line is not known.
    ///
    /// # Errors
    /// The error of the reader.
    pub fn read(mut log: impl BufRead, catalogues: impl FnOnce() -> Vec<Vec<u8>>) -> io::Result<Findings> {
        let translations = LazyCell::new(|| Translations::of(&catalogues(), super::may_have_a_page));
        let in_english = |line: &str| translations.as_ref()?.in_english(line);
        let mut findings = Findings { found: Vec::new(), start: 0, lines: 0 };
        let mut line = Vec::new();
        while log.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
            if !line.ends_with(b"\n") {
                log.skip_until(b'\n')?;
            }
            findings.lines += 1;
            findings.examine(String::from_utf8_lossy(&line).trim_end(), in_english);
            line.clear();
        }
        // Newest first: the log of a guest holds every start since the guest was defined.
        findings.found.sort_by_key(|finding| std::cmp::Reverse(finding.number));
        Ok(findings)
    }

    fn examine(&mut self, line: &str, in_english: impl Fn(&str) -> Option<String>) {
        // libvirt logs QEMU's command line with one argument per line. Names in it come from the user and are no events.
        if line.ends_with(" \\") {
            return;
        }
        if line.contains(START) {
            self.start = self.lines;
        }
        let codes = codes(line);
        if codes.is_empty() {
            // A line of viommu may quote one of QEMU; the code is more specific.
            if let Some(page) = page_of(line).or_else(|| page_of(&in_english(line)?)) {
                self.add(page, line);
            }
        }
        for page in codes.into_iter().filter_map(code) {
            self.add(page, line);
        }
    }

    /// Adds a finding. A line without the reason is dropped where another line of the same start has the reason.
    fn add(&mut self, page: &'static Page, line: &str) {
        let start = self.start;
        let of_this_start = |finding: &Finding| finding.number >= start;
        if !page.reasonless {
            self.found.retain(|finding| !(finding.page.reasonless && of_this_start(finding)));
        } else if self.found.iter().any(|finding| !finding.page.reasonless && of_this_start(finding)) {
            return;
        }
        let mut shown: String = printable(line.trim_start()).chars().take(MAX_SHOWN + 1).collect();
        if shown.chars().count() > MAX_SHOWN {
            shown.pop();
            shown.push('…');
        }
        let number = self.lines;
        match self.found.iter_mut().find(|finding| finding.page == page) {
            Some(finding) => *finding = Finding { count: finding.count + 1, line: shown, page, number },
            None => self.found.push(Finding { page, count: 1, line: shown, number }),
        }
    }
}

/// The codes in a line, in the form `error[CODE]`.
fn codes(line: &str) -> Vec<Code> {
    let mut found = Vec::new();
    // Each piece ends where the next bracket begins, so a line that consists of brackets is searched in linear time, too.
    let mut pieces = line.split('[');
    let mut before = pieces.next().unwrap_or_default();
    for piece in pieces {
        let level = Level::ALL.iter().any(|level| before.ends_with(level.as_str()));
        let code = piece.split_once(']').filter(|_| level).and_then(|(name, _)| Code::from_name(name));
        found.extend(code.filter(|code| !found.contains(code)));
        before = piece;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: impl AsRef<[u8]>) -> Vec<(String, u64, String)> {
        let findings = Findings::read(log.as_ref(), Vec::new).unwrap();
        findings.found.iter().map(|found| (found.page.title.to_owned(), found.count, found.line.clone())).collect()
    }

    #[test]
    fn repeats_are_counted_and_the_newest_comes_first() {
        let log = "a: group 1 used in multiple address spaces\nb: aw-bits 48 > host aw-bits 39\r\nnothing\n\
                   c: group 2 used in multiple address spaces";
        let found = read(log);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].1, found[0].2.as_str()), (2, "c: group 2 used in multiple address spaces"));
        assert_eq!((found[1].1, found[1].2.as_str()), (1, "b: aw-bits 48 > host aw-bits 39"));
        assert_eq!(Findings::read(log.as_bytes(), Vec::new).unwrap().lines, 4);
    }

    #[test]
    fn a_line_without_the_reason_is_shown_only_where_its_start_has_no_other() {
        let starts = [
            "2026-11-22 10:00:00.000+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.2",
            "qemu: vfio_dma_map(0x1, 0x382000000000, 0x10000000, 0x2) = -22 (Invalid argument)",
            "qemu: hardware error: vfio: DMA mapping failed, unable to continue",
            "2026-11-22 11:00:00.000+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.2",
            "error: internal error: process exited while connecting to monitor: 2026-11-22T11:00:00Z x",
        ];
        let titles = |lines: &[&str]| read(lines.join("\n")).into_iter().map(|(title, ..)| title).collect::<Vec<_>>();
        let both = ["QEMU failed, and no page has the reason", "An address that the host's IOMMU cannot map"];
        assert_eq!(titles(&starts), both);
        assert_eq!(titles(&starts[..3]), ["An address that the host's IOMMU cannot map"]);
        assert_eq!(titles(&[starts[2], starts[1]]), ["An address that the host's IOMMU cannot map"]);
        assert_eq!(titles(&starts[2..3]), ["QEMU gave up after a failed DMA mapping"]);
    }

    #[test]
    fn a_code_wins_over_the_lines_that_its_message_quotes() {
        let found = read(
            "error: Hook script execution failed: internal error: Child process (LC_ALL=C /etc/libvirt/hooks/qemu d prepare begin -) \
             unexpected exit status 1: viommu: error[iommu-group-split]: the devices … group 11 used in multiple address spaces",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "iommu-group-split");
        assert_eq!(
            codes("warning[memlock-race] info[auto-model] error[memlock-race] error[no-such] [auto-model]").len(),
            2
        );
    }

    #[test]
    fn names_on_the_command_line_are_no_errors() {
        assert!(
            read("-name guest=aw-bits 48 > host aw-bits 39,debug-threads=on \\\n-uuid error[auto-model] \\\n")
                .is_empty()
        );
    }

    #[test]
    fn hostile_lines_are_cut_escaped_and_cheap() {
        let mut log = b"\x1b[2J\xff group 1 used in multiple address spaces\x07\n".to_vec();
        // A search for the end of each beginning would take quadratic time.
        for beginning in ["error[", "vfio_dma_map(", "[", "device "] {
            log.extend(beginning.repeat(1_000_000 / beginning.len()).bytes());
            log.push(b'\n');
        }
        log.extend("x".repeat(70_000).bytes());
        log.extend(b" group 2 used in multiple address spaces\n\n");
        let found = read(&log);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].2, "\\u{1b}[2J\u{fffd} group 1 used in multiple address spaces\\u{7}");
        assert_eq!(Findings::read(log.as_slice(), Vec::new).unwrap().lines, 7);
        let cut = read(format!("{} group 1 used in multiple address spaces", "\u{202e}".repeat(1000)));
        assert!(cut[0].2.chars().count() == MAX_SHOWN + 1 && cut[0].2.ends_with('…'), "{cut:?}");
    }
}
