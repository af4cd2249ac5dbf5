//! A plan as text: the decision, the changes, the command line, the locked memory, the notes, and what to do next.

use std::io::{self, Write};

use serde::{Serialize, Serializer};
use similar::{ChangeTag, TextDiff};

use crate::domain::Domain;
use crate::limit::Limit;
use crate::note::{Code, Level, Note};
use crate::plan::{self, AddressSpace, Memlock, Origin, Plan, Refusal, Route};
use crate::request::Source;
use crate::text::{bytes, printable};

use super::terminal::Paint;

/// Columns before the values.
const LABEL: usize = 11;

/// The decision in JSON.
pub(super) fn outcome<S: Serializer>(outcome: &Result<Plan, Refusal>, serializer: S) -> Result<S::Ok, S::Error> {
    match outcome {
        Ok(plan) => plan.serialize(serializer),
        Err(refusal) => refusal.serialize(serializer),
    }
}

/// Writes the whole report.
pub(super) fn plan(
    domain: &Domain,
    outcome: &Result<Plan, Refusal>,
    original: &str,
    rewritten: Option<&str>,
    paint: Paint,
    out: &mut impl Write,
) -> io::Result<()> {
    let plan = plan::kept(outcome);
    let refused = outcome.is_err();
    paint.line(&paint.bold(&title(plan)), 4, out)?;
    writeln!(out)?;
    decision(plan, refused, paint, out)?;
    if rewritten.is_some() {
        // The wrapper does not change the XML.
        let heading = match plan.route {
            Route::Native => "Changes to the domain XML",
            Route::Wrapper => "The domain XML without the wrapper would be",
        };
        writeln!(out, "\n{}", paint.bold(heading))?;
        changes(plan, paint, out)?;
        writeln!(out)?;
        diff(original, rewritten, paint, "  ", out)?;
    }
    if !refused {
        command_line(plan, paint, out)?;
        locked_memory(domain, &plan.memlock, paint, out)?;
    }
    notes(plan, paint, out)?;
    next(plan, outcome.as_ref().err().map(|refusal| refusal.note.code), paint, out)
}

/// Writes what is going to be done; the difference follows.
pub(super) fn headline(plan: &Plan, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    paint.line(&paint.bold(&title(plan)), 4, out)?;
    match plan.route {
        Route::Native => changes(plan, paint, out)?,
        Route::Wrapper => writeln!(out, "  set /domain/devices/emulator: the wrapper adds to QEMU's command line")?,
    }
    for note in plan.warnings() {
        noted(note, paint, out)?;
    }
    Ok(())
}

fn changes(plan: &Plan, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    for change in &plan.changes {
        let line = format!("  {} {}: {}", change.action, change.path, printable(&change.reason));
        paint.line(&line, 6, out)?;
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
        "{name}: {}, {}, {}, {} vCPU{}, {memory}",
        printable(&domain.virt_type),
        text(&domain.arch, "the host's architecture"),
        text(&domain.machine, "default machine"),
        domain.vcpus,
        if domain.vcpus == 1 { "" } else { "s" }
    )
}

