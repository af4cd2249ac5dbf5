//! Real libvirt and real QEMU of two Debian suites, kept apart from this machine's own by `tests/lab/libvirtd.sh`.
//!
//! One libvirtd per suite serves a whole test program ([`shared`]). Its host has no KVM, so guests are `type='qemu'`. It
//! has IOMMU groups and VFIO in name only: a domain with a PCI host device can be defined, not run.

#![expect(clippy::disallowed_methods, reason = "tests have effects")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here fails the test"
)]

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a script may take; the slowest one, a few thousand definitions, takes less than a minute.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a lab may take to start, with the Debian root still to be made.
const START_TIMEOUT: Duration = Duration::from_secs(900);

/// A Debian release, for the libvirt and QEMU in it.
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
}

impl Suite {
    /// Those that every run of the tests asks.
    pub(crate) const ALL: [Suite; 2] = [Suite::Bookworm, Suite::Trixie];
    /// The oldest and the newest, which are asked by a command of their own.
    pub(crate) const OTHERS: [Suite; 2] = [Suite::Bullseye, Suite::Sid];

    /// The name that Debian gives it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Suite::Bullseye => "bullseye",
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
            Suite::Sid => "sid",
        }
    }

    /// What `virsh version --daemon` calls the library.
    pub(crate) fn libvirt(self) -> &'static str {
        match self {
            Suite::Bullseye => "7.0.0",
            Suite::Bookworm => "9.0.0",
            Suite::Trixie => "11.3.0",
            Suite::Sid => "12.8.0",
        }
    }

    /// The version of QEMU, without the number of Debian's latest fix.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Suite::Bullseye => "5.2",
            Suite::Bookworm => "7.2",
            Suite::Trixie => "10.0",
            Suite::Sid => "11.1",
        }
    }
}

/// What a script in the lab left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// The exit status as bash counts it.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The standard output of a script that must not fail.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "failed, stdout {:?}, stderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A running libvirtd of a suite.
pub(crate) struct Libvirt {
    /// Seen as `/share` inside.
    share: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    /// How many scripts it was given.
    count: Cell<u32>,
}

/// The libvirtd of this suite that all tests of this program share, for one test at a time.
///
/// Where the lab cannot be had (not root, no mmdebstrap), says so and gives nothing, and the test should pass; with
/// `VIOMMU_REQUIRE_LAB=1` in the environment it panics instead.
#[track_caller]
pub(crate) fn shared(suite: Suite) -> Option<MutexGuard<'static, Libvirt>> {
    static LABS: [OnceLock<Result<Mutex<Libvirt>, String>>; 4] = [const { OnceLock::new() }; 4];
    match LABS[suite as usize].get_or_init(|| Libvirt::start(suite).map(Mutex::new)) {
        // A test that panicked has taken its guests with it (see Guest), so the next one may go on.
        Ok(libvirt) => Some(libvirt.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(reason) => {
            let required = std::env::var_os("VIOMMU_REQUIRE_LAB").is_some_and(|value| value == "1");
            assert!(!required, "VIOMMU_REQUIRE_LAB is set, but: {reason}");
            // Not eprintln!, which the test harness keeps for itself when a test passes.
            let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
            None
        }
    }
}

impl Libvirt {
    /// Starts a libvirtd of its own; [`shared`] is usually what a test wants.
    ///
    /// # Errors
    /// Why it could not be started, as `libvirtd.sh` says it.
    pub(crate) fn start(suite: Suite) -> Result<Libvirt, String> {
        let share = new_share(suite);
        fs::copy(env!("CARGO_BIN_EXE_viommu"), share.join("viommu")).unwrap();
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
                let last = log.trim().lines().last().unwrap_or("it says nothing");
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
        assert_eq!(output.status, 0, "still not true: {script}");
    }

