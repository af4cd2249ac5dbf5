//! What is known about a host, for [`super::examine`]. Plain data; `None` is "not known", or "not there" where that is said.

use std::path::Path;

use crate::config::Config;
use crate::domain::Domain;
use crate::host::Host;
use crate::limit::Limit;
use crate::note::Note;
use crate::version::Version;

/// Everything.
#[derive(Debug)]
pub struct Facts {
    /// Whoever asks may read what only root may.
    pub root: bool,
    /// Versions, emulators, the IOMMU.
    pub host: Host,
    /// The kernel's version.
    pub kernel: Option<Version>,
    /// The configuration, as the hook reads it.
    pub config: Result<Config, Note>,
    /// What stands where libvirt looks for hooks, in the order in which it runs them.
    pub hooks: Vec<HookFile>,
    /// The daemon that runs QEMU; none where none runs.
    pub daemon: Option<Daemon>,
    /// When the hook last left a file behind, seconds since the epoch.
    pub hook_wrote: Option<u64>,
    /// The wrapper's links.
    pub wrappers: Vec<Wrapper>,
    /// AppArmor; none where the kernel does not use it.
    pub apparmor: Option<AppArmor>,
    /// SELinux; none where the kernel does not use it.
    pub selinux: Option<Selinux>,
    /// What `security_driver` in libvirt's qemu.conf says.
    pub security_driver: Option<String>,
    /// How many IOMMU groups the kernel has made.
    pub iommu_groups: usize,
    /// VFIO modules that are neither loaded nor to be found for this kernel.
    pub missing_modules: Vec<&'static str>,
    /// There is a `/dev/kvm`.
    pub kvm: bool,
    /// `/run/viommu`.
    pub state: StateDirectory,
    /// Defined and running guests.
    pub guests: Vec<Guest>,
}

/// What a name is for libvirt's hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// It is viommu, or a script that runs it.
    Viommu,
    /// It is something else.
    Other,
    /// It is a link to nothing.
    Nothing,
}

/// A name in `/etc/libvirt/hooks` that libvirt may run for a guest.
#[derive(Debug)]
pub struct HookFile {
    /// Its path.
    pub path: String,
    /// Where it leads.
    pub target: Option<String>,
    /// What it is.
    pub program: Program,
    /// It is a link.
    pub link: bool,
    /// Somebody may execute it.
    pub executable: bool,
    /// When the name itself was last changed, seconds since the epoch.
    pub changed: u64,
    /// The SELinux label.
    pub label: Option<String>,
}

impl HookFile {
    /// It stands in `qemu.d`.
    #[must_use]
    pub fn in_directory(&self) -> bool {
        Path::new(&self.path).parent().is_some_and(|parent| parent.ends_with("qemu.d"))
    }
}

/// A running libvirtd or virtqemud.
#[derive(Debug)]
pub struct Daemon {
    /// Its name.
    pub name: &'static str,
    /// Its process.
    pub pid: i32,
    /// When it was started, seconds since the epoch.
    pub started: Option<u64>,
    /// When systemd last started or reloaded it, seconds since the epoch.
    pub reloaded: Option<u64>,
    /// Its own hard locked-memory limit.
    pub limit: Option<Limit>,
    /// The capabilities that it has and can hand on, as the kernel numbers their bits.
    pub capabilities: Option<u64>,
    /// It runs in a user namespace of its own, where capabilities count for nothing outside.
    pub user_namespace: bool,
    /// Its AppArmor profile or SELinux context.
    pub confinement: Option<String>,
}

/// A link that is the emulator wrapper.
#[derive(Debug)]
pub struct Wrapper {
    /// Its path.
    pub path: String,
    /// The architecture in its name.
    pub arch: String,
    /// Whether it leads to viommu.
    pub is_viommu: bool,
    /// The real QEMU behind it.
    pub real: String,
    /// Whether that is there and can be executed.
    pub real_works: bool,
}

/// AppArmor's rules for guests.
#[derive(Debug, Default)]
pub struct AppArmor {
    /// `abstractions/libvirt-qemu`, which every guest's profile includes; none where libvirt has no profiles.
    pub abstraction: Option<String>,
    /// What stands in `abstractions/libvirt-qemu.d`.
    pub directory: String,
    /// `local/abstractions/libvirt-qemu`.
    pub local: String,
}

/// SELinux's labels.
#[derive(Debug)]
pub struct Selinux {
    /// Denials are enforced.
    pub enforcing: bool,
    /// The label of the binary.
    pub binary: Option<String>,
    /// The label of `/run/viommu`.
    pub state: Option<String>,
}

/// `/run/viommu`.
#[derive(Debug, Default)]
pub struct StateDirectory {
    /// Why it cannot be trusted.
    pub distrust: Option<String>,
    /// Files in it that belong to no guest that runs or starts.
    pub leftovers: Vec<String>,
}

/// A guest that is defined or runs.
#[derive(Debug)]
pub struct Guest {
    /// The file that describes it.
    pub file: String,
    /// The domain.
    pub domain: Result<Domain, Note>,
    /// Its process, if it runs.
    pub running: Option<Running>,
}

/// The process of a guest.
#[derive(Debug)]
pub struct Running {
    /// When it was started, seconds since the epoch.
    pub started: Option<u64>,
    /// Its soft locked-memory limit.
    pub limit: Option<Limit>,
    /// Whether QEMU's command line has a vIOMMU.
    pub viommu: Option<bool>,
}
