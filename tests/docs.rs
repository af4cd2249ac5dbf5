//! Checks the documentation: its commands run, its output is real, its links have targets, its tests exist.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use viommu::config::{AutoOrder, Config, Criterion, Rule};
use viommu::request::Keys;

/// A page, by its path from the root of the repository.
struct Page {
    path: PathBuf,
    text: String,
}

/// A fenced block.
struct Block<'a> {
    /// The text after the fence: the language, and `host` or `walk` if this test does not run the block.
    /// tests/lab/walk.sh runs blocks with `walk`.
    info: &'a str,
    text: String,
    line: usize,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root().join(directory)).unwrap() {
        let name = format!("{directory}/{}", entry.unwrap().file_name().to_str().unwrap());
        if root().join(&name).is_dir() { files(&name, found) } else { found.push(name.into()) }
    }
    found.sort();
}

/// The written pages and the generated pages.
fn pages() -> Vec<Page> {
    let mut paths = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).to_vec();
    files("docs", &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let read = |path: PathBuf| Page { text: fs::read_to_string(root().join(&path)).unwrap(), path };
    paths.into_iter().map(read).collect()
}

fn page(path: &str) -> Page {
    Page { path: path.into(), text: fs::read_to_string(root().join(path)).unwrap() }
}

impl Page {
    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(info), None) => open = Some(Block { info, text: String::new(), line: number + 1 }),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => writeln!(block.text, "{line}").unwrap(),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is never closed", self.path.display());
        blocks
    }

    /// The lines outside of blocks.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut inside = false;
        self.text.lines().filter(move |line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        })
    }

    /// The anchors of this page's headings, in the form of the usual forges.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        let slug = |heading: &str| {
            let kept = heading.trim_start_matches('#').trim().to_lowercase();
            kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ')).collect::<String>()
        };
        headings.map(|heading| slug(heading).replace(' ', "-")).collect()
    }
}

/// A directory with the examples in it and the program first in PATH.
struct Desk(PathBuf);

