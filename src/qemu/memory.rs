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

/// A size as QEMU reads it (`qemu_strtosz`): bytes, or a number with a suffix and perhaps a fraction.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let unit = 1_u64 << shift;
    // Twelve digits are enough: less than a byte of a tebibyte is left.
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(12).collect();
    let part = u128::from(unit) * u128::from(fraction.parse::<u64>().ok()?) / 1_000_000_000_000;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_qemus() {
        // From tests/unit/test-cutils.c of QEMU.
        for (text, bytes) in [
            ("12345", 12345),
            ("1b", 1),
            ("1K", 1024),
            ("1.5M", 3 << 19),
            ("1g", 1 << 30),
            ("0.5E", 1 << 59),
            ("7T", 7 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "G", "1KB", "1 G", "16E", "-1", "1.x"] {
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
