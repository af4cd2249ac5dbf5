//! The host route: whether it is on, in the running daemon too, and never without the hook. And whether libvirt has probed the
//! QEMU that is behind the wrapper.

use std::path::Path;

use crate::config::Config;
use crate::host::capcache;
use crate::note::Code;
use crate::plan::wrapped_emulator;
use crate::sys::fs;

use super::{Check, SharedFacts, install};

/// The file by which `viommu host-route on` sets the daemon's PATH.
fn drop_in(daemon: &str) -> String {
    format!("/etc/systemd/system/{daemon}.service.d/zz-viommu-host-route.conf")
}

pub(super) fn route(known: &SharedFacts) -> Check {
    const NAME: &str = "host-route";
    let switched = |daemon: &str| fs::entry(Path::new(&drop_in(daemon))).is_some();
    let (daemon, switched, runs) = match &known.daemon {
        Some(daemon) => (daemon.name, switched(daemon.name), known.host.host_route == Some(true)),
        None => ("libvirtd", switched("libvirtd"), switched("libvirtd")),
    };
    if !switched && !runs {
        return Check::ok(NAME, "off");
    }
    if install::ours(known).is_none() {
        let message = "it is on and viommu is not libvirt's hook: guests with the default emulator do not start";
        return Check::broken(NAME, Code::HookUnusable, message, "viommu host-route on, or viommu host-route off");
    }
    let link = format!("{}/qemu-system-{}", install::HOST_ROUTE, known.host.arch.as_deref().unwrap_or("x86_64"));
    if known.wrappers.iter().all(|wrapper| wrapper.path != link) {
        let message = format!("it is on, and {link} does not exist: libvirt's default emulator is QEMU itself");
        return Check::broken(NAME, Code::EmulatorMissing, message, format!("ln -s {} {link}", install::BINARY));
    }
    // Without systemd there is no drop-in.
    if switched == runs || !Path::new("/run/systemd/system").exists() {
        return Check::ok(NAME, format!("on: libvirt's default emulator is in {}", install::HOST_ROUTE));
    }
    let state = if switched { "on" } else { "off" };
    let message = format!("it is {state}, and {daemon} was started before it was switched {state}");
    let remedy = format!("systemctl restart {daemon}; guests keep running");
    Check::broken(NAME, Code::HookNotLoaded, message, remedy).concerning(switched && known.asked())
}

/// Checks that libvirt probed each wrapper after the QEMU behind it was installed. libvirt probes again when the emulator's file
/// changes (`virQEMUCapsIsValid`), and that file is viommu.
pub(super) fn probed(known: &SharedFacts) -> Vec<Check> {
    let config = known.config.as_ref().ok();
    let stale = fs::names(Path::new(capcache::DIRECTORY)).into_iter().filter_map(|name| {
        let file = Path::new(capcache::DIRECTORY).join(name);
        let (emulator, _) = capcache::parse(&fs::head(&file, capcache::CACHE_HEAD)?)?;
        let real = config.unwrap_or(&Config::default()).emulator_behind(wrapped_emulator(&emulator.path)?);
        let (probed, installed) = (fs::entry(&file)?.changed, fs::entry(Path::new(&real))?.changed);
        (installed > probed).then_some((emulator.path, real))
    });
    let check = |(path, real)| {
        let message = format!("{real} is newer than what libvirt found out about it through {path}");
        let remedy = "/usr/lib/libvirt-viommu/attach --reprobe";
        Check::warning("wrapper", Code::EmulatorStale, message, remedy)
    };
    stale.map(check).collect()
}
