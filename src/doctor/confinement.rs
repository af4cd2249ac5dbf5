//! What may keep viommu from its work: AppArmor, SELinux, capabilities, and limits that are not what they seem.

use crate::limit::Limit;
use crate::note::Code;
use crate::plan::{self, Route};

use super::facts::{AppArmor, Facts, HookFile, Program};
use super::{Check, guests};

/// Kernel numbers of the capabilities that raising a limit needs (linux/capability.h).
const NEEDED: [(&str, u32); 2] = [("CAP_SYS_RESOURCE", 24), ("CAP_SYS_PTRACE", 19)];
/// What libvirt's own units set.
const STOCK_LIMIT: Limit = Limit::Bytes(64 << 20);
/// Where libvirtd's own AppArmor profile lets it execute programs, and hooks.
const EXECUTABLE: [&str; 5] = ["/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/etc/libvirt/hooks/"];

/// Whether guests are, or can be, started through the wrapper.
fn wraps(facts: &Facts) -> bool {
    !facts.wrappers.is_empty() || guests::domains(facts).any(|domain| plan::route(domain) == Route::Wrapper)
}

/// Whether libvirt's configuration leaves a security driver in use.
fn in_use(facts: &Facts, driver: &str) -> bool {
    facts.security_driver.as_ref().is_none_or(|setting| setting.contains(driver))
}

fn hooks_of_ours(facts: &Facts) -> impl Iterator<Item = &HookFile> {
    facts.hooks.iter().filter(|hook| hook.program == Program::Viommu)
}

pub(super) fn apparmor(facts: &Facts) -> Option<Check> {
    const NAME: &str = "apparmor";
    let apparmor = facts.apparmor.as_ref()?;
    let daemon = facts.daemon.as_ref().and_then(|daemon| daemon.confinement.as_deref());
    // libvirt confines guests where it is confined itself (AppArmorSecurityManagerProbe).
    let unconfined = daemon.is_some_and(|profile| profile.starts_with("unconfined"));
    let Some(abstraction) = apparmor.abstraction.as_ref().filter(|_| !unconfined) else {
        return Some(Check::ok(NAME, "does not confine libvirt"));
    };
    let far = hooks_of_ours(facts).find_map(|hook| {
        let target = hook.target.as_deref()?;
        (!EXECUTABLE.iter().any(|directory| target.starts_with(directory))).then_some(target)
    });
    if let Some(target) = far {
        let message = format!("libvirt's profile does not allow the hook to be {target}");
        return Some(Check::broken(NAME, Code::Confined, message, "install it as /usr/bin/viommu"));
    }
    if !wraps(facts) || !in_use(facts, "apparmor") {
        return Some(Check::ok(NAME, "needs no rule: guests are not confined, or use no wrapper"));
    }
    let missing = apparmor.missing(abstraction);
    if missing.is_empty() {
        return Some(Check::ok(NAME, "the rules for the wrapper are there"));
    }
    let message = format!("the wrapper is refused: guests' profiles lack {}", missing.join(" and "));
    Some(Check::broken(NAME, Code::Confined, message, format!("add it to {}", place(abstraction))))
}

const DIRECTORY: &str = "abstractions/libvirt-qemu.d";
const LOCAL: &str = "local/abstractions/libvirt-qemu";
/// The file of the packages, which they include from the local file where libvirt does not look into the directory.
const OWN: &str = "abstractions/libvirt-qemu.d/viommu";

/// Where additions belong: libvirt has included a directory since 9.6, Debian a local file before.
fn place(abstraction: &str) -> String {
    let file = if includes(abstraction, DIRECTORY) { "abstractions/libvirt-qemu.d/viommu" } else { LOCAL };
    format!("/etc/apparmor.d/{file}")
}

fn includes(abstraction: &str, what: &str) -> bool {
    // `#include` is no comment, and `<path>` may be followed by anything.
    let included = format!("<{what}>");
    abstraction
        .lines()
        .any(|line| line.trim().trim_start_matches('#').starts_with("include") && line.contains(&included))
}

impl AppArmor {
    /// The rules that the wrapper needs and that are not there.
    fn missing(&self, abstraction: &str) -> Vec<&'static str> {
        let mut texts = vec![abstraction];
        let local = includes(abstraction, LOCAL).then_some(self.local.as_str());
        let directory = includes(abstraction, DIRECTORY) || local.is_some_and(|local| includes(local, OWN));
        texts.extend(local);
        texts.extend(directory.then_some(self.directory.as_str()));
        let rules = || texts.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.starts_with('#'));
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
        needed
            .into_iter()
            .filter(|(path, permission, _)| !allowed(path, *permission))
            .map(|(_, _, rule)| rule)
            .collect()
    }
}

