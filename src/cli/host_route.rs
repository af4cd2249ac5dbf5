//! `viommu host-route`: the wrapper as the default emulator of this host's libvirt.
//!
//! The script that makes viommu libvirt's hook switches it, so that the route is never on without the hook.
#![expect(clippy::disallowed_methods, reason = "the command line may start the script; the hook does not come here")]

use std::env;
use std::path::Path;
use std::process::Command;

use clap::{Args, ValueEnum};

use super::Failure;

/// Make the wrapper the default emulator of this host's libvirt, or QEMU again
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[arg(value_enum)]
    switch: Switch,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    #[value(help = "libvirt starts guests without an <emulator> through viommu; the hook is put in place first")]
    On,
    /// libvirt's default emulator is QEMU again; the hook stays
    Off,
    /// Show whether it is on, in which daemon, and which guests name it
    Status,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let program = env::current_exe().map_err(|error| Failure::Usage(format!("cannot find the program: {error}")))?;
    let prefix = program.ancestors().nth(2).unwrap_or(Path::new("/usr"));
    let script = prefix.join("lib/libvirt-viommu/attach");
    let switch = match arguments.switch {
        Switch::Status => "status",
        _ if !arguments.dry_run && !rustix::process::geteuid().is_root() => {
            return Err(Failure::Usage("only root can switch the host route".to_owned()));
        }
        Switch::On => "on",
        Switch::Off => "off",
    };
    if !script.exists() {
        let message = format!(
            "this viommu is not installed ({} is missing): run /usr/bin/viommu after ./install.sh",
            script.display()
        );
        return Err(Failure::Usage(message));
    }
    let mut command = Command::new(&script);
    command.args(["--host-route", switch, "--prefix"]).arg(prefix);
    command.args(arguments.dry_run.then_some("--dry-run"));
    let status = command.status();
    let status = status.map_err(|error| Failure::Usage(format!("cannot run {}: {error}", script.display())))?;
    Ok(u8::from(!status.success()))
}
