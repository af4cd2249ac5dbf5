//! Collects the facts about the host, from files. Starts no program and asks no daemon but systemd, one question.

use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::config::Config;
use crate::domain::{Domain, METADATA_NAMESPACE, Uuid};
use crate::host::probe::Places;
use crate::host::{self, libvirt};
use crate::note::{Code, Note};
use crate::plan::wrapped_emulator;
use crate::qemu;
use crate::state::store;
use crate::sys::{fs, process, systemd};
use crate::version::Version;
use crate::xml;

use super::facts::{AppArmor, Daemon, Facts, Guest, HookFile, Program, Running, Selinux, StateDirectory, Wrapper};

const BINARY: &str = "/usr/bin/viommu";
const RUNNING: &str = "/run/libvirt/qemu";
/// Configuration files and profiles are far smaller.
const TEXT: usize = 1 << 20;

/// Looks at everything.
#[must_use]
pub fn gather() -> Facts {
    let mut host = Places::default().whole_host();
    // libvirt keeps what it knows of emulators that are long gone.
    host.emulators.retain(|emulator| fs::entry(Path::new(&emulator.path)).is_some_and(|file| file.executable));
    let config = host::config::load();
    let guests: Vec<Guest> = running().chain(defined()).collect();
    let release = fs::head(Path::new("/proc/sys/kernel/osrelease"), 128).unwrap_or_default();
    let release = release.trim();
    Facts {
        root: rustix::process::geteuid().is_root(),
        host,
        kernel: version(release),
        hooks: hooks(),
        daemon: daemon(),
        hook_wrote: hook_wrote(),
        wrappers: wrappers(config.as_ref().unwrap_or(&Config::default())),
        apparmor: apparmor(),
        selinux: selinux(),
        security_driver: security_driver(&text("/etc/libvirt/qemu.conf")),
        iommu_groups: fs::names(Path::new("/sys/kernel/iommu_groups")).len(),
        missing_modules: missing_modules(release),
        kvm: Path::new("/dev/kvm").exists(),
        state: state_directory(&guests),
        config,
        guests,
    }
}

fn text(path: &str) -> String {
    fs::head(Path::new(path), TEXT).unwrap_or_default()
}

/// `6.1.0-56-amd64` is 6.1.0.
fn version(release: &str) -> Option<Version> {
    let numbers: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    numbers.trim_end_matches('.').parse().ok()
}

fn hooks() -> Vec<HookFile> {
    let directory = Path::new("/etc/libvirt/hooks");
    let others = fs::names(&directory.join("qemu.d")).into_iter().map(|name| directory.join("qemu.d").join(name));
    [directory.join("qemu")].into_iter().chain(others).filter_map(|path| hook(&path)).collect()
}

fn hook(path: &Path) -> Option<HookFile> {
    let entry = fs::entry(path)?;
    let target = fs::target(path);
    let program = match &target {
        None => Program::Nothing,
        Some(target) if is_viommu(Path::new(target)) || fs::contains(path, b"viommu hook") => Program::Viommu,
        Some(_) => Program::Other,
    };
    Some(HookFile {
        path: path.to_str()?.to_owned(),
        target,
        program,
        link: entry.link,
        executable: entry.executable,
        changed: entry.changed,
        label: fs::label(path),
    })
}

/// The binary itself, or a copy of any version of it.
fn is_viommu(path: &Path) -> bool {
    is_the_binary(path) || fs::contains(path, METADATA_NAMESPACE.as_bytes())
}

fn is_the_binary(path: &Path) -> bool {
    process::file_id(path).is_ok_and(|file| process::file_id(Path::new(BINARY)).is_ok_and(|binary| binary == file))
}

/// The daemon that holds the lock of its pidfile. Daemons of other containers have other files, and users' own too.
fn daemon() -> Option<Daemon> {
    ["virtqemud", "libvirtd"].into_iter().find_map(|name| {
        let pid = libvirt::locked_pid(Path::new(&format!("/run/{name}.pid")))?;
        Some(Daemon {
            name,
            pid: pid.as_raw_nonzero().get(),
            started: process::started(pid),
            reloaded: unit(&of_process(pid, "cgroup")).and_then(|unit| systemd::state_changed(&unit)),
            limit: process::lock_limit(pid).ok().map(|limit| limit.hard),
            capabilities: capabilities(&of_process(pid, "status")),
            user_namespace: !of_process(pid, "uid_map").split_whitespace().eq(["0", "0", "4294967295"]),
            confinement: confinement(pid),
        })
    })
}

