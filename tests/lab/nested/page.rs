//! `docs/proof/real-vfio.md` and `docs/proof/iommufd.md`: the result of each scenario on each suite.
//!
//! `page.sh` runs the scenarios and writes the pages from their output. In other runs, the test checks that a page has
//! each of its scenarios with the script's description, and no other.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::results::{Results, Values};

/// A page.
struct Page {
    file: &'static str,
    /// Its columns.
    suites: &'static [&'static str],
    /// The first letters of its scenarios.
    kinds: &'static str,
    head: &'static str,
}

const PAGES: [Page; 2] = [
    Page {
        file: "docs/proof/real-vfio.md",
        suites: &["bullseye", "bookworm", "trixie", "sid"],
        kinds: "sw",
        head: "# Real VFIO on four Debians

Written by `tests/lab/nested/page.sh`, which boots hosts with an emulated VT-d and five NICs bound to vfio-pci, and runs the
scenarios of `tests/lab/nested/l1/scenarios/` in them. libvirt starts each guest as `libvirt-qemu`, without capabilities, and
the kernel enforces the limit of locked memory. Two of the columns, bookworm and trixie, are also checked by
`cargo test --test nested`, as is that this page has every scenario. The newest libvirt has [a page of its own](iommufd.md).
",
    },
    Page {
        file: "docs/proof/iommufd.md",
        suites: &["backports"],
        kinds: "fsw",
        head: "# Real VFIO and iommufd with libvirt 12.9 and QEMU 11.1

Written by `tests/lab/nested/page.sh backports`, which boots a host with Debian 13's libvirt and QEMU of trixie-backports, an emulated
VT-d and five NICs bound to vfio-pci. Debian's kernels have no IOMMUFD: `tests/lab/nested/kernel.sh` builds the host's from Debian's
kernel source (Linux 6.12 with the options of `tests/lab/nested/kernel.config`). The scenarios `f…` of `tests/lab/nested/l1/scenarios/`
are about iommufd, and the last one about AMD's vIOMMU; `cargo test --test iommufd -- --ignored` also checks them. `s…` and `w…` are those of
[the other releases](real-vfio.md). libvirt starts each guest as `libvirt-qemu`, without capabilities, and the kernel enforces the limit of
locked memory.
",
    },
];

/// Values that differ between runs, or that are equal on all hosts.
const OMITTED: [&str; 7] = ["status", "seconds", "pid", "saved_pid", "attempts", "uid", "capeff"];

/// Below the head of every page.
const LEGEND: &str = "
- *limit*: the hard limit of QEMU's process, bytes; *VmLck*: what it has locked; *VmPin*: what an iommufd has pinned. A guest has
  384 MiB unless stated otherwise.
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
fn pages_have_every_scenario() {
    for page in PAGES {
        let path = root().join(page.file);
        let scenarios = scenarios(page.kinds);
        let results = env::var_os("VIOMMU_RESULTS").map(PathBuf::from);
        if let Some(results) = results.filter(|results| page.suites.iter().all(|suite| results.join(suite).exists())) {
            fs::write(&path, page.written(&scenarios, &results)).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let sections: Vec<_> = text.split_inclusive('\n').filter(|line| line.starts_with("## ")).collect();
        assert_eq!(sections.len(), scenarios.len() + 1, "a section each, and the messages: {sections:?}");
        for scenario in scenarios {
            let name = &scenario.name;
            assert!(
                text.contains(&scenario.section()),
                "tests/lab/nested/page.sh: {name} has changed in {}",
                page.file
            );
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The scenarios with these first letters, in the order of their numbers.
fn scenarios(kinds: &str) -> Vec<Scenario> {
    let directory = root().join("tests/lab/nested/l1/scenarios");
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem()?.to_str()?.to_owned();
            let number: u32 = name.strip_prefix(|kind| kinds.contains(kind))?.parse().ok()?;
            let script = fs::read_to_string(&path).unwrap();
            let comment = script.lines().skip(1).map_while(|line| line.strip_prefix("# "));
            let text = comment.collect::<Vec<_>>().join(" ");
            Some((name.get(..1)?.to_owned(), number, Scenario { name, text }))
        })
        .collect();
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    found.into_iter().map(|(_, _, scenario)| scenario).collect()
}

impl Page {
    /// The page's text, from the output of `all.sh` for each suite, in files with the suite's name.
    fn written(&self, scenarios: &[Scenario], directory: &Path) -> String {
        let read = |suite| Results::parse(&fs::read_to_string(directory.join(suite)).unwrap());
        let results: Vec<Results> = self.suites.iter().map(read).collect();
        let columns = results.iter().map(|found| {
            let host = found.of("prepare");
            format!("libvirt {}, QEMU {}", host.get("libvirt"), host.get("qemu"))
        });
        let columns = columns.collect::<Vec<_>>().join(" | ");
        let mut messages = Messages::default();
        let mut page = format!("{}{LEGEND}", self.head);
        for scenario in scenarios {
            page.push_str(&scenario.section());
            writeln!(page, "| | {columns} |\n|---|{}", "---|".repeat(results.len())).unwrap();
            let rows = results.first().map(|found| found.names(&scenario.name)).unwrap_or_default();
            assert!(!rows.is_empty(), "no results of {}", scenario.name);
            for row in rows {
                let cells = results.iter().map(|found| cell(found.of(row), &mut messages));
                writeln!(page, "| {row} | {} |", cells.collect::<Vec<_>>().join(" | ")).unwrap();
            }
            page.push('\n');
        }
        page.push_str("## Messages\n\n");
        for (index, message) in messages.known.iter().enumerate() {
            writeln!(page, "[{}] {}  ", index + 1, message.replace('<', "\\<")).unwrap();
        }
        page
    }
}

fn cell(values: &Values, messages: &mut Messages) -> String {
    let pairs: Vec<_> = values.pairs().collect();
    let known: HashMap<_, _> = pairs.iter().copied().collect();
    let mut parts = Vec::new();
    let message = || values.get("message");
    match known.get("status") {
        Some(&"0") => parts.push("succeeds".to_owned()),
        Some(_) => parts.push(format!("fails {}", messages.reference(message()))),
        None if message().is_empty() => {}
        None => parts.push(messages.reference(message())),
    }
    for (key, value) in pairs.into_iter().filter(|(key, value)| !OMITTED.contains(key) && !value.is_empty()) {
        parts.push(match key {
            "vmlck_kb" => format!("VmLck {value} kB"),
            "vmpin_kb" if value == "0" => continue,
            "vmpin_kb" => format!("VmPin {value} kB"),
            "exceeded" => format!("limit of {value} exceeded"),
            key => format!("{key} {value}"),
        });
    }
    parts.join(", ")
}

/// Messages without duplicates.
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

/// The message without times and addresses, which differ between runs, and without QEMU's repetition of its arguments.
/// Of viommu's own message only the last sentence.
fn stable(message: &str) -> String {
    let last = message.rfind("error[").map_or(message, |start| &message[start..]);
    let is_time = |word: &str| word.ends_with('Z') && word.starts_with("20") && word.contains('T');
    let words = last.split_whitespace().filter(|word| !is_time(word));
    let words = words.map(|word| if word.starts_with('{') { "…:".to_owned() } else { without_address(word) });
    words.collect::<Vec<_>>().join(" ")
}

/// `f(0x55ed00000000,` becomes `f(…,`; a number with fewer digits is a size.
fn without_address(word: &str) -> String {
    let Some((before, after)) = word.split_once("0x") else { return word.to_owned() };
    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
    if after.len() - rest.len() > 9 { format!("{before}…{rest}") } else { word.to_owned() }
}
