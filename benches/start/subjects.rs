//! What is measured: the floor, viommu in all its shapes, and what people use instead, as far as it is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use viommu::domain::Uuid;
use viommu::qemu::Edits;
use viommu::state::{DIRECTORY, State};
use viommu::sys::process::boot_clock;

use crate::sized::{UUID, asking, silent};

/// The floor of every comparison.
pub(crate) const FLOOR: &str = "a static C program that does nothing";
/// The event that costs most.
pub(crate) const PREPARE: &str = "hook, prepare begin, with a request";
/// An event at which nothing is done.
pub(crate) const RECONNECT: &str = "hook, reconnect begin";
pub(crate) const XMLSTARLET: &str = "a bash hook with xmlstarlet";
pub(crate) const LXML: &str = "a Python hook with lxml";

/// A program run in a certain way.
pub(crate) struct Subject {
    pub(crate) what: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    stdin: Option<PathBuf>,
}

impl Subject {
    pub(crate) fn run(&self) -> Duration {
        let stdin = self.stdin.as_ref().map_or_else(Stdio::null, |path| fs::File::open(path).unwrap().into());
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        command.status().unwrap();
        start.elapsed()
    }
}

/// Where the programs and their inputs stand; gone with its owner.
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
        for name in ["hooks/qemu", "viommu", "viommu-qemu-system-x86_64"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_viommu"), work.join(name)).unwrap();
        }
        fs::write(work.join("noop.c"), "int main(void) { return 0; }\n").unwrap();
        let noop = work.join("noop");
        succeed(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&noop).arg(work.join("noop.c")));
        fs::create_dir_all(DIRECTORY).unwrap();
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", DIRECTORY]));
        Workshop(work)
    }

    /// What the hook leaves for the wrapper, which takes none that is older than a quarter of an hour.
    fn write_state(&self) {
        let uuid: Uuid = UUID.parse().unwrap();
        let device = "intel-iommu,id=ua-viommu0,intremap=on,caching-mode=on,eim=on,aw-bits=48";
        let edits = Edits {
            machine: [("kernel_irqchip".to_owned(), "split".to_owned())].into(),
            devices: vec![device.to_owned()],
            ..Edits::default()
        };
        let state = State::new(uuid, boot_clock(), self.0.join("noop").display().to_string(), edits, None);
        fs::write(Path::new(DIRECTORY).join(format!("{UUID}.json")), state.to_json()).unwrap();
    }

    /// Everything that can be measured with a domain of this size, the floor first.
    pub(crate) fn subjects(&self, bytes: usize) -> Vec<Subject> {
        let file = |name: &str, text: String| {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let (asking, silent) = (file("asking.xml", asking(bytes)), file("silent.xml", silent(bytes)));
        let subject = |what, program: &Path, arguments: &[&str], stdin: &Option<PathBuf>| Subject {
            what,
            program: program.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            stdin: stdin.clone(),
        };
        self.write_state();
        let prepare = ["dpdk-gateway", "prepare", "begin", "-"];
        let root_port = ["-device", r#"{"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0"}"#];
        let guest = ["-name", "guest=bench", "-machine", "pc-q35-7.2,usb=off", "-uuid", UUID];
        let guest = [&guest[..], &root_port.repeat(30)].concat();
        let hook = self.0.join("hooks/qemu");
        let mut subjects = vec![
            subject(FLOOR, &self.0.join("noop"), &guest, &None),
            subject("the same behind the wrapper", &self.0.join("viommu-qemu-system-x86_64"), &guest, &None),
            subject(RECONNECT, &hook, &["dpdk-gateway", "reconnect", "begin", "-"], &asking),
            subject("hook, prepare begin, without a request", &hook, &prepare, &silent),
            subject(PREPARE, &hook, &prepare, &asking),
            subject("viommu rewrite", &self.0.join("viommu"), &["rewrite"], &asking),
        ];
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/hooks");
        let edit = ["--connect", "test:///default", "--edit", "--features", "ioapic.driver=qemu"];
        let rivals = [
            subject(XMLSTARLET, &hooks.join("xmlstarlet"), &prepare, &asking),
            subject(LXML, &hooks.join("lxml"), &prepare, &asking),
            subject("virt-xml --edit", Path::new("virt-xml"), &edit, &asking),
        ];
        subjects.extend(rivals.into_iter().filter(works));
        subjects
    }
}

/// Whether a rival does its work here: it prints a domain with an I/O APIC.
fn works(subject: &Subject) -> bool {
    let mut command = Command::new(&subject.program);
    command.args(&subject.arguments).stdin(fs::File::open(subject.stdin.as_ref().unwrap()).unwrap());
    let works = command.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("<ioapic"));
    if !works {
        println!("SKIPPED: {} does not work here", subject.what);
    }
    works
}

fn succeed(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