fn of_process(pid: Pid, file: &str) -> String {
    text(&format!("/proc/{}/{file}", pid.as_raw_nonzero()))
}

/// The unit in `0::/system.slice/libvirtd.service`, or in the line of systemd's own hierarchy.
fn unit(cgroup: &str) -> Option<String> {
    let line = cgroup.lines().find(|line| line.starts_with("0::/") || line.contains(":name=systemd:"))?;
    line.split('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// What a process has now, and what it can hand on to a hook.
fn capabilities(status: &str) -> Option<u64> {
    let set = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(set("CapEff:")? & set("CapBnd:")?)
}

fn confinement(pid: Pid) -> Option<String> {
    let label = ["attr/apparmor/current", "attr/current"].map(|file| of_process(pid, file));
    label.into_iter().map(|label| label.trim_end_matches(['\n', '\0']).to_owned()).find(|label| !label.is_empty())
}

/// When the hook last wrote the state or the record of a guest.
fn hook_wrote() -> Option<u64> {
    let files = [store::STATES, store::RECORDS]
        .map(Path::new)
        .into_iter()
        .flat_map(|directory| files(directory, "json").filter_map(|file| fs::entry(&file)));
    files.map(|file| file.changed).max()
}

fn wrappers(config: &Config) -> Vec<Wrapper> {
    let names = fs::names(Path::new("/usr/bin"));
    let links = names.iter().filter_map(|name| Some((name, wrapped_emulator(name)?)));
    let links = links.filter_map(|(name, real)| Some((name, real, real.strip_prefix("qemu-system-")?)));
    links
        .map(|(name, real, arch)| {
            let path = format!("/usr/bin/{name}");
            let real = config.emulator_behind(real);
            let works = fs::entry(Path::new(&real)).is_some_and(|file| file.executable);
            Wrapper {
                is_viommu: is_viommu(Path::new(&path)),
                real_works: works && !is_the_binary(Path::new(&real)),
                path,
                arch: arch.to_owned(),
                real,
            }
        })
        .collect()
}

fn apparmor() -> Option<AppArmor> {
    text("/sys/module/apparmor/parameters/enabled").starts_with('Y').then_some(())?;
    let profiles = Path::new("/etc/apparmor.d");
    let directory = profiles.join("abstractions/libvirt-qemu.d");
    let additions = fs::names(&directory).into_iter().filter_map(|name| fs::head(&directory.join(name), TEXT));
    Some(AppArmor {
        abstraction: fs::head(&profiles.join("abstractions/libvirt-qemu"), TEXT),
        directory: additions.collect::<Vec<_>>().join("\n"),
        local: fs::head(&profiles.join("local/abstractions/libvirt-qemu"), TEXT).unwrap_or_default(),
    })
}

fn selinux() -> Option<Selinux> {
    let enforce = fs::head(Path::new("/sys/fs/selinux/enforce"), 8)?;
    Some(Selinux {
        enforcing: enforce.starts_with('1'),
        binary: fs::label(Path::new(BINARY)),
        state: fs::label(Path::new(store::STATES)),
    })
}

/// `security_driver = "none"`, or a list of names.
fn security_driver(conf: &str) -> Option<String> {
    let value = conf.lines().find_map(|line| line.trim().strip_prefix("security_driver"))?;
    value.trim().strip_prefix('=').map(|value| value.trim().to_owned())
}

/// Built in, loaded, or there to be loaded when libvirt binds the first device.
fn missing_modules(release: &str) -> Vec<&'static str> {
    let files = ["modules.builtin", "modules.dep"]
        .map(|name| fs::head(&Path::new("/lib/modules").join(release).join(name), 16 << 20).unwrap_or_default());
    let there = |module: &str| {
        let names = [module.to_owned(), module.replace('_', "-")].map(|name| format!("/{name}.ko"));
        Path::new("/sys/module").join(module).exists()
            || files.iter().any(|file| names.iter().any(|name| file.contains(name.as_str())))
    };
    let missing = |module: &&str| !there(module);
    // Who has iommufd can do without the older container.
    let container = ["vfio_iommu_type1"].into_iter().filter(|_| !there("iommufd"));
    ["vfio_pci"].into_iter().chain(container).filter(missing).collect()
}

/// Running guests: libvirt's status files, and the processes that hold their pidfiles.
fn running() -> impl Iterator<Item = Guest> {
    xml_files(RUNNING).filter_map(|(file, text)| {
        let domain = live(&text);
        let name = domain.as_ref().map_or_else(
            |_| file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default(),
            |domain| domain.name.as_str(),
        );
        let (pid, _pinned) = libvirt::pinned(&libvirt::pidfile(name))?;
        let arguments = process::arguments(pid);
        let running = Running {
            started: process::started(pid),
            limit: process::lock_limit(pid).ok().map(|limit| limit.soft),
            viommu: (!arguments.is_empty()).then(|| qemu::find_iommu(&arguments).is_some()),
        };
        Some(Guest { file: file.display().to_string(), domain, running: Some(running) })
    })
}

fn defined() -> impl Iterator<Item = Guest> {
    xml_files("/etc/libvirt/qemu").map(|(file, text)| {
        let domain = xml::parse(text.as_bytes()).and_then(|document| Domain::read(&document));
        Guest { file: file.display().to_string(), domain, running: None }
    })
}

fn xml_files(directory: &str) -> impl Iterator<Item = (PathBuf, String)> {
    files(Path::new(directory), "xml").filter_map(|path| {
        let text = fs::head(&path, xml::MAX_BYTES)?;
        Some((path, text))
    })
}

/// The files of a directory with this extension.
fn files(directory: &Path, extension: &str) -> impl Iterator<Item = PathBuf> {
    let paths = fs::names(directory).into_iter().map(|name| directory.join(name));
    paths.filter(move |path| path.extension().is_some_and(|found| found == extension))
}

/// The domain in libvirt's status file.
fn live(status: &str) -> Result<Domain, Note> {
    let document = xml::parse(status.as_bytes())?;
    let domain = document.root().child("domain");
    let domain = domain.ok_or_else(|| Note::error(Code::XmlNotADomain, "the status file holds no domain"))?;
    Domain::read(&xml::parse(domain.source().as_bytes())?)
}

fn state_directory(guests: &[Guest]) -> StateDirectory {
    let directory = Path::new(store::STATES);
    if !directory.exists() {
        return StateDirectory::default();
    }
    let distrust = fs::check_trusted_directory(directory).err().map(|error| error.to_string());
    let runs = |uuid: Uuid| {
        let mut running = guests.iter().filter(|guest| guest.running.is_some());
        running.any(|guest| guest.domain.as_ref().is_ok_and(|domain| domain.uuid == Some(uuid)))
    };
    let in_use = |name: &String| {
        let Some(uuid) = name.strip_suffix(".json").and_then(|uuid| uuid.parse::<Uuid>().ok()) else { return false };
        // A guest that is just starting has a state and does not run yet.
        runs(uuid) || store::state(uuid).is_ok()
    };
    StateDirectory { distrust, leftovers: fs::names(directory).into_iter().filter(|name| !in_use(name)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_of_a_process() {
        // As Debian 12's libvirtd shows itself, and one in a container of Docker's.
        assert_eq!(
            capabilities("CapPrm:\t1\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(capabilities("CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n"), Some(0xa804_25fb));
        assert_eq!(capabilities("Name:\tlibvirtd\n"), None);
        assert_eq!(unit("0::/system.slice/libvirtd.service\n").as_deref(), Some("libvirtd.service"));
        let old = "4:memory:/x.service\n1:name=systemd:/system.slice/virtqemud.service/x\n0::/\n";
        assert_eq!(unit(old).as_deref(), Some("virtqemud.service"));
        assert_eq!(unit("0::/\n"), None);
        assert_eq!(version("6.1.0-56-amd64"), Some(Version::new(6, 1)));
        assert_eq!(version("4.3.0-rc1+"), Some(Version::new(4, 3)));
    }

    #[test]
    fn reads_libvirts_setting() {
        let conf = "# security_driver = \"selinux\"\n#security_driver = [ \"selinux\", \"apparmor\" ]\n";
        assert_eq!(security_driver(conf), None);
        assert_eq!(security_driver("security_driver = \"none\"\n").as_deref(), Some("\"none\""));
    }
}
