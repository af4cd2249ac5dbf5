//! Memory that devices on a command line bring along: QEMU maps it into the guest beside its RAM.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Add;

use super::device::{self, Globals};
use super::{arguments, iommu};

const MIB: u64 = 1 << 20;

/// Memory of devices, bytes, once for each address space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What displays have with QEMU's default sizes.
    pub usual: u64,
    /// All the rest: shared memory, memory devices, and what displays have above the default.
    pub extra: u64,
}

impl Add for DeviceMemory {
    type Output = DeviceMemory;

    /// Saturates.
    fn add(self, other: DeviceMemory) -> DeviceMemory {
        DeviceMemory { usual: self.usual.saturating_add(other.usual), extra: self.extra.saturating_add(other.extra) }
    }
}

impl DeviceMemory {
    /// What a device has itself with these values of its properties.
    pub fn of<'a>(driver: &str, value: impl Fn(&str) -> Option<&'a str>) -> DeviceMemory {
        let size = |name: &str| value(name).and_then(size);
        let (own, default) = (own(driver, size), own(driver, |_| None));
        DeviceMemory { usual: own.min(default), extra: own.saturating_sub(default) }
    }
}

/// The memory of every device on a command line: backends that a device names (ivshmem, NVDIMM, virtio-pmem, CXL), and its own.
#[must_use]
pub fn device_memory<S: AsRef<OsStr>>(arguments: &[S]) -> DeviceMemory {
    let (backends, globals) = (backends(arguments), Globals::of(arguments));
    let display = arguments::values(arguments, &["vga"]).last().and_then(|(_, name)| vga(name));
    let display =
        display.map_or_else(DeviceMemory::default, |driver| DeviceMemory::of(driver, |key| globals.get(driver, key)));
    iommu::devices(arguments).fold(display, |sum, (_, device)| {
        let named = ["memdev", "volatile-memdev", "persistent-memdev", "volatile-dc-memdev"];
        let extra = named
            .into_iter()
            .filter_map(|key| backends.get(device.value(&globals, key)?))
            .fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        let own = DeviceMemory::of(&device.driver, |key| device.value(&globals, key));
        sum + own + DeviceMemory { usual: 0, extra }
    })
}

/// The device of `-vga` (`vga_interfaces` in system/vl.c).
fn vga(name: &OsStr) -> Option<&'static str> {
    match name.to_str()? {
        "std" => Some("VGA"),
        "vmware" => Some("vmware-svga"),
        "qxl" => Some("qxl-vga"),
        "virtio" => Some("virtio-vga"),
        _ => None,
    }
}

/// The memory that a device maps into the guest, bytes, with the sizes that its properties give. Cirrus and ISA displays map none
/// beside the legacy window (`vga.c`, `qxl.c`, `bochs-display.c`, `virtio-vga.c`, `virtio-gpu-base.c`).
fn own(driver: &str, size: impl Fn(&str) -> Option<u64>) -> u64 {
    // QEMU rounds video memory up to a power of two.
    let rounded = |bytes: u64| bytes.checked_next_power_of_two().unwrap_or(bytes);
    let display = match driver {
        "VGA" | "secondary-vga" | "vmware-svga" | "ati-vga" => {
            rounded(size("vgamem_mb").unwrap_or(16).clamp(1, 512)) * MIB
        }
        "bochs-display" => rounded(size("vgamem").unwrap_or(16 * MIB)),
        "qxl" | "qxl-vga" => {
            let given = |mebibytes, bytes| size(mebibytes).map(|size| size.saturating_mul(MIB)).or_else(|| size(bytes));
            // The frame buffer is a part of its RAM, and at most half of it (qxl_init_ramsize). The 64-bit BAR maps the memory of
            // the 32-bit one again, and exists only if it is larger (qxl_realize_common).
            let frame = size("vgamem_mb").unwrap_or(16).clamp(8, 256) * MIB;
            let ram = rounded(given("ram_size_mb", "ram_size").unwrap_or(64 * MIB).max(2 * frame));
            let small = rounded(given("vram_size_mb", "vram_size").unwrap_or(64 * MIB).max(4096));
            let large = rounded(size("vram64_size_mb").unwrap_or(0).saturating_mul(MIB));
            let large = Some(large).filter(|large| *large > small).unwrap_or(0);
            ram.saturating_add(small).saturating_add(large)
        }
        "virtio-vga" | "virtio-vga-gl" | "virtio-vga-rutabaga" | "vhost-user-vga" => 8 * MIB,
        _ => 0,
    };
    display.saturating_add(size("hostmem").unwrap_or(0))
}

/// The size of every memory backend, by its id.
fn backends<S: AsRef<OsStr>>(arguments: &[S]) -> BTreeMap<String, u64> {
    let backend = |mut object: BTreeMap<String, String>| {
        let bytes = size(object.get("size")?)?;
        Some((object.remove("id")?, bytes))
    };
    device::lists(arguments, &["object"], "qom-type").filter_map(backend).collect()
}

