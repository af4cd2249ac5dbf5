//! The command line for scripts: exit statuses, streams, formats, and invalid input of every kind.

#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program that starts the binary and writes files for it"
)]

#[path = "cli/apply.rs"]
mod apply;
#[path = "cli/host.rs"]
mod host;
#[path = "support/program.rs"]
mod program;
#[path = "support/sandbox.rs"]
mod sandbox;

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use program::{Ran, VIOMMU, feed, run};
use serde_json::Value;

const EXAMPLE: &str = "examples/domains/dpdk-gateway.xml";
/// A recorded host: libvirt 11.3, QEMU 10.0, an IOMMU of 39 bits.
const HOST: &str = "tests/data/host.json";
/// An empty configuration.
const NO_CONFIG: &str = "/dev/null";

fn example() -> String {
    fs::read_to_string(EXAMPLE).unwrap()
}

/// Runs a verb without facts about this machine.
fn viommu(verb: &str, arguments: &[&str], stdin: impl AsRef<[u8]>) -> Ran {
    let mut all = vec![verb, "--config", NO_CONFIG, "--host", HOST];
    all.extend(arguments);
    run(VIOMMU, &all, stdin.as_ref())
}

/// Asserts one line with a code, and an empty stdout.
fn assert_refused(ran: &Ran, code: &str) {
    assert_eq!(ran.status, 1, "{ran:?}");
    let sentence =
        ran.stderr.strip_prefix(&format!("viommu: error[{code}]: ")).unwrap_or_else(|| panic!("{code}: {ran:?}"));
    assert!(sentence.ends_with('\n') && sentence.matches('\n').count() == 1 && sentence.len() > 20, "{ran:?}");
}

fn assert_unusable(ran: &Ran, words: &str) {
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stdout.is_empty() && ran.stderr.contains(words), "{ran:?}");
}

#[test]
fn exit_statuses() {
    let example = example();
    for verb in ["plan", "rewrite"] {
        assert_eq!(viommu(verb, &[EXAMPLE], "").status, 0);
        assert_refused(&viommu(verb, &["--model", "smmuv3", EXAMPLE], ""), "model-arch-mismatch");
        assert_unusable(&viommu(verb, &["--model", "Intel", EXAMPLE], ""), "similar value exists: 'intel'");
        assert_unusable(&viommu(verb, &["--no-such-option"], ""), "--no-such-option");
        assert_unusable(&viommu(verb, &[EXAMPLE, "more"], ""), "more");
    }
    assert_eq!(viommu("plan", &["--exit-code", EXAMPLE], "").status, 3);
    assert_eq!(viommu("plan", &["--exit-code", "--model", "none", EXAMPLE], "").status, 0);
    let rewritten = viommu("rewrite", &[], &example).stdout;
    assert_eq!(viommu("plan", &["--exit-code"], &rewritten).status, 0, "nothing is left to change");
    assert_refused(&viommu("plan", &["--exit-code", "--model", "smmuv3", EXAMPLE], ""), "model-arch-mismatch");
    for (arguments, status) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["plan", "--help"], 0),
        (&["help", "plan"], 0),
        (&[], 2),
        (&["dance"], 2),
        (&["memlock"], 2),
    ] {
        assert_eq!(run(VIOMMU, arguments, b"").status, status, "{arguments:?}");
    }
}

#[test]
fn the_domain_comes_from_a_file_or_from_stdin() {
    let example = example();
    for verb in ["plan", "rewrite"] {
        let from_file = viommu(verb, &[EXAMPLE], "");
        assert!(
            from_file.status == 0 && from_file.stderr.is_empty() && from_file.stdout.contains("<iommu"),
            "{from_file:?}"
        );
        assert_eq!(viommu(verb, &[], &example).stdout, from_file.stdout);
        assert_eq!(viommu(verb, &["-"], &example).stdout, from_file.stdout);
        assert_unusable(&viommu(verb, &["./nowhere.xml"], ""), "./nowhere.xml");
        assert_unusable(&viommu(verb, &["tests"], ""), "cannot read tests");
    }
}

