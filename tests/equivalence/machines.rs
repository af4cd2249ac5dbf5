//! Moves a domain to another machine type. The comparison leaves out a domain that libvirt refuses on that machine.

use super::domains::Case;

/// A domain of the old machine on q35, where libvirt assigns all PCI addresses anew.
pub(crate) fn on_q35(case: &Case) -> Option<Case> {
    let (head, rest) = case.xml.split_once(" machine='pc")?;
    let (_, tail) = rest.split_once('\'')?;
    let xml = format!("{head} machine='q35'{tail}").replace("arch='i686'", "arch='x86_64'");
    let xml = with_acpi(&xml.replace("qemu-system-i386", "qemu-system-x86_64").replace("<acpi/>", ""));
    let xml = xml.replace("model='pci-root'", "model='pcie-root'");
    Some(Case { name: format!("{} on q35", case.name), xml: with_rng(&with_devices_anew(&xml, "sata")) })
}

/// An x86 domain on AArch64's machine, with the firmware that ACPI needs there. The PCI topology of a q35 stays.
pub(crate) fn on_virt(case: &Case) -> Option<Case> {
    const BOOT: [&str; 6] = ["<boot ", "<bootmenu ", "<smbios ", "<kernel>", "<initrd>", "<cmdline>"];
    let machine = case.xml.split_once(" machine='")?.1;
    let xml = if machine.starts_with("q35") || machine.starts_with("pc-q35") {
        with_rng(&case.xml)
    } else if machine.starts_with("pc") {
        with_rng(&with_devices_anew(&case.xml, "scsi"))
    } else {
        return None;
    };
    // Removes CPUs and clocks of x86, and x86 features.
    let xml = replaced(&xml, "features", |_| String::new());
    let xml = replaced(&xml, "pm", |_| String::new());
    let xml = replaced(&xml, "os", |os| {
        let boot: String = os.lines().filter(|line| BOOT.iter().any(|part| line.trim().starts_with(part))).collect();
        let kind = "<type arch='aarch64' machine='virt'>hvm</type>";
        format!("<os firmware='efi'>{kind}{boot}</os><features><acpi/><gic version='3'/></features>")
    });
    let xml = replaced(&xml, "cpu", |cpu| {
        let kept = ["topology", "numa"].map(|part| element(cpu, part).map_or("", |(_, kept, _)| kept)).concat();
        format!("<cpu mode='custom'><model>cortex-a57</model>{kept}</cpu>")
    });
    let xml = replaced(&xml, "clock", |clock| {
        let tag = clock.split('>').next().unwrap_or_default();
        format!("{}/>", tag.trim_end_matches('/'))
    });
    let xml = [
        ("qemu-system-x86_64", "qemu-system-aarch64"),
        ("qemu-system-i386", "qemu-system-aarch64"),
        ("type='isa-serial'", "type='system-serial'"),
        ("name='isa-serial'", "name='pl011'"),
        ("<tpm model='tpm-crb'", "<tpm model='tpm-tis'"),
    ]
    .iter()
    .fold(xml, |xml, (of_x86, here)| xml.replace(of_x86, here));
    let here = |line: &&str| !["bus='ps2'", "<iommu model="].iter().any(|part| line.contains(part));
    let video = ["cirrus", "qxl", "vga"].map(|model| format!("<model type='{model}'"));
    let line = |line| match video.iter().any(|model| str::trim_start(line).starts_with(model)) {
        true if line.trim_end().ends_with("/>") => "<model type='virtio'/>\n",
        true => "<model type='virtio'>\n",
        false => line,
    };
    let xml = xml.split_inclusive('\n').filter(here).map(line).collect();
    Some(Case { name: format!("{} on virt", case.name), xml })
}

/// An AArch64 domain with the firmware that ACPI needs there.
pub(crate) fn with_uefi(case: &Case) -> Option<Case> {
    let old = [" firmware=", "<loader", "<nvram", "<acpi/>"].iter().any(|part| case.xml.contains(part));
    let virt = ["arch='aarch64' machine='virt", "arch=\"aarch64\" machine=\"virt"];
    if old || !virt.iter().any(|kind| case.xml.contains(kind)) {
        return None;
    }
    let xml = with_acpi(&case.xml.replacen("<os>", "<os firmware='efi'>", 1));
    Some(Case { name: format!("{} with UEFI", case.name), xml })
}

fn with_acpi(xml: &str) -> String {
    if xml.contains("<features>") {
        xml.replacen("<features>", "<features><acpi/>", 1)
    } else {
        xml.replacen("</os>", "</os><features><acpi/></features>", 1)
    }
}

/// Removes the PCI and IDE controllers of the old machine, and their addresses. IDE disks become virtio disks; types
/// that virtio-blk does not support go to another bus.
fn with_devices_anew(xml: &str, other: &str) -> String {
    let mut result = String::new();
    let (mut before, mut bus) = ("", "");
    let mut lines = xml.lines();
    while let Some(line) = lines.next() {
        let begins = |element: &str| line.trim_start().starts_with(element);
        if begins("<disk ") {
            let plain = !["device='cdrom'", "device='lun'"].iter().any(|kind| line.contains(kind));
            bus = if plain { "virtio" } else { other };
        }
        if begins("<controller type='pci'") || begins("<controller type='ide'") {
            if !line.ends_with("/>") {
                lines.by_ref().take_while(|line| !line.contains("</controller>")).for_each(drop);
            }
        // Addresses of the host's devices stay.
        } else if before.trim() == "<source>" || !(begins("<address type='pci'") || begins("<address type='drive'")) {
            let bare = begins("<target dev='hd") && !line.contains(" bus=");
            let line = if bare { line.replace("/>", " bus='ide'/>") } else { line.to_owned() };
            result += &line.replace("bus='ide'", &format!("bus='{bus}'"));
            result.push('\n');
        }
        before = line;
    }
    result
}

/// A virtio RNG instead of the memory balloon, which most of the domains lack: `virtio=all` needs a device to
/// translate.
fn with_rng(xml: &str) -> String {
    const RNG: &str = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>";
    xml.replacen("<memballoon model='none'/>", &format!("<memballoon model='none'/>{RNG}"), 1)
}

/// The domain without its name, for a comparison of domains.
pub(crate) fn nameless(case: &Case) -> String {
    ["name", "uuid"].iter().fold(case.xml.clone(), |xml, element| replaced(&xml, element, |_| String::new()))
}

/// Replaces the first element of this name.
fn replaced(xml: &str, name: &str, other: impl FnOnce(&str) -> String) -> String {
    element(xml, name).map_or(xml.to_owned(), |(before, own, after)| format!("{before}{}{after}", other(own)))
}

/// The text before the first element of this name, the element, and the text after it.
fn element<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let open = format!("<{name}");
    let named = |at: &usize| xml[at + open.len()..].starts_with([' ', '>', '/', '\n']);
    let (before, rest) = xml.split_at(xml.match_indices(&open).map(|(at, _)| at).find(named)?);
    let close = format!("</{name}>");
    let tag = rest.find('>')? + 1;
    let end = if rest[..tag].ends_with("/>") { tag } else { rest.find(&close)? + close.len() };
    Some((before, &rest[..end], &rest[end..]))
}
