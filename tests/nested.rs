//! libvirt, QEMU, VFIO and the kernel's locked-memory limit for real, on hosts ("L1") that run in pure software emulation.
//!
//! `tests/lab/nested/` builds and boots the hosts and holds the scenarios; here their results are checked. Needs root and mmdebstrap, else
//! each test says SKIPPED and passes, unless `VIOMMU_REQUIRE_LAB=1`. What is built stays in `VIOMMU_LAB` (default `target/lab`).

#![expect(clippy::disallowed_methods, reason = "a test harness starts programs and reads the environment")]
#![expect(clippy::panic, reason = "the helpers of the tests are tests, too")]

use std::collections::HashMap;
use std::env;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// RAM of a scenario's guest: the least with which four times as much does not fit under a limit for one (`lib.sh`).
const RAM: u64 = 384 * MIB;
/// The user `libvirt-qemu` of every Debian.
const LIBVIRT_QEMU: &str = "64055";

/// A run is given four times what it took here: power-on to the first command, and `prepare.sh`.
const BOOT_SECONDS: u64 = 4 * 12;
const PREPARE_SECONDS: u64 = 4 * 10;

/// A distribution release that L1 is made of. One guest at a time: scenarios share its four NICs.
struct Suite {
    name: &'static str,
    libvirt: &'static str,
    qemu: &'static str,
    host: Mutex<Host>,
}

enum Host {
    Unbooted,
    Up(String),
    Skipped,
    Broken(String),
}

static BOOKWORM: Suite = Suite { name: "bookworm", libvirt: "9.0.", qemu: "7.2.", host: Mutex::new(Host::Unbooted) };
static TRIXIE: Suite = Suite { name: "trixie", libvirt: "11.3.", qemu: "10.0.", host: Mutex::new(Host::Unbooted) };

