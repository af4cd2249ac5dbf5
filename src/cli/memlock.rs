//! `viommu memlock`: the locked-memory limit of a running guest.

use std::io::Write;

use clap::Args;
use rustix::process::Pid;

use crate::decide::Decided;
use crate::domain::Domain;
use crate::host::guest_process::{Identity, MISSING};
use crate::limit::Limit;
use crate::note::{Code, Note};
use crate::plan::{self, Plan};
use crate::qemu::{self, Invocation};
use crate::sys::pinned::Pinned;
use crate::sys::process::LockLimit;
use crate::text::{bytes, labelled, printable};

use super::Failure;
use super::input::{self, HostOptions, RequestOptions};
use super::report;
use super::terminal::Output;
use super::virsh::Connection;

/// Show, and raise, the locked-memory limit of a running guest
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name or UUID of a domain
    #[arg(required_unless_present = "pid")]
    domain: Option<String>,
    /// Process of a QEMU, instead of a domain
    #[arg(long, conflicts_with = "domain", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Raise the limit so that one more VFIO device can be hot-plugged
    #[arg(long)]
    raise: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    host: HostOptions,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    let name = match (&arguments.domain, arguments.pid) {
        (Some(name), _) => name.clone(),
        (None, Some(pid)) => uuid_of(pid)?,
        (None, None) => return Err(Failure::Usage("name a domain or a --pid".into())),
    };
    let live = arguments.connection.virsh()?.dump(&name, &[])?;
    let Decided { domain, plan, .. } = input::decide(&live, &RequestOptions::default(), &arguments.host)?;
    let plan = plan::kept(&plan);
    let not_running = || Failure::Usage(format!("{name} is not running"));
    let guest = Identity::of(&domain).filter(|_| domain.id.is_some()).ok_or_else(not_running)?;
    let unknown = || Failure::Usage(format!("the QEMU of {name} is not known: {MISSING}"));
    let process = guest.process().ok_or_else(unknown)?;
    if let Some(other) = arguments.pid.filter(|named| *named != process.pid().as_raw_pid()) {
        // A process can have any command line.
        return Err(Failure::Usage(format!("process {other} is not the QEMU of {name}")));
    }
    let gone = |error| Failure::Usage(format!("the limit of the process of {name} cannot be read: {error}"));
    let found = process.lock_limit().map_err(gone)?;

    let spaces = &plan.memlock.address_spaces;
    // Without a vIOMMU all devices share one address space.
    let after = if plan.iommu.is_some() || spaces.is_empty() { spaces.len() + 1 } else { spaces.len() };
    let one_more = needed(&domain, plan, after).unwrap_or(Limit::Bytes(0));
    let mut limit = found;
    if arguments.raise {
        limit = process.raise_lock_limit(one_more).map_err(|error| {
            let message = format!("the locked-memory limit of {name} cannot be raised to {one_more}: {error}");
            Note::error(Code::MemlockNoPrivilege, message)
        })?;
    }

    show(&domain, plan, &process, (found, limit), one_more, out)
}

/// Prints limit, use and need; the limits are those before and after a raise.
fn show(
    domain: &Domain,
    plan: &Plan,
    process: &Pinned,
    (found, limit): (LockLimit, LockLimit),
    one_more: Limit,
    out: &mut Output,
) -> Result<u8, Failure> {
    let spaces = &plan.memlock.address_spaces;
    writeln!(out, "{}: pid {}", printable(&domain.name), process.pid())?;
    let changed = if limit == found { String::new() } else { format!(", raised from {:#}", found.soft) };
    writeln!(out, "  limit           {:#}{changed}", limit.soft)?;
    let locked = locked(process).map_or_else(|| "not known".to_owned(), |locked| format!("{locked:#}"));
    writeln!(out, "  locked now      {locked}")?;
    for (index, space) in spaces.iter().enumerate() {
        let (memory, devices) = (bytes(plan::accounted_memory(domain)), report::devices(space));
        writeln!(out, "  address space {} {memory} for {devices}", index + 1)?;
    }
    let needed = needed(domain, plan, spaces.len());
    writeln!(out, "  needed          {}", report::limit(needed))?;
    let room = if limit.soft >= one_more { "yes" } else { "no: run with --raise before the hot-plug" };
    writeln!(out, "  room for one    {room} ({one_more:#})")?;
    if let Some(needed) = needed.filter(|needed| limit.soft < *needed) {
        let (limit, name) = (limit.soft, domain.shell_name());
        let message = format!("the limit is {limit}, and {needed} are needed: run viommu memlock {name} --raise");
        return Err(Failure::Refused(Note::error(Code::MemlockTooLow, message)));
    }
    Ok(0)
}

/// What the guest needs with so many address spaces.
fn needed(domain: &Domain, plan: &Plan, spaces: usize) -> Option<Limit> {
    match plan.memlock.required_bytes {
        Some(Limit::Unlimited) => Some(Limit::Unlimited),
        _ => plan::needed_bytes(domain, spaces).map(Limit::Bytes),
    }
}

/// The domain of a QEMU process, by the `-uuid` that libvirt gave it.
fn uuid_of(pid: i32) -> Result<String, Failure> {
    let process = Pid::from_raw(pid).and_then(|pid| Pinned::open(pid).ok());
    match process.map(|process| qemu::classify(&process.arguments())) {
        Some(Invocation::Guest { uuid, .. }) => Ok(uuid),
        _ => Err(Failure::Usage(format!("process {pid} is not a guest of libvirt"))),
    }
}

/// Memory that the process has locked (`VmLck`, where type1 containers account it).
fn locked(process: &Pinned) -> Option<Limit> {
    let status = process.text("status", 8192)?;
    let kibibytes: u64 = labelled(&status, "VmLck:")?.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024).map(Limit::Bytes)
}