    /// Runs virsh with these arguments.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        let quoted: Vec<String> = arguments.iter().map(|argument| quote(argument)).collect();
        self.run(&format!("virsh -q {}", quoted.join(" ")))
    }

    /// Writes an executable file inside, in place of what is there, be it a link.
    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.share.join("put"), bytes).unwrap();
        // Not through the name itself, which may be a link to the binary under test.
        let path = quote(path);
        self.run(&format!(
            "mkdir -p \"$(dirname {path})\" && install -m 755 /share/put {path}.new && mv -fT {path}.new {path}"
        ))
        .ok();
    }

    /// Puts a file in place for as long as the value lives.
    pub(crate) fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> File<'_> {
        self.put(path, bytes);
        File { libvirt: self, path: path.to_owned() }
    }

    /// Makes the binary under test libvirt's hook, as it is at the start.
    pub(crate) fn hook_is_viommu(&self) {
        self.run(HOOK_IS_VIOMMU).ok();
    }

    /// Takes libvirt's hook away for as long as the value lives.
    pub(crate) fn without_hook(&self) -> HookRemoved<'_> {
        self.run(&format!("rm -f /etc/libvirt/hooks/qemu; {RELOAD}")).ok();
        HookRemoved { libvirt: self }
    }

    /// What a file inside holds.
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

    /// Whether `virsh define` takes the domain, which is undefined again.
    ///
    /// # Errors
    /// What libvirt says.
    pub(crate) fn define(&self, xml: &str) -> Result<(), String> {
        self.define_many(&[xml]).remove(0)
    }

    /// [`Libvirt::define`] for many domains, in milliseconds each. Names and UUIDs may repeat.
    pub(crate) fn define_many(&self, domains: &[impl AsRef<str>]) -> Vec<Result<(), String>> {
        // One virsh for all of them: starting and connecting one takes longer than most definitions.
        let directory = self.share.join("define");
        fs::create_dir_all(&directory).unwrap();
        let mut commands = String::new();
        for (index, xml) in domains.iter().enumerate() {
            fs::write(directory.join(index.to_string()), xml.as_ref()).unwrap();
            let name = quote(&domain_name(xml.as_ref()));
            writeln!(commands, "define /share/define/{index}\n{UNDEFINE} {name}").unwrap();
        }
        fs::write(directory.join("commands"), commands).unwrap();
        let output = self.run("virsh </share/define/commands");
        fs::remove_dir_all(&directory).unwrap();
        verdicts(domains.len(), &output)
    }

    /// The command line with which libvirt would start the domain, from the emulator on. Nothing is defined or started.
    ///
    /// libvirt 9.0 wants `<driver name='vfio'/>` in every PCI host device here.
    ///
    /// # Errors
    /// What libvirt says.
    pub(crate) fn domxml_to_native(&self, xml: &str) -> Result<Vec<String>, String> {
        fs::write(self.share.join("native.xml"), xml).unwrap();
        self.domxml_to_native_many(&[xml]).remove(0)
    }

    /// [`Libvirt::domxml_to_native`] for many domains, in milliseconds each.
    pub(crate) fn domxml_to_native_many(&self, domains: &[impl AsRef<str>]) -> Vec<Result<Vec<String>, String>> {
        let lines = self.batch(domains, |_, path| format!("domxml-to-native qemu-argv --xml {path}"));
        // libvirt quotes the words for a shell, so a shell takes them apart. The environment comes first.
        let directory = self.share.join("lines");
        fs::create_dir_all(&directory).unwrap();
        for (index, line) in lines.iter().enumerate() {
            fs::write(directory.join(index.to_string()), line.as_deref().unwrap_or_default()).unwrap();
        }
        let words = self.run(&format!(
            "for ((line = 0; line < {}; line++)); do
                eval \"set -- $(<\"/share/lines/$line\")\"
                while [[ ${{1-}} == [A-Z]*=* ]]; do shift; done
                printf '%s\\0' $# \"$@\"
            done",
            lines.len()
        ));
        fs::remove_dir_all(&directory).unwrap();
        let words = words.ok();
        let mut words = words.split_terminator('\0').map(str::to_owned);
        let mut own = || {
            let count = words.next().unwrap().parse().unwrap();
            words.by_ref().take(count).collect()
        };
        lines.into_iter().map(|line| (line, own())).map(|(line, words)| line.map(|_| words)).collect()
    }

    /// The domains as libvirt would write them down: with the address of every device, and all that it adds by itself.
    ///
    /// # Errors
    /// What libvirt says.
    pub(crate) fn settled_many(&self, domains: &[impl AsRef<str>]) -> Vec<Result<String, String>> {
        self.batch(domains, |xml, path| {
            let name = quote(&domain_name(xml));
            format!("define {path}\ndumpxml --inactive {name}\n{UNDEFINE} {name}")
        })
    }

    /// What virsh prints for the commands of each domain, or its first complaint.
    fn batch(
        &self,
        domains: &[impl AsRef<str>],
        commands: impl Fn(&str, &str) -> String,
    ) -> Vec<Result<String, String>> {
        const CRASHED: &str = "libvirtd crashes";
        let directory = self.share.join("batch");
        fs::create_dir_all(&directory).unwrap();
        let mut all = Vec::new();
        for (index, xml) in domains.iter().enumerate() {
            fs::write(directory.join(index.to_string()), xml.as_ref()).unwrap();
            let commands = commands(xml.as_ref(), &format!("/share/batch/{index}"));
            all.push(format!("{MARK}\n{commands}\n"));
        }
        // One virsh for all of them: starting and connecting one takes longer than most answers.
        let mut answers = Vec::new();
        while answers.len() < domains.len() {
            fs::write(directory.join("commands"), all[answers.len()..].concat()).unwrap();
            let output = self.run("virsh -q </share/batch/commands");
            let lost =
                |answer: &Result<String, String>| answer.as_ref().is_err_and(|error| error.contains(DISCONNECTED));
            let new = answers_of(&output);
            assert_eq!(new.len(), domains.len() - answers.len(), "{}", output.stderr);
            let good = new.iter().position(lost).unwrap_or(new.len());
            answers.extend(new.into_iter().take(good));
            if answers.len() < domains.len() {
                answers.push(Err(CRASHED.to_owned()));
                self.run("source /run/lab.sh; stop_libvirtd; start_libvirtd").ok();
            }
        }
        fs::remove_dir_all(&directory).unwrap();
        answers
    }

    /// Ends libvirtd and starts it again. Guests stay.
    pub(crate) fn restart_libvirtd(&self) {
        self.run("source /run/lab.sh; stop_libvirtd && start_libvirtd").ok();
    }

    /// The events for which libvirt called the hooks since the last question, each "DOMAIN OPERATION SUBOPERATION EXTRA".
    /// The XML that came with an event is in `/run/hooks/DOMAIN.OPERATION.xml`. An event whose first hook failed is missing.
    pub(crate) fn hook_log(&self) -> Vec<String> {
        let log = self.run("cat /run/hooks.log 2>/dev/null; rm -f /run/hooks.log").ok();
        log.lines().map(str::to_owned).collect()
    }

    /// What was sent to syslog since the last question.
    pub(crate) fn syslog(&self) -> String {
        self.run("cat /run/syslog; : >/run/syslog").ok()
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // The script ends with its input, and everything inside ends with the script.
        self.stdin = None;
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.share);
    }
}

