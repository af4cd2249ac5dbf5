//! Which system runs in the guest, as far as its domain tells, and where that system has the driver of a virtio-iommu.
//!
//! A Linux with `CONFIG_ACPI_VIOT` defers every PCI device behind a virtio-iommu until that driver is there. Where the driver
//! is a module and the initramfs lacks it, the guest does not find its root disk.

mod known;

use super::NovaMetadata;
use crate::xml::Element;
use known::{KNOWN, MACOS, Releases, WINDOWS};

/// libosinfo's, which virt-install and virt-manager write.
const LIBOSINFO_NAMESPACE: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";

/// Where a system has the driver of a virtio-iommu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// In the kernel.
    BuiltIn,
    /// In a module that the stock initramfs lacks.
    Module,
    /// Nowhere.
    Absent,
}

/// The guest's system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Its name and release, as far as they are known; a tenant may have chosen them.
    pub name: String,
    /// Where it has the driver; none where that is unknown.
    pub driver: Option<Driver>,
    /// The part of the domain that tells it, for messages.
    pub evidence: &'static str,
    /// It is a Windows.
    pub windows: bool,
}

impl System {
    /// The system of a `<domain>`: as libosinfo's metadata names it, else Nova's, else by signs of Windows and macOS.
    pub(super) fn read(root: Element<'_, '_>, nova: Option<&NovaMetadata>, commandline: &[String]) -> Option<System> {
        let named = root.child("metadata").and_then(by_libosinfo).or_else(|| nova.and_then(by_nova));
        named.or_else(|| by_signs(root, commandline))
    }

    fn of(row: &Releases, release: &str, evidence: &'static str) -> System {
        let name = if release.is_empty() { row.name.to_owned() } else { format!("{} {release}", row.name) };
        let known = row.names.is_empty() || row.names.contains(&release);
        System { name, driver: known.then_some(row.driver), evidence, windows: row.name == WINDOWS }
    }
}

/// The row of a release: the one that names it, else any of its system, which then says the name alone.
fn find(release: &str, is_system: impl Fn(&Releases) -> bool) -> Option<&'static Releases> {
    let mut rows = KNOWN.iter().filter(|row| is_system(row));
    rows.clone().find(|row| row.names.contains(&release)).or_else(|| rows.next())
}

fn by_libosinfo(metadata: Element<'_, '_>) -> Option<System> {
    let evidence = "libosinfo's id in the metadata";
    let os = metadata.child_ns(LIBOSINFO_NAMESPACE, "libosinfo")?.child_ns(LIBOSINFO_NAMESPACE, "os")?;
    let id = os.attr("id")?;
    let release = id.rsplit('/').next()?;
    Some(match find(release, |row| id.starts_with(row.osinfo)) {
        Some(row) => System::of(row, release, evidence),
        None => System { name: id.to_owned(), driver: None, evidence, windows: false },
    })
}

/// Glance's `os_distro` is libosinfo's name of a system or its short id (`debian13`).
fn by_nova(nova: &NovaMetadata) -> Option<System> {
    let property = |name| nova.property(name).filter(|value| !value.is_empty()).map(str::to_ascii_lowercase);
    let (distro, kind) = (property("os_distro"), property("os_type"));
    if kind.as_deref() == Some("windows") {
        let row = find("", |row| row.name == WINDOWS)?;
        return Some(System::of(row, "", "os_type of the Nova image"));
    }
    let evidence = "os_distro and os_version of the Nova image";
    let distro = distro.or(kind)?;
    let version = property("os_version").unwrap_or_default();
    let short =
        |row: &Releases| row.names.iter().copied().find(|release| distro.strip_prefix(row.nova) == Some(release));
    let row = find(&version, |row| row.nova == distro).map(|row| System::of(row, &version, evidence));
    let row = row.or_else(|| KNOWN.iter().find_map(|row| Some(System::of(row, short(row)?, evidence))));
    Some(row.unwrap_or_else(|| {
        let name = format!("{distro} {version}").trim_end().to_owned();
        System { name, driver: None, evidence, windows: false }
    }))
}

