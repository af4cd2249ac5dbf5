//! Real QEMUs of two Debian suites on a host with an emulated VFIO: `fakevfio.c` says which parts are real, see also
//! `qemu.sh`.
//!
//! Each QEMU starts paused, gets commands, and quits at the end. The [`Outcome`] contains its VFIO calls.

#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crate::support::libvirt::Suite;

/// Mediated devices of the emulated host.
pub(crate) const MDEVS: [&str; 2] = ["c2177883-f1bb-47f0-914d-32a22e3a8804", "01b81dce-0f2c-4a55-a7a5-1d3d5e36b7ff"];
/// Two functions in one IOMMU group, like a graphics card and its sound device.
pub(crate) const GROUP_OF_TWO: [&str; 2] = ["0000:0a:00.0", "0000:0a:00.1"];

/// The emulated host, and the places of the QEMUs.
pub(crate) struct Fake {
    roots: PathBuf,
    preload: PathBuf,
    /// Its sysfs. Each of the functions 0000:01:00.0 to 0000:09:00.1 is in its own group.
    pub(crate) sysfs: PathBuf,
}

/// The result of a QEMU process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// It ran until the quit command.
    pub(crate) started: bool,
    /// Its stderr.
    pub(crate) stderr: String,
    /// Its answers to the commands.
    pub(crate) answers: String,
    /// The VFIO containers in the order in which QEMU opened them.
    pub(crate) containers: Vec<Container>,
    /// The maximum of mapped bytes in all containers together.
    pub(crate) peak: u64,
}

/// A VFIO container.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Container {
    /// By host address or mediated device's UUID.
    pub(crate) devices: BTreeSet<String>,
    /// IOMMU groups.
    pub(crate) groups: BTreeSet<u32>,
}

/// The host that all tests of this program share.
///
/// Without root, Debian roots or a C compiler it prints SKIPPED and returns `None`, and the test should pass; with
/// `VIOMMU_REQUIRE_LAB=1` in the environment it panics instead.
#[track_caller]
pub(crate) fn fake() -> Option<&'static Fake> {
    static FAKE: OnceLock<Result<Fake, String>> = OnceLock::new();
    match FAKE.get_or_init(Fake::new) {
        Ok(fake) => Some(fake),
        Err(reason) => {
            let required = std::env::var_os("VIOMMU_REQUIRE_LAB").is_some_and(|value| value == "1");
            assert!(!required, "VIOMMU_REQUIRE_LAB is set, but: {reason}");
            // Not eprintln!, whose output the test harness hides for a passing test.
            let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
            None
        }
    }
}

