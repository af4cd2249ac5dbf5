//! What is installed: the binary, the hook, the wrapper, and files that viommu left behind.

use std::path::Path;

use crate::config::{self, Config};
use crate::domain::{METADATA_NAMESPACE, Uuid};
use crate::host::config::in_place_of;
use crate::note::Code;
use crate::plan::wrapped_emulator;
use crate::state::store;
use crate::sys::fs::{self, Entry};
use crate::sys::process;
use crate::version::Version;

use super::guests::FoundGuest;
use super::{Check, SharedFacts};

/// The first libvirt that runs the programs in `qemu.d` (`virHookCall`).
const READS_DIRECTORY: Version = Version::new(6, 5);

pub(super) const BINARY: &str = "/usr/bin/viommu";
/// The links that are libvirt's default emulators where the host route is on.
pub(super) const HOST_ROUTE: &str = "/usr/lib/libvirt-host-route";
const MAIN: &str = "/etc/libvirt/hooks/qemu";
const OWN_DIRECTORY: &str = "/etc/libvirt/hooks/qemu.d";
const OWN: &str = "/etc/libvirt/hooks/qemu.d/50-viommu";

/// What a hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// viommu, or a script that runs it.
    Viommu,
    /// Another program.
    Other,
    /// A link to a file that does not exist.
    Dangling,
}

/// A file that libvirt may run as a hook for a guest.
#[derive(Debug)]
pub(super) struct HookFile {
    pub(super) path: String,
    /// The file behind all links.
    pub(super) target: Option<String>,
    pub(super) program: Program,
    pub(super) entry: Entry,
}

/// A link that is the emulator wrapper.
#[derive(Debug)]
pub(super) struct Wrapper {
    pub(super) path: String,
    /// The architecture in its name.
    arch: String,
    is_viommu: bool,
    /// The QEMU behind it.
    real: String,
    /// That QEMU exists, is executable and is not viommu.
    real_works: bool,
}

pub(super) fn hooks() -> Vec<HookFile> {
    let others = fs::names(Path::new(OWN_DIRECTORY)).into_iter().map(|name| Path::new(OWN_DIRECTORY).join(name));
    [Path::new(MAIN).to_owned()].into_iter().chain(others).filter_map(|path| HookFile::read(&path)).collect()
}

impl HookFile {
    fn read(path: &Path) -> Option<HookFile> {
        let (entry, target) = (fs::entry(path)?, fs::target(path));
        let program = match &target {
            None => Program::Dangling,
            Some(_) if is_viommu(path) || fs::contains(path, b"viommu hook") => Program::Viommu,
            Some(_) => Program::Other,
        };
        Some(HookFile { path: path.to_str()?.to_owned(), target, program, entry })
    }

    /// Whether libvirt runs this file.
    pub(super) fn is_run(&self, known: &SharedFacts) -> bool {
        self.entry.executable && (self.path == MAIN || reads_directory(known))
    }
}

/// Whether a file is a viommu of any version.
fn is_viommu(path: &Path) -> bool {
    fs::contains(path, METADATA_NAMESPACE.as_bytes())
}

fn reads_directory(known: &SharedFacts) -> bool {
    known.host.libvirt.is_none_or(|libvirt| libvirt >= READS_DIRECTORY)
}

/// The hook that is viommu and that libvirt runs.
pub(super) fn ours(known: &SharedFacts) -> Option<&HookFile> {
    known.hooks.iter().find(|hook| hook.program == Program::Viommu && hook.is_run(known))
}

/// How another hook calls viommu. With an empty stdin viommu could not see the guest's request.
const FIRST: &str = "call viommu first: xml=$(cat); printf '%s\\n' \"$xml\" | viommu hook \"$@\" || exit 1";

/// Whether a script calls viommu after other commands, and without the XML in a pipe.
fn is_late(script: &Path) -> bool {
    let text = fs::head(script, 1 << 20).filter(|text| text.starts_with("#!")).unwrap_or_default();
    let mut commands = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let call = |line: &str| line.split_once("viommu hook").map(|(before, _)| before.contains('|'));
    let early = commands.next().is_some_and(|line| call(line).is_some());
    !early && commands.find_map(call) == Some(false)
}

pub(super) fn hook(known: &SharedFacts) -> Vec<Check> {
    const NAME: &str = "hook";
    let broken = |message: String, remedy: String| {
        Check::broken(NAME, Code::HookUnusable, message, remedy).concerning(known.asked())
    };
    let mut checks = Vec::new();
    let overwritten = Path::new(BINARY).exists() && !is_viommu(Path::new(BINARY));
    if overwritten {
        let message = format!("{BINARY} is another program: a command wrote through a link to it");
        checks.push(broken(message, format!("move that program to {MAIN} if it is a hook, then install viommu again")));
    }
    if let Some(hook) = ours(known) {
        checks.push(if is_late(Path::new(&hook.path)) {
            let message = format!("{} runs other commands before viommu, which may consume the XML", hook.path);
            Check::warning(NAME, Code::HookUnusable, message, FIRST)
        } else {
            Check::ok(NAME, format!("{} is viommu", hook.path))
        });
        return checks;
    }
    let by_hand = || format!("in {MAIN}, {FIRST}");
    let link = || {
        if reads_directory(known) { format!("mkdir -p {OWN_DIRECTORY}; ln -s {BINARY} {OWN}") } else { by_hand() }
    };
    let of = |program| known.hooks.iter().find(|hook| hook.program == program);
    checks.push(if let Some(hook) = of(Program::Viommu) {
        if hook.entry.executable {
            let message = format!("{} is viommu, and libvirt before {READS_DIRECTORY} does not run it", hook.path);
            broken(message, by_hand())
        } else {
            broken(format!("{} is viommu and not executable", hook.path), format!("chmod 755 {}", hook.path))
        }
    } else if let Some(hook) = of(Program::Dangling) {
        broken(format!("{} is a link to a file that does not exist", hook.path), format!("install {BINARY}"))
    } else if overwritten {
        return checks;
    } else if !Path::new(BINARY).exists() {
        broken("viommu is not installed on this host".to_owned(), "install its package, or run install.sh".to_owned())
    } else if let Some(hook) = known.hooks.first() {
        broken(format!("{} is another program, and no hook is viommu", hook.path), format!("keep it, and {}", link()))
    } else {
        broken("libvirt has no qemu hook".to_owned(), format!("{}; then reload the daemon", link()))
    });
    checks
}