/// A domain that is defined, for as long as this value lives.
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
        // It may run or not, and may have been undefined; in a test that panics nothing must panic again.
        let _ = self.libvirt.try_run(&format!("virsh -q destroy {name}; virsh -q {UNDEFINE} {name}"));
    }
}

/// A file inside that one test puts there, so that the next one does not find it.
pub(crate) struct File<'a> {
    libvirt: &'a Libvirt,
    path: String,
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        let _ = self.libvirt.try_run(&format!("rm -f {}", quote(&self.path)));
    }
}

/// While it lives, libvirt has no hook but the recording one.
pub(crate) struct HookRemoved<'a> {
    libvirt: &'a Libvirt,
}

impl Drop for HookRemoved<'_> {
    fn drop(&mut self) {
        let _ = self.libvirt.try_run(&format!("{HOOK_IS_VIOMMU}; {RELOAD}"));
    }
}

const HOOK_IS_VIOMMU: &str = "ln -sfT /usr/bin/viommu /etc/libvirt/hooks/qemu";

/// Makes libvirtd look for hooks again.
const RELOAD: &str = "kill -HUP \"$(cat /run/lab-libvirtd.pid)\"; virsh -q uri >/dev/null";

/// With everything that would keep libvirt from undefining a domain.
const UNDEFINE: &str = "undefine --nvram --managed-save --snapshots-metadata --checkpoints-metadata";

