//! Memory that devices on a command line bring along: QEMU maps it into the guest beside its RAM.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::device;
use super::iommu::devices;

const MIB: u64 = 1 << 20;

/// Sizes of a device's own memory: the property, the factor of its value, and QEMU's default, bytes (`vga.c`, `qxl.c`,
/// `bochs-display.c`, `virtio-gpu-base.c`).
const OWN: [(&str, u64, u64); 8] = [
    ("vgamem_mb", MIB, 16 * MIB),
    ("vgamem", 1, 16 * MIB),
    ("ram_size", 1, 64 * MIB),
    ("ram_size_mb", MIB, 64 * MIB),
    ("vram_size", 1, 64 * MIB),
    ("vram_size_mb", MIB, 64 * MIB),
    ("vram64_size_mb", MIB, 0),
    ("hostmem", 1, 0),
];

/// The memory of every device on a command line, bytes: backends that a device names (ivshmem, NVDIMM, virtio-pmem, CXL), and
/// its own memory as far as it is larger than QEMU's default. Saturates.
#[must_use]
pub fn device_memory<S: AsRef<OsStr>>(arguments: &[S]) -> u64 {
    let backends = backends(arguments);
    devices(arguments).fold(0, |sum: u64, (_, device)| {
        let memory = device.properties.iter().map(|(name, value)| match name.as_str() {
            "memdev" | "volatile-memdev" | "persistent-memdev" | "volatile-dc-memdev" => {
                backends.get(value).copied().unwrap_or(0)
            }
            name => own(name, value),
        });
        memory.fold(sum, u64::saturating_add)
    })
}

/// What a property adds to a device's own memory, bytes; 0 where it is another property.
#[must_use]
pub fn own(name: &str, value: &str) -> u64 {
    let Some((_, factor, default)) = OWN.iter().find(|(known, ..)| *known == name) else { return 0 };
    let bytes = size(value).unwrap_or(0).saturating_mul(*factor);
    // QEMU rounds video memory up to a power of two.
    bytes.checked_next_power_of_two().unwrap_or(bytes).saturating_sub(*default)
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
    /// the larger ones are of QEMU's tests/unit/test-cutils.c.
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
            (&["-device", "VGA,vgamem_mb=16", "-device", "VGA"], 0),
            (&["-device", "bochs-display,vgamem=64M"], 48 << 20),
            (
                &["-device", "qxl-vga,ram_size=134217728,vram_size=67108864,vram64_size_mb=256"],
                (64 << 20) + (256 << 20),
            ),
            (&["-device", "virtio-gpu-gl-pci,blob=on,hostmem=8G"], 8 << 30),
        ] {
            assert_eq!(device_memory(arguments), bytes, "{arguments:?}");
        }
    }
}
