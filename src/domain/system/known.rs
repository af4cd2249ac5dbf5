//! Which releases carry the virtio-iommu driver where their boot needs it: data, each row with its source.
//!
//! A release that is not here is unknown. The boots of `docs/proof/boot-matrix.md` check the rows that they can.

use super::Driver;

/// Some releases of one system.
pub(super) struct Releases {
    /// The name for people.
    pub(super) name: &'static str,
    /// What libosinfo's ids of this system begin with; the release follows.
    pub(super) osinfo: &'static str,
    /// Nova's `os_distro` of this system (Glance's `operating_system` metadata definitions).
    pub(super) nova: &'static str,
    /// Their names; none where every release is meant.
    pub(super) names: &'static [&'static str],
    /// Where the stock kernel and initramfs have the driver.
    pub(super) driver: Driver,
}

/// The name of the system that has warnings of its own.
pub(super) const WINDOWS: &str = "Windows";
/// The name of the system that only its parts give away.
pub(super) const MACOS: &str = "macOS";

const fn releases([name, osinfo, nova]: [&'static str; 3], names: &'static [&'static str], driver: Driver) -> Releases {
    Releases { name, osinfo, nova, names, driver }
}

const DEBIAN: [&str; 3] = ["Debian", "http://debian.org/debian/", "debian"];
const UBUNTU: [&str; 3] = ["Ubuntu", "http://ubuntu.com/ubuntu/", "ubuntu"];

/// What is known.
pub(super) const KNOWN: &[Releases] = &[
    // Linux before 5.14 offers VIRTIO_IOMMU to Arm alone (drivers/iommu/Kconfig); Debian 11 has 5.10.
    releases(DEBIAN, &["10", "11"], Driver::Absent),
    // linux-image-6.1.0-57-amd64, -cloud-amd64, -arm64 6.1.192-3: "# CONFIG_VIRTIO_IOMMU is not set".
    releases(DEBIAN, &["12"], Driver::Absent),
    // linux-image-6.12.118+deb13-amd64, -cloud-amd64, -arm64 6.12.118-1: CONFIG_VIRTIO_IOMMU=m, CONFIG_ACPI_VIOT=y;
    // initramfs-tools-core 0.148.4, hook-functions: no virtio_iommu.
    releases(DEBIAN, &["13"], Driver::Module),
    // linux-base-7.2.13+deb14-amd64, -arm64 7.2.13-1: CONFIG_VIRTIO_IOMMU=m, CONFIG_ACPI_VIOT=y; initramfs-tools-core 0.151 and
    // dracut-core 112-7: no virtio_iommu.
    releases(DEBIAN, &["14", "testing", "unstable"], Driver::Module),
    // linux-modules-4.15.0-213-generic and -5.4.0-216-generic (amd64): kernels before 5.14, see above.
    releases(UBUNTU, &["18.04", "20.04"], Driver::Absent),
    // linux-modules-{5.15.0-204,6.8.0-151,6.14.0-37,6.17.0-41,7.0.0-44}-generic (amd64): CONFIG_VIRTIO_IOMMU=y.
    releases(UBUNTU, &["22.04", "24.04", "25.04", "25.10", "26.04"], Driver::BuiltIn),
    // FreeBSD's sys/dev/virtio has no IOMMU; sys/x86/iommu has drivers for VT-d and AMD-Vi.
    releases(["FreeBSD", "http://freebsd.org/freebsd/", "freebsd"], &[], Driver::Absent),
    // Apple's IOPCIFamily: AppleVTD, a driver for VT-d alone.
    releases([MACOS, "http://apple.com/macosx/", "macos"], &[], Driver::Absent),
    // The virtio-win drivers have none for virtio-iommu.
    releases([WINDOWS, "http://microsoft.com/win/", "windows"], &[], Driver::Absent),
];
