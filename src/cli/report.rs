//! A plan as text: the decision, the changes, the command line, the locked memory, the notes, and what to do next.

use std::io::{self, Write};

use similar::{ChangeTag, TextDiff};

use crate::domain::Domain;
use crate::limit::Limit;
use crate::note::{Level, Note};
use crate::plan::{self, AddressSpace, Memlock, Origin, Plan, Refusal, Route};
use crate::request::Source;
use crate::text::{bytes, count, printable};

use super::terminal::Output;

/// Columns before the values.
const LABEL: usize = 11;

/// Writes the whole report.
pub(super) fn plan(
    domain: &Domain,
    outcome: &Result<Plan, Refusal>,
    original: &str,
    rewritten: Option<&str>,
    out: &mut Output,
) -> io::Result<()> {
    let plan = plan::kept(outcome);
    let refused = outcome.is_err();
    out.line(&out.bold(&title(plan)), 4)?;
    writeln!(out)?;
    decision(plan, refused, out)?;
    if let Some(rewritten) = rewritten {
        // The wrapper does not change the XML.
        let heading = match plan.route {
            Route::Native => "Changes to the domain XML",
            Route::Wrapper => "The domain XML without the wrapper would be",
        };
        out.heading(heading)?;
        changes(plan, out)?;
        writeln!(out)?;
        diff(original, rewritten, "  ", out)?;
    }
    if !refused {
        command_line(plan, out)?;
        locked_memory(domain, &plan.memlock, out)?;
    }
    notes(plan, out)?;
    next(plan, outcome.as_ref().err(), out)
}

/// Writes what is going to be done; the difference follows.
pub(super) fn headline(plan: &Plan, out: &mut Output) -> io::Result<()> {
    out.line(&out.bold(&title(plan)), 4)?;
    match plan.route {
        Route::Native => changes(plan, out)?,
        Route::Wrapper => writeln!(out, "  set /domain/devices/emulator: the wrapper adds to QEMU's command line")?,
    }
    plan.warnings().try_for_each(|warning| note(warning, out))
}

fn changes(plan: &Plan, out: &mut Output) -> io::Result<()> {
    for change in &plan.changes {
        let line = format!("  {} {}: {}", change.action, change.path, printable(&change.reason));
        out.line(&line, 6)?;
    }
    Ok(())
}

fn title(plan: &Plan) -> String {
    let domain = &plan.domain;
    let name = if domain.name.is_empty() { "(unnamed domain)".into() } else { printable(&domain.name) };
    let text = |value: &Option<String>, default: &str| printable(value.as_deref().unwrap_or(default)).into_owned();
    let mut memory = bytes(domain.memory_bytes);
    if domain.max_memory_bytes > domain.memory_bytes {
        memory = format!("{memory}, up to {}", bytes(domain.max_memory_bytes));
    }
    format!(
        "{name}: {}, {}, {}, {}, {memory}",
        printable(&domain.virt_type),
        text(&domain.arch, "the host's architecture"),
        text(&domain.machine, "default machine"),
        count(domain.vcpus, "vCPU")
    )
}

fn decision(plan: &Plan, refused: bool, out: &mut Output) -> io::Result<()> {
    let request = &plan.request;
    let asked = match request.source {
        Source::None if refused => "invalid".to_owned(),
        Source::None => "none".to_owned(),
        source => format!("{} asks for '{}'", source.describe(), request.model.as_str()),
    };
    let locked = if request.locked_memory { ", and for locked memory" } else { "" };
    out.row("request", LABEL, &format!("{asked}{locked}"))?;
    if refused {
        return out.row("decision", LABEL, &out.level(Level::Error, "refused"));
    }
    if plan.iommu.is_none() {
        out.row("vIOMMU", LABEL, "none")?;
    }
    let mut label = "vIOMMU";
    for iommu in plan.iommu.iter().chain(&plan.further_iommus) {
        let model = out.bold(&printable(&iommu.name));
        out.row(label, LABEL, &format!("{model} ({}){}", described(iommu.origin), attributes(&iommu.driver)))?;
        label = "";
    }
    if let Some(ioapic) = &plan.ioapic {
        let split = if ioapic.driver == "qemu" { ", the split irqchip" } else { "" };
        let value = format!("{}{split} ({})", printable(&ioapic.driver), described(ioapic.origin));
        out.row("I/O APIC", LABEL, &value)?;
    }
    let route = match plan.route {
        Route::Native => "native: libvirt reads it from the domain XML",
        Route::Wrapper => "wrapper: the emulator adds it to QEMU's command line",
    };
    if plan.iommu.is_some() { out.row("route", LABEL, route) } else { Ok(()) }
}

/// ` name=value` for each attribute of a `<driver>`.
pub(super) fn attributes(driver: &[(String, String)]) -> String {
    let pairs = driver.iter().map(|(name, value)| format!(" {}={}", printable(name), printable(value)));
    pairs.collect::<Vec<_>>().concat()
}

/// Why a host cannot give a model.
pub(super) fn no(note: &Note) -> String {
    format!("no [{}]: {}", note.code, printable(&note.message))
}

fn described(origin: Origin) -> &'static str {
    match origin {
        Origin::Added => "added",
        Origin::Existing => "in the domain",
        Origin::Completed => "in the domain, completed",
        Origin::Commandline => "in <qemu:commandline>",
    }
}