/// The vIOMMU of the example on the host of the tests, whose IOMMU has 39 bits: Debian 12 has no driver for a
/// virtio-iommu.
const IOMMU: &str = "    <iommu model='intel'>
      <driver intremap='on' caching_mode='on' eim='on' aw_bits='39'/>
    </iommu>
";

#[test]
fn a_rewritten_domain_is_the_same_but_for_the_change() {
    let example = example();
    let rewritten = viommu("rewrite", &[], &example);
    let added = ["    <ioapic driver='qemu'/>\n", IOMMU]
        .iter()
        .fold(rewritten.stdout.clone(), |text, part| text.replacen(part, "", 1));
    assert_eq!(added, example);
    assert_eq!(viommu("rewrite", &["--model", "none"], &example).stdout, example);
    let crlf = example.replace('\n', "\r\n");
    assert_eq!(viommu("rewrite", &[], &crlf).stdout, rewritten.stdout.replace('\n', "\r\n"));
}

/// A refusal is printed once, on stderr, also if both streams are the same terminal.
#[test]
fn a_refusal_is_said_once() {
    let ran = viommu("plan", &["--model", "smmuv3", EXAMPLE], "");
    let sentence = ran.stderr.trim().strip_prefix("viommu: error[model-arch-mismatch]: ").unwrap();
    assert!(ran.stdout.contains("refused") && !ran.stdout.contains(sentence), "{ran:?}");
}

/// Equal facts give an equal verdict, for one host and for several.
#[test]
fn hosts_that_cannot_run_the_domain_are_named() {
    let off = fs::read_to_string(HOST).unwrap().replace("\"iommu\": true", "\"iommu\": false");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("off.json");
    fs::write(&file, off).unwrap();
    let off = file.to_str().unwrap();
    let one = run(VIOMMU, &["plan", "--config", NO_CONFIG, "--host", off, EXAMPLE], b"");
    let reason = "host-unsuitable] the guest has VFIO devices, and the host's IOMMU is off";
    assert!(one.status == 0 && one.stderr.is_empty() && one.stdout.contains(&format!("warning[{reason}")), "{one:?}");
    let several = run(VIOMMU, &["plan", "--config", NO_CONFIG, "--host", off, "--host", HOST, EXAMPLE], b"");
    let reason = reason.replace(']', "]:");
    assert!(several.status == 0 && several.stdout.contains(&format!("no, error[{reason}\n")), "{several:?}");
    // An address width of the host's IOMMU implies that it is on.
    let width = ["plan", "--config", NO_CONFIG, "--host", off, "--host-aw-bits", "48", EXAMPLE];
    assert!(!run(VIOMMU, &width, b"").stdout.contains("host-unsuitable"));
}

/// A dry run of the hook decides for the host of the options, as plan does, and refuses an unknown operation. Without
/// --dry-run libvirt may call with any operation. The guest has no request, and memory that can be hot-plugged: 16 GiB
/// and a reserve of 1 GiB, and libvirt counts 8 GiB.
#[test]
fn a_limit_that_stays_too_low_is_reported() {
    let plan = viommu("plan", &["examples/domains/ovirt-dpdk.xml"], "");
    assert!(plan.stdout.contains("  verdict        too low, and viommu does not raise it\n"), "{plan:?}");
}

#[test]
fn a_guest_without_a_viommu_can_have_a_split_irqchip() {
    let domain = "<domain type='kvm'><name>g</name><memory unit='GiB'>4</memory><vcpu>4</vcpu>\
                  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><features><ioapic driver='qemu'/></features></domain>";
    let plan = viommu("plan", &[], domain).stdout;
    assert!(plan.contains("\nvIOMMU     none\nI/O APIC   qemu, the split irqchip (in the domain)\n"), "{plan}");
}