pub(super) fn selinux(facts: &Facts) -> Option<Check> {
    const NAME: &str = "selinux";
    let selinux = facts.selinux.as_ref()?;
    if !selinux.enforcing || !in_use(facts, "selinux") {
        return Some(Check::ok(NAME, "does not enforce anything on guests"));
    }
    let broken = |message: String, remedy: &str| Some(Check::broken(NAME, Code::Confined, message, remedy));
    // The daemon may not execute what carries the label of its configuration, and then no guest of the host starts.
    let configured =
        |hook: &&HookFile| !hook.link && kind(hook.label.as_deref()).is_some_and(|kind| kind.ends_with("etc_rw_t"));
    if let Some(hook) = hooks_of_ours(facts).find(configured) {
        return broken(
            format!("the label of {} keeps every guest from starting", hook.path),
            "make it a link to /usr/bin/viommu",
        );
    }
    let relabel = "install viommu's policy module, then restorecon -RFi /usr/bin/viommu /run/viommu /var/lib/viommu";
    if !wraps(facts) {
        return Some(Check::ok(NAME, "needs no label: there is no wrapper"));
    }
    match kind(selinux.binary.as_deref()) {
        None => {
            return Some(Check::unknown(NAME, "the label of /usr/bin/viommu is not known", "ls -Z /usr/bin/viommu"));
        }
        Some("qemu_exec_t") => {}
        Some(other) => {
            let message = format!("the wrapper is refused: /usr/bin/viommu is {other}, and must be qemu_exec_t");
            return broken(message, relabel);
        }
    }
    let unreadable =
        |kind: &&str| matches!(*kind, "var_run_t" | "virt_runtime_t" | "virt_var_run_t" | "virtqemud_var_run_t");
    if let Some(other) = kind(selinux.state.as_deref()).filter(unreadable) {
        return broken(format!("guests may not read /run/viommu, which is {other}"), relabel);
    }
    Some(Check::ok(NAME, "the labels for the wrapper are there"))
}

/// The type in a context `USER:ROLE:TYPE:LEVEL`.
fn kind(context: Option<&str>) -> Option<&str> {
    context?.split(':').nth(2)
}

/// Whether the daemon, and so its hook, may raise limits.
pub(super) fn privileges(facts: &Facts) -> Check {
    const NAME: &str = "privileges";
    let Some(daemon) = &facts.daemon else { return Check::ok(NAME, "no daemon runs") };
    let broken = |message: String| {
        let remedy = format!(
            "add what it lacks to {}'s unit or container, or set <memtune><hard_limit> for each guest",
            daemon.name
        );
        Check::broken(NAME, Code::MemlockNoPrivilege, message, remedy)
    };
    let Some(capabilities) = daemon.capabilities else {
        return Check::unknown(NAME, format!("the capabilities of {} are not known", daemon.name), "run as root");
    };
    let lacks = NEEDED.iter().filter(|(_, bit)| capabilities >> bit & 1 == 0).map(|(name, _)| *name);
    let lacks: Vec<_> = lacks.collect();
    if !lacks.is_empty() {
        return broken(format!("{} may not raise limits: it has no {}", daemon.name, lacks.join(" and no ")));
    }
    if daemon.user_namespace {
        return broken(format!("{} runs in a user namespace, where its capabilities raise no limit", daemon.name));
    }
    Check::ok(NAME, format!("{} may raise limits", daemon.name))
}

/// The daemon's own limit: what guests without VFIO devices inherit, and nobody else. libvirt sets another one for each guest
/// with VFIO devices (`qemuDomainGetMemLockLimitBytes`), so whoever raised this one for them did not get what he wanted.
pub(super) fn limit(facts: &Facts) -> Check {
    const NAME: &str = "memlock";
    let limit = facts.daemon.as_ref().and_then(|daemon| Some((daemon.name, daemon.limit?)));
    let Some((name, limit)) = limit else { return Check::ok(NAME, "no daemon runs whose limit guests could inherit") };
    if limit <= STOCK_LIMIT {
        return Check::ok(NAME, format!("guests without passed-through devices inherit {limit} from {name}"));
    }
    let message = format!(
        "{name} runs with LimitMEMLOCK of its own ({limit}): guests without passed-through devices inherit it, those with \
         them do not"
    );
    Check::warning(
        NAME,
        Code::DaemonMemlock,
        message,
        "take it out of the unit; use <memtune><hard_limit> where it is meant",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str =
        "  include if exists <abstractions/libvirt-qemu.d>\n  include if exists <local/abstractions/libvirt-qemu>\n";
    const OLD: &str = "  #include <local/abstractions/libvirt-qemu>\n";
    const RULES: &str = include_str!("../../hooks/apparmor/viommu");
    // As hooks/attach writes it.
    const INCLUDED: &str = "include if exists <abstractions/libvirt-qemu.d/viommu>\n";

    fn missing(abstraction: &str, directory: &str, local: &str) -> usize {
        let files = AppArmor { abstraction: None, directory: directory.to_owned(), local: local.to_owned() };
        files.missing(abstraction).len()
    }

    #[test]
    fn rules_count_where_they_are_included() {
        // The abstractions of Debian 13 and Debian 12 end like this.
        assert_eq!(place(NEW), "/etc/apparmor.d/abstractions/libvirt-qemu.d/viommu");
        assert_eq!(place(OLD), "/etc/apparmor.d/local/abstractions/libvirt-qemu");
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
            assert_eq!(missing(abstraction, directory, local), lacks, "{abstraction} {directory} {local}");
        }
    }

    #[test]
    fn rules_are_read_as_the_parser_reads_them() {
        for (rules, lacks) in [
            ("/usr/bin/viommu rmix,\n/run/viommu/*.json r,\n", 0),
            ("  owner \"/usr/bin/viommu\" rmix,\n  /{,var/}run/viommu/** r,\n", 0),
            ("# /usr/bin/viommu rmix,\n/run/viommu/*.json r,\n", 1),
            ("/usr/bin/viommu r,\n/run/viommu/*.json r,\n", 1),
            ("/usr/bin/viommu rmix,\n", 1),
        ] {
            assert_eq!(missing(rules, "", ""), lacks, "{rules}");
        }
    }
}
