//! Memory: how much the guest has and can get, and what limits or locks it.
//!
//! Sizes become bytes here, rounded as libvirt rounds them when a guest starts (`qemuDomainAlignMemorySizes`): a stored domain
//! and the one that `start begin` shows have the same memory.

use super::Memory;
use super::lookup::{attribute, first_attribute, quoted};
use super::number::{decimal, decimal32};
use crate::note::{Code, Note};
use crate::xml::Element;

/// From this many bytes on a limit means "none": `VIR_DOMAIN_MEMORY_PARAM_UNLIMITED`, which libvirt counts in KiB. It is also
/// the largest limit that libvirt accepts.
const UNLIMITED: u64 = 9_007_199_254_740_991 * KIB;

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;

impl Memory {
    /// Reads the memory of a `<domain>`.
    ///
    /// # Errors
    ///
    /// [`Code::DomainInvalid`] where libvirt refuses a size.
    pub(super) fn read(domain: Element<'_, '_>) -> Result<Memory, Note> {
        let backed = |name| domain.path(&["memoryBacking", name]).is_some();
        let slots = attribute(domain, &["maxMemory"], "slots");
        let slots =
            slots.map(|text| decimal32(text).ok_or_else(|| not_a_number("maxMemory slots", text))).transpose()?;
        // libvirt reads these even where it uses others.
        memory(domain, "currentMemory")?;
        let written = memory(domain, "memory")?.unwrap_or(0);
        let alignment = Alignment::of(domain);
        let maximum = memory(domain, "maxMemory")?.filter(|&bytes| bytes > 0);
        let hard_limit = size(domain, &["memtune"], "hard_limit", KIB)?;
        if let Some(limit) = hard_limit.filter(|&limit| limit > UNLIMITED) {
            return Err(invalid("hard_limit", &limit.to_string(), Some("bytes")));
        }
        let hard_limit = hard_limit.map(|limit| limit.div_ceil(KIB) * KIB);
        Ok(Memory {
            total: total(domain, written, &alignment)?,
            maximum: maximum.map(|bytes| round_up(bytes, alignment.initial)),
            slots: slots.unwrap_or(0),
            hard_limit: hard_limit.filter(|&bytes| bytes < UNLIMITED),
            locked: backed("locked"),
            nosharepages: backed("nosharepages"),
            hugepages: backed("hugepages"),
        })
    }
}

/// What libvirt rounds sizes up to, bytes (`qemuDomainGetMemorySizeAlignment`, `qemuDomainGetMemoryModuleSizeAlignment`).
struct Alignment {
    initial: u64,
    module: u64,
}

impl Alignment {
    fn of(domain: Element<'_, '_>) -> Alignment {
        match first_attribute(domain, &["os"], "type", "arch") {
            Some("ppc64" | "ppc64le") => Alignment { initial: 256 * MIB, module: 256 * MIB },
            _ => Alignment { initial: MIB, module: 2 * MIB },
        }
    }
}

/// `virDomainDefGetMemoryTotal` of the domain as it will start, bytes.
///
/// Where NUMA cells say how large they are, their sum and the memory devices win over `<memory>`, which otherwise includes the
/// devices. All models alike: dimm, nvdimm, virtio-pmem, sgx-epc, and virtio-mem with all that it can ever provide.
fn total(domain: Element<'_, '_>, written: u64, alignment: &Alignment) -> Result<u64, Note> {
    let (mut cells, mut modules, mut aligned_modules) = (0_u64, 0_u64, 0_u64);
    let numa = domain.all(&["cpu"]).into_iter().filter_map(|cpu| cpu.child("numa"));
    for cell in numa.flat_map(|numa| numa.all(&["cell"])) {
        let number = cell.attr("memory").unwrap_or_default();
        let unit = cell.attr("unit").filter(|unit| !unit.is_empty());
        let bytes = in_kib(scaled(number, unit, KIB)).ok_or_else(|| invalid("cell memory", number, unit))?;
        cells = cells.saturating_add(round_up(bytes, alignment.initial));
    }
    for target in domain.all(&["devices", "memory"]).into_iter().filter_map(|memory| memory.child("target")) {
        let bytes = memory(target, "size")?.unwrap_or(0);
        modules = modules.saturating_add(bytes);
        aligned_modules = aligned_modules.saturating_add(round_up(bytes, alignment.module));
    }
    let initial = match cells {
        0 => round_up(written.saturating_sub(modules), alignment.initial),
        cells => cells,
    };
    Ok(initial.saturating_add(aligned_modules))
}

fn round_up(bytes: u64, to: u64) -> u64 {
    bytes.checked_next_multiple_of(to).unwrap_or(bytes)
}