#[test]
fn a_dry_run_of_the_hook() {
    let example = example();
    let hook = |arguments: &[&str]| run(VIOMMU, &[&["hook"], arguments].concat(), example.as_bytes());
    let old = ["--dry-run", "--libvirt-version", "7.0.0", "--qemu-version", "5.2.0", "a", "prepare", "begin", "-"];
    let ran = hook(&old);
    assert!(ran.status == 1 && ran.stdout.contains("would refuse") && !ran.stdout.contains("would print"), "{ran:?}");
    assert!(ran.stdout.contains("7.0.0") || ran.stderr.contains("wrapper-missing"), "{ran:?}");
    assert_unusable(&hook(&["--dry-run", "a", "prepaer", "begin", "-"]), "'prepaer' is not an operation");
    assert_unusable(&hook(&["--dry-run", "a", "prepare", "start", "-"]), "'start' is not an operation");
    assert_unusable(&hook(&["--libvirt-version", "7.0.0", "a", "prepare", "begin"]), "--dry-run");
    assert_eq!(hook(&["a", "operation-of-2030", "begin", "-"]).status, 0);
}

/// An error in a file names the file and the line, and a directory that is not a sysfs is not read as one.
#[test]
fn errors_name_the_input() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.xml");
    fs::write(&file, "<domain>\n  <name>a</nome>\n</domain>\n").unwrap();
    let path = file.to_str().unwrap();
    for verb in ["plan", "rewrite"] {
        let ran = viommu(verb, &[path], "");
        assert_refused(&ran, "xml-malformed");
        assert!(ran.stderr.contains(&format!("{path}: domain XML")) && ran.stderr.contains("line 2"), "{ran:?}");
        assert_unusable(&viommu(verb, &["--sysfs", "/no/such/sysfs", EXAMPLE], ""), "/no/such/sysfs");
    }
}

#[test]
fn only_the_diff_is_printed() {
    let ran = viommu("plan", &["--format", "diff", EXAMPLE], "");
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(ran.status == 0 && ran.stderr.is_empty(), "{ran:?}");
    assert_eq!(lines[..2], ["--- domain", "+++ domain, rewritten"]);
    assert!(lines[2].starts_with("@@ -"), "{lines:?}");
    let changed: Vec<_> = lines[3..].iter().filter(|line| !line.starts_with(' ')).collect();
    let added: Vec<_> = changed.iter().filter_map(|line| line.strip_prefix('+')).collect();
    let expected: Vec<_> = ["    <ioapic driver='qemu'/>"].into_iter().chain(IOMMU.lines()).collect();
    assert_eq!(added, expected);
    assert!(changed.iter().all(|line| line.starts_with(['+', '@'])), "{changed:?}");
    let unchanged = viommu("plan", &["--format", "diff", "--model", "none", EXAMPLE], "");
    assert!(unchanged.status == 0 && unchanged.stdout.is_empty() && unchanged.stderr.is_empty(), "{unchanged:?}");
}

/// Returns the value at a path like `memlock/address_spaces/0/devices`.
fn at<'a>(json: &'a Value, path: &str) -> &'a Value {
    json.pointer(&format!("/{path}")).unwrap_or_else(|| panic!("no {path} in {json:#}"))
}