/// What only guests of one system have: Hyper-V's interfaces, Apple's system controller and its usual boot loader.
fn by_signs(root: Element<'_, '_>, commandline: &[String]) -> Option<System> {
    let of = |name, evidence| find("", |row| row.name == name).map(|row| System::of(row, "", evidence));
    let opencore = |text: &str| text.to_ascii_lowercase().contains("opencore");
    if commandline.iter().any(|argument| argument.contains("isa-applesmc")) {
        return of(MACOS, "isa-applesmc in <qemu:commandline>");
    }
    let disks = root.all(&["devices", "disk"]).into_iter();
    let mut files = disks.filter_map(|disk| disk.child("source")?.attr("file"));
    if files.any(opencore) || commandline.iter().any(|argument| opencore(argument)) {
        return of(MACOS, "an OpenCore disk");
    }
    let is_on = |feature: Element<'_, '_>| feature.attr("state") == Some("on");
    let mut hyperv = root.all(&["features", "hyperv"]).into_iter();
    if hyperv.any(|hyperv| hyperv.attr("mode") == Some("passthrough") || hyperv.elements().any(is_on)) {
        return of(WINDOWS, "<hyperv> features");
    }
    let mut timers = root.all(&["clock", "timer"]).into_iter();
    let hypervclock =
        |timer: Element<'_, '_>| timer.attr("name") == Some("hypervclock") && timer.attr("present") != Some("no");
    timers.any(hypervclock).then(|| of(WINDOWS, "a hypervclock timer")).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::read::from_text;
    use super::*;

    fn system(inside: &str) -> Option<System> {
        from_text(&format!("<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{inside}</domain>")).system
    }

    fn osinfo(id: &str) -> System {
        let metadata = format!(
            "<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='{id}'/></l:libosinfo></metadata>"
        );
        system(&metadata).unwrap()
    }

    fn nova(properties: &[(&str, &str)]) -> Option<System> {
        let pairs = properties.iter().map(|(name, value)| format!("<n:property name='{name}'>{value}</n:property>"));
        system(&format!(
            "<metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:image><n:properties>{}</n:properties>\
             </n:image></n:instance></metadata>",
            pairs.collect::<String>()
        ))
    }

    #[test]
    fn libosinfos_ids() {
        // The ids are from osinfo-db 20250606.
        for (id, name, driver) in [
            ("http://debian.org/debian/12", "Debian 12", Some(Driver::Absent)),
            ("http://debian.org/debian/13", "Debian 13", Some(Driver::Module)),
            ("http://debian.org/debian/testing", "Debian testing", Some(Driver::Module)),
            ("http://debian.org/debian/9", "Debian 9", None),
            ("http://ubuntu.com/ubuntu/24.04", "Ubuntu 24.04", Some(Driver::BuiltIn)),
            ("http://ubuntu.com/ubuntu/18.04", "Ubuntu 18.04", Some(Driver::Absent)),
            ("http://freebsd.org/freebsd/14.0", "FreeBSD 14.0", Some(Driver::Absent)),
            ("http://apple.com/macosx/10.7", "macOS 10.7", Some(Driver::Absent)),
            ("http://archlinux.org/archlinux/rolling", "http://archlinux.org/archlinux/rolling", None),
        ] {
            let system = osinfo(id);
            assert_eq!((system.name.as_str(), system.driver, system.windows), (name, driver, false), "{id}");
        }
        assert!(osinfo("http://microsoft.com/win/10").windows && osinfo("http://microsoft.com/win/2k19").windows);
        assert_eq!(system("<metadata><os id='http://microsoft.com/win/10'/></metadata>"), None);
    }

    #[test]
    fn novas_properties() {
        let known = |properties: &[(&str, &str)]| {
            let system = nova(properties).unwrap();
            (system.name, system.driver)
        };
        assert_eq!(known(&[("os_distro", "debian"), ("os_version", "13")]), ("Debian 13".into(), Some(Driver::Module)));
        assert_eq!(known(&[("os_distro", "Debian"), ("os_version", "12")]), ("Debian 12".into(), Some(Driver::Absent)));
        assert_eq!(known(&[("os_distro", "debian13")]), ("Debian 13".into(), Some(Driver::Module)));
        assert_eq!(known(&[("os_distro", "ubuntu")]), ("Ubuntu".into(), None));
        assert_eq!(known(&[("os_distro", "fedora"), ("os_version", "42")]), ("fedora 42".into(), None));
        assert_eq!(known(&[("os_type", "linux")]), ("linux".into(), None));
        assert!(nova(&[("os_type", "Windows"), ("os_distro", "debian")]).unwrap().windows);
        assert!(nova(&[("os_distro", "windows")]).unwrap().windows);
        assert_eq!(nova(&[("os_distro", "")]), None);
    }

    #[test]
    fn signs() {
        let windows = |inside: &str| system(inside).is_some_and(|system| system.windows);
        assert!(windows("<features><hyperv mode='custom'><relaxed state='on'/></hyperv></features>"));
        assert!(windows("<features><hyperv mode='passthrough'/></features>"));
        assert!(windows("<clock offset='localtime'><timer name='hypervclock' present='yes'/></clock>"));
        assert!(!windows("<features><hyperv><relaxed state='off'/></hyperv></features>"));
        assert!(!windows("<clock offset='localtime'><timer name='hypervclock' present='no'/></clock>"));
        assert!(!windows("<clock offset='localtime'/>"));

        let name = |inside: &str| system(inside).map(|system| system.name);
        let smc =
            "<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='isa-applesmc,osk=x'/></qemu:commandline>";
        assert_eq!(name(smc).as_deref(), Some("macOS"));
        let disk = "<devices><disk><source file='/img/OpenCore.qcow2'/></disk></devices>";
        assert_eq!(name(disk).as_deref(), Some("macOS"));
        assert_eq!(name("<devices><disk><source file='/img/core.qcow2'/></disk></devices>"), None);
    }

    #[test]
    fn each_release_has_one_row() {
        for (index, row) in KNOWN.iter().enumerate() {
            for other in KNOWN.iter().skip(index + 1).filter(|other| other.name == row.name) {
                assert!(row.names.iter().all(|release| !other.names.contains(release)), "{}", row.name);
                assert!(!row.names.is_empty() && !other.names.is_empty(), "{}", row.name);
            }
        }
    }
}
