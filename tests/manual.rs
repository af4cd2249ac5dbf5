//! Manual pages and shell completions match the program: the test derives both from its arguments.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "support/completions.rs"]
mod completions;
#[path = "support/page.rs"]
mod page;
#[path = "support/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use clap::{Arg, CommandFactory as _};
use program::{VIOMMU, run};

const PAGES: [&str; 2] = ["man/viommu.8", "man/viommu.toml.5"];

fn command() -> clap::Command {
    let mut command = viommu::cli::Arguments::command();
    command.build();
    command
}

/// Escapes text for roff: dashes, and lines that would be requests.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn sentence(text: &str) -> String {
    let text = roff(text);
    if text.ends_with('.') { text } else { text + "." }
}

/// The placeholder for an argument's value: `FILE`, or the text after an option.
fn value(argument: &Arg) -> String {
    let names: Vec<String> = argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let name = format!("\\fI{}\\fR", roff(&names.join(" ")));
    let optional = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
    match (argument.is_positional(), argument.get_action().takes_values()) {
        (_, false) => String::new(),
        (true, _) => name,
        (false, _) if optional => format!("[={name}]"),
        (false, _) => format!(" {name}"),
    }
}

fn option(argument: &Arg, out: &mut String) {
    let name = argument.get_long().map(|long| format!("\\fB\\-\\-{}\\fR", roff(long))).unwrap_or_default();
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    writeln!(out, ".TP\n{name}{}\n{}", value(argument), sentence(&help)).unwrap();
    // A switch takes the values true and false, which users do not type.
    if argument.get_action().takes_values() {
        for possible in argument.get_possible_values() {
            if let Some(help) = possible.get_help() {
                let help = help.to_string();
                writeln!(out, ".br\n\\fB{}\\fR: {}", roff(possible.get_name()), sentence(&help)).unwrap();
            }
        }
    }
}

/// The section VERBS: each verb with its arguments.
fn verbs() -> String {
    let mut out = String::new();
    for verb in command().get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
        let usage = verb.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(out, ".SS {}\n.B {}\n.PP\n{}", verb.get_name(), roff(usage), sentence(&about)).unwrap();
        if let Some(more) = verb.get_after_help() {
            writeln!(out, "{}", roff(&more.to_string())).unwrap();
        }
        let mut heading = None;
        for argument in verb.get_arguments().filter(|argument| argument.get_id() != "help") {
            if argument.get_help_heading() != heading {
                heading = argument.get_help_heading();
                writeln!(out, ".PP\n{}:", roff(heading.unwrap_or("Options"))).unwrap();
            }
            option(argument, &mut out);
        }
    }
    out
}

#[test]
fn the_manual_page_has_every_verb_and_option() {
    page::part("man/viommu.8", "manual", (".\\\" ", "\n"), &verbs());
}

#[test]
fn completions_are_those_of_the_program() {
    for (script, path) in [
        (completions::bash(&command()), "completions/viommu.bash"),
        (completions::zsh(&command()), "completions/_viommu"),
        (completions::fish(&command()), "completions/viommu.fish"),
    ] {
        page::whole(path, "manual", &script);
    }
}