#[test]
fn json_has_every_promised_key() {
    let plan = |arguments: &[&str]| {
        let ran = viommu("plan", &[&["--format", "json", EXAMPLE], arguments].concat(), "");
        assert!(ran.status == 0 && ran.stderr.is_empty(), "{ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    for json in [plan(&[]), plan(&["--model", "intel"]), plan(&["--model", "none"])] {
        for path in [
            "domain/name",
            "domain/uuid",
            "domain/type",
            "domain/arch",
            "domain/machine",
            "request/model",
            "request/source",
        ] {
            assert!(at(&json, path).is_string(), "{path}");
        }
        for path in [
            "domain/vcpus",
            "domain/memory_bytes",
            "domain/max_memory_bytes",
            "memlock/nvme_disks",
            "memlock/vdpa_devices",
            "memlock/required_bytes",
            "memlock/libvirt_bytes",
            "memlock/address_spaces/0/iommu_groups/0",
        ] {
            assert!(at(&json, path).is_u64(), "{path}");
        }
        for path in ["request/locked_memory", "memlock/raise"] {
            assert!(at(&json, path).is_boolean(), "{path}");
        }
        for path in ["memlock/address_spaces", "memlock/address_spaces/0/devices", "qemu/devices", "changes", "notes"] {
            assert!(at(&json, path).is_array(), "{path}");
        }
        assert!(at(&json, "qemu/machine").is_object());
        for key in ["iommu", "ioapic"] {
            assert!(at(&json, key).is_object() || at(&json, key).is_null(), "{key}");
        }
        for note in at(&json, "notes").as_array().unwrap() {
            assert!(["error", "warning", "info"].contains(&at(note, "level").as_str().unwrap()), "{note}");
            assert!(at(note, "code").is_string() && at(note, "message").is_string(), "{note}");
        }
        for change in at(&json, "changes").as_array().unwrap() {
            assert!(["action", "path", "reason"].iter().all(|key| at(change, key).is_string()), "{change}");
        }
    }

    let json = plan(&["--model", "intel"]);
    for (path, value) in [
        ("domain/name", Value::from("dpdk-gateway")),
        ("domain/uuid", "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93".into()),
        ("domain/type", "kvm".into()),
        ("domain/vcpus", 8.into()),
        ("domain/memory_bytes", 8_589_934_592_u64.into()),
        ("request/model", "intel".into()),
        ("request/source", "cli".into()),
        ("iommu/model", "intel".into()),
        ("iommu/origin", "added".into()),
        ("iommu/driver/intremap", "on".into()),
        ("iommu/driver/caching_mode", "on".into()),
        ("iommu/driver/eim", "on".into()),
        ("iommu/driver/aw_bits", "39".into()),
        ("ioapic/driver", "qemu".into()),
        ("ioapic/origin", "added".into()),
        ("memlock/address_spaces/1/devices/0", "0000:3b:00.1".into()),
        ("memlock/address_spaces/1/iommu_groups/0", 41.into()),
        // Two address spaces of 8 GiB, and 1 GiB.
        ("memlock/required_bytes", 18_253_611_008_u64.into()),
        ("memlock/libvirt_bytes", 18_253_611_008_u64.into()),
        ("memlock/raise", false.into()),
        ("qemu/machine/kernel_irqchip", "split".into()),
        ("changes/0/action", "add".into()),
        ("changes/0/path", "/domain/devices/iommu".into()),
    ] {
        assert_eq!(at(&json, path), &value, "{path}");
    }
    assert!(at(&json, "qemu/devices/0").as_str().unwrap().starts_with("intel-iommu,id="), "{json:#}");
    let json = plan(&["--model", "none"]);
    assert!(
        json["iommu"].is_null() && json["ioapic"].is_null() && json["changes"] == serde_json::json!([]),
        "{json:#}"
    );
    assert_eq!(plan(&[])["request"]["source"], "metadata");

    // A refusal is also a JSON plan on stdout, and a message on stderr.
    let ran = viommu("plan", &["--format", "json", "--model", "smmuv3", EXAMPLE], "");
    assert_refused(&ran, "model-arch-mismatch");
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let refusal = at(&json, "notes").as_array().unwrap().iter().find(|note| note["level"] == "error").unwrap();
    assert_eq!(refusal["code"], "model-arch-mismatch");
    assert!(json["changes"] == serde_json::json!([]) && json["iommu"].is_null(), "{json:#}");
}

#[test]
fn hostile_input_is_refused_with_its_code() {
    let large = vec![b' '; 11 << 20];
    let deep = "<a>".repeat(300) + &"</a>".repeat(300);
    let wide = format!("<domain{}/>", (0..1000).fold(String::new(), |text, n| text + &format!(" a{n}=''")));
    let cases: [(&[u8], &str); 11] = [
        (&large, "xml-too-large"),
        (deep.as_bytes(), "xml-too-complex"),
        (wide.as_bytes(), "xml-too-complex"),
        (b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain type='kvm'/>", "xml-doctype"),
        (b"<network/>", "xml-not-a-domain"),
        (b"<domstatus><domain type='kvm'/></domstatus>", "xml-not-a-domain"),
        (b"<domain xmlns='urn:x'/>", "xml-not-a-domain"),
        (b"<domain><name>\xff\xfe</name></domain>", "xml-malformed"),
        (b"<domain><name>a</nome></domain>", "xml-malformed"),
        (b"no XML\nat all", "xml-malformed"),
        (b"", "xml-malformed"),
    ];
    for (input, code) in cases {
        for arguments in [&["--format", "text"][..], &["--format", "json"], &["--format", "diff"]] {
            let ran = viommu("plan", arguments, input);
            assert_refused(&ran, code);
            assert!(ran.stdout.is_empty(), "{ran:?}");
        }
        let ran = viommu("rewrite", &[], input);
        assert_refused(&ran, code);
        assert!(ran.stdout.is_empty(), "a partial document was printed: {ran:?}");
    }
}

/// A tenant's strings with control characters of terminals: XML cannot contain ESC, but its 8-bit forms and characters
/// that change the direction of text.
const HOSTILE: &str = "a\u{9b}2J\u{7f}\u{85}\u{202e}\u{2066}\u{61c}b";

/// Whether a text contains no terminal control character except line ends.
fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| c != '\n' && (c.is_control() || HOSTILE.contains(c) && !c.is_ascii()))
}