impl Fake {
    fn new() -> Result<Fake, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can start a QEMU of another root".to_owned());
        }
        let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| PathBuf::from("target/lab"), PathBuf::from);
        let roots = Path::new(env!("CARGO_MANIFEST_DIR")).join(lab).join("roots");
        for suite in Suite::ALL {
            let root = roots.join(suite.name());
            if !root.join(".complete").exists() {
                let (suite, root) = (suite.name(), root.display());
                return Err(format!("there is no {root}: make it with tests/lab/root.sh {suite} {root}"));
            }
        }
        let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fakevfio");
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(&own).unwrap();
        let preload = compile(&own)?;
        Ok(Fake { roots, preload, sysfs: sysfs(&own.join("sys")) })
    }

    /// Starts the suite's QEMU of this architecture. The settings are those of `fakevfio.c`, the commands those of QMP.
    pub(crate) fn run(
        &self,
        suite: Suite,
        arch: &str,
        arguments: &[OsString],
        settings: &[(&str, u64)],
        commands: &[&str],
    ) -> Outcome {
        self.talk(suite, arch, arguments, settings, |stdin, _| {
            for command in commands {
                tell(stdin, command);
            }
        })
    }

    /// Runs the guest until its firmware has placed the memory of every PCI device, or QEMU has ended.
    pub(crate) fn boot(&self, suite: Suite, arch: &str, arguments: &[OsString], settings: &[(&str, u64)]) -> Outcome {
        self.talk(suite, arch, arguments, settings, |stdin, answers| {
            tell(stdin, "cont");
            // Each answer is one line. An unset base address reads as all ones; the memory in question is prefetchable.
            let placed = |line: &String| {
                let mut bases = line.split("prefetchable memory at 0x").skip(1).peekable();
                bases.peek().is_some() && bases.all(|base| !base.starts_with("ffff"))
            };
            let ask = r#"{"execute":"human-monitor-command","arguments":{"command-line":"info pci"}}"#;
            for _ in 0..200 {
                if !tell(stdin, ask) {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
                if answers.lock().unwrap().last().is_some_and(placed) {
                    // The firmware writes the command register after the base addresses.
                    thread::sleep(Duration::from_secs(2));
                    break;
                }
            }
        })
    }

    fn talk(
        &self,
        suite: Suite,
        arch: &str,
        arguments: &[OsString],
        settings: &[(&str, u64)],
        conversation: impl FnOnce(&mut ChildStdin, &Mutex<Vec<String>>),
    ) -> Outcome {
        let mut child = Command::new("bash")
            .arg("tests/lab/fakevfio/qemu.sh")
            .args([&self.roots.join(suite.name()), &self.sysfs, &self.preload])
            .arg(format!("qemu-system-{arch}"))
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(settings.iter().map(|(name, value)| (name, value.to_string())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let answers = Mutex::new(Vec::new());
        let output = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                stdout.lines().map_while(Result::ok).for_each(|line| answers.lock().unwrap().push(line));
            });
            tell(&mut stdin, "qmp_capabilities");
            conversation(&mut stdin, &answers);
            tell(&mut stdin, "quit");
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            reader.join().unwrap();
            output
        });
        let stderr = String::from_utf8_lossy(&output.stderr);
        let (log, messages): (Vec<_>, Vec<_>) = stderr.lines().partition(|line| line.starts_with(LOG));
        let mut outcome = Outcome {
            started: output.status.success(),
            stderr: messages.join("\n"),
            answers: answers.into_inner().unwrap().join("\n"),
            containers: Vec::new(),
            peak: 0,
        };
        for line in log {
            outcome.enter(&line[LOG.len()..].split(' ').collect::<Vec<_>>());
        }
        outcome
    }
}

/// Whether QEMU accepts the command. A QEMU that refuses its command line may have ended.
fn tell(stdin: &mut ChildStdin, command: &str) -> bool {
    let command = if command.starts_with('{') { command.to_owned() } else { format!(r#"{{"execute":"{command}"}}"#) };
    writeln!(stdin, "{command}").is_ok()
}

/// The prefix of lines of `fakevfio.c`.
const LOG: &str = "fakevfio: ";

impl Outcome {
    fn enter(&mut self, words: &[&str]) {
        match words {
            ["peak", bytes] => self.peak = bytes.parse().unwrap(),
            // Their numbers begin at 1.
            ["container", _] => self.containers.push(Container::default()),
            ["container", number, kind, name] => {
                let container = &mut self.containers[number.parse::<usize>().unwrap() - 1];
                match *kind {
                    "group" => container.groups.insert(name.parse().unwrap()),
                    _ => container.devices.insert((*name).to_owned()),
                };
            }
            _ => unreachable!("{words:?}"),
        }
    }
}

fn compile(directory: &Path) -> Result<PathBuf, String> {
    let library = directory.join("fakevfio.so");
    let output = Command::new("gcc")
        .args(["-std=gnu11", "-O2", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/fakevfio/fakevfio.c"))
        .output()
        .map_err(|error| format!("gcc cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(library);
    }
    Err(format!("fakevfio.c cannot be compiled: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Creates the sysfs of the emulated host.
fn sysfs(sysfs: &Path) -> PathBuf {
    let device = |bus: &str, name: &str, group: u32| {
        let device = sysfs.join("bus").join(bus).join("devices").join(name);
        fs::create_dir_all(&device).unwrap();
        symlink(format!("../../../../kernel/iommu_groups/{group}"), device.join("iommu_group")).unwrap();
        device
    };
    for bus in 1..=9 {
        for function in 0..=1 {
            device("pci", &format!("0000:{bus:02x}:00.{function}"), 10 * bus + function);
        }
    }
    for name in GROUP_OF_TWO {
        device("pci", name, 100);
    }
    for (name, group) in MDEVS.into_iter().zip(201..) {
        symlink("/sys/bus/mdev", device("mdev", name, group).join("subsystem")).unwrap();
    }
    sysfs.to_owned()
}
