//! Compares statements of the documents with the code.

#![expect(clippy::disallowed_methods, reason = "reads the repository")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use viommu::version::{NEWEST_LIBVIRT, NEWEST_QEMU, OLDEST_LIBVIRT, OLDEST_QEMU, Version};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a directory, by their paths in the repository.
fn files(directory: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// The documents that users read.
fn documents() -> Vec<(String, String)> {
    let mut paths =
        ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "hooks/README.md"].map(str::to_owned).to_vec();
    files("docs", &mut paths);
    files("man", &mut paths);
    paths.retain(|path| Path::new(path).extension().is_some_and(|extension| extension != "svg"));
    paths.into_iter().map(|path| (path.clone(), read(&path).replace("\\-", "-"))).collect()
}

/// The version at the start of a text, with two or three numbers.
fn version(text: &str) -> Option<Version> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text[..end].trim_end_matches('.').parse().ok()
}

/// Each "libvirt 7.0 to 12.8" outside of the evidence is the range of the code, and no document names a newer version
/// than the newest tested.
#[test]
fn supported_versions_are_those_of_the_code() {
    let programs = [("libvirt ", OLDEST_LIBVIRT, NEWEST_LIBVIRT), ("QEMU ", OLDEST_QEMU, NEWEST_QEMU)];
    let mut ranges = BTreeMap::new();
    for (path, text) in documents().iter().filter(|(path, _)| !path.starts_with("docs/proof/")) {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for (program, oldest, newest) in programs {
            for rest in text.split(program).skip(1) {
                let Some(first) = version(rest) else { continue };
                let tested = (first.major, first.minor) <= (newest.major, newest.minor);
                assert!(tested, "{path}: {program}{first} is newer than the newest tested one, {newest}");
                let range =
                    rest.split_once(" to ").filter(|(before, _)| version(before) == Some(first) && before.len() < 8);
                let Some(last) = range.and_then(|(_, after)| version(after)) else { continue };
                assert_eq!((first, last), (oldest, newest), "{path}: {program}{first} to {last}");
                ranges.entry(path.clone()).or_insert(0);
                *ranges.get_mut(path).unwrap() += 1;
            }
        }
    }
    for path in ["README.md", "man/viommu.8"] {
        assert_eq!(ranges.get(path), Some(&2), "{path} says which versions are supported: {ranges:?}");
    }
    let page = read("docs/troubleshooting.md");
    let [libvirt, qemu] = [OLDEST_LIBVIRT, OLDEST_QEMU].map(|version| format!("{}.{}", version.major, version.minor));
    assert!(page.contains(&format!("libvirt is older than {libvirt}, or QEMU is older than {qemu}.")));
}

/// "Rust 1.85" equals the minimum in `Cargo.toml`.
#[test]
fn the_oldest_rust_is_that_of_the_manifest() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let oldest = manifest["package"]["rust-version"].as_str().unwrap();
    let mut count = 0;
    let mut all = documents();
    all.push(("install.sh".to_owned(), read("install.sh")));
    all.push(("tests/run".to_owned(), read("tests/run")));
    all.push(("packaging/debian/control".to_owned(), read("packaging/debian/control").replace("rustc (>= ", "Rust ")));
    for (path, text) in all {
        for rest in text.split("Rust ").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            assert!(rest.starts_with(oldest), "{path}: Rust {}", rest.get(..6).unwrap_or(rest));
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}

/// SECURITY.md lists every use of unsafe code.
#[test]
fn unsafe_code_is_listed() {
    let mut sources = Vec::new();
    files("src", &mut sources);
    let mut uses = BTreeMap::new();
    for path in sources {
        let text = read(&path);
        let code = text.lines().map(|line| line.split("//").next().unwrap());
        let count: usize = code
            .map(|line| {
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("]
                    .iter()
                    .map(|word| line.matches(word).count())
                    .sum::<usize>()
            })
            .sum();
        if count > 0 {
            uses.insert(path, count);
        }
    }
    let page = read("SECURITY.md");
    let numbers = ["no", "one", "two", "three", "four"];
    let listed: BTreeMap<String, usize> = page
        .lines()
        .filter_map(|line| {
            let (path, rest) = line.strip_prefix("- `src/")?.split_once("`: ")?;
            let count = numbers.iter().position(|number| rest.starts_with(&format!("{number} use")))?;
            Some((format!("src/{path}"), count))
        })
        .collect();
    assert_eq!(listed, uses, "SECURITY.md");
}

/// Subjects that no sentence may have, in all text of the repository. `src/note/tests.rs` lists them for the messages.
const HIDDEN_SUBJECTS: [&str; 3] = ["whoever", "nobody", "somebody"];

/// Files that use the system's user `nobody`.
const USER_NOBODY: [&str; 3] = ["tests/cli/apply.rs", "tests/host_route.rs", "tests/live/hostile.rs"];

/// Files with quotations: this list of words, the list for the messages, log lines of other programs.
const QUOTATIONS: [&str; 3] = ["tests/claims.rs", "src/note/tests.rs", "tests/data/"];

/// Directories with text, in addition to the documents.
const TEXT: &str = "src hooks examples packaging completions tests benches fuzz/fuzz_targets fuzz/properties";

#[test]
fn no_text_hides_its_subject() {
    let mut all = documents();
    for directory in TEXT.split(' ') {
        let mut paths = vec![];
        files(directory, &mut paths);
        paths.retain(|path| !QUOTATIONS.iter().any(|quotation| path.starts_with(quotation)));
        paths.retain(|path| !path.contains("/__pycache__/"));
        all.extend(paths.into_iter().map(|path| (path.clone(), read(&path))));
    }
    all.extend(["install.sh", "fuzz/run"].map(|path| (path.to_owned(), read(path))));
    for (path, text) in all {
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_hidden = |word: &&str| HIDDEN_SUBJECTS.contains(&word.to_lowercase().as_str());
            let found = words.find(|word| is_hidden(word) && !(*word == "nobody" && USER_NOBODY.contains(&&*path)));
            assert_eq!(found, None, "{path}:{}: {line}", number + 1);
        }
    }
}