#[test]
fn names_are_escaped_on_a_terminal() {
    let example = example()
        .replace("<name>dpdk-gateway</name>", &format!("<name>{HOSTILE}&#10;x</name><title>{HOSTILE}</title>"))
        .replace("machine='q35'", &format!("machine='pc-q35-{HOSTILE}'"))
        .replace("<memballoon model='none'/>", &format!("<!-- {HOSTILE} --><memballoon model='none'/>"));
    for arguments in [&["--format", "text"][..], &["--format", "json"], &["--format", "diff"], &["--model", "smmuv3"]] {
        let ran = viommu("plan", arguments, &example);
        assert!(is_harmless(&ran.stdout) && is_harmless(&ran.stderr), "{arguments:?}: {ran:?}");
    }
    // The JSON output escapes the characters, and a program reads the original name.
    let ran = viommu("plan", &["--format", "json"], &example);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["domain"]["name"], format!("{HOSTILE}\nx"));
    // A value cannot add a line to an error.
    let broken = example.replace("model='auto'", &format!("model='{HOSTILE}&#10;viommu: all is well'"));
    let ran = viommu("plan", &[], &broken);
    assert_refused(&ran, "model-unknown");
    assert!(is_harmless(&ran.stderr) && is_harmless(&ran.stdout), "{ran:?}");
    // Nor can an argument.
    for arguments in
        [&[HOSTILE][..], &["plan", HOSTILE, HOSTILE], &["hook", "--\u{1b}[31m"], &["plan", "--\u{9b}31m=1"]]
    {
        let ran = feed(Command::new(VIOMMU).args(arguments), b"");
        assert!(ran.status == 2 && is_harmless(&ran.stderr) && is_harmless(&ran.stdout), "{arguments:?}: {ran:?}");
    }
    // A datagram to the host's log and libvirt's own message hold a note of any guest.
    let long = viommu("plan", &[], example.replace("model='auto'", &format!("model='{}'", "ä".repeat(1 << 20))));
    assert_refused(&long, "model-unknown");
    assert!(long.stderr.len() < 20 << 10, "{} bytes", long.stderr.len());
    // `rewrite` prints for programs and keeps every byte.
    assert!(viommu("rewrite", &[], &example).stdout.contains(HOSTILE));
}

