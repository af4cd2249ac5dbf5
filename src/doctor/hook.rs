//! What of viommu is installed: the hook, whether the daemon knows of it, the wrapper, and what they left behind.

use crate::note::Code;
use crate::plan::{self, Route};
use crate::version::Version;

use super::facts::{Facts, HookFile, Program};
use super::{Check, guests};

/// The first libvirt that runs what stands in `qemu.d` (`virHookCall`).
const READS_DIRECTORY: Version = Version::new(6, 5);
/// The kernel tells when a process was started and when the machine booted in whole seconds each.
const INEXACT: u64 = 2;

const MAIN: &str = "/etc/libvirt/hooks/qemu";
const OWN: &str = "/etc/libvirt/hooks/qemu.d/50-viommu";

/// Whether libvirt would run this file.
fn is_run(facts: &Facts, hook: &HookFile) -> bool {
    hook.executable && (!hook.in_directory() || reads_directory(facts))
}

fn reads_directory(facts: &Facts) -> bool {
    facts.host.libvirt.is_none_or(|libvirt| libvirt >= READS_DIRECTORY)
}

/// The hook that is viommu and that libvirt would run.
fn ours(facts: &Facts) -> Option<&HookFile> {
    facts.hooks.iter().find(|hook| hook.program == Program::Viommu && is_run(facts, hook))
}

pub(super) fn hook(facts: &Facts) -> Check {
    const NAME: &str = "hook";
    let broken = |message: String, remedy: String| Check::broken(NAME, Code::HookUnusable, message, remedy);
    if let Some(hook) = ours(facts) {
        return Check::ok(NAME, format!("{} is viommu", hook.path));
    }
    let by_hand = || format!("call 'viommu hook \"$@\"' from {MAIN}");
    let of = |program| facts.hooks.iter().find(|hook| hook.program == program);
    if let Some(hook) = of(Program::Viommu) {
        return if hook.executable {
            let message = format!("{} is viommu, and libvirt before {READS_DIRECTORY} does not look there", hook.path);
            broken(message, by_hand())
        } else {
            broken(format!("{} is viommu and not executable", hook.path), format!("chmod 755 {}", hook.path))
        };
    }
    if let Some(hook) = of(Program::Nothing) {
        return broken(format!("{} is a link to nothing", hook.path), "install /usr/bin/viommu".to_owned());
    }
    match facts.hooks.first() {
        Some(hook) => {
            let remedy =
                if reads_directory(facts) { format!("keep it, and ln -s /usr/bin/viommu {OWN}") } else { by_hand() };
            broken(format!("{} is another program, and none is viommu", hook.path), remedy)
        }
        None => broken("libvirt has no qemu hook".to_owned(), format!("ln -s /usr/bin/viommu {MAIN}, then reload")),
    }
}