/// A unified diff with three lines of context.
pub(super) fn diff(original: &str, rewritten: &str, indent: &str, out: &mut Output) -> io::Result<()> {
    let changes = TextDiff::from_lines(original, rewritten);
    writeln!(out, "{indent}--- domain")?;
    writeln!(out, "{indent}+++ domain, rewritten")?;
    for hunk in changes.unified_diff().iter_hunks() {
        writeln!(out, "{indent}{}", out.paint("36", &hunk.header().to_string()))?;
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ("-", "31"),
                ChangeTag::Insert => ("+", "32"),
                ChangeTag::Equal => (" ", "0"),
            };
            let line = change.value().trim_end_matches(['\n', '\r']);
            // Tabs are the only control characters that stay.
            let line = line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
            writeln!(out, "{indent}{}", out.paint(colour, &format!("{sign}{line}")))?;
        }
    }
    Ok(())
}

fn command_line(plan: &Plan, out: &mut Output) -> io::Result<()> {
    if plan.qemu.is_empty() {
        return Ok(());
    }
    let who = if plan.route == Route::Wrapper { "the wrapper" } else { "libvirt" };
    writeln!(out, "\n{} (by {who})", out.bold("QEMU's command line"))?;
    for (key, value) in &plan.qemu.machine {
        writeln!(out, "  -machine …,{key}={value}")?;
    }
    for device in &plan.qemu.devices {
        writeln!(out, "  -device {device}")?;
    }
    for (key, value) in &plan.qemu.existing {
        let driver = plan.iommu.as_ref().and_then(|iommu| iommu.model?.facts().drivers.first().copied());
        writeln!(out, "  -device {},…,{key}={value}", driver.unwrap_or_default())?;
    }
    if let Some(virtio) = plan.qemu.virtio {
        let (devices, ats) =
            (if virtio.all { "virtio-…" } else { "virtio-net-…" }, if virtio.ats { ",ats=on" } else { "" });
        writeln!(out, "  -device {devices},…,iommu_platform=on{ats}")?;
    }
    if plan.qemu.lock_memory {
        writeln!(out, "  -overcommit mem-lock=on")?;
    }
    Ok(())
}

/// A limit, with its exact number.
pub(super) fn limit(limit: Option<Limit>) -> String {
    limit.map_or_else(|| "nothing".to_owned(), |limit| format!("{limit:#}"))
}

/// The devices of an address space.
pub(super) fn devices(space: &AddressSpace) -> String {
    space.devices.iter().map(|device| printable(device)).collect::<Vec<_>>().join(" ")
}

fn locked_memory(domain: &Domain, memlock: &Memlock, out: &mut Output) -> io::Result<()> {
    out.heading("Locked memory")?;
    let memory = bytes(plan::accounted_memory(domain));
    if !memlock.address_spaces.is_empty() {
        writeln!(out, "  address space   IOMMU groups   pinned     devices")?;
    }
    for (index, space) in memlock.address_spaces.iter().enumerate() {
        let groups = space.iommu_groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let groups = if groups.is_empty() { "not known" } else { &groups };
        let mut devices = devices(space);
        if space.backend == plan::Backend::Iommufd {
            devices += " (iommufd, one IOAS)";
        }
        out.line(&format!("  {:<13}   {groups:<12}   {memory:<8}   {devices}", index + 1), 44)?;
    }
    for (number, what) in [(memlock.nvme_disks, "NVMe disk"), (memlock.vdpa_devices, "vDPA device")] {
        if number > 0 {
            writeln!(out, "  {}, {memory} each", count(number, what))?;
        }
    }
    if let Some(usual) = plan::beyond_reserve(domain, memlock.address_spaces.len()) {
        writeln!(out, "  Displays and firmware add {} to each, which is more than 1 GiB in all.", bytes(usual))?;
    }
    writeln!(out, "  needed         {}", limit(memlock.required_bytes))?;
    writeln!(out, "  libvirt sets   {}", limit(memlock.libvirt_bytes))?;
    let verdict = match (memlock.raise, memlock.required_bytes) {
        (true, _) => "too low: viommu raises it when the guest starts",
        (false, None) => "nothing is pinned",
        (false, Some(_)) if memlock.required_bytes > memlock.libvirt_bytes => "too low, and viommu does not raise it",
        (false, Some(_)) => "enough",
    };
    writeln!(out, "  verdict        {verdict}")
}

fn notes(plan: &Plan, out: &mut Output) -> io::Result<()> {
    // Errors go to stderr.
    let mut notes: Vec<_> = plan.notes.iter().filter(|note| note.level != Level::Error).collect();
    if notes.is_empty() {
        return Ok(());
    }
    out.heading("Notes")?;
    notes.sort_by_key(|note| std::cmp::Reverse(note.level));
    notes.into_iter().try_for_each(|shown| note(shown, out))
}

pub(super) fn note(note: &Note, out: &mut Output) -> io::Result<()> {
    let head = out.level(note.level, &format!("{}[{}]", note.level, note.code));
    out.line(&format!("  {head} {}", printable(&note.message)), 6)
}

fn next(plan: &Plan, refusal: Option<&Refusal>, out: &mut Output) -> io::Result<()> {
    let step = if let Some(Refusal { note, .. }) = refusal {
        format!("correct what error[{}] says, which is on standard error; nothing was changed", note.code)
    } else if plan.flaw.is_some() {
        "correct the domain as the warning says".to_owned()
    } else if plan.changes.is_empty() {
        "nothing to do".to_owned()
    } else if plan.route == Route::Wrapper {
        "start the guest: the wrapper adds the vIOMMU".to_owned()
    } else {
        let name = plan.domain.shell_name();
        format!(
            "viommu apply {name} (or viommu rewrite FILE > new.xml && virsh define new.xml), then shut the guest down and start it"
        )
    };
    out.heading("Next")?;
    out.line(&format!("  {step}"), 4)
}