#[test]
fn colours_are_for_terminals_only() {
    let colours = |no_color: Option<&str>, terminal: bool| {
        let plan = format!("'{VIOMMU}' plan --config {NO_CONFIG} --host {HOST} {EXAMPLE}");
        let mut command = Command::new(if terminal { "script" } else { "sh" });
        if terminal {
            command.args(["--quiet", "--return", "--command", &plan, "/dev/null"]);
        } else {
            command.args(["-c", &plan]);
        }
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
        let ran = feed(&mut command, b"");
        assert!(ran.status == 0 && ran.stdout.contains("dpdk-gateway"), "{ran:?}");
        ran.stdout.contains('\x1b')
    };
    assert!(!colours(None, false));
    assert!(!colours(Some("1"), false));
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: script(1) is not installed, so the output on a terminal was not tested");
        return;
    }
    assert!(colours(None, true));
    assert!(colours(Some(""), true), "an empty NO_COLOR has no effect");
    assert!(!colours(Some("1"), true));
    for term in ["dumb", ""] {
        let line = format!("TERM={term} '{VIOMMU}' explain auto-model");
        let ran = feed(Command::new("script").args(["--quiet", "--command", &line, "/dev/null"]), b"");
        assert!(ran.stdout.contains("auto-model") && !ran.stdout.contains('\x1b'), "{term}: {ran:?}");
    }
}

#[test]
fn an_ordinary_user_sees_that_root_is_needed() {
    let directory = std::env::temp_dir().join(format!("viommu-user-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (binary, secret) = (directory.join("viommu"), directory.join("secret"));
    fs::copy(VIOMMU, &binary).unwrap();
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let secret = secret.to_str().unwrap();
    for (arguments, words) in [
        (&["plan", secret][..], "Permission denied (os error 13); run this as root"),
        (&["explain", secret], "Permission denied (os error 13); run this as root"),
        (&["doctor", "--root", "/tmp"], "viommu: only root can examine another root directory"),
        (&["host-route", "on"], "viommu: only root can switch the host route"),
    ] {
        let mut command = Command::new(&binary);
        if rustix::process::geteuid().is_root() {
            command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--clear-groups"]).arg(&binary);
        }
        let ran = feed(command.args(arguments), b"");
        assert!(ran.status == 2 && ran.stdout.is_empty() && ran.stderr.contains(words), "{arguments:?}: {ran:?}");
    }
    fs::remove_dir_all(directory).unwrap();
}

/// The output wraps between words at the width of the terminal; only XML keeps its lines.
#[test]
fn lines_fit_into_the_terminal() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: script(1) is not installed, so the output on a terminal was not tested");
        return;
    }
    for width in [80, 120] {
        for verb in [
            format!("plan --config {NO_CONFIG} --host {HOST} {EXAMPLE}"),
            format!("capabilities --host {HOST}"),
            "explain iommu-group-split".to_owned(),
            "explain --list".to_owned(),
            "doctor".to_owned(),
            "apply --help".to_owned(),
            "--help".to_owned(),
        ] {
            let line = format!("stty rows 24 cols {width}; NO_COLOR=1 '{VIOMMU}' {verb}");
            let mut command = Command::new("script");
            command.args(["--quiet", "--command", &line, "/dev/null"]);
            let ran = feed(&mut command, b"");
            // A QEMU option stays one word.
            let lines: Vec<&str> = ran.stdout.lines().filter(|line| !line.starts_with("  -device ")).collect();
            assert!(lines.len() > 5, "{verb}: {ran:?}");
            let longest = lines.iter().map(|line| line.trim_end().chars().count()).max();
            assert!(longest <= Some(width), "{verb}: {longest:?} columns in {}", ran.stdout);
        }
    }
}