/// Which domains of a batch were defined, from what virsh printed.
fn verdicts(count: usize, output: &Output) -> Vec<Result<(), String>> {
    let mut verdicts: Vec<Option<Result<(), String>>> = vec![None; count];
    let index = |path: &str| path.strip_prefix("/share/define/").and_then(|index| index.parse::<usize>().ok()).unwrap();
    // A domain's name can hold anything but a line feed, the path only what was written above.
    for line in output.stdout.lines() {
        if let Some((_, path)) = line.rsplit_once(" defined from ") {
            verdicts[index(path)] = Some(Ok(()));
        }
    }
    let mut failed = None;
    for line in output.stderr.lines() {
        if let Some(path) = line.strip_prefix("error: Failed to define domain from ") {
            let verdict = &mut verdicts[index(path)];
            assert_eq!(*verdict, None, "virsh says both: {output:?}");
            failed = Some(verdict.insert(Err(String::new())));
        } else if line.starts_with("error: failed to get domain ") {
            // Of the undefine that follows a define that failed; its second line says the same again.
            failed = None;
        } else if line.starts_with("error: Failed to undefine domain ") {
            panic!("{line}: {}", output.stderr);
        } else if let Some(Err(message)) = &mut failed {
            let separator = if message.is_empty() { "" } else { "\n" };
            message.extend([separator, line.trim_start_matches("error: ")]);
        }
    }
    let complete: Option<Vec<_>> = verdicts.into_iter().collect();
    complete.unwrap_or_else(|| panic!("virsh says nothing about some of the domains: {output:?}"))
}

/// Tells the answers of a batch apart, on both streams.
const MARK: &str = "echo --err ====";

/// What virsh says when libvirtd has gone away under it.
const DISCONNECTED: &str = "Disconnected from ";

/// What virsh printed behind each mark, or its first complaint.
fn answers_of(output: &Output) -> Vec<Result<String, String>> {
    // virsh repeats each command behind its prompt.
    let prompt = format!("virsh # {MARK}\n");
    let printed = output.stdout.split(&prompt).skip(1);
    let complaints = output.stderr.split("error: ====\n").skip(1);
    let own = |text: &str| {
        let text = text.strip_suffix("virsh # \n").unwrap_or(text);
        text.split_inclusive('\n').filter(|line| !line.starts_with("virsh # ")).collect()
    };
    let answer = |(printed, complaint): (&str, &str)| {
        let mut errors = complaint.lines().filter_map(|line| line.strip_prefix("error: "));
        match errors.next() {
            None => Ok(own(printed)),
            // Only the second line says why.
            Some(first) if first.starts_with("Failed to define domain") => {
                Err(errors.next().unwrap_or(first).to_owned())
            }
            Some(first) => Err(first.to_owned()),
        }
    };
    printed.zip(complaints).map(answer).collect()
}

/// A word as bash and virsh read it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The name of a domain; good enough for what tests define.
fn domain_name(xml: &str) -> String {
    let name =
        xml.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>")).map_or("unnamed", |(name, _)| name);
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .into_iter()
        .fold(name.to_owned(), |name, (entity, character)| name.replace(entity, character))
}

/// An empty directory for an instance, after sweeping away those of test programs that are gone.
fn new_share(suite: Suite) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt");
    fs::create_dir_all(&parent).unwrap();
    for entry in fs::read_dir(&parent).unwrap().map_while(Result::ok) {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.rsplit_once('-')).map_or("", |(_, process)| process);
        if !Path::new("/proc").join(process).exists() {
            // Another test program may sweep at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let share = parent.join(format!("{}-{}-{number}-{}", env!("CARGO_CRATE_NAME"), suite.name(), std::process::id()));
    let _ = fs::remove_dir_all(&share);
    fs::create_dir(&share).unwrap();
    share
}