impl Desk {
    fn new(name: &str) -> Desk {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs").join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join(".bin")).unwrap();
        symlink(root().join("examples"), directory.join("examples")).unwrap();
        // The pages show a fresh machine. The machine of the test may have a libvirt, a configuration, or too little
        // memory for the guests of the examples.
        fs::write(directory.join(".bin/fresh.json"), "{}").unwrap();
        fs::write(directory.join(".bin/empty.toml"), "").unwrap();
        let program = format!(
            "#!/bin/bash
             bin='{}'
             if [[ $1 = plan || $1 = rewrite ]]; then
                 [[ \" $* \" == *' --host '* ]] || set -- \"$@\" --host \"$bin/fresh.json\"
                 [[ \" $* \" == *' --config '* ]] || set -- \"$@\" --config \"$bin/empty.toml\"
             fi
             exec -a \"$0\" {} \"$@\"\n",
            directory.join(".bin").display(),
            env!("CARGO_BIN_EXE_viommu")
        );
        let path = directory.join(".bin/viommu");
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Desk(directory)
    }

    fn run(&self, script: &str) -> Output {
        let path = std::env::var("PATH").unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", script]).current_dir(&self.0);
        bash.env("PATH", format!("{}:{path}", self.0.join(".bin").display())).env("LC_ALL", "C.UTF-8");
        bash.output().unwrap()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Replaces the documented command for a fresh checkout with the binary.
fn installed(command: &str) -> String {
    command.replace("cargo run --release -- ", "viommu ")
}

/// The commands of a `console` block, each with the output that is shown.
fn steps(block: &str) -> Vec<(String, Vec<&str>)> {
    let mut steps: Vec<(String, Vec<&str>)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((installed(command), Vec::new())),
            (None, Some((_, output))) => output.push(line.trim_end()),
            (None, None) => {}
        }
    }
    steps
}

/// Whether a text matches a line, in which `…` stands for omitted text.
fn line_matches(shown: &str, real: &str) -> bool {
    let Some((head, rest)) = shown.split_once('…') else { return shown == real };
    let Some(real) = real.strip_prefix(head) else { return false };
    let mut starts = real.char_indices().map(|(at, _)| at).chain([real.len()]);
    starts.any(|at| line_matches(rest, &real[at..]))
}

/// The same for lines; a line `…` stands for any number of lines.
fn output_matches(shown: &[&str], real: &[&str]) -> bool {
    match shown.split_first() {
        None => real.is_empty(),
        Some((&"…", rest)) => (0..=real.len()).any(|skipped| output_matches(rest, &real[skipped..])),
        Some((line, rest)) => {
            real.split_first().is_some_and(|(first, others)| line_matches(line, first) && output_matches(rest, others))
        }
    }
}

fn complaint(block: &Block<'_>, desk: &Desk) -> Option<String> {
    if block.info == "sh" {
        let output = desk.run(&format!("set -euo pipefail\n{}", installed(&block.text)));
        let stderr = String::from_utf8_lossy(&output.stderr);
        return (!output.status.success()).then(|| format!("{}: {stderr}", output.status));
    }
    for (command, shown) in steps(&block.text) {
        let output = desk.run(&format!("set -o pipefail\nexec 2>&1\n{command}"));
        let text = String::from_utf8(output.stdout).unwrap();
        let real: Vec<&str> = text.lines().map(str::trim_end).collect();
        // The output of a refusal contains this line.
        let expected = i32::from(shown.iter().any(|line| line.starts_with("viommu: error[")));
        if output.status.code() != Some(expected) || !output_matches(&shown, &real) {
            return Some(format!("{command}\nends with {} and prints\n{text}", output.status));
        }
    }
    None
}

#[test]
fn an_ellipsis_matches_only_at_its_place() {
    for (shown, real, expected) in [
        (vec!["a", "…", "c"], vec!["a", "b", "b", "c"], true),
        (vec!["a", "…"], vec!["a"], true),
        (vec!["a"], vec!["a", "b"], false),
        (vec!["…", "b"], vec!["a", "b", "c"], false),
        (vec!["a … c …"], vec!["a b c d"], true),
        (vec!["a …"], vec!["b a c"], false),
        (vec!["a"], vec![], false),
    ] {
        assert_eq!(output_matches(&shown, &real), expected, "{shown:?} {real:?}");
    }
}

#[test]
fn commands_run_and_print_what_is_shown() {
    let (mut run, mut host) = (0, 0);
    let mut complaints = Vec::new();
    for page in pages() {
        for block in page.blocks() {
            match block.info {
                "sh" | "console" => run += 1,
                "sh host" => {
                    host += 1;
                    continue;
                }
                _ => continue,
            }
            let place = format!("{}:{}", page.path.display(), block.line);
            let desk = Desk::new(&place.replace(['/', ':'], "-"));
            complaints.extend(complaint(&block, &desk).map(|complaint| format!("{place}: {complaint}")));
        }
    }
    println!("{run} blocks of commands run, {host} are for a host with libvirt and do not run");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(run >= host, "the test must run at least half of the commands");
}

/// Each verb in the text exists, unless the text says that it does not.
#[test]
fn verbs_exist() {
    let help = Command::new(env!("CARGO_BIN_EXE_viommu")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = commands.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(verbs.contains(&"plan"), "{help}");
    let mut count = 0;
    for page in pages() {
        let not_yet = page.text.find("### Not there yet").map_or("", |start| {
            let rest = &page.text[start..];
            &rest[..rest.find("\n## ").unwrap()]
        });
        let text = if not_yet.is_empty() { page.text.clone() } else { page.text.replace(not_yet, "") };
        let spans = text.split("`viommu ").skip(1).map(str::to_owned);
        let blocks = page.blocks().into_iter().filter(|block| ["sh host", "sh walk"].contains(&block.info));
        let lines = blocks.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
        let commands = lines.flat_map(|line| line.split("&& ").map(str::to_owned).collect::<Vec<_>>());
        let commands = commands.filter_map(|command| command.strip_prefix("viommu ").map(str::to_owned));
        for command in spans.chain(commands) {
            let verb = command.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap();
            // Other words are options.
            if !verb.is_empty() && !verb.starts_with('-') {
                count += 1;
                assert!(verbs.contains(&verb), "{}: there is no 'viommu {verb}'", page.path.display());
            }
        }
    }
    assert!(count > 20, "only {count} verbs found");
}

/// The targets of the links of a line, outside of code.
fn links(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for text in line.split('`').step_by(2) {
        found.extend(text.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    }
    // The link's text may be code; then its target begins a part.
    found
}

#[test]
fn links_have_targets() {
    let pages = pages();
    let mut count = 0;
    for page in &pages {
        // A link may begin on one line and end on the next.
        let prose = page.prose().collect::<Vec<_>>().join("\n");
        for link in links(&prose).into_iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let directory = page.path.parent().unwrap();
            let target = if file.is_empty() { page.path.clone() } else { directory.join(file) };
            let target = fs::canonicalize(root().join(&target))
                .unwrap_or_else(|_| panic!("{}: {link} has no target", page.path.display()));
            let Some(anchor) = anchor else { continue };
            let anchors = pages.iter().find(|page| root().join(&page.path) == target).map(Page::anchors);
            assert!(
                anchors.is_some_and(|anchors| anchors.contains(anchor)),
                "{}: {link} is not a heading",
                page.path.display()
            );
        }
    }
    assert!(count > 50, "only {count} links found");
}

#[test]
fn the_configuration_example_has_every_key() {
    let page = page("docs/configuration.md");
    let blocks = page.blocks();
    let mut examples = blocks.iter().filter(|block| block.info == "toml");
    let config = Config::parse(&examples.next().unwrap().text).unwrap_or_else(|note| panic!("{}", note.message));
    assert!(examples.next().is_none(), "the page has more than one example");
    // Without `..`: a new key does not compile until it is added here.
    let Config { allow_image_request, auto_order, default, domain, emulators } = config;
    assert!(
        !allow_image_request && auto_order != AutoOrder::default(),
        "the example shows values that differ from the defaults"
    );
    assert!(!emulators.is_empty());
    let is_set = |has: fn(&Rule) -> bool| has(&default) || domain.iter().any(has);
    let Rule { criteria: _, keys, .. } = &default;
    let Keys {
        source: _,
        model: _,
        locked_memory: _,
        aw_bits: _,
        hotplug: _,
        virtio_iommu_driver: _,
        virtio: _,
        purpose: _,
    } = keys;
    for criterion in Criterion::ALL {
        assert!(domain.iter().any(|rule| rule.criteria.iter().any(|(found, _)| found == criterion)), "{criterion}");
    }
    assert!(is_set(|rule| rule.keys.model.is_some()));
    assert!(is_set(|rule| rule.keys.locked_memory.is_some()) && is_set(|rule| rule.keys.aw_bits.is_some()));
    assert!(is_set(|rule| rule.keys.hotplug.is_some()) && is_set(|rule| rule.keys.virtio_iommu_driver.is_some()));
    assert!(is_set(|rule| rule.keys.virtio.is_some()) && is_set(|rule| rule.keys.purpose.is_some()));
}

#[test]
fn tests_against_threats_exist_and_are_run() {
    let mut sources = Vec::new();
    files("src", &mut sources);
    files("tests", &mut sources);
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let code: String = sources.iter().map(|path| fs::read_to_string(root().join(path)).unwrap()).collect();
    let page = page("docs/threats.md");
    let mut count = 0;
    for row in page.prose().filter(|line| line.starts_with("| ")) {
        let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
        for name in cell.split('`').skip(1).step_by(2) {
            count += 1;
            let definition = format!("fn {name}(");
            let paragraphs = code.split("\n\n").filter(|paragraph| paragraph.contains(&definition));
            let is_run = |paragraph: &str| !paragraph.split(&definition).next().unwrap().contains("#[ignore");
            assert!(paragraphs.clone().next().is_some(), "docs/threats.md names a test {name}, which does not exist");
            assert!(
                paragraphs.into_iter().any(is_run),
                "docs/threats.md names a test {name}, which tests/run does not run"
            );
        }
    }
    assert!(count > 20, "only {count} tests are named");
}

/// Each annotation in the guide and the examples exists, and the guide contains all of them.
#[test]
fn documented_annotations_exist() {
    let mut paths = vec![PathBuf::from("docs/guides/kubevirt.md")];
    files("examples/kubevirt", &mut paths);
    for path in paths {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let mut named = BTreeSet::new();
        for rest in text.split("viommu.libvirt/").skip(1) {
            let key = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap();
            assert!(Keys::NAMES.contains(&key), "{}: there is no annotation '{key}'", path.display());
            named.insert(key);
        }
        assert!(
            path.extension().is_none_or(|extension| extension != "md") || named.len() == Keys::NAMES.len(),
            "{named:?}"
        );
    }
}

#[test]
fn example_domains_are_planned_without_refusal() {
    let desk = Desk::new("domains");
    let mut domains = Vec::new();
    files("examples/domains", &mut domains);
    assert!(domains.len() >= 10, "{domains:?}");
    for domain in domains {
        let versions = "--libvirt-version 11.3.0 --qemu-version 10.0.0";
        let output = desk.run(&format!("viommu plan {versions} {}", domain.display()));
        assert!(output.status.success(), "{}: {}", domain.display(), String::from_utf8_lossy(&output.stderr));
        let without_request = String::from_utf8_lossy(&output.stdout).contains("\nrequest    none\n");
        assert_eq!(without_request, has_request_elsewhere(&domain), "{}", domain.display());
    }
}

/// The managers of these domains set the request by the command line of the entry point.
fn has_request_elsewhere(domain: &Path) -> bool {
    let name = domain.file_name().and_then(|name| name.to_str()).unwrap();
    name.starts_with("kubevirt") || name.starts_with("ovirt")
}

/// The last line of `tests/run`: a skipped or partly skipped test does not count as passed.
#[test]
fn skipped_tests_are_counted_and_named() {
    let printed = "\
     Running tests/one.rs (target/debug/deps/one-0)

running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
SKIPPED: no data (SOME_VARIABLE)
SKIPPED: and no tool
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s


successes:
    a
    b

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

     Running tests/two.rs (target/debug/deps/two-0)

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";
    let desk = Desk::new("count");
    fs::write(desk.0.join("printed"), printed).unwrap();
    fs::write(desk.0.join("before"), "Debian unstable: not today\n").unwrap();
    let count = root().join("tests/count.awk");
    let output = desk.run(&format!("{} -v before=before printed", count.display()));
    let counted = String::from_utf8(output.stdout).unwrap();
    let shown = "test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s

skipped: a: no data (SOME_VARIABLE)
skipped: Debian unstable: not today
4 passed, 1 failed, 2 skipped
";
    assert!(counted.ends_with(shown) && !counted.contains("---- a"), "{counted}");
}
