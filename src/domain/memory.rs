//! Memory: how much the guest has and can get, and what limits or locks it.
//!
//! Sizes become bytes here and are whole KiB, which is what libvirt keeps. It does not know how libvirt rounds RAM when a
//! guest starts (`qemuDomainAlignMemorySizes`: to 1 MiB on x86, to 256 MiB on pseries); from `start begin` on the XML
//! shows the rounded sizes.

use super::Memory;
use super::lookup::{attribute, first_attribute};
use super::number::{decimal, decimal32};
use crate::xml::Element;

/// From this many bytes on a limit means "none": `VIR_DOMAIN_MEMORY_PARAM_UNLIMITED`, which libvirt counts in KiB.
const UNLIMITED: u64 = 9_007_199_254_740_991 * 1024;

impl Memory {
    /// Reads the memory of a `<domain>`.
    pub(super) fn read(domain: Element<'_, '_>) -> Memory {
        let backed = |name| domain.path(&["memoryBacking", name]).is_some();
        let slots = attribute(domain, &["maxMemory"], "slots");
        Memory {
            total: total(domain),
            maximum: size(domain, &[], "maxMemory").filter(|&bytes| bytes > 0),
            slots: slots.and_then(decimal32).unwrap_or(0),
            hard_limit: size(domain, &["memtune"], "hard_limit").filter(|&bytes| bytes < UNLIMITED),
            locked: backed("locked"),
            nosharepages: backed("nosharepages"),
            hugepages: backed("hugepages"),
        }
    }
}

/// `virDomainDefGetMemoryTotal` of the domain as it will start, bytes.
///
/// Where NUMA cells say how large they are, their sum and the memory devices win over `<memory>`: at the definition by
/// `virDomainDefPostParseMemory`, and for an older definition at the start by `qemuDomainAlignMemorySizes`. Otherwise
/// `<memory>` already includes the devices.
fn total(domain: Element<'_, '_>) -> u64 {
    let numa = domain.children("cpu").filter_map(|cpu| cpu.child("numa"));
    let cells = sum(numa.flat_map(|numa| numa.children("cell").collect::<Vec<_>>()).map(|cell| {
        let memory = cell.attr("memory")?;
        scaled(memory, cell.attr("unit"))
    }));
    if cells == 0 {
        return size(domain, &[], "memory").unwrap_or(0);
    }
    // All models alike: dimm, nvdimm, virtio-pmem, sgx-epc, and virtio-mem with all that it can ever provide.
    let devices = domain.all(&["devices", "memory"]).into_iter().filter_map(|memory| memory.child("target"));
    cells.saturating_add(sum(devices.map(|target| size(target, &[], "size"))))
}

fn sum(sizes: impl Iterator<Item = Option<u64>>) -> u64 {
    sizes.flatten().fold(0, u64::saturating_add)
}

/// The size in the first element of this name, bytes. The unit is that of the first of them that has one, which is how libvirt
/// finds it.
fn size(domain: Element<'_, '_>, parents: &[&str], name: &str) -> Option<u64> {
    let text = domain.all(parents).into_iter().find_map(|parent| parent.child(name))?.string();
    scaled(&text, first_attribute(domain, parents, name, "unit"))
}

/// A number with a unit, in bytes, rounded up to KiB (`virDomainParseMemory`); `None` where libvirt would refuse it.
fn scaled(number: &str, unit: Option<&str>) -> Option<u64> {
    // virMemoryMaxValue: sizes end at off_t on 64-bit machines.
    let bytes =
        decimal(number)?.checked_mul(factor(unit.unwrap_or_default())?).filter(|&b| i64::try_from(b).is_ok())?;
    Some(bytes.div_ceil(1024) * 1024)
}

