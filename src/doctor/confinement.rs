//! AppArmor and SELinux: whether their rules allow the hook and the wrapper.

use std::path::Path;

use crate::note::Code;
use crate::state::store;
use crate::sys::fs;

use super::install::{BINARY, HookFile, Program};
use super::{Check, SharedFacts, text};

/// Directories from which libvirtd's own AppArmor profile allows it to execute hooks.
const EXECUTABLE: [&str; 5] = ["/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/etc/libvirt/hooks/"];

/// Whether a guest is, or can be, started through the wrapper.
fn wraps(known: &SharedFacts) -> bool {
    !known.wrappers.is_empty() || known.wrapped()
}

/// What `security_driver` in libvirt's qemu.conf sets: `"none"`, or a list of names.
fn security_driver(conf: &str) -> Option<&str> {
    let value = conf.lines().find_map(|line| line.trim().strip_prefix("security_driver"))?;
    value.trim().strip_prefix('=').map(str::trim)
}

/// Whether libvirt's configuration leaves a security driver in use.
fn in_use(driver: &str) -> bool {
    security_driver(&text("/etc/libvirt/qemu.conf")).is_none_or(|setting| setting.contains(driver))
}

fn hooks_of_viommu(known: &SharedFacts) -> impl Iterator<Item = &HookFile> {
    known.hooks.iter().filter(|hook| hook.program == Program::Viommu)
}

/// AppArmor's rules for guests.
#[derive(Debug)]
struct AppArmor {
    /// `abstractions/libvirt-qemu`, which every guest's profile includes.
    abstraction: String,
    /// The files in `abstractions/libvirt-qemu.d`.
    directory: String,
    /// `local/abstractions/libvirt-qemu`.
    local: String,
}

impl AppArmor {
    /// `None` where libvirt has no profiles.
    fn read() -> Option<AppArmor> {
        let file = |name: &str| fs::head_of_configuration(&Path::new("/etc/apparmor.d").join(name), 1 << 20);
        let additions = fs::names(&Path::new("/etc/apparmor.d").join(DIRECTORY));
        let additions = additions.iter().filter_map(|name| file(&format!("{DIRECTORY}/{name}")));
        Some(AppArmor {
            directory: additions.collect::<Vec<_>>().join("\n"),
            local: file(LOCAL).unwrap_or_default(),
            abstraction: file("abstractions/libvirt-qemu")?,
        })
    }
}

/// `None` where the kernel does not use AppArmor.
pub(super) fn apparmor(known: &SharedFacts) -> Option<Check> {
    const NAME: &str = "apparmor";
    text("/sys/module/apparmor/parameters/enabled").starts_with('Y').then_some(())?;
    let daemon = known.daemon.as_ref().and_then(|daemon| daemon.confinement.as_deref());
    // libvirt confines guests where it is confined itself (AppArmorSecurityManagerProbe).
    let unconfined = daemon.is_some_and(|profile| profile.starts_with("unconfined"));
    let Some(rules) = AppArmor::read().filter(|_| !unconfined) else {
        return Some(Check::ok(NAME, "does not confine libvirt"));
    };
    let mut targets = hooks_of_viommu(known).filter_map(|hook| hook.target.as_deref());
    if let Some(target) = targets.find(|target| !EXECUTABLE.iter().any(|directory| target.starts_with(directory))) {
        let message = format!("libvirt's profile does not allow it to execute the hook {target}");
        let remedy = format!("install it as {BINARY}");
        return Some(Check::broken(NAME, Code::Confined, message, remedy).concerning(known.asked()));
    }
    if !wraps(known) || !in_use("apparmor") {
        return Some(Check::ok(NAME, "needs no rule: guests are not confined, or none uses the wrapper"));
    }
    let missing = rules.missing();
    if missing.is_empty() {
        return Some(Check::ok(NAME, "the rules for the wrapper are in place"));
    }
    let message = format!("the profiles of guests forbid the wrapper: they lack {}", missing.join(" and "));
    let remedy = format!("add it to {}", rules.place());
    Some(Check::broken(NAME, Code::Confined, message, remedy).concerning(known.wrapped()))
}

const DIRECTORY: &str = "abstractions/libvirt-qemu.d";
const LOCAL: &str = "local/abstractions/libvirt-qemu";
/// The file of viommu's packages, which they include from the local file where libvirt does not include the directory.
const OWN: &str = "abstractions/libvirt-qemu.d/viommu";

fn includes(abstraction: &str, what: &str) -> bool {
    // `#include` is no comment, and `<path>` may be followed by anything.
    let included = format!("<{what}>");
    abstraction
        .lines()
        .any(|line| line.trim().trim_start_matches('#').starts_with("include") && line.contains(&included))
}

impl AppArmor {
    /// The file for additions: libvirt has included a directory since 9.6, Debian a local file before.
    fn place(&self) -> String {
        let file = if includes(&self.abstraction, DIRECTORY) { OWN } else { LOCAL };
        format!("/etc/apparmor.d/{file}")
    }

    /// The missing rules of those that the wrapper needs.
    fn missing(&self) -> Vec<&'static str> {
        let local = includes(&self.abstraction, LOCAL).then_some(&self.local);
        let directory = includes(&self.abstraction, DIRECTORY) || local.is_some_and(|local| includes(local, OWN));
        let texts = [Some(&self.abstraction), local, directory.then_some(&self.directory)];
        let rules = || {
            let lines = texts.into_iter().flatten().flat_map(|text| text.lines()).map(str::trim);
            lines.filter(|line| !line.starts_with('#'))
        };
        // PATH PERMISSIONS, with qualifiers or without.
        let allowed = |path: &str, permission: char| {
            rules().any(|rule| {
                let mut words = rule.trim_end_matches(',').split_whitespace().skip_while(|word| !word.contains('/'));
                let found = words.next().is_some_and(|word| word.trim_matches('"').contains(path));
                found && words.next().is_some_and(|permissions| permissions.contains(permission))
            })
        };
        let needed =
            [("/usr/bin/viommu", 'x', "'/usr/bin/viommu rmix,'"), ("/viommu/", 'r', "'/run/viommu/*.json r,'")];
        let missing = needed.into_iter().filter(|(path, permission, _)| !allowed(path, *permission));
        missing.map(|(.., rule)| rule).collect()
    }
}