/// The words that each shell offers after a line, with a virsh that has two domains.
#[test]
fn shells_complete_names_codes_and_words() {
    let desk = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("completions");
    fs::create_dir_all(&desk).unwrap();
    let virsh = desk.join("virsh");
    fs::write(&virsh, "#!/bin/sh\n[ \"$*\" = '--quiet list --all --name' ] && printf 'web-1\\nweb 2\\n\\n'\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&virsh, executable).unwrap();
    let program = std::path::Path::new(VIOMMU).parent().unwrap().display();
    let path = format!("{}:{program}:{}", desk.display(), std::env::var("PATH").unwrap());
    let bash = |line: &str| {
        let script = format!(
            "source completions/viommu.bash; COMP_WORDS=({line}''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _viommu; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        ("bash", vec!["-c".to_owned(), script])
    };
    let fish =
        |line: &str| ("fish", vec!["-c".to_owned(), format!("source completions/viommu.fish; complete -C '{line}'")]);
    let zsh = |line: &str| {
        let desk = desk.to_str().unwrap().to_owned();
        ("zsh", vec!["-f".to_owned(), "tests/support/offered.zsh".to_owned(), line.to_owned(), desk])
    };
    let offered = |(shell, arguments): (&str, Vec<String>)| {
        let output = Command::new(shell).args(arguments).env("PATH", &path).output().ok()?;
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let words = String::from_utf8(output.stdout).unwrap();
        // fish adds a description behind a tab, zsh escapes blanks.
        Some(words.lines().map(|line| line.split('\t').next().unwrap().replace("\\ ", " ")).collect::<BTreeSet<_>>())
    };
    for shell in [&bash as &dyn Fn(&str) -> (&'static str, Vec<String>), &fish, &zsh] {
        let Some(verbs) = offered(shell("viommu ")) else {
            assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{} is not installed", shell("").0);
            println!("SKIPPED: {} is not installed", shell("").0);
            continue;
        };
        assert!(verbs.contains("plan") && verbs.contains("help") && verbs.len() > 8, "{verbs:?}");
        for (line, words, several) in [
            ("viommu help ", "doctor", true),
            ("viommu plan ", "web 2", true),
            ("viommu plan --format ", "diff", true),
            ("viommu plan --format json --model ", "smmuv3", true),
            ("viommu apply --yes ", "web-1", true),
            ("viommu apply web-1 ", "web 2", true),
            ("viommu memlock ", "web-1", true),
            ("viommu explain ", "iommu-group-split", true),
            ("viommu explain iommu-group-s", "iommu-group-split", false),
            ("viommu hook web-1 ", "prepare", true),
            ("viommu hook web-1 prepare ", "begin", true),
            ("viommu host-route ", "status", true),
            ("viommu doctor --format ", "json", true),
            ("viommu remove --", "--dry-run", true),
        ] {
            // bash gets the complete words and the last one.
            let found = if shell("").0 == "bash" && !line.ends_with(' ') {
                let (words, last) = line.rsplit_once(' ').unwrap();
                let (name, mut arguments) = bash(&format!("{words} "));
                arguments[1] = arguments[1].replace("'')", &format!("{last})"));
                offered((name, arguments)).unwrap()
            } else {
                offered(shell(line)).unwrap()
            };
            assert!(found.contains(words) && (found.len() > 1) == several, "{}: {line}: {found:?}", shell("").0);
        }
    }
}

/// The options in a help text, without `--help`.
fn options(help: &str) -> Vec<&str> {
    let lines = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    lines.filter_map(|line| line.split(|c: char| c != '-' && !c.is_ascii_lowercase()).next()).collect()
}

fn help_of(verb: &[&str]) -> String {
    let ran = run(VIOMMU, &[verb, &["--help"]].concat(), b"");
    assert!(ran.status == 0 && ran.stderr.is_empty(), "{ran:?}");
    ran.stdout
}

/// Compares the pages and completions with the output of `--help`.
#[test]
fn help_has_the_same_verbs_and_options() {
    let help = help_of(&[]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Other lines continue a description.
    let listed = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let verbs: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() >= 6, "{help}");
    let page = fs::read_to_string("man/viommu.8").unwrap().replace("\\-", "-");
    let completions = fs::read_to_string("completions/viommu.bash").unwrap();
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let (_, section) = page.split_once(&format!(".SS {verb}\n")).unwrap_or_else(|| panic!("{verb} has no section"));
        let section = section.split("\n.S").next().unwrap();
        let line = |line: &&str| line.trim_start().starts_with(&format!("{verb}/-) "));
        let completion = completions.lines().find(line).unwrap_or_else(|| panic!("{verb}"));
        for name in options(&help_of(&[verb])) {
            assert!(section.contains(&format!("\n\\fB--{name}\\fR")), "man/viommu.8: {verb} lacks --{name}");
            assert!(completion.contains(&format!("--{name}")), "completions: {verb} lacks --{name}");
        }
    }
}

/// The example in docs/configuration.md has every key; `tests/docs.rs` checks that.
#[test]
fn the_configuration_page_has_every_key() {
    let example = fs::read_to_string("docs/configuration.md").unwrap();
    let example = example.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let lines = example.lines().filter(|line| !line.starts_with('#'));
    let keys: BTreeSet<&str> = lines
        .filter_map(|line| line.split_once(" = ").map_or_else(|| line.strip_prefix('['), |(key, _)| Some(key)))
        .collect();
    let page = fs::read_to_string("man/viommu.toml.5").unwrap().replace("\\-", "-");
    let described = page.split(".SH KEYS\n").nth(1).unwrap().split(".SH EXAMPLES").next().unwrap();
    let described: BTreeSet<&str> = described
        .lines()
        .zip(described.lines().skip(1))
        .filter_map(|(before, line)| match line.strip_prefix(".SS [") {
            Some(table) => Some(table),
            None => line.strip_prefix(".B ").filter(|_| before == ".TP"),
        })
        .chain(described.lines().take(2).filter_map(|line| line.strip_prefix(".B ")))
        .collect();
    assert_eq!(described, keys);
    assert!(keys.len() >= 10, "{keys:?}");
}

#[test]
fn the_pages_are_good_roff() {
    for page in PAGES {
        let source = fs::read_to_string(page).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"] {
            assert!(source.contains(&format!("\n.SH {section}\n")), "{page} has no {section}");
        }
        let Ok(groff) = Command::new("groff").args(["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=2", "-P-c", page]).output()
        else {
            assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "groff is not installed");
            println!("SKIPPED: groff is not installed");
            return;
        };
        let complaints = String::from_utf8_lossy(&groff.stderr);
        assert!(groff.status.success() && complaints.is_empty(), "{page}: {complaints}");
    }
}

#[test]
fn shells_take_their_completions() {
    for (shell, path) in
        [("bash", "completions/viommu.bash"), ("zsh", "completions/_viommu"), ("fish", "completions/viommu.fish")]
    {
        let Ok(output) = Command::new(shell).args(["-n", path]).output() else {
            assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{shell} is not installed");
            println!("SKIPPED: {shell} is not installed");
            continue;
        };
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