/// Every test on every suite, as `SUITE::test`.
macro_rules! on_every_suite {
    ($($(#[$attribute:meta])* $test:ident;)+) => {
        on_every_suite! { @ bookworm BOOKWORM: $($(#[$attribute])* $test;)+ }
        on_every_suite! { @ trixie TRIXIE: $($(#[$attribute])* $test;)+ }
    };
    (@ $module:ident $suite:ident: $($(#[$attribute:meta])* $test:ident;)+) => {
        mod $module {
            $(#[test] $(#[$attribute])* fn $test() { super::$test(&super::$suite); })+
        }
    };
}

on_every_suite! {
    two_devices_without_a_viommu_lock_ram_once;
    two_devices_behind_a_native_viommu_lock_ram_twice;
    four_devices_behind_a_hidden_viommu_exceed_the_limit;
}

fn two_devices_without_a_viommu_lock_ram_once(suite: &Suite) {
    let Some(results) = suite.run("s1", 8) else { return };
    let s1 = results.of("s1");
    s1.assert_started();
    s1.assert_locked(1, RAM);
    s1.assert_limit(RAM + GIB);
    s1.assert_value("viommus", "0");
}

fn two_devices_behind_a_native_viommu_lock_ram_twice(suite: &Suite) {
    let Some(results) = suite.run("s2", 8) else { return };
    let s2 = results.of("s2");
    s2.assert_started();
    s2.assert_locked(2, RAM);
    s2.assert_limit(2 * RAM + GIB);
    s2.assert_value("viommus", "1");
}

fn four_devices_behind_a_hidden_viommu_exceed_the_limit(suite: &Suite) {
    let Some(results) = suite.run("s3", 8) else { return };
    let s3 = results.of("s3");
    s3.assert_value("status", "1");
    s3.assert_value("exceeded", &(RAM + GIB).to_string());
    s3.assert_message("memory listener initialization failed");
    s3.assert_message("Cannot allocate memory");
}

// ---- results

/// The `RESULT` lines of one scenario.
#[derive(Debug)]
struct Results {
    by_name: HashMap<String, Values>,
    output: String,
}

/// One `RESULT` line.
#[derive(Debug, Clone)]
struct Values {
    line: String,
    values: HashMap<String, String>,
}

impl Results {
    fn parse(output: &str) -> Self {
        let by_name = output
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("RESULT ")?.split_once(' ')?;
                Some((name.to_owned(), Values::parse(line, rest)))
            })
            .collect();
        Self { by_name, output: output.to_owned() }
    }

    #[track_caller]
    fn of(&self, name: &str) -> &Values {
        self.by_name.get(name).unwrap_or_else(|| panic!("no RESULT of {name} in:\n{}", self.output))
    }
}

impl Values {
    fn parse(line: &str, rest: &str) -> Self {
        let (pairs, message) = rest.split_once("message=").unwrap_or((rest, ""));
        let mut values: HashMap<String, String> = pairs
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        values.insert("message".to_owned(), message.trim().to_owned());
        Self { line: line.to_owned(), values }
    }

    #[track_caller]
    fn get(&self, key: &str) -> &str {
        self.values.get(key).unwrap_or_else(|| panic!("no {key} in: {}", self.line))
    }

    #[track_caller]
    fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} is no number in: {}", self.line))
    }

    #[track_caller]
    fn assert_value(&self, key: &str, expected: &str) {
        assert_eq!(self.get(key), expected, "{key} in: {}", self.line);
    }

    #[track_caller]
    fn assert_message(&self, part: &str) {
        assert!(self.get("message").contains(part), "{part:?} is not in: {}", self.line);
    }

    /// Started by libvirt as it starts every guest: as its own user, with no capability to which the limit would not apply.
    #[track_caller]
    fn assert_started(&self) {
        self.assert_value("status", "0");
        self.assert_value("uid", LIBVIRT_QEMU);
        self.assert_value("capeff", "0000000000000000");
        self.assert_clean();
    }

    /// No guard runs any more, and no state is left of a guest that is gone.
    #[track_caller]
    fn assert_clean(&self) {
        self.assert_value("guards", "0");
        self.assert_value("files", "0");
    }

    #[track_caller]
    fn assert_limit(&self, bytes: u64) {
        self.assert_value("limit", &bytes.to_string());
    }

    /// RAM is locked so many times: once less the 256 KiB below 1 MiB that a PC does not map, or nothing.
    #[track_caller]
    fn assert_locked(&self, times: u64, ram: u64) {
        let (locked, most) = (self.number("vmlck_kb") * 1024, times * ram);
        assert!((most - times * MIB..=most).contains(&locked), "not {times} x {ram} bytes locked: {}", self.line);
    }
}

// ---- hosts

impl Suite {
    /// Runs `scenarios/NAME.sh`, which took so many seconds here; none where there is no lab.
    ///
    /// A run that went over its limit or lost its L1 is tried once more on a fresh one, for the machine may have been busy; a wrong result is not.
    fn run(&self, scenario: &str, measured_seconds: u64) -> Option<Results> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        for last in [false, true] {
            let instance = match self.up(&mut host) {
                Ok(instance) => instance?,
                Err(why) => panic!("no L1 of {}: {why}", self.name),
            };
            let run = lab_command("run.sh", &[instance, &format!("bash /lab/scenarios/{scenario}.sh")])
                .env("LIMIT", (4 * measured_seconds).to_string())
                .output();
            let run = Ran::from(run);
            match run.status {
                Some(124 | 125) if !last => {
                    say(&format!(
                        "{}: {scenario} did not come to an end, trying once more:\n{}",
                        self.name, run.output
                    ));
                    *host = Host::Unbooted;
                }
                Some(0) => return Some(Results::parse(&run.output)),
                status => panic!("{}: {scenario} ended with {status:?}:\n{}", self.name, run.output),
            }
        }
        unreachable!("the second try returns or panics")
    }

    /// The name of the L1 that runs, booted if need be; none where there can be no lab.
    fn up<'a>(&self, host: &'a mut Host) -> Result<Option<&'a str>, String> {
        if matches!(host, Host::Unbooted) {
            *host = match missing() {
                Some(why) if env::var_os("VIOMMU_REQUIRE_LAB").is_some_and(|value| value == "1") => Host::Broken(why),
                Some(why) => {
                    say(&format!("SKIPPED: every nested test on {}: {why}", self.name));
                    Host::Skipped
                }
                None => match self.boot().or_else(|why| {
                    say(&format!("{}: L1 did not boot, trying once more: {why}", self.name));
                    self.boot()
                }) {
                    Ok(instance) => Host::Up(instance),
                    Err(why) => Host::Broken(why),
                },
            };
        }
        match host {
            Host::Up(instance) => Ok(Some(instance)),
            Host::Broken(why) => Err(why.clone()),
            Host::Skipped | Host::Unbooted => Ok(None),
        }
    }

    /// Builds what is missing, boots, prepares, and checks that L1 is what the scenarios take it for.
    fn boot(&self) -> Result<String, String> {
        // Building needs the network and may take minutes: it has no limit, and its failure is not one of the boot.
        let build = Ran::from(lab_command("image.sh", &[self.name]).output());
        if build.status != Some(0) {
            return Err(build.output);
        }
        let owner = std::process::id().to_string();
        let instance = format!("test-{}-{owner}", self.name);
        let boot = lab_command("boot.sh", &[self.name, &instance])
            .env("VIOMMU_BIN", env!("CARGO_BIN_EXE_viommu"))
            .env("OWNER", owner)
            .env("BOOT_LIMIT", BOOT_SECONDS.to_string())
            .output();
        let boot = Ran::from(boot);
        if boot.status != Some(0) {
            return Err(boot.output);
        }
        let prepare = lab_command("run.sh", &[&instance, "bash /lab/prepare.sh"])
            .env("LIMIT", PREPARE_SECONDS.to_string())
            .output();
        let prepare = Ran::from(prepare);
        let found = Results::parse(&prepare.output);
        let Some(values) = found.by_name.get("prepare").filter(|_| prepare.status == Some(0)) else {
            return Err(prepare.output);
        };
        let as_expected = values.get("libvirt").starts_with(self.libvirt)
            && values.get("qemu").starts_with(self.qemu)
            && values.get("iommu_groups") == "4";
        if as_expected { Ok(instance) } else { Err(format!("not the L1 that was expected: {}", values.line)) }
    }
}

/// What a script of the lab said, both streams, and its exit status.
struct Ran {
    status: Option<i32>,
    output: String,
}

impl From<std::io::Result<Output>> for Ran {
    fn from(result: std::io::Result<Output>) -> Self {
        match result {
            Ok(output) => Self {
                status: output.status.code(),
                output: format!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                ),
            },
            Err(error) => Self { status: None, output: error.to_string() },
        }
    }
}

fn lab_command(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/nested").join(script));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Why there can be no lab on this machine.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can build and chroot into a Debian root".to_owned());
    }
    let runs =
        |program: &str, argument: &str| Command::new(program).arg(argument).output().is_ok_and(|o| o.status.success());
    if !runs("mmdebstrap", "--version") {
        return Some("mmdebstrap is not installed".to_owned());
    }
    let namespace = Command::new("unshare").args(["--mount", "true"]).output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        return Some("this root may not make a mount namespace".to_owned());
    }
    None
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