pub(super) fn wrappers(config: &Config) -> Vec<Wrapper> {
    let read = |path: String| {
        let real = wrapped_emulator(&path)?;
        let arch = real.strip_prefix("qemu-system-")?.to_owned();
        let real = config.emulator_behind(real);
        let other = in_place_of(&real).filter(|other| !Path::new(&real).exists() && Path::new(other).exists());
        let real = other.map_or(real, str::to_owned);
        let executable = fs::is_executable(Path::new(&real));
        let real_works = executable && !process::is_same_file(Path::new(&real), Path::new(BINARY));
        Some(Wrapper { is_viommu: is_viommu(Path::new(&path)), path, arch, real, real_works })
    };
    let paths = ["/usr/bin", HOST_ROUTE].into_iter().flat_map(|directory| {
        fs::names(Path::new(directory)).into_iter().map(move |name| format!("{directory}/{name}"))
    });
    paths.filter_map(read).collect()
}

/// Checks that each wrapper leads to viommu and has its QEMU. The packages have one per architecture, so the QEMU of another
/// architecture than the host's matters only where a guest or the configuration uses it.
pub(super) fn wrapper(known: &SharedFacts) -> Check {
    const NAME: &str = "wrapper";
    let used: Vec<&str> = known.guests.iter().filter_map(FoundGuest::wrapper).collect();
    if let Some(path) = used.iter().find(|path| known.wrappers.iter().all(|wrapper| wrapper.path != **path)) {
        let message = format!("{path}, the emulator of a guest, does not exist");
        return Check::broken(NAME, Code::EmulatorMissing, message, format!("ln -s {BINARY} {path}"));
    }
    let named = |arch: &String| known.config.as_ref().is_ok_and(|config| config.emulators.contains_key(arch));
    let mut works = Vec::new();
    for wrapper in &known.wrappers {
        let is_used = used.contains(&wrapper.path.as_str());
        if !wrapper.is_viommu {
            let message = format!("{} does not lead to viommu", wrapper.path);
            let remedy = format!("ln -sf {BINARY} {}", wrapper.path);
            return Check::broken(NAME, Code::EmulatorMissing, message, remedy).concerning(is_used);
        }
        if wrapper.real_works {
            works.push(wrapper.path.as_str());
        } else if is_used || named(&wrapper.arch) || (known.host.arch.as_ref() == Some(&wrapper.arch)) {
            let message = format!("{}, the QEMU behind {}, does not exist or is not QEMU", wrapper.real, wrapper.path);
            let remedy = format!("install it, or name it under [emulators] in {}", config::PATH);
            return Check::broken(NAME, Code::EmulatorMissing, message, remedy).concerning(is_used);
        }
    }
    match works.first() {
        Some(first) => Check::ok(NAME, format!("{first}{}", if works.len() > 1 { " and others" } else { "" })),
        None => Check::ok(NAME, "not installed, and no guest uses it"),
    }
}

/// `/run/viommu`: whether only root can write there, and whether files of ended guests are left.
pub(super) fn state(known: &SharedFacts) -> Check {
    const NAME: &str = "state";
    let directory = Path::new(store::STATES);
    if let Err(error) = fs::check_trusted_directory(directory) {
        if error.kind() != std::io::ErrorKind::NotFound {
            let message = format!("{} cannot be used: {error}", store::STATES);
            let remedy = "remove it; the hook creates it again";
            return Check::broken(NAME, Code::StateInvalid, message, remedy).concerning(known.asked());
        }
    }
    let in_use = |name: &String| {
        let stem = name.rsplit_once('.').filter(|(_, kind)| ["json", store::PROCESS].contains(kind));
        let Some(uuid) = stem.and_then(|(uuid, _)| uuid.parse::<Uuid>().ok()) else { return false };
        // A guest that is starting has a state and does not run yet.
        known.guests.iter().any(|guest| guest.runs_as(uuid)) || store::state(uuid).is_ok()
    };
    let left: Vec<String> = fs::names(directory).into_iter().filter(|name| !in_use(name)).collect();
    match left.as_slice() {
        [] => Check::ok(NAME, format!("{} has no files of guests that are gone", store::STATES)),
        [first, rest @ ..] => {
            let others = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let message = format!("{}/{first}{others}: left by guests that are gone", store::STATES);
            Check::warning(NAME, Code::StateLeftover, message, "remove it")
        }
    }
}
