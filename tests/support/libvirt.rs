//! Real libvirt and real QEMU of two Debian suites, isolated from the machine's own by `tests/lab/libvirtd.sh`.
//!
//! One libvirtd per suite serves a whole test program ([`shared`]). Its host has no KVM, so guests are `type='qemu'`.
//! Its IOMMU groups and VFIO are placeholders: a domain with a PCI host device can be defined, but cannot start.

#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic fails the test"
)]

mod batch;

use std::cell::Cell;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use viommu::version::{NEWEST_LIBVIRT, NEWEST_QEMU, Version};

/// The time limit of a script; the slowest one, a few thousand definitions, takes less than a minute.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);
/// The time limit of a lab's start, which includes the installation of a missing Debian root.
const START_TIMEOUT: Duration = Duration::from_secs(900);

/// A Debian release with its libvirt and QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// Debian 11.
    Bullseye,
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian unstable.
    Sid,
    /// Debian 13 with libvirt and QEMU of its backports.
    Backports,
}

impl Suite {
    /// The suites of every test run.
    pub(crate) const ALL: [Suite; 2] = [Suite::Bookworm, Suite::Trixie];
    /// The oldest and the newest suites, for which there is a separate command.
    pub(crate) const OTHERS: [Suite; 3] = [Suite::Bullseye, Suite::Sid, Suite::Backports];

    /// Debian's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Suite::Bullseye => "bullseye",
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
            Suite::Sid => "sid",
            Suite::Backports => "backports",
        }
    }

    /// The version of the library in the output of `virsh version --daemon`.
    pub(crate) fn libvirt(self) -> &'static str {
        match self {
            Suite::Bullseye => "7.0.0",
            Suite::Bookworm => "9.0.0",
            Suite::Trixie => "11.3.0",
            Suite::Sid => "12.8.0",
            Suite::Backports => "12.9.0",
        }
    }

    /// The version of QEMU, without the number of Debian's latest fix.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Suite::Bullseye => "5.2",
            Suite::Bookworm => "7.2",
            Suite::Trixie => "10.0",
            Suite::Sid | Suite::Backports => "11.1",
        }
    }
}

impl Suite {
    /// Its root directory, if it is installed.
    pub(crate) fn root(self) -> Option<PathBuf> {
        let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| PathBuf::from("target/lab"), PathBuf::from);
        Some(lab.join("roots").join(self.name())).filter(|root| root.join(".complete").exists())
    }

    /// The version of a package in its root.
    pub(crate) fn version(self, package: &str) -> Option<String> {
        let status = fs::read_to_string(self.root()?.join("var/lib/dpkg/status")).ok()?;
        let stanza = status.split("\n\n").find(|stanza| stanza.starts_with(&format!("Package: {package}\n")))?;
        let version = stanza.lines().find_map(|line| line.strip_prefix("Version: "))?;
        let version = version.split_once(':').map_or(version, |(_epoch, version)| version);
        Some(version.split(['-', '+', '~']).next()?.to_owned())
    }

    /// Panics if a version differs from the one of this suite. If Debian has a version that viommu does not support
    /// yet, it prints the differences.
    #[track_caller]
    pub(crate) fn judge(self, differences: &[String]) {
        let newest = [("libvirt0", NEWEST_LIBVIRT), ("qemu-system-x86", NEWEST_QEMU)];
        let supported = newest.into_iter().all(|(package, newest)| {
            let version: Option<Version> = self.version(package).and_then(|version| version.parse().ok());
            version.is_some_and(|version| (version.major, version.minor) <= (newest.major, newest.minor))
        });
        for difference in differences {
            let _ = writeln!(io::stdout(), "DIFFERS on {}: {difference}", self.name());
        }
        assert!(!supported || differences.is_empty(), "{}:\n{}", self.name(), differences.join("\n"));
    }
}

/// The result of a script in the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// The exit status in bash's form.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The stdout of a script that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "failed, stdout {:?}, stderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A running libvirtd of a suite.
pub(crate) struct Libvirt {
    /// The directory `/share` of the lab.
    pub(crate) share: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    /// Number of scripts so far.
    count: Cell<u32>,
}

/// The libvirtd of this suite that all tests of this program share, for one test at a time.
///
/// Without root or mmdebstrap it prints SKIPPED and returns `None`, and the test should pass; with
/// `VIOMMU_REQUIRE_LAB=1` in the environment it panics instead.
#[track_caller]
pub(crate) fn shared(suite: Suite) -> Option<MutexGuard<'static, Libvirt>> {
    static LABS: [OnceLock<Result<Mutex<Libvirt>, String>>; 5] = [const { OnceLock::new() }; 5];
    match LABS[suite as usize].get_or_init(|| Libvirt::start(suite).map(Mutex::new)) {
        // A test that panicked has removed its guests (see Guest), so the next test may continue.
        Ok(libvirt) => Some(libvirt.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(reason) => skip(reason),
    }
}