/// `None` where the kernel does not use SELinux.
pub(super) fn selinux(known: &SharedFacts) -> Option<Check> {
    const NAME: &str = "selinux";
    let enforce = fs::head(Path::new("/sys/fs/selinux/enforce"), 8)?;
    if !enforce.starts_with('1') || !in_use("selinux") {
        return Some(Check::ok(NAME, "does not confine guests"));
    }
    let broken = |message: String, remedy: &str| Check::broken(NAME, Code::Confined, message, remedy);
    // The daemon may not execute a file with the label of its configuration, and then no guest of the host starts.
    let configured =
        |hook: &&HookFile| !hook.entry.link && selinux_type(&hook.path).is_some_and(|kind| kind.ends_with("etc_rw_t"));
    if let Some(hook) = hooks_of_viommu(known).find(configured) {
        let message = format!("the label of {} prevents every guest from starting", hook.path);
        return Some(broken(message, "chcon -t qemu_exec_t on it, or make it a link to /usr/bin/viommu"));
    }
    let relabel = "install viommu's policy module, then restorecon -RFi /usr/bin/viommu /run/viommu /var/lib/viommu";
    if !wraps(known) {
        return Some(Check::ok(NAME, "needs no label: there is no wrapper"));
    }
    match selinux_type(BINARY).as_deref() {
        None => {
            return Some(Check::unknown(NAME, "the label of /usr/bin/viommu is not known", "ls -Z /usr/bin/viommu"));
        }
        Some("qemu_exec_t") => {}
        Some(other) => {
            let message = format!("the wrapper may not run: /usr/bin/viommu has type {other} instead of qemu_exec_t");
            return Some(broken(message, relabel).concerning(known.wrapped()));
        }
    }
    let unreadable = ["var_run_t", "virt_runtime_t", "virt_var_run_t", "virtqemud_var_run_t"];
    if let Some(other) = selinux_type(store::STATES).filter(|kind| unreadable.contains(&kind.as_str())) {
        let message = format!("guests may not read /run/viommu, which has type {other}");
        return Some(broken(message, relabel).concerning(known.wrapped()));
    }
    Some(Check::ok(NAME, "the labels for the wrapper are in place"))
}

/// The SELinux type of a file. Its label is `USER:ROLE:TYPE:LEVEL`.
fn selinux_type(path: &str) -> Option<String> {
    fs::label(Path::new(path))?.split(':').nth(2).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str =
        "  include if exists <abstractions/libvirt-qemu.d>\n  include if exists <local/abstractions/libvirt-qemu>\n";
    const OLD: &str = "  #include <local/abstractions/libvirt-qemu>\n";
    const RULES: &str = include_str!("../../hooks/apparmor/viommu");
    // The line that hooks/attach writes.
    const INCLUDED: &str = "include if exists <abstractions/libvirt-qemu.d/viommu>\n";

    fn rules(abstraction: &str, directory: &str, local: &str) -> AppArmor {
        let [abstraction, directory, local] = [abstraction, directory, local].map(str::to_owned);
        AppArmor { abstraction, directory, local }
    }

    #[test]
    fn rules_count_where_they_are_included() {
        // The end of the abstractions in Debian 13 and Debian 12.
        assert_eq!(rules(NEW, "", "").place(), "/etc/apparmor.d/abstractions/libvirt-qemu.d/viommu");
        assert_eq!(rules(OLD, "", "").place(), "/etc/apparmor.d/local/abstractions/libvirt-qemu");
        for (abstraction, directory, local, lacks) in [
            (NEW, RULES, "", 0),
            (NEW, "", RULES, 0),
            (NEW, "", "", 2),
            (OLD, RULES, "", 2),
            (OLD, "", RULES, 0),
            (OLD, RULES, INCLUDED, 0),
            (OLD, "", INCLUDED, 2),
            (RULES, "", "", 0),
        ] {
            assert_eq!(
                rules(abstraction, directory, local).missing().len(),
                lacks,
                "{abstraction} {directory} {local}"
            );
        }
    }

    #[test]
    fn rules_are_read_as_the_parser_reads_them() {
        for (text, lacks) in [
            ("/usr/bin/viommu rmix,\n/run/viommu/*.json r,\n", 0),
            ("  owner \"/usr/bin/viommu\" rmix,\n  /{,var/}run/viommu/** r,\n", 0),
            ("# /usr/bin/viommu rmix,\n/run/viommu/*.json r,\n", 1),
            ("/usr/bin/viommu r,\n/run/viommu/*.json r,\n", 1),
            ("/usr/bin/viommu rmix,\n", 1),
        ] {
            assert_eq!(rules(text, "", "").missing().len(), lacks, "{text}");
        }
    }

    #[test]
    fn reads_libvirts_setting() {
        let conf = "# security_driver = \"selinux\"\n#security_driver = [ \"selinux\", \"apparmor\" ]\n";
        assert_eq!(security_driver(conf), None);
        assert_eq!(security_driver("security_driver = \"none\"\n"), Some("\"none\""));
    }
}
