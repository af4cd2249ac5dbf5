//! Log text → explain: the result depends only on the lines of the log, and the output contains no terminal control
//! sequence.

use std::io::{BufRead, BufReader};

use viommu::explain::{Finding, Findings, code, messages};
use viommu::note::Code;

/// Number of bytes that `explain` reads of a line, as `src/explain/log.rs` says.
const LOOKED_AT: usize = 64 * 1024;
/// Number of characters that `explain` shows of a line, with the mark for a truncated line.
const SHOWN: usize = 401;

fn read(log: impl BufRead) -> Findings {
    Findings::read(log, Vec::new).unwrap()
}

pub(crate) fn check(data: &[u8]) {
    let log = read(data);
    let lines = data.split_inclusive(|byte| *byte == b'\n').count();
    assert_eq!(log.lines, u64::try_from(lines).unwrap());
    let found = log.found;
    for (at, finding) in found.iter().enumerate() {
        let Finding { page, count, line, .. } = finding;
        assert!((1..=log.lines).contains(count), "{finding:?}");
        assert!(found.iter().skip(at + 1).all(|other| other.page != *page), "twice: {finding:?}");
        assert!(!line.is_empty() && line.chars().count() <= SHOWN, "{finding:?}");
        let turns = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}'];
        let harmful = |c: char| c.is_control() || turns.contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c);
        assert!(!line.contains(harmful), "{finding:?}");
        // The page of the code is the same page.
        let of_code = Code::from_name(page.title).and_then(code);
        assert!(of_code == Some(*page) || of_code.is_none() && messages().contains(page), "{finding:?}");
    }
    if found.is_empty() {
        return;
    }
    // The chunks of the input do not change the result.
    assert_eq!(read(BufReader::with_capacity(7, data)).found, found);
    // A repeated log gives the same result.
    let twice = read([data, data].join(&b'\n').as_slice()).found;
    assert_eq!(twice.len(), found.len());
    for once in &found {
        let again = twice.iter().find(|again| again.page == once.page).unwrap();
        assert!(again.count == 2 * once.count && again.line == once.line, "{once:?} {again:?}");
    }
    // An argument of a logged command line is not a message.
    let arguments = data.split(|byte| *byte == b'\n').flat_map(|line| [line, b" \\\n"].concat()).collect::<Vec<u8>>();
    assert!(read(arguments.as_slice()).found.is_empty());
    // Text after the read part of a line has no effect. This check takes a hundred times as long as all others, so it
    // runs for some inputs only.
    if data.len() % 64 == 0 {
        let mut far = vec![b'-'; LOOKED_AT];
        far.extend(data.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        assert!(read(far.as_slice()).found.is_empty());
    }
}