/// Each name is the name of one type. The exception are clap's arguments of the verbs, in the file of each verb.
#[test]
fn each_type_has_its_own_name() {
    let mut paths = vec![];
    files("src", &mut paths);
    let mut names = std::collections::BTreeMap::<String, String>::new();
    for path in paths.iter().filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "rs")) {
        for line in read(path).lines().filter(|line| !line.trim_start().starts_with("//")) {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let item = words.find(|word| !["pub", "crate", "super", "in", ""].contains(word));
            let Some(name) =
                words.next().filter(|_| item.is_some_and(|item| ["struct", "enum", "trait"].contains(&item)))
            else {
                continue;
            };
            let other = names.insert(name.to_owned(), path.clone());
            assert!(other.is_none() || name == "Arguments", "{name} is in {path} and in {other:?}");
        }
    }
    assert!(names.len() > 100, "{names:?}");
}

/// The files that CONTRIBUTING.md names exist, its chain of calls equals that of the code, and the chain returns to
/// earlier files rarely.
#[test]
fn the_map_of_the_code_is_right() {
    let page = read("CONTRIBUTING.md");
    let mut count = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let ours = ["src/", "tests/", "docs/", "fuzz/", "packaging/", "examples/", "man/", "completions/"];
        if ours.iter().any(|directory| name.starts_with(directory)) && !name.contains([' ', '*', 'T']) {
            count += 1;
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "CONTRIBUTING.md names {name}");
        }
    }
    assert!(count > 40, "{count} files named");
    // The evidence for the threats describes the commit that it names.
    for (path, text) in documents().iter().filter(|(path, _)| path != "docs/proof/threats-shown.md") {
        let names = text.split('`').skip(1).step_by(2).filter(|name| name.starts_with("src/"));
        for name in names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "rs")) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "{path} names {name}");
        }
    }
    let (_, chain) = page.split_once("\n## From a request to `<iommu>`\n").unwrap();
    let (chain, _) = chain.split_once("\n## ").unwrap();
    let (mut left, mut returns, mut current) = (Vec::new(), 0, "");
    let steps = chain.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    for step in steps {
        let mut names = step.split('`').skip(1).step_by(2);
        let (file, function) = (names.next().unwrap(), names.next().unwrap());
        assert!(read(file).contains(&format!("fn {function}")), "{file} has no fn {function}");
        if file != current {
            returns += usize::from(left.contains(&file));
            left.push(current);
            current = file;
        }
    }
    assert!(left.len() > 15 && returns <= 8, "{returns} returns in {} steps", left.len());
}

/// The page of the real Nova has each request of the lab's list with each kind of source, and only results that the
/// lab's scripts can produce.
#[test]
fn the_page_of_the_real_nova_is_complete() {
    let (page, lab) = (read("docs/proof/nova.md"), read("tests/lab/nova/table.py"));
    let list = lab.split_once("\nREQUESTS = [\n").unwrap().1.split_once("\n]\n").unwrap().0;
    let requests = list.lines().map(|line| line.split_once("(\"").unwrap().1.split_once("\", {").unwrap().0);
    let requests: Vec<_> = requests.map(|request| request.replace("\\\"", "\"")).collect();
    let rows = |heading: &str| {
        let table = page.split_once(&format!("\n## {heading}\n")).unwrap().1.split_once("\n## ").unwrap().0;
        let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert_eq!(rows.len(), requests.len());
        rows
    };
    let rows = [rows("What becomes of an instance"), rows("A Nova that writes no extra specs")].concat();
    for (row, request) in rows.iter().zip(requests.iter().cycle()) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!((cells.len(), cells[0]), (4, request.as_str()), "{row}");
        for cell in &cells[1..] {
            assert!(["ACTIVE, ", "ERROR: "].iter().any(|state| cell.starts_with(state)), "{row}");
            let codes = cell.split('`').skip(1).step_by(2).filter(|_| cell.starts_with("ERROR"));
            codes.for_each(|code| assert!(viommu::note::Code::from_name(code).is_some(), "{code}"));
        }
    }
    for wrong in ["ERROR: unknown", "WRONG", "UUID could not be found"] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    assert_eq!(page.matches("| confirm the resize | ").count(), 1);
}
