//! The measured programs: the baseline, each use of viommu, and the installed alternatives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use viommu::domain::Uuid;
use viommu::qemu::Edits;
use viommu::state::GuestState;
use viommu::state::store::STATES;
use viommu::sys::process::boot_clock;

use crate::sized::{UUID, plain, requesting};

/// The baseline of each comparison.
pub(crate) const FLOOR: &str = "a static C program that does nothing";
/// The most expensive event.
pub(crate) const PREPARE: &str = "viommu: hook, prepare, with a request";
/// The same event for a guest without a request.
pub(crate) const NO_REQUEST: &str = "viommu: hook, prepare, without a request";
/// An event without any action.
pub(crate) const RECONNECT: &str = "viommu: hook, reconnect";
pub(crate) const WRAPPER: &str = "viommu: the C program behind the wrapper";
pub(crate) const REWRITE: &str = "viommu rewrite";
pub(crate) const XMLSTARLET: &str = "a bash hook with xmlstarlet";
pub(crate) const LXML: &str = "a Python hook with lxml";

const EVENT: [&str; 4] = ["dpdk-gateway", "prepare", "begin", "-"];

/// A program with its arguments.
pub(crate) struct Subject {
    pub(crate) what: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    stdin: PathBuf,
    /// The subject runs in every n-th round only.
    pub(crate) every: usize,
}

impl Subject {
    /// A program that gets a document on stdin.
    fn new(what: &'static str, program: impl Into<PathBuf>, arguments: &[&str], xml: &Path) -> Subject {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Subject { what, program: program.into(), arguments, stdin: xml.to_owned(), every: 1 }
    }

    pub(crate) fn run(&self) -> Duration {
        let stdin = fs::File::open(&self.stdin).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        command.status().unwrap();
        start.elapsed()
    }

    /// The program's stderr.
    pub(crate) fn words(&self) -> String {
        let stdin = fs::File::open(&self.stdin).unwrap();
        let output = Command::new(&self.program).args(&self.arguments).stdin(stdin).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// The directory of the programs and their inputs; `drop` removes it.
pub(crate) struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Workshop {
    pub(crate) fn open() -> Workshop {
        let work = std::env::temp_dir().join(format!("viommu-bench-{}", std::process::id()));
        fs::create_dir_all(work.join("hooks")).unwrap();
        // A fresh copy, like the C program: an older file's pages are scattered in memory, which costs about 10 %.
        fs::copy(env!("CARGO_BIN_EXE_viommu"), work.join("viommu")).unwrap();
        for name in ["hooks/qemu", "viommu-qemu-system-x86_64"] {
            fs::hard_link(work.join("viommu"), work.join(name)).unwrap();
        }
        fs::write(work.join("noop.c"), "int main(void) { return 0; }\n").unwrap();
        let noop = work.join("noop");
        succeed(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&noop).arg(work.join("noop.c")));
        fs::create_dir_all(STATES).unwrap();
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", STATES]));
        Workshop(work)
    }

    /// Writes the state file that the hook leaves for the wrapper. The wrapper rejects a state file older than 15
    /// minutes.
    fn write_state(&self) {
        let uuid: Uuid = UUID.parse().unwrap();
        let device = "intel-iommu,id=ua-viommu0,intremap=on,caching-mode=on,eim=on,aw-bits=48";
        let edits = Edits {
            machine: [("kernel_irqchip".to_owned(), "split".to_owned())].into(),
            devices: vec![device.to_owned()],
            ..Edits::default()
        };
        let state =
            GuestState::new(uuid, boot_clock().as_secs(), self.0.join("noop").display().to_string(), edits, None);
        fs::write(Path::new(STATES).join(format!("{UUID}.json")), state.to_json()).unwrap();
    }

    /// A path in the workshop.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn document(&self, text: &str) -> PathBuf {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let path = self.path(&format!("{}.xml", NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).unwrap();
        path
    }

    /// The hook at `prepare begin`.
    pub(crate) fn hook(&self, document: &str) -> Subject {
        Subject::new(PREPARE, self.path("hooks/qemu"), &EVENT, &self.document(document))
    }

    /// All subjects for a domain of this size; the baseline is the first.
    pub(crate) fn subjects(&self, bytes: usize) -> Vec<Subject> {
        self.write_state();
        let (nothing, requesting, plain) =
            (self.document(""), self.document(&requesting(bytes)), self.document(&plain(bytes)));
        let root_port = ["-device", r#"{"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0"}"#];
        let guest = ["-name", "guest=bench", "-machine", "pc-q35-7.2,usb=off", "-uuid", UUID];
        let guest = [&guest[..], &root_port.repeat(30)].concat();
        let hook = self.path("hooks/qemu");
        let mut subjects = vec![
            Subject::new(FLOOR, self.path("noop"), &guest, &nothing),
            Subject::new(WRAPPER, self.path("viommu-qemu-system-x86_64"), &guest, &nothing),
            Subject::new(RECONNECT, &hook, &["dpdk-gateway", "reconnect", "begin", "-"], &requesting),
            Subject::new(NO_REQUEST, &hook, &EVENT, &plain),
            Subject::new(PREPARE, &hook, &EVENT, &requesting),
            Subject::new(REWRITE, self.path("viommu"), &["rewrite"], &requesting),
        ];
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/hooks");
        let edit = ["--connect", "test:///default", "--edit", "--features", "ioapic.driver=qemu"];
        let rivals = [
            Subject::new(XMLSTARLET, hooks.join("xmlstarlet"), &EVENT, &requesting),
            Subject::new(LXML, hooks.join("lxml"), &EVENT, &requesting),
        ];
        subjects.extend(rivals.into_iter().filter(works));
        // This program is too slow for every round and for larger domains.
        let slow = Subject { every: 20, ..Subject::new("virt-xml --edit", "virt-xml", &edit, &requesting) };
        subjects.extend(Some(slow).filter(|slow| bytes <= 20_000 && works(slow)));
        subjects
    }
}

/// Whether an alternative works on this machine: it prints a domain with an I/O APIC.
fn works(subject: &Subject) -> bool {
    let mut command = Command::new(&subject.program);
    command.args(&subject.arguments).stdin(fs::File::open(&subject.stdin).unwrap());
    let works = command.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("<ioapic"));
    if !works {
        println!("SKIPPED: {} does not work here", subject.what);
    }
    works
}

fn succeed(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