/// An error is wrapped on a terminal, and is one line elsewhere.
#[test]
fn errors_fit_into_the_terminal() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: script(1) is not installed, so the output on a terminal was not tested");
        return;
    }
    let verb = format!("'{VIOMMU}' plan --config {NO_CONFIG} --host {HOST} --model smmuv3 --format diff {EXAMPLE}");
    let line = format!("stty rows 24 cols 60; {verb}");
    let ran = feed(Command::new("script").args(["--quiet", "--command", &line, "/dev/null"]), b"");
    let lines: Vec<&str> =
        ran.stdout.lines().filter(|line| line.starts_with("viommu: ") || line.starts_with("    ")).collect();
    assert!(lines.len() > 1 && lines.iter().all(|line| line.trim_end().len() <= 60), "{ran:?}");
    let ran = feed(Command::new("sh").args(["-c", &verb]), b"");
    assert!(
        ran.stderr.starts_with("viommu: error[model-arch-mismatch]: ") && ran.stderr.lines().count() == 1,
        "{ran:?}"
    );
}

#[test]
fn a_terminal_shows_that_stdin_is_read() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: script(1) is not installed, so the output on a terminal was not tested");
        return;
    }
    for verb in ["plan", "rewrite"] {
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &format!("'{VIOMMU}' {verb} --host {HOST}"), "/dev/null"]);
        let ran = feed(&mut command, b"\x04");
        assert!(ran.stdout.contains("reading from stdin: end with Ctrl-D, or name a file"), "{ran:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    for arguments in [&["plan"][..], &["plan", "--format", "json"], &["plan", "--format", "diff"], &["rewrite"]] {
        let mut command = Command::new(VIOMMU);
        command.args(arguments).args(["--config", NO_CONFIG, "--host", HOST]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The reader closes the pipe before the first output.
        drop(child.stdout.take());
        child.stdin.take().unwrap().write_all(example().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    let mut command = Command::new("bash");
    command.args([
        "-o",
        "pipefail",
        "-c",
        &format!("'{VIOMMU}' plan --config {NO_CONFIG} --host {HOST} {EXAMPLE} | head -1"),
    ]);
    assert_eq!(feed(&mut command, b"").status, 0);
    // A full disk is an error.
    for verb in ["plan", "rewrite"] {
        let mut command = Command::new(VIOMMU);
        command
            .args([verb, "--config", NO_CONFIG, "--host", HOST, EXAMPLE])
            .stdout(File::options().write(true).open("/dev/full").unwrap());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("viommu: cannot write"), "{output:?}");
    }
}

/// The number of a closed stream could become that of the next opened file, and the output would go into that file.
#[test]
fn closed_standard_streams_are_replaced() {
    for (number, closed) in ["<&-", ">&-", "2>&-"].into_iter().enumerate() {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec '{VIOMMU}' explain /proc/self/fd/{number} <&- {closed}")]);
        let ran = feed(&mut command, b"");
        assert!(ran.status == 0 && ran.stderr.is_empty(), "{closed}: {ran:?}");
    }
}

#[test]
fn an_option_does_not_take_the_file_as_its_value() {
    let hugepages = viommu("rewrite", &["--locked-memory", EXAMPLE], "");
    assert!(hugepages.status == 0 && hugepages.stdout.contains("<locked/>"), "{hugepages:?}");
    let not = viommu("rewrite", &["--locked-memory=false", EXAMPLE], "");
    assert!(not.status == 0 && !not.stdout.contains("<locked/>"), "{not:?}");
    assert_unusable(&viommu("plan", &["--locked-memory=maybe", EXAMPLE], ""), "maybe");
}
