//! The daemon that runs QEMU: whether it has loaded the hook, its privileges, its own limit.
#![expect(clippy::disallowed_methods, reason = "systemd is asked through systemctl")]

use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

use crate::host::libvirt;
use crate::limit::Limit;
use crate::note::Code;
use crate::state::store;
use crate::sys::pinned::Pinned;
use crate::sys::{fs, process};
use crate::text::labelled;

use super::guests::FoundGuest;
use super::{Check, SharedFacts, install, text};

/// The limit that libvirt's own systemd units set.
const STOCK_LIMIT: Limit = Limit::Bytes(64 << 20);
/// Seconds. The kernel reports the start of a process and the boot of the machine in whole seconds each.
const INEXACT: u64 = 2;

/// A running libvirtd or virtqemud.
#[derive(Debug)]
pub(super) struct DaemonFacts {
    pub(super) name: &'static str,
    pub(super) pid: Pid,
    /// When it was started, seconds since the epoch.
    started: Option<u64>,
    /// When systemd last started or reloaded it, seconds since the epoch.
    reloaded: Option<u64>,
    /// Its hard locked-memory limit.
    limit: Option<Limit>,
    /// The capabilities that it has and can hand on, as the kernel numbers their bits.
    capabilities: Option<u64>,
    /// It runs in a user namespace, where capabilities have no effect outside.
    user_namespace: bool,
    /// Its AppArmor profile or SELinux context.
    pub(super) confinement: Option<String>,
}

impl DaemonFacts {
    /// The running daemon. In an image systemctl is not started: it would be the image's program, with root's privileges.
    pub(super) fn read(image: bool) -> Option<DaemonFacts> {
        let (name, pid) = libvirt::running()?;
        let file = |name| text(process::file(pid, name));
        let unit = unit(&file("cgroup")).filter(|_| !image);
        Some(DaemonFacts {
            name,
            pid,
            started: process::started(pid),
            reloaded: unit.and_then(|unit| state_changed(&unit)),
            limit: Pinned::open(pid).and_then(|daemon| daemon.lock_limit()).ok().map(|limit| limit.hard),
            capabilities: capabilities(&file("status")),
            user_namespace: !file("uid_map").split_whitespace().eq(["0", "0", "4294967295"]),
            confinement: confinement(pid),
        })
    }
}