/// A separate libvirtd for one test, on a host without viommu; otherwise like [`shared`].
#[track_caller]
pub(crate) fn bare(suite: Suite) -> Option<Libvirt> {
    Libvirt::start_in(new_share(suite), suite).map_or_else(|reason| skip(&reason), Some)
}

/// Prints why a test is skipped; panics if a skip is not allowed.
#[track_caller]
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    let required = std::env::var_os("VIOMMU_REQUIRE_LAB").is_some_and(|value| value == "1");
    assert!(!required, "VIOMMU_REQUIRE_LAB is set, but: {reason}");
    // Not eprintln!, whose output the test harness hides for a passing test.
    let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
    None
}

impl Libvirt {
    /// Starts a separate libvirtd; most tests use [`shared`].
    ///
    /// # Errors
    ///
    /// The error of `libvirtd.sh`.
    pub(crate) fn start(suite: Suite) -> Result<Libvirt, String> {
        let share = new_share(suite);
        fs::copy(env!("CARGO_BIN_EXE_viommu"), share.join("viommu")).unwrap();
        Libvirt::start_in(share, suite)
    }

    fn start_in(share: PathBuf, suite: Suite) -> Result<Libvirt, String> {
        let log = fs::File::create(share.join("lab.log")).unwrap();
        let mut child = Command::new("bash")
            .arg("tests/lab/libvirtd.sh")
            .args([suite.name().as_ref(), share.as_os_str()])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("bash cannot be started: {error}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let libvirt = Libvirt { share, child, stdin, answers, count: Cell::new(0) };
        match libvirt.answers.recv_timeout(START_TIMEOUT).as_deref() {
            Ok("ready") => Ok(libvirt),
            other => {
                let log = fs::read_to_string(libvirt.share.join("lab.log")).unwrap();
                let last = log.trim().lines().last().unwrap_or("no message");
                Err(format!("no libvirt of {}: {last} ({other:?})", suite.name()))
            }
        }
    }

    /// Runs a bash script inside, as root.
    pub(crate) fn run(&self, script: &str) -> Output {
        self.try_run(script).unwrap_or_else(|error| panic!("{error}, running:\n{script}"))
    }

    fn try_run(&self, script: &str) -> Result<Output, String> {
        let number = self.count.get() + 1;
        self.count.set(number);
        let directory = self.share.join(number.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("script"), script).unwrap();
        let mut stdin = self.stdin.as_ref().expect("only taken when dropped");
        writeln!(stdin, "{number}").map_err(|error| format!("the lab is gone: {error}"))?;
        let answer = self.answers.recv_timeout(SCRIPT_TIMEOUT).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {SCRIPT_TIMEOUT:?}"),
            RecvTimeoutError::Disconnected => "the lab is gone".to_owned(),
        })?;
        let status = answer.strip_prefix(&format!("{number} ")).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("{answer:?} is not the answer to script {number}"))?;
        let text = |name| String::from_utf8_lossy(&fs::read(directory.join(name)).unwrap()).into_owned();
        let output = Output { status, stdout: text("stdout"), stderr: text("stderr") };
        fs::remove_dir_all(&directory).unwrap();
        Ok(output)
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub(crate) fn wait_for(&self, script: &str) {
        let output = self.run(&format!("for try in {{1..200}}; do ( {script} ) && exit; sleep 0.1; done; exit 1"));
        assert_eq!(output.status, 0, "not true in time: {script}");
    }

    /// Runs virsh with these arguments.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        let quoted: Vec<String> = arguments.iter().map(|argument| quote(argument)).collect();
        self.run(&format!("virsh -q {}", quoted.join(" ")))
    }

    /// Writes an executable file in the lab, and replaces an existing file or link.
    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.share.join("put"), bytes).unwrap();
        // Not through the old name, which may be a link to the binary under test.
        let path = quote(path);
        self.run(&format!(
            "mkdir -p \"$(dirname {path})\" && install -m 755 /share/put {path}.new && mv -fT {path}.new {path}"
        ))
        .ok();
    }

    /// Writes a file that exists until the value is dropped.
    pub(crate) fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> File<'_> {
        self.put(path, bytes);
        File { libvirt: self, path: path.to_owned() }
    }

    /// Installs the binary under test as libvirt's hook, as at the start.
    pub(crate) fn hook_is_viommu(&self) {
        self.run(HOOK_IS_VIOMMU).ok();
    }

    /// Removes libvirt's hook until the value is dropped.
    pub(crate) fn without_hook(&self) -> HookRemoved<'_> {
        self.run(&format!("rm -f /etc/libvirt/hooks/qemu; {RELOAD}")).ok();
        HookRemoved { libvirt: self }
    }

    /// The content of a file in the lab.
    pub(crate) fn get(&self, path: &str) -> String {
        self.run(&format!("cat {}", quote(path))).ok()
    }

    /// Defines a domain for a test that starts it. It is destroyed and undefined when the value is dropped.
    #[track_caller]
    pub(crate) fn guest(&self, xml: &str) -> Guest<'_> {
        let guest = Guest { libvirt: self, name: domain_name(xml) };
        fs::write(self.share.join("guest.xml"), xml).unwrap();
        self.virsh(&["define", "/share/guest.xml"]).ok();
        guest
    }

    /// Restarts libvirtd. Guests keep running.
    pub(crate) fn restart_libvirtd(&self) {
        // On a busy machine a daemon sometimes ended at its start.
        self.run(
            "source /run/lab.sh; stop_libvirtd; start_libvirtd || { echo 'once more' >&2; sleep 1; start_libvirtd; }",
        )
        .ok();
    }

    /// The events for which libvirt called the hooks since the last call of this function, each "DOMAIN OPERATION
    /// SUBOPERATION EXTRA". The XML of an event is in `/run/hooks/DOMAIN.OPERATION.xml`. An event whose first hook
    /// failed is missing.
    pub(crate) fn hook_log(&self) -> Vec<String> {
        let log = self.run("cat /run/hooks.log 2>/dev/null; rm -f /run/hooks.log").ok();
        log.lines().map(str::to_owned).collect()
    }

    /// The syslog messages since the last call of this function.
    pub(crate) fn syslog(&self) -> String {
        self.run("cat /run/syslog; : >/run/syslog").ok()
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // The script ends with its stdin, and all processes of the lab end with the script.
        self.stdin = None;
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.share);
    }
}

