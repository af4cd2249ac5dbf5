//! A host in a directory: all files that `viommu doctor --root` reads, for tests that break one of them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, process};

use serde_json::Value;

use crate::program::{Ran, VIOMMU, feed};
use crate::sandbox::{ID, stand_in};

pub(crate) const HOOK: &str = "etc/libvirt/hooks/qemu";
pub(crate) const RULES: &str = "etc/apparmor.d/abstractions/libvirt-qemu.d/viommu";
/// The running guest, which uses the wrapper.
pub(crate) const UUID: &str = "3a21c2ee-5ece-4225-baa4-9a11258f601e";
const DAY: u64 = 24 * 60 * 60;

/// A host.
pub(crate) struct Host {
    root: PathBuf,
    /// Holds the lock of the daemon's pidfile, so that this process is the daemon.
    _pidfile: File,
    /// The running guest's process.
    qemu: Child,
}

impl Host {
    /// A host in working order: AppArmor, one guest defined with its `<iommu>`, one running with the wrapper.
    pub(crate) fn healthy(name: &str) -> Host {
        // A short path: the address of systemd's socket has at most 107 bytes.
        let root = env::temp_dir().join(format!("viommu-doctor-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("run")).unwrap();
        let host = Host { _pidfile: lock(&root.join("run/libvirtd.pid")), qemu: stand_in(&[]), root };
        host.installed();
        host.kernel();
        host.confined();
        host.daemon_started(now() + 5);
        host.guests();
        host
    }

    fn installed(&self) {
        self.program("usr/bin/viommu", "\x7fELF urn:libvirt-viommu:1");
        for arch in ["x86_64", "aarch64"] {
            self.link(&format!("usr/bin/viommu-qemu-system-{arch}"), "viommu");
            self.program(&format!("usr/bin/qemu-system-{arch}"), "\x7fELF");
        }
        self.link(HOOK, "/usr/bin/viommu");
        self.versions(11_003_000, 10_000_002);
    }

    /// libvirt's capability cache.
    pub(crate) fn versions(&self, libvirt: u32, qemu: u32) {
        let cache = format!(
            "<qemuCaps>\n  <emulator>/usr/bin/qemu-system-x86_64</emulator>\n  <selfvers>{libvirt}</selfvers>\n  \
             <flag name='intel-iommu'/>\n  <flag name='intel-iommu.intremap'/>\n  <flag name='intel-iommu.caching-mode'/>\n  \
             <flag name='intel-iommu.eim'/>\n  <flag name='intel-iommu.aw-bits'/>\n  <version>{qemu}</version>\n  \
             <arch>x86_64</arch>\n"
        );
        self.file("var/cache/libvirt/qemu/capabilities/0.xml", &cache);
        let newer =
            cache.replace("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-gone").replace("<version>", "<version>9");
        self.file("var/cache/libvirt/qemu/capabilities/1.xml", &newer);
    }

    fn kernel(&self) {
        self.file("sys/class/iommu/dmar0/intel-iommu/cap", "d2078c106f0466\n");
        self.directory("sys/kernel/iommu_groups/11");
        self.directory("sys/bus/pci/devices/0000:01:00.0");
        self.link("sys/bus/pci/devices/0000:01:00.0/iommu_group", "../../../../kernel/iommu_groups/11");
        self.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
        self.file("lib/modules/6.1.0-56-amd64/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/a.ko.xz\n");
        self.file("dev/kvm", "");
        self.file("proc/sys/kernel/osrelease", "6.1.0-56-amd64\n");
        self.file("proc/stat", &format!("cpu 1 2 3\nbtime {}\nprocesses 5\n", booted()));
    }

    fn confined(&self) {
        self.file("sys/module/apparmor/parameters/enabled", "Y\n");
        let abstraction = "  /usr/bin/qemu-system-x86_64 rmix,\n  include if exists <abstractions/libvirt-qemu.d>\n";
        self.file("etc/apparmor.d/abstractions/libvirt-qemu", abstraction);
        self.file(RULES, &fs::read_to_string("hooks/apparmor/viommu").unwrap());
        self.daemon("attr/current", "libvirtd (enforce)\n");
        self.daemon("cgroup", "0::/system.slice/libvirtd.service\n");
        self.daemon("uid_map", "         0          0 4294967295\n");
        self.capabilities(u64::MAX >> 23);
        self.daemon("limits", &limits(64 << 20));
    }

    fn guests(&self) {
        let iommu = "<iommu model='intel'><driver intremap='on' caching_mode='on' eim='on' aw_bits='48'/></iommu>";
        self.define("defined", "qemu-system-x86_64", iommu);
        let running =
            domain("running", "viommu-qemu-system-x86_64", "").replace("<uuid/>", &format!("<uuid>{UUID}</uuid>"));
        let running = crate::sandbox::running(&running);
        let status =
            format!("<domstatus state='running' reason='booted' pid='1'>\n  <monitor/>\n{running}\n</domstatus>\n");
        self.file("run/libvirt/qemu/running.xml", &status);
        // Twice the 512 MiB of its memory would be right for two devices; the guest has one.
        self.guest_runs(
            (512 << 20) + (1 << 30),
            &["-device", "intel-iommu,intremap=on", "-device", "vfio-pci,host=1:0.0"],
        );
        let state = format!("run/viommu/{UUID}.json");
        self.file(&state, "{}");
    }

    /// A guest that requests model intel and has one passed-through device.
    pub(crate) fn define(&self, name: &str, emulator: &str, iommu: &str) {
        let xml = format!("<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n{}\n", domain(name, emulator, iommu));
        let xml = if iommu.contains("no request") {
            xml.replace("<viommu xmlns='urn:libvirt-viommu:1' model='intel'/>", "")
        } else {
            xml
        };
        self.file(&format!("etc/libvirt/qemu/{name}.xml"), &xml.replace("<uuid/>", ""));
    }

    /// The kernel's files about the running guest.
    pub(crate) fn guest_runs(&self, limit: u64, arguments: &[&str]) {
        let proc = format!("proc/{}", self.qemu.id());
        self.file(&format!("{proc}/limits"), &limits(limit));
        self.file(&format!("{proc}/stat"), &stat(self.qemu.id(), now() + 10));
        self.file(&format!("{proc}/cmdline"), &format!("qemu\0-uuid\0{UUID}\0{}\0", arguments.join("\0")));
        let cgroup = format!("machine/qemu-{ID}-running.libvirt-qemu");
        self.directory(&format!("sys/fs/cgroup/{cgroup}"));
        self.file(&format!("{proc}/cgroup"), &format!("0::/{cgroup}/emulator\n"));
    }

    pub(crate) fn daemon_started(&self, at: u64) {
        self.daemon("stat", &stat(process::id(), at));
    }

    pub(crate) fn capabilities(&self, bits: u64) {
        self.daemon("status", &format!("Name:\tlibvirtd\nCapEff:\t{bits:016x}\nCapBnd:\t{bits:016x}\n"));
    }

    /// The kernel's files about the daemon.
    pub(crate) fn daemon(&self, file: &str, text: &str) {
        self.file(&format!("proc/{}/{file}", process::id()), text);
    }

    /// systemd's record of the daemon's last state change. The host then runs its own copy of viommu, because viommu
    /// starts no program of an image.
    pub(crate) fn systemd(&self, changed: u64) {
        let date = Command::new("date")
            .args(["-u", "-d", &format!("@{changed}"), "+%a %Y-%m-%d %H:%M:%S UTC"])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let source = format!(
            r#"#include <stdlib.h>
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {{
    const char *expected[] = {{"show", "--property=StateChangeTimestamp", "--value", "libvirtd.service"}};
    for (int i = 0; i < 4; i++) if (count != 5 || strcmp(words[i + 1], expected[i])) return 1;
    return strcmp(getenv("TZ"), "UTC") || puts("{}") < 0;
}}"#,
            String::from_utf8(date.stdout).unwrap().trim()
        );
        self.file("dev/null", "");
        self.file("systemctl.c", &source);
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-o"]).arg(self.path("usr/bin/systemctl")).arg(self.path("systemctl.c"));
        assert!(compiler.status().unwrap().success());
        fs::copy(VIOMMU, self.path("usr/bin/viommu")).unwrap();
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn directory(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
        self.mode(path, 0o644);
    }

    pub(crate) fn program(&self, path: &str, text: &str) {
        self.remove(path);
        self.file(path, text);
        self.mode(path, 0o755);
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        self.remove(path);
        symlink(target, self.path(path)).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        let _ = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }

    /// An ordinary user runs it as root of a user namespace, in which the user's files are root's.
    pub(crate) fn command(&self) -> Command {
        let mut words = vec!["unshare", "--map-root-user"];
        if rustix::process::geteuid().is_root() {
            words.clear();
        }
        let root = self.root.to_str().unwrap();
        if self.path("usr/bin/systemctl").exists() {
            words.extend(["chroot", root, "/usr/bin/viommu", "doctor"]);
        } else {
            words.extend([VIOMMU, "doctor", "--root", root]);
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    pub(crate) fn examine(&self, arguments: &[&str]) -> Ran {
        feed(self.command().args(arguments), b"")
    }

    /// The report as JSON, and the exit status.
    pub(crate) fn report(&self) -> (Value, i32) {
        let ran = self.examine(&["--format", "json"]);
        assert!(ran.stderr.is_empty(), "{ran:?}");
        (serde_json::from_str(&ran.stdout).unwrap(), ran.status)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The boot time: at most two days ago, so that the host has run for a while on any test machine.
fn booted() -> u64 {
    now() / DAY * DAY - DAY
}

/// Takes the lock of a pidfile as libvirt does (fcntl, first byte), and writes this process's pid.
fn lock(pidfile: &Path) -> File {
    let mut file = File::create(pidfile).unwrap();
    let lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).unwrap(),
        l_whence: i16::try_from(nix::libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&lock)).unwrap();
    write!(file, "{}", process::id()).unwrap();
    file
}

/// proc(5): field 22 is the start, in hundredths of a second since the machine was booted.
fn stat(pid: u32, started: u64) -> String {
    let fields: Vec<String> = (4..22).map(|number| number.to_string()).collect();
    format!("{pid} (a (b) c) S {} {} 23 24\n", fields.join(" "), (started - booted()) * 100)
}

pub(crate) fn limits(bytes: u64) -> String {
    let limit = if bytes == u64::MAX { "unlimited".to_owned() } else { bytes.to_string() };
    format!(
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max locked memory         {limit:<20} {limit:<20} bytes     \n"
    )
}

fn domain(name: &str, emulator: &str, iommu: &str) -> String {
    format!(
        "<domain type='kvm'><name>{name}</name><uuid/><metadata><viommu xmlns='urn:libvirt-viommu:1' model='intel'/></metadata>
           <memory unit='MiB'>512</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
           <features><acpi/><ioapic driver='qemu'/></features>
           <devices><emulator>/usr/bin/{emulator}</emulator>
             <controller type='pci' index='0' model='pcie-root'/>
             <controller type='pci' index='1' model='pcie-root-port'>
               <address type='pci' domain='0' bus='0' slot='2' function='0'/></controller>
             <hostdev mode='subsystem' type='pci' managed='yes'>
               <source><address domain='0' bus='1' slot='0' function='0'/></source>
               <address type='pci' domain='0' bus='1' slot='0' function='0'/></hostdev>
             {iommu}
           </devices></domain>"
    )
}