/// The unit in `0::/system.slice/libvirtd.service`, or in the line of systemd's own hierarchy.
fn unit(cgroup: &str) -> Option<String> {
    let line = cgroup.lines().find(|line| line.starts_with("0::/") || line.contains(":name=systemd:"))?;
    line.split('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// When a unit last changed its state, seconds since the epoch. A reload changes it; systemd keeps the time.
fn state_changed(unit: &str) -> Option<u64> {
    let mut systemctl = Command::new("/usr/bin/systemctl");
    systemctl.args(["show", "--property=StateChangeTimestamp", "--value", unit]).env("TZ", "UTC").env("LC_ALL", "C");
    seconds(String::from_utf8(systemctl.output().ok()?.stdout).ok()?.trim())
}

/// Seconds since the epoch of `Sun 2026-11-29 11:12:06 UTC`.
fn seconds(timestamp: &str) -> Option<u64> {
    let [_, date, time, "UTC"] = timestamp.split(' ').collect::<Vec<_>>()[..] else { return None };
    let numbers = |text: &str, separator| text.split(separator).map(|n| n.parse().ok()).collect::<Option<Vec<u64>>>();
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let [hour, minute, second] = numbers(time, ':')?[..] else { return None };
    // Days of the proleptic Gregorian calendar, years beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    // 719,469 is the number that this formula gives for 1970-01-01.
    Some(days.checked_sub(719_469)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// The capabilities that a process has and can hand on to a hook.
fn capabilities(status: &str) -> Option<u64> {
    let set = |label| u64::from_str_radix(labelled(status, label)?, 16).ok();
    Some(set("CapEff:")? & set("CapBnd:")?)
}

fn confinement(pid: Pid) -> Option<String> {
    let label = ["attr/apparmor/current", "attr/current"].map(|file| text(process::file(pid, file)));
    label.into_iter().map(|label| label.trim_end_matches(['\n', '\0']).to_owned()).find(|label| !label.is_empty())
}

/// When the hook last wrote the state or the record of a guest, seconds since the epoch.
fn hook_wrote() -> Option<u64> {
    store::files().iter().filter_map(|(_, path)| fs::entry(path)).map(|file| file.changed).max()
}

/// Checks whether the daemon has looked for hooks since the hook was installed.
///
/// libvirt records at its start and at each reload whether there is any hook, and looks for the files at each call
/// (`virHookInitialize`, `virHookCall`). systemd keeps the time of a reload. Without systemd, files that the hook wrote, or a
/// guest that it should have refused, may tell.
pub(super) fn loaded(known: &SharedFacts) -> Option<Check> {
    const NAME: &str = "daemon";
    let ours = install::ours(known)?;
    let Some(daemon) = &known.daemon else {
        return Some(Check::ok(NAME, "no daemon runs; the next one looks for hooks when it starts"));
    };
    let Some(started) = daemon.started else {
        let message = format!("the start time of {} is not known", daemon.name);
        return Some(Check::unknown(NAME, message, "run it as root"));
    };
    let loaded = |message: &str| Some(Check::ok(NAME, format!("{} (pid {}) {message}", daemon.name, daemon.pid)));
    if known.hooks.iter().any(|hook| hook.is_run(known) && hook.entry.changed <= started + INEXACT) {
        return loaded("was started after the hook was installed");
    }
    if hook_wrote().is_some_and(|written| written > started) {
        return loaded("has called the hook");
    }
    if daemon.reloaded.is_some_and(|reloaded| reloaded + INEXACT >= ours.entry.changed) {
        return loaded("was reloaded after the hook was installed");
    }
    let broken = |message: String| {
        let remedy = format!("{}; guests keep running", daemon.reload());
        Check::broken(NAME, Code::HookNotLoaded, message, remedy)
    };
    let older = format!("{} (pid {}) was started before {} was installed", daemon.name, daemon.pid, ours.path);
    if let Some(guest) = known.guests.iter().find(|guest| guest.started_without(ours.entry.changed + INEXACT)) {
        return Some(broken(format!("{older}, and did not call it for guest {}", guest.name())));
    }
    Some(if daemon.reloaded.is_some() {
        broken(format!("{older}, and was not reloaded since")).concerning(known.asked())
    } else {
        broken(format!("{older}, and no record shows whether it was reloaded since")).concerning(false)
    })
}

impl DaemonFacts {
    /// The command that reloads it.
    fn reload(&self) -> String {
        if Path::new("/run/systemd/system").exists() {
            format!("systemctl reload {}", self.name)
        } else {
            format!("kill -HUP {}", self.pid)
        }
    }
}

/// Checks whether the daemon, and so its hook, may raise limits.
pub(super) fn privileges(known: &SharedFacts) -> Check {
    const NAME: &str = "privileges";
    let Some(daemon) = &known.daemon else { return Check::ok(NAME, "no daemon runs") };
    let broken = |message: String| {
        let remedy = format!(
            "add it to the unit or the container of {}, or set <memtune><hard_limit> for each guest with VFIO devices",
            daemon.name
        );
        let raise = !known.root || known.guests.iter().any(FoundGuest::needs_raise);
        Check::broken(NAME, Code::MemlockNoPrivilege, message, remedy).concerning(raise)
    };
    let Some(capabilities) = daemon.capabilities else {
        return Check::unknown(NAME, format!("the capabilities of {} are not known", daemon.name), "run it as root");
    };
    let lacks = process::RAISES_LIMITS.iter().filter(|capability| capabilities & capability.bitmask() == 0);
    let lacks: Vec<String> = lacks.map(ToString::to_string).collect();
    if !lacks.is_empty() {
        return broken(format!("{} cannot raise limits: it has no {}", daemon.name, lacks.join(" and no ")));
    }
    if daemon.user_namespace {
        return broken(format!("{} runs in a user namespace, where its capabilities raise no limit", daemon.name));
    }
    Check::ok(NAME, format!("{} can raise limits", daemon.name))
}

/// The daemon's own limit. Only guests without VFIO devices inherit it: libvirt sets another limit for each guest with VFIO
/// devices (`qemuDomainGetMemLockLimitBytes`), so raising the daemon's limit for those has no effect.
pub(super) fn limit(known: &SharedFacts) -> Check {
    const NAME: &str = "memlock";
    let limit = known.daemon.as_ref().and_then(|daemon| Some((daemon.name, daemon.limit?)));
    let Some((name, limit)) = limit else { return Check::ok(NAME, "no daemon runs whose limit guests could inherit") };
    if limit <= STOCK_LIMIT {
        return Check::ok(NAME, format!("guests without VFIO devices inherit {limit} from {name}"));
    }
    let message = format!(
        "{name} has a LimitMEMLOCK of its own ({limit}): guests without VFIO devices inherit it, those with do not"
    );
    let remedy = "remove it from the unit, and set <memtune><hard_limit> in the guests that need it";
    Check::warning(NAME, Code::DaemonMemlock, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_process_from_proc() {
        // The status of Debian 12's libvirtd, and of one in a Docker container.
        let full = "CapPrm:\t1\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n";
        assert_eq!(capabilities(full), Some(0x1ff_ffff_ffff));
        assert_eq!(capabilities("CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n"), Some(0xa804_25fb));
        assert_eq!(capabilities("Name:\tlibvirtd\n"), None);
        assert_eq!(unit("0::/system.slice/libvirtd.service\n").as_deref(), Some("libvirtd.service"));
        let old = "4:memory:/x.service\n1:name=systemd:/system.slice/virtqemud.service/x\n0::/\n";
        assert_eq!(unit(old).as_deref(), Some("virtqemud.service"));
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn reads_the_time_that_systemctl_prints() {
        // From date -d.
        for (text, expected) in [
            ("Thu 1970-01-01 00:00:00 UTC", Some(0)),
            ("Thu 2024-02-29 23:59:59 UTC", Some(1_709_251_199)),
            ("Fri 2024-03-01 00:00:00 UTC", Some(1_709_251_200)),
            ("Sun 2026-11-29 11:12:06 UTC", Some(1_795_950_726)),
            ("Sun 2026-11-29 12:12:06 CET", None),
            ("n/a", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