/// The size in a child, bytes, in whole KiB (`virDomainParseMemory`).
fn memory(parent: Element<'_, '_>, name: &str) -> Result<Option<u64>, Note> {
    let Some(bytes) = size(parent, &[], name, KIB)? else { return Ok(None) };
    in_kib(Some(bytes)).map(Some).ok_or_else(|| invalid(name, &bytes.to_string(), Some("bytes")))
}

/// Rounded up to KiB; none where that is more than libvirt accepts.
fn in_kib(bytes: Option<u64>) -> Option<u64> {
    bytes.map(|bytes| bytes.div_ceil(KIB) * KIB).filter(|&bytes| i64::try_from(bytes).is_ok())
}

/// The size in the first element of this name, bytes (`virParseScaledValue`). The unit is that of the first of them that has one,
/// which is how libvirt finds it; `default` is the number of bytes in the unit of a size without one.
///
/// # Errors
///
/// [`Code::DomainInvalid`] where libvirt refuses it.
pub(super) fn size(domain: Element<'_, '_>, parents: &[&str], name: &str, default: u64) -> Result<Option<u64>, Note> {
    let first = domain.all(parents).into_iter().find_map(|parent| parent.child(name));
    let Some(text) = first.map(Element::string).filter(|text| !text.is_empty()) else { return Ok(None) };
    let unit = first_attribute(domain, parents, name, "unit");
    scaled(&text, unit, default).map(Some).ok_or_else(|| invalid(name, &text, unit))
}

fn invalid(name: &str, number: &str, unit: Option<&str>) -> Note {
    let (number, unit) = (quoted(number), quoted(unit.unwrap_or_default()));
    let message = format!(
        "libvirt does not accept '{number}' with the unit '{unit}' as {name}: write a whole number and a unit such as KiB or GiB"
    );
    Note::error(Code::DomainInvalid, message)
}

/// Refuses a number without a unit that libvirt cannot read.
pub(super) fn not_a_number(what: &str, text: &str) -> Note {
    let message =
        format!("libvirt does not accept '{}' as {what}: write a whole decimal number below 4294967296", quoted(text));
    Note::error(Code::DomainInvalid, message)
}

/// A number with a unit, in bytes; `None` where libvirt would refuse it.
fn scaled(number: &str, unit: Option<&str>, default: u64) -> Option<u64> {
    // virMemoryMaxValue: sizes end at off_t on 64-bit machines.
    let factor = unit.map_or(Some(default), factor)?;
    decimal(number)?.checked_mul(factor).filter(|&bytes| bytes == 0 || i64::try_from(bytes).is_ok())
}