/// A size as QEMU reads it (`qemu_strtosz`), bytes: hexadecimal, or decimal perhaps with a fraction; QEMU before 8.0 takes a
/// suffix of both. The exponents of QEMU before 6.0 (`1e3`) are not read.
fn size(text: &str) -> Option<u64> {
    // strtoull(3) skips these.
    let text = text.trim_ascii_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(text) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let (digits, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len()));
        return u64::from_str_radix(digits, 16).ok()?.checked_mul(unit(suffix)?);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = unit(text.get(digits.len()..)?)?;
    // A sign is allowed before the number only.
    if digits.contains(['+', '-']) {
        return None;
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    // Twelve digits are enough: less than a byte of a tebibyte is left.
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(12).collect();
    let part = (u128::from(unit) * u128::from(fraction.parse::<u64>().ok()?)).div_ceil(1_000_000_000_000);
    whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

/// The factor of a suffix.
fn unit(suffix: &str) -> Option<u64> {
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    Some(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `info memdev` of QEMU 11.1 printed for `-object memory-backend-ram,id=m,size=…`, and of QEMU 5.2 for the first two;
    /// the larger ones follow `qemu_strtosz` (util/cutils.c).
    #[test]
    fn sizes_are_qemus() {
        for (text, bytes) in [
            ("0x20M", 33_554_432),
            ("0X20m", 33_554_432),
            ("0x200000", 2_097_152),
            ("0X200000", 2_097_152),
            ("0x1E", 30),
            ("0x1b", 27),
            ("0x1E00000", 31_457_280),
            ("2M", 2_097_152),
            ("2m", 2_097_152),
            ("2097152b", 2_097_152),
            ("2097152B", 2_097_152),
            ("2048k", 2_097_152),
            ("2048K", 2_097_152),
            ("1.5M", 1_572_864),
            ("1.M", 1_048_576),
            (".5G", 536_870_912),
            ("0.5g", 536_870_912),
            ("+2M", 2_097_152),
            (" 2M", 2_097_152),
            ("02000000", 2_000_000),
            ("4097", 4097),
            ("0.001T", 1_099_511_628),
            ("0.000001P", 1_125_899_907),
            ("0.000000001E", 1_152_921_505),
            ("12345", 12_345),
            ("1g", 1 << 30),
            ("1t", 1 << 40),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
            ("1P", 1 << 50),
            ("1e", 1 << 60),
            ("0.5E", 1 << 59),
            ("0x200000000", 8 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        // Those that QEMU refuses.
        for text in ["", "G", ".", ".G", "0x", "0xG", "0x1.8", "1KB", "2M ", "1 G", "16E", "-1", "-0x1", "1.x", "0x1KB"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn backends_and_own_memory() {
        for (arguments, bytes) in [
            (
                &[
                    "-object",
                    "memory-backend-file,id=m,share=on,mem-path=/dev/shm/m,size=1G",
                    "-device",
                    "ivshmem-plain,memdev=m",
                ][..],
                1 << 30,
            ),
            (
                &[
                    "-device",
                    r#"{"driver":"virtio-pmem-pci","memdev":"m"}"#,
                    "-object",
                    r#"{"qom-type":"memory-backend-ram","id":"m","size":4096}"#,
                ],
                4096,
            ),
            (&["-object", "memory-backend-ram,id=m,size=0x200000000", "-device", "ivshmem-plain,memdev=m"], 8 << 30),
            (&["-device", "VGA,vgamem_mb=0x80"], 112 << 20),
            (&["-object", "memory-backend-ram,id=m,size=1G"], 0),
            (&["-device", "ivshmem-plain,memdev=m"], 0),
            (
                &[
                    "-object",
                    "memory-backend-ram,id=a,size=2M",
                    "-object",
                    "memory-backend-ram,id=b,size=3M",
                    "-device",
                    "cxl-type3,volatile-memdev=a,persistent-memdev=b,lsa=a",
                ],
                5 << 20,
            ),
            (&["-device", "VGA,vgamem_mb=128", "-device", "secondary-vga,vgamem_mb=100"], 2 * (112 << 20)),
            (&["-device", "VGA,vgamem_mb=1024"], 496 << 20),
            // 'info pci' of QEMU 7.2 has such BARs.
            (&["-global", "VGA.vgamem_mb=128", "-device", "VGA", "-device", "VGA,vgamem_mb=16"], 112 << 20),
            (&["-vga", "std", "-global", "driver=VGA,property=vgamem_mb,value=64"], 48 << 20),
            (&["-device", "qxl", "-global", "qxl.ram_size=128M", "-global", "qxl.ram_size=256M"], 192 << 20),
            (&["-device", "VGA", "-global", "bochs-display.vgamem_mb=64"], 0),
            (&["-device", "VGA,vgamem_mb=16", "-device", "VGA"], 0),
            (&["-device", "bochs-display,vgamem=64M"], 48 << 20),
            (
                &["-device", "qxl-vga,ram_size=134217728,vram_size=67108864,vram64_size_mb=256"],
                (64 << 20) + (256 << 20),
            ),
            (&["-device", "virtio-gpu-gl-pci,blob=on,hostmem=8G"], 8 << 30),
        ] {
            assert_eq!(device_memory(arguments).extra, bytes, "{arguments:?}");
        }
    }

    // The sizes of the BARs, as 'info pci' of QEMU 7.2 prints them.
    #[test]
    fn displays_have_default_memory() {
        for (arguments, mebibytes) in [
            (&["-device", "VGA"][..], 16),
            (&["-device", "VGA,vgamem_mb=8"], 8),
            (&["-device", "VGA,vgamem_mb=128", "-device", "bochs-display"], 32),
            (&["-device", "vmware-svga", "-device", "ati-vga"], 32),
            (&["-device", "qxl-vga", "-device", "qxl"], 256),
            (&["-device", "virtio-vga", "-device", "virtio-gpu-pci"], 8),
            (&["-device", "cirrus-vga", "-device", "ramfb"], 0),
            (&["-vga", "qxl"], 128),
        ] {
            assert_eq!(device_memory(arguments).usual, mebibytes << 20, "{arguments:?}");
        }
    }
}