/// Whether the daemon has looked for hooks since there is one.
///
/// libvirt remembers from its start, and from each reload, whether there was any hook, and looks for the files themselves at
/// each call (`virHookInitialize`, `virHookCall`). No file tells of a reload; systemd does. Where it cannot be asked, a
/// guest that should have been refused tells, and what the hook has written.
pub(super) fn loaded(facts: &Facts) -> Option<Check> {
    const NAME: &str = "daemon";
    let ours = ours(facts)?;
    let Some(daemon) = &facts.daemon else {
        return Some(Check::ok(NAME, "no daemon runs; the next one looks for hooks when it starts"));
    };
    let Some(started) = daemon.started else {
        return Some(Check::unknown(NAME, format!("when {} was started is not known", daemon.name), "run as root"));
    };
    let knows = |message: &str| Some(Check::ok(NAME, format!("{} (pid {}) {message}", daemon.name, daemon.pid)));
    if facts.hooks.iter().any(|hook| is_run(facts, hook) && hook.changed <= started + INEXACT) {
        return knows("was started after the hook was installed");
    }
    if facts.hook_wrote.is_some_and(|written| written > started) {
        return knows("has called the hook");
    }
    if daemon.reloaded.is_some_and(|reloaded| reloaded + INEXACT >= ours.changed) {
        return knows("was reloaded after the hook was installed");
    }
    let remedy = format!("systemctl reload {}; guests keep running", daemon.name);
    let older = format!("{} (pid {}) is older than {}", daemon.name, daemon.pid, ours.path);
    let proof = facts.guests.iter().find(|guest| {
        let started = guest.running.as_ref().and_then(|running| running.started);
        started.is_some_and(|started| started > ours.changed + INEXACT) && guests::lacks_viommu(facts, guest)
    });
    if let Some(guest) = proof {
        let message = format!("{older}, and did not call it for guest {}", guests::name(guest));
        return Some(Check::broken(NAME, Code::HookNotLoaded, message, remedy));
    }
    Some(if daemon.reloaded.is_some() {
        Check::broken(NAME, Code::HookNotLoaded, format!("{older}, and was not reloaded since"), remedy)
    } else {
        let message = format!("{older}, and nothing shows whether it was reloaded since");
        Check::warning(NAME, Code::HookNotLoaded, message, remedy)
    })
}

/// Whether each wrapper that somebody may use leads to viommu, and has its QEMU. The packages bring one for each
/// architecture, so one for another architecture than the host's matters only where a guest uses it.
pub(super) fn wrapper(facts: &Facts) -> Check {
    const NAME: &str = "wrapper";
    let used = guests::domains(facts).filter(|domain| plan::route(domain) == Route::Wrapper);
    let used: Vec<&str> = used.filter_map(|domain| domain.emulator.as_deref()).collect();
    if let Some(path) = used.iter().find(|path| facts.wrappers.iter().all(|wrapper| wrapper.path != **path)) {
        let message = format!("a guest's emulator {path} is not there");
        return Check::broken(NAME, Code::EmulatorMissing, message, format!("ln -s viommu {path}"));
    }
    let configured = facts.config.as_ref().map(|config| &config.emulators);
    let mut works = Vec::new();
    for wrapper in &facts.wrappers {
        if !wrapper.is_viommu {
            let message = format!("{} does not lead to viommu", wrapper.path);
            return Check::broken(NAME, Code::EmulatorMissing, message, format!("ln -sf viommu {}", wrapper.path));
        }
        let native = facts.host.arch.as_ref() == Some(&wrapper.arch);
        let named = configured.is_ok_and(|emulators| emulators.contains_key(&wrapper.arch));
        if wrapper.real_works {
            works.push(wrapper.path.as_str());
        } else if native || named || used.contains(&wrapper.path.as_str()) {
            let message = format!("the real QEMU behind {}, {}, is not there or not QEMU", wrapper.path, wrapper.real);
            let remedy = format!("install it, or name it under [emulators] in {}", crate::config::PATH);
            return Check::broken(NAME, Code::EmulatorMissing, message, remedy);
        }
    }
    match works.first() {
        Some(first) => Check::ok(NAME, format!("{first}{}", if works.len() > 1 { " and others" } else { "" })),
        None => Check::ok(NAME, "not installed, and no guest uses it"),
    }
}

pub(super) fn state(facts: &Facts) -> Check {
    const NAME: &str = "state";
    if let Some(why) = &facts.state.distrust {
        let message = format!("/run/viommu cannot be used: {why}");
        return Check::broken(NAME, Code::StateInvalid, message, "remove it; the hook makes it again");
    }
    match facts.state.leftovers.as_slice() {
        [] => Check::ok(NAME, "/run/viommu holds nothing of guests that are gone"),
        [first, rest @ ..] => {
            let others = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let message = format!("/run/viommu/{first}{others}: left over from guests that are gone");
            Check::warning(NAME, Code::StateLeftover, message, "remove it")
        }
    }
}