/// Bytes in a unit (`virScaleInteger`): `KB` is 1000, `K` and `KiB` are 1024.
fn factor(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    if matches!(unit.as_str(), "b" | "byte" | "bytes") {
        return Some(1);
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
    use super::super::read::{from_text, refused};
    use super::*;

    fn memory(content: &str) -> Memory {
        from_text(&format!("<domain>{content}</domain>")).memory
    }

    #[test]
    fn units_are_libvirts() {
        // docs/formatdomain.rst, "Memory Allocation": the units and their values.
        for (number, unit, bytes) in [
            ("1", "KiB", 1024),
            ("1", "k", 1024),
            ("1", "K", 1024),
            ("2", "KB", 2000),
            ("1", "b", 1),
            ("1025", "bytes", 1025),
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
            assert_eq!(scaled(number, Some(unit), 7), Some(bytes), "{number} {unit}");
        }
        assert_eq!(scaled("4", None, 1024), Some(4096));
        for (number, unit) in [
            ("8", "EiB"),
            ("18446744073709551615", "KiB"),
            ("1", "KiBi"),
            ("1", "X"),
            ("1", "kk"),
            ("-1", "b"),
            ("", "b"),
            ("1", "ė"),
            ("1", ""),
            ("1.5", "KiB"),
            ("1 ", "KiB"),
        ] {
            assert_eq!(scaled(number, Some(unit), 1024), None, "{number} {unit}");
        }
        assert_eq!(in_kib(Some(9_223_372_036_854_775_807)), None, "rounding up exceeds libvirt's maximum");
    }

    #[test]
    fn numa_cells_and_devices_make_the_total() {
        // memory-hotplug-dimm.xml; its .args: -m size=219136k and two backends of 536870912 bytes.
        let numa = "<cpu><numa><cell id='0' cpus='0-1' memory='219136' unit='KiB'/></numa></cpu>";
        let dimms = "<devices>
            <memory model='dimm'><target><size unit='KiB'>523264</size><node>0</node></target></memory>
            <memory model='dimm'><source><pagesize unit='KiB'>2048</pagesize></source>
              <target><size unit='KiB'>524287</size></target></memory></devices>";
        assert_eq!(memory(&format!("<memory>1267710</memory>{numa}{dimms}")).total, 219_136 * KIB + 2 * 536_870_912);
        // memory-hotplug-virtio-mem.xml: <memory> is 8 GiB, its .args have 2095104k and two devices.
        let virtio = "<devices>
            <memory model='virtio-mem'><target><size unit='KiB'>1048576</size><block unit='KiB'>2048</block>
              <requested unit='KiB'>524288</requested></target></memory>
            <memory model='virtio-mem'><target><size unit='KiB'>2097152</size>
              <requested unit='KiB'>1048576</requested></target></memory></devices>";
        let numa = "<cpu><numa><cell cpus='0-1' memory='2095104'/></numa></cpu>";
        let total = memory(&format!("<memory unit='KiB'>8388608</memory>{numa}{virtio}")).total;
        assert_eq!(total, (2_095_104 + 1_048_576 + 2_097_152) * KIB);
        // cpu-numa-no-memory-element.xml; its .args: -m 214.
        let numa = "<cpu><numa><cell id='1' memory='109550' unit='KiB'/><cell id='0' memory='109550' unit='KiB'/></numa></cpu>";
        assert_eq!(memory(numa).total, 214 * MIB);
    }

    #[test]
    fn memory_without_numa_includes_the_devices() {
        let device = "<devices><memory model='dimm'><target><size unit='GiB'>1</size></target></memory></devices>";
        assert_eq!(memory(&format!("<memory unit='GiB'>3</memory>{device}")).total, 3 << 30);
        assert_eq!(memory("").total, 0);
        // currentMemory is the balloon's size.
        assert_eq!(memory("<memory>219136</memory><currentMemory>1024</currentMemory>").total, 219_136 * KIB);
    }

    #[test]
    fn values_that_libvirt_refuses_are_errors() {
        for content in [
            "<memory unit='KiB'>much</memory>",
            "<memory unit='GiB'>1.5</memory>",
            "<memory unit='GiBi'>1</memory>",
            "<memory unit='EiB'>8</memory>",
            "<memory unit='b'>9223372036854775807</memory>",
            "<maxMemory slots='1'>x</maxMemory>",
            "<memtune><hard_limit>18014398509481983</hard_limit></memtune>",
            // Each of these was given to libvirt 7.0 and 11.3.
            "<memtune><hard_limit unit='b'>9223372036854774785</hard_limit></memtune>",
            "<memory unit='EiB'>8</memory><cpu><numa><cell memory='1' unit='GiB'/></numa></cpu>",
            "<memory>1</memory><currentMemory unit='GiBi'>1</currentMemory>",
            "<memory>1</memory><currentMemory>x</currentMemory>",
            "<memory>1</memory><maxMemory slots='x'>2</maxMemory>",
            "<memory>1</memory><maxMemory slots='-1'>2</maxMemory>",
            "<memory>1</memory><maxMemory slots='0x4'>2</maxMemory>",
            "<memory>1</memory><maxMemory slots='4294967296'>2</maxMemory>",
            "<cpu><numa><cell/></numa></cpu>",
            "<cpu><numa><cell memory='1 '/></numa></cpu>",
            "<devices><memory model='dimm'><target><size>-1</size></target></memory></devices>",
            "<devices><shmem name='s'><size unit='X'>1</size></shmem></devices>",
        ] {
            refused(&format!("<domain>{content}</domain>"));
        }
    }

    #[test]
    fn sizes_are_rounded_as_at_the_start() {
        // qemuDomainAlignMemorySizes: 1 MiB, 2 MiB for modules, 256 MiB on pseries.
        assert_eq!(memory("<memory unit='b'>1048577</memory>").total, 2 * MIB);
        let hotplug = memory("<memory>1025</memory><maxMemory slots='1'>5121</maxMemory>");
        assert_eq!((hotplug.total, hotplug.maximum), (2 * MIB, Some(6 * MIB)));
        let device = "<devices><memory model='dimm'><target><size unit='MiB'>3</size></target></memory></devices>";
        assert_eq!(memory(&format!("<memory unit='MiB'>10</memory>{device}")).total, 11 * MIB);
        let pseries = "<os><type arch='ppc64le'/></os><memory unit='MiB'>300</memory>";
        assert_eq!(memory(pseries).total, 512 * MIB);
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
        let none = memory("<maxMemory slots=''>0</maxMemory>");
        assert_eq!((none.maximum, none.slots), (None, 0));
        assert_eq!(memory("").maximum, None);
    }

    #[test]
    fn an_unlimited_hard_limit_is_none() {
        for (limit, bytes) in [
            ("<hard_limit unit='KiB'>2097152</hard_limit>", Some(2_147_483_648)),
            ("<hard_limit unit='KiB'>9007199254740990</hard_limit>", Some(9_007_199_254_740_990 * KIB)),
            ("<hard_limit unit='KiB'>9007199254740991</hard_limit>", None),
            ("<hard_limit unit='b'>9223372036854774784</hard_limit>", None),
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