/// A domain that stays defined until the value is dropped.
pub(crate) struct Guest<'a> {
    libvirt: &'a Libvirt,
    pub(crate) name: String,
}

impl Guest<'_> {
    /// `virsh COMMAND NAME ARGUMENTS`.
    pub(crate) fn virsh(&self, command: &str, arguments: &[&str]) -> Output {
        self.libvirt.virsh(&[&[command, &self.name], arguments].concat())
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let name = quote(&self.name);
        // The domain may run or not, and may be undefined already; a drop during a panic must not panic.
        let _ = self.libvirt.try_run(&format!("virsh -q destroy --domain {name}; virsh -q {UNDEFINE} {name}"));
    }
}

/// A file of one test in the lab, removed before the next test.
pub(crate) struct File<'a> {
    libvirt: &'a Libvirt,
    path: String,
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        let _ = self.libvirt.try_run(&format!("rm -f {}", quote(&self.path)));
    }
}

/// While the value lives, libvirt has no hook except the recording one.
pub(crate) struct HookRemoved<'a> {
    libvirt: &'a Libvirt,
}

impl Drop for HookRemoved<'_> {
    fn drop(&mut self) {
        let _ = self.libvirt.try_run(&format!("{HOOK_IS_VIOMMU}; {RELOAD}"));
    }
}

const HOOK_IS_VIOMMU: &str = "ln -sfT /usr/bin/viommu /etc/libvirt/hooks/qemu";

/// Makes libvirtd load the hooks again.
const RELOAD: &str = "kill -HUP \"$(cat /run/lab-libvirtd.pid)\"; virsh -q uri >/dev/null";

/// Removes everything that would keep libvirt from undefining a domain, for any name.
const UNDEFINE: &str = "undefine --nvram --managed-save --snapshots-metadata --checkpoints-metadata --domain";

/// Quotes a word for bash and virsh.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The name of a domain; sufficient for the tests' domains.
fn domain_name(xml: &str) -> String {
    let name =
        xml.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>")).map_or("unnamed", |(name, _)| name);
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .into_iter()
        .fold(name.to_owned(), |name, (entity, character)| name.replace(entity, character))
}

/// An empty directory for an instance. Removes the directories of test programs that have ended.
fn new_share(suite: Suite) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt");
    fs::create_dir_all(&parent).unwrap();
    for entry in fs::read_dir(&parent).unwrap().map_while(Result::ok) {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.rsplit_once('-')).map_or("", |(_, process)| process);
        if !Path::new("/proc").join(process).exists() {
            // Another test program may remove it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let share = parent.join(format!("{}-{}-{number}-{}", env!("CARGO_CRATE_NAME"), suite.name(), std::process::id()));
    let _ = fs::remove_dir_all(&share);
    fs::create_dir(&share).unwrap();
    share
}