fn decision(plan: &Plan, refused: bool, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let request = &plan.request;
    let asked = match request.source {
        Source::None if refused => "invalid".to_owned(),
        Source::None => "none".to_owned(),
        source => format!("{} asks for '{}'", source.describe(), request.model.as_str()),
    };
    let locked = if request.locked_memory { ", and for locked memory" } else { "" };
    paint.line(&format!("{:LABEL$}{asked}{locked}", "request"), LABEL, out)?;
    if refused {
        return writeln!(out, "decision   {}", paint.level(Level::Error, "refused"));
    }
    match &plan.iommu {
        Some(iommu) => {
            let labels = ["vIOMMU"].into_iter().chain(std::iter::repeat(""));
            for (label, iommu) in labels.zip([iommu].into_iter().chain(&plan.further_iommus)) {
                let model = paint.bold(&printable(&iommu.name));
                let line = format!("{label:LABEL$}{model} ({}){}", described(iommu.origin), attributes(&iommu.driver));
                paint.line(&line, LABEL, out)?;
            }
        }
        None => writeln!(out, "vIOMMU     none")?,
    }
    if let Some(ioapic) = &plan.ioapic {
        let split = if ioapic.driver == "qemu" { ", the split irqchip" } else { "" };
        writeln!(out, "I/O APIC   {}{split} ({})", printable(&ioapic.driver), described(ioapic.origin))?;
    }
    let route = match plan.route {
        Route::Native => "native: libvirt reads it from the domain XML",
        Route::Wrapper => "wrapper: the emulator adds it to QEMU's command line",
    };
    if plan.iommu.is_some() { paint.line(&format!("{:LABEL$}{route}", "route"), LABEL, out) } else { Ok(()) }
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

/// A unified diff with three lines of context; nothing where nothing changes.
pub(super) fn diff(
    original: &str,
    rewritten: Option<&str>,
    paint: Paint,
    indent: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(rewritten) = rewritten else { return Ok(()) };
    let changes = TextDiff::from_lines(original, rewritten);
    writeln!(out, "{indent}--- domain")?;
    writeln!(out, "{indent}+++ domain, rewritten")?;
    for hunk in changes.unified_diff().iter_hunks() {
        writeln!(out, "{indent}{}", paint.paint("36", &hunk.header().to_string()))?;
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ("-", "31"),
                ChangeTag::Insert => ("+", "32"),
                ChangeTag::Equal => (" ", "0"),
            };
            let line = change.value().trim_end_matches(['\n', '\r']);
            // Tabs are the only control characters that stay.
            let line = line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
            writeln!(out, "{indent}{}", paint.paint(colour, &format!("{sign}{line}")))?;
        }
    }
    Ok(())
}

fn command_line(plan: &Plan, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    if plan.qemu.is_empty() {
        return Ok(());
    }
    let who = if plan.route == Route::Wrapper { "the wrapper" } else { "libvirt" };
    writeln!(out, "\n{} (by {who})", paint.bold("QEMU's command line"))?;
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

fn locked_memory(domain: &Domain, memlock: &Memlock, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n{}", paint.bold("Locked memory"))?;
    let memory = bytes(plan::accounted_memory(domain));
    if !memlock.address_spaces.is_empty() {
        writeln!(out, "  address space   IOMMU groups   pinned     devices")?;
    }
    for (index, space) in memlock.address_spaces.iter().enumerate() {
        let groups = space.iommu_groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let groups = if groups.is_empty() { "not known" } else { &groups };
        let mut devices = devices(space);
        if space.backend == Some(plan::Backend::Iommufd) {
            devices += " (iommufd, one IOAS)";
        }
        paint.line(&format!("  {:<13}   {groups:<12}   {memory:<8}   {devices}", index + 1), 44, out)?;
    }
    for (number, what) in [(memlock.nvme_disks, "NVMe disk"), (memlock.vdpa_devices, "vDPA device")] {
        if number > 0 {
            writeln!(out, "  {number} {what}{}, {memory} each", if number == 1 { "" } else { "s" })?;
        }
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

fn notes(plan: &Plan, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    // Errors go to stderr.
    let mut notes: Vec<_> = plan.notes.iter().filter(|note| note.level != Level::Error).collect();
    if notes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Notes"))?;
    notes.sort_by_key(|note| std::cmp::Reverse(note.level));
    notes.into_iter().try_for_each(|note| noted(note, paint, out))
}

pub(super) fn noted(note: &Note, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let head = paint.level(note.level, &format!("{}[{}]", note.level, note.code));
    paint.line(&format!("  {head} {}", printable(&note.message)), 6, out)
}

fn next(plan: &Plan, refused: Option<Code>, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let step = if let Some(code) = refused {
        format!("correct what error[{code}] says, which is on standard error; nothing was changed")
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
    writeln!(out, "\n{}", paint.bold("Next"))?;
    paint.line(&format!("  {step}"), 4, out)
}