/// Bytes in a unit (`virScaleInteger`): `KB` is 1000, `K` and `KiB` are 1024, and so is no unit.
fn factor(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    match unit.as_str() {
        "" => return Some(1024),
        "b" | "byte" | "bytes" => return Some(1),
        _ => {}
    }
    let mut letters = unit.chars();
    let power = match letters.next()? {
        'k' => 1,
        'm' => 2,
        'g' => 3,
        't' => 4,
        'p' => 5,
        'e' => 6,
        _ => return None,
    };
    let base: u64 = match letters.as_str() {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return None,
    };
    Some(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::super::read::from_text;
    use super::*;

    const KIB: u64 = 1024;

    fn memory(content: &str) -> Memory {
        from_text(&format!("<domain>{content}</domain>")).memory
    }

    #[test]
    fn units_are_libvirts() {
        // docs/formatdomain.rst, "Memory Allocation": the units and what they stand for.
        for (number, unit, bytes) in [
            ("1", "", 1024),
            ("1", "KiB", 1024),
            ("1", "k", 1024),
            ("1", "K", 1024),
            ("2", "KB", 2048), // 2000, rounded up
            ("1", "b", 1024),
            ("1025", "bytes", 2048),
            ("1024", "byte", 1024),
            ("1", "mib", 1 << 20),
            ("1", "M", 1 << 20),
            ("16", "MB", 16_000_000),
            ("1", "GiB", 1 << 30),
            ("1", "t", 1 << 40),
            ("1", "PiB", 1 << 50),
            ("7", "EiB", 7 << 60),
            ("0", "GiB", 0),
        ] {
            assert_eq!(scaled(number, Some(unit)), Some(bytes), "{number} {unit}");
        }
        assert_eq!(scaled("4", None), Some(4096));
        for (number, unit) in [
            ("8", "EiB"),
            ("18446744073709551615", "KiB"),
            ("1", "KiBi"),
            ("1", "X"),
            ("1", "kk"),
            ("-1", "b"),
            ("", "b"),
            ("1", "ė"),
        ] {
            assert_eq!(scaled(number, Some(unit)), None, "{number} {unit}");
        }
        assert_eq!(scaled("9223372036854775807", Some("b")), Some(1 << 63), "rounding up cannot overflow");
    }

    #[test]
    fn numa_cells_and_devices_make_the_total() {
        // memory-hotplug-dimm.xml; its .args: -m size=…k and two backends.
        let numa = "<cpu><numa><cell id='0' cpus='0-1' memory='219136' unit='KiB'/></numa></cpu>";
        let dimms = "<devices>
            <memory model='dimm'><target><size unit='KiB'>523264</size><node>0</node></target></memory>
            <memory model='dimm'><source><pagesize unit='KiB'>2048</pagesize></source>
              <target><size unit='KiB'>524287</size></target></memory></devices>";
        assert_eq!(
            memory(&format!("<memory>1267710</memory>{numa}{dimms}")).total,
            (219_136 + 523_264 + 524_287) * KIB
        );
        // memory-hotplug-virtio-mem.xml: <memory> says 8 GiB, its .args 2095104k and two devices.
        let virtio = "<devices>
            <memory model='virtio-mem'><target><size unit='KiB'>1048576</size><block unit='KiB'>2048</block>
              <requested unit='KiB'>524288</requested></target></memory>
            <memory model='virtio-mem'><target><size unit='KiB'>2097152</size>
              <requested unit='KiB'>1048576</requested></target></memory></devices>";
        let numa = "<cpu><numa><cell cpus='0-1' memory='2095104'/></numa></cpu>";
        let total = memory(&format!("<memory unit='KiB'>8388608</memory>{numa}{virtio}")).total;
        assert_eq!(total, (2_095_104 + 1_048_576 + 2_097_152) * KIB);
        // cpu-numa-no-memory-element.xml
        let numa = "<cpu><numa><cell id='1' memory='109550' unit='KiB'/><cell id='0' memory='109550' unit='KiB'/></numa></cpu>";
        assert_eq!(memory(numa).total, 219_100 * KIB);
    }

    #[test]
    fn memory_without_numa_includes_the_devices() {
        let device = "<devices><memory model='dimm'><target><size unit='GiB'>1</size></target></memory></devices>";
        assert_eq!(memory(&format!("<memory unit='GiB'>3</memory>{device}")).total, 3 << 30);
        assert_eq!(
            memory(&format!("<memory unit='GiB'>3</memory><cpu><numa><cell/></numa></cpu>{device}")).total,
            3 << 30
        );
        assert_eq!(memory("").total, 0);
        assert_eq!(memory("<memory unit='KiB'>much</memory>").total, 0);
        // currentMemory is the balloon and no business of ours.
        assert_eq!(memory("<memory>219136</memory><currentMemory>1024</currentMemory>").total, 219_136 * KIB);
    }

    #[test]
    fn sums_saturate() {
        let cell = "<cell memory='7' unit='EiB'/>";
        assert_eq!(memory(&format!("<cpu><numa>{cell}{cell}{cell}</numa></cpu>")).total, u64::MAX);
    }

    #[test]
    fn hot_plug_needs_max_memory() {
        let hotplug = memory("<maxMemory slots='16' unit='KiB'>1099511627776</maxMemory>");
        assert_eq!((hotplug.maximum, hotplug.slots), (Some(1 << 50), 16));
        let none = memory("<maxMemory slots='-1'>0</maxMemory>");
        assert_eq!((none.maximum, none.slots), (None, 0));
        assert_eq!(memory("").maximum, None);
    }

    #[test]
    fn an_unlimited_hard_limit_is_none() {
        for (limit, bytes) in [
            ("<hard_limit unit='KiB'>2097152</hard_limit>", Some(2_147_483_648)),
            ("<hard_limit unit='KiB'>9007199254740990</hard_limit>", Some(9_007_199_254_740_990 * KIB)),
            ("<hard_limit unit='KiB'>9007199254740991</hard_limit>", None),
            ("<hard_limit unit='KiB'>18014398509481983</hard_limit>", None),
            ("<hard_limit>0</hard_limit>", Some(0)), // virMemoryLimitIsSet(0)
            ("<hard_limit/>", None),
            ("<swap_hard_limit unit='G'>2</swap_hard_limit>", None),
        ] {
            assert_eq!(memory(&format!("<memtune>{limit}</memtune>")).hard_limit, bytes, "{limit}");
        }
    }

    #[test]
    fn backing() {
        let all =
            memory("<memoryBacking><hugepages><page size='2'/></hugepages><nosharepages/><locked/></memoryBacking>");
        assert!(all.locked && all.nosharepages && all.hugepages);
        let none = memory("<memoryBacking><source type='memfd'/></memoryBacking><locked/>");
        assert!(!none.locked && !none.nosharepages && !none.hugepages);
    }
}
