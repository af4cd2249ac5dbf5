//! `docs/proof/real-vfio.md`: what each scenario comes to on each suite.
//!
//! `page.sh` runs the scenarios and has the page written from what they said. In between, the page must have every scenario as
//! its script describes it, and no other.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::results::{Results, Values};

const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "sid"];

/// What differs from run to run, or is the same everywhere.
const OMITTED: [&str; 7] = ["status", "seconds", "pid", "saved_pid", "attempts", "uid", "capeff"];

const HEAD: &str = "# Real VFIO on four Debians

Written by `tests/lab/nested/page.sh`, which boots hosts with an emulated VT-d and five NICs bound to vfio-pci, and runs the
scenarios of `tests/lab/nested/l1/scenarios/` in them. libvirt starts each guest as `libvirt-qemu`, without capabilities, and
the kernel enforces the limit of locked memory. Two of the columns, bookworm and trixie, are also checked by
`cargo test --test nested`, as is that this page has every scenario.

- *limit*: the hard limit of QEMU's process, bytes; *VmLck*: what it has locked. A guest has 384 MiB where nothing else is said.
- *guards*, *files*: processes and state files that viommu has left behind; *holders*: processes with the guest's limit.
- A number in brackets is a message, at the end of the page. Where a command succeeded it has none.

";

/// A scenario by its script's name and leading comment.
struct Scenario {
    name: String,
    text: String,
}

impl Scenario {
    fn section(&self) -> String {
        format!("## {}\n\n{}\n\n", self.name, self.text.replace('<', "\\<"))
    }
}

#[test]
fn page_has_every_scenario() {
    let path = root().join("docs/proof/real-vfio.md");
    let scenarios = scenarios();
    if let Some(results) = env::var_os("VIOMMU_RESULTS") {
        fs::write(&path, page(&scenarios, Path::new(&results))).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap();
    let sections: Vec<_> = page.split_inclusive('\n').filter(|line| line.starts_with("## ")).collect();
    assert_eq!(sections.len(), scenarios.len() + 1, "a section each, and the messages: {sections:?}");
    for scenario in scenarios {
        assert!(page.contains(&scenario.section()), "tests/lab/nested/page.sh: {} has changed", scenario.name);
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `s…` and `w…`, in the order of their numbers.
fn scenarios() -> Vec<Scenario> {
    let directory = root().join("tests/lab/nested/l1/scenarios");
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem()?.to_str()?.to_owned();
            let number: u32 = name.get(1..)?.parse().ok()?;
            let script = fs::read_to_string(&path).unwrap();
            let comment = script.lines().skip(1).map_while(|line| line.strip_prefix("# "));
            let text = comment.collect::<Vec<_>>().join(" ");
            Some((name.get(..1)?.to_owned(), number, Scenario { name, text }))
        })
        .collect();
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    found.into_iter().map(|(_, _, scenario)| scenario).collect()
}

/// The page from what `all.sh` has said about each suite, in files of that name.
fn page(scenarios: &[Scenario], directory: &Path) -> String {
    let results = SUITES.map(|suite| Results::parse(&fs::read_to_string(directory.join(suite)).unwrap()));
    let mut messages = Messages::default();
    let mut page = HEAD.to_owned();
    for scenario in scenarios {
        page.push_str(&scenario.section());
        let columns = results.each_ref().map(|found| {
            let host = found.of("prepare");
            format!("libvirt {}, QEMU {}", host.get("libvirt"), host.get("qemu"))
        });
        writeln!(page, "| | {} |\n|---|---|---|---|---|", columns.join(" | ")).unwrap();
        let rows = results[0].names(&scenario.name);
        assert!(!rows.is_empty(), "no results of {}", scenario.name);
        for row in rows {
            let cells = results.each_ref().map(|found| cell(found.of(row), &mut messages));
            writeln!(page, "| {row} | {} |", cells.join(" | ")).unwrap();
        }
        page.push('\n');
    }
    page.push_str("## Messages\n\n");
    for (index, message) in messages.known.iter().enumerate() {
        writeln!(page, "[{}] {}  ", index + 1, message.replace('<', "\\<")).unwrap();
    }
    page
}

fn cell(values: &Values, messages: &mut Messages) -> String {
    let pairs: Vec<_> = values.pairs().collect();
    let known: HashMap<_, _> = pairs.iter().copied().collect();
    let mut parts = Vec::new();
    let said = || values.get("message");
    match known.get("status") {
        Some(&"0") => parts.push("succeeds".to_owned()),
        Some(_) => parts.push(format!("fails {}", messages.reference(said()))),
        None if said().is_empty() => {}
        None => parts.push(messages.reference(said())),
    }
    for (key, value) in pairs.into_iter().filter(|(key, value)| !OMITTED.contains(key) && !value.is_empty()) {
        parts.push(match key {
            "vmlck_kb" => format!("VmLck {value} kB"),
            "exceeded" => format!("limit of {value} exceeded"),
            key => format!("{key} {value}"),
        });
    }
    parts.join(", ")
}

/// What was said, each thing once.
#[derive(Default)]
struct Messages {
    known: Vec<String>,
}

impl Messages {
    fn reference(&mut self, message: &str) -> String {
        let message = stable(message);
        let known = self.known.iter().position(|known| *known == message);
        let index = known.unwrap_or_else(|| {
            self.known.push(message);
            self.known.len() - 1
        });
        format!("[{}]", index + 1)
    }
}

/// Without what differs from run to run, which is times and addresses, and without the arguments that QEMU repeats. Of viommu's own
/// words only the last sentence.
fn stable(message: &str) -> String {
    let last = message.rfind("error[").map_or(message, |start| &message[start..]);
    let is_time = |word: &str| word.ends_with('Z') && word.contains("T2");
    let words = last.split_whitespace().filter(|word| !is_time(word));
    let words = words.map(|word| if word.starts_with('{') { "…:".to_owned() } else { without_address(word) });
    words.collect::<Vec<_>>().join(" ")
}

/// `f(0x55ed00000000,` becomes `f(…,`; what has fewer digits is a size.
fn without_address(word: &str) -> String {
    let Some((before, after)) = word.split_once("0x") else { return word.to_owned() };
    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
    if after.len() - rest.len() > 9 { format!("{before}…{rest}") } else { word.to_owned() }
}
