//! A `-device` value in either of QEMU's spellings, JSON (libvirt writes it for QEMU >= 7.0) or key=value, and `-global`.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use serde_json::{Map, Value};

use super::{arguments, machine, option};

/// The implied first key of a `-device` list.
const DRIVER: &str = "driver";
/// Properties of QEMU's type `OnOffAuto`: strings in JSON, although their values look like booleans (`x86-iommu.c`, `intel_iommu.c`).
const ON_OFF_AUTO: &[&str] = &["intremap", "eim"];

/// A device on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// QEMU's type name or an alias of it.
    pub(super) driver: String,
    /// The other properties; a JSON boolean is `on` or `off`, as in the key=value spelling.
    pub(super) properties: BTreeMap<String, String>,
    /// The PCI slot that `addr` names, on whichever bus.
    pub(super) slot: Option<u8>,
}

impl Device {
    /// Reads a `-device` value; `None` if it is invalid JSON, with which QEMU does not start either. Bytes that are not UTF-8
    /// are replaced.
    pub(super) fn parse(value: &OsStr) -> Option<Device> {
        let text = value.to_string_lossy();
        if text.starts_with('{') {
            let object = object(&text)?;
            let slot = object.get("addr").and_then(slot_of_json);
            return Some(Device::new(object.into_iter().map(|(key, value)| (key, plain_text(value))).collect(), slot));
        }
        let pairs = option::parse(&text, DRIVER);
        let slot = option::get(&pairs, "addr").and_then(slot_of_text);
        Some(Device::new(pairs.into_iter().map(|pair| (pair.key.to_owned(), pair.value)).collect(), slot))
    }

    /// The value of a property, as key=value text.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str)
    }

    fn new(mut properties: BTreeMap<String, String>, slot: Option<u8>) -> Device {
        Device { driver: properties.remove(DRIVER).unwrap_or_default(), properties, slot }
    }
}

/// The pairs of a value in either spelling; `None` if it is invalid JSON.
pub(super) fn properties(text: &str, implied: &str) -> Option<BTreeMap<String, String>> {
    if text.starts_with('{') {
        return Some(object(text)?.into_iter().map(|(key, value)| (key, plain_text(value))).collect());
    }
    Some(option::parse(text, implied).into_iter().map(|pair| (pair.key.to_owned(), pair.value)).collect())
}

/// The value that the last matching `-global` sets for a property of a device type: `pxb-pcie.bypass_iommu=on`, or that as a
/// list of three keys (`qemu_global_option`). The property may have dashes or underscores.
#[must_use]
pub fn global<S: AsRef<OsStr>>(arguments: &[S], driver: &str, property: &str) -> Option<String> {
    let set = |text: &str| {
        let short = text.split_once('.').and_then(|(device, rest)| Some((device, rest.split_once('=')?)));
        if let Some((device, (key, value))) = short {
            return (device == driver && machine::same_key(key, property)).then(|| value.to_owned());
        }
        let pairs = option::parse(text, "");
        let get = |key| option::get(&pairs, key);
        let matches =
            get("driver") == Some(driver) && get("property").is_some_and(|key| machine::same_key(key, property));
        get("value").filter(|_| matches).map(str::to_owned)
    };
    arguments::values(arguments, &["global"]).filter_map(|(_, text)| set(&text.to_string_lossy())).last()
}

/// Whether QEMU reads a value as true (`qapi_bool_parse`).
#[must_use]
pub fn is_on(value: &str) -> bool {
    matches!(value, "on" | "yes" | "true" | "y")
}

/// The `-device` value with a property set, in the spelling that it has; `None` if it is invalid JSON. `value` is key=value
/// text in either spelling.
pub(super) fn set(device: &str, key: &str, value: &str) -> Option<String> {
    if !device.starts_with('{') {
        return Some(option::set(device, DRIVER, key, value));
    }
    let mut object = object(device)?;
    object.insert(key.to_owned(), typed(key, value));
    serde_json::to_string(&object).ok()
}

/// A property's value with the JSON type that QEMU accepts: it converts text only in the key=value spelling.
fn typed(key: &str, value: &str) -> Value {
    match value {
        "on" | "off" if !ON_OFF_AUTO.contains(&key) => Value::Bool(value == "on"),
        _ => value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from),
    }
}

/// Reads JSON. QEMU also accepts strings in single quotes (`json-lexer.c`), which users write in `<qemu:arg value="…"/>`.
fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&double_quoted(text))).ok()
}

/// The same JSON with every string in double quotes.
fn double_quoted(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', Some(_)) => match characters.next() {
                Some('\'') => written.push('\''),
                escaped => written.extend(['\\'].into_iter().chain(escaped)),
            },
            ('"', Some('\'')) => written.push_str("\\\""),
            ('"' | '\'', None) => {
                quote = Some(character);
                written.push('"');
            }
            (_, Some(open)) if open == character => {
                quote = None;
                written.push('"');
            }
            _ => written.push(character),
        }
    }
    written
}

fn plain_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Bool(on) => if on { "on" } else { "off" }.to_owned(),
        other => other.to_string(),
    }
}

fn slot_of_json(addr: &Value) -> Option<u8> {
    match addr {
        Value::String(text) => slot_of_text(text),
        other => slot_of_devfn(other.as_u64()?),
    }
}

/// The slot in `slot`, `slot.function`: both hexadecimal, with or without `0x` (`hw/core/qdev-properties-system.c`,
/// `set_pci_devfn`).
fn slot_of_text(addr: &str) -> Option<u8> {
    let slot = addr.split_once('.').map_or(addr, |(slot, _)| slot);
    let digits = slot.strip_prefix("0x").or_else(|| slot.strip_prefix("0X")).unwrap_or(slot);
    u8::from_str_radix(digits, 16).ok().filter(|slot| *slot < 32)
}

/// The slot in a device and function number, five bits and three.
fn slot_of_devfn(devfn: u64) -> Option<u8> {
    u8::try_from(devfn).ok().map(|devfn| devfn >> 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Device {
        Device::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn both_spellings_read_the_same() {
        let json = parse(
            r#"{"driver":"intel-iommu","id":"iommu0","intremap":"on","caching-mode":true,"eim":"off","aw-bits":48}"#,
        );
        let text = parse("intel-iommu,id=iommu0,intremap=on,caching-mode=on,eim=off,aw-bits=48");
        assert_eq!(json, text);
        assert_eq!(json.driver, "intel-iommu");
        assert_eq!(json.properties["caching-mode"], "on");
        assert!(!json.properties.contains_key("driver"));
    }

    #[test]
    fn driver_may_be_named_anywhere() {
        assert_eq!(parse("id=a,driver=e1000e").driver, "e1000e");
        assert_eq!(parse(r#"{"id":"a","driver":"e1000e"}"#).driver, "e1000e");
        assert_eq!(parse("id=a").driver, "");
    }

    #[test]
    fn address_is_hexadecimal_text_or_a_devfn() {
        assert_eq!(parse("e1000e,bus=pcie.0,addr=10").slot, Some(0x10));
        assert_eq!(parse(r#"{"driver":"e1000e","bus":"pcie.0","addr":"0x10"}"#).slot, Some(0x10));
        assert_eq!(parse(r#"{"driver":"e1000e","bus":"pcie.0","addr":16}"#).slot, Some(2));
        assert_eq!(parse(r#"{"driver":"pc-dimm","addr":4294967296}"#).slot, None);
    }

    #[test]
    fn addresses_are_read_as_qemu_reads_them() {
        for (text, slot) in
            [("0x2.0x1", 2), ("2.1", 2), ("02", 2), ("0x1e", 0x1e), ("1e.0", 0x1e), ("10", 0x10), ("0X1F", 0x1f)]
        {
            assert_eq!(slot_of_text(text), Some(slot), "{text}");
        }
        for text in ["", "0x20", "20", "-1", "g", "0x", "256"] {
            assert_eq!(slot_of_text(text), None, "{text}");
        }
        assert_eq!(slot_of_devfn(0xf0), Some(0x1e));
        assert_eq!(slot_of_devfn(0x100), None);
    }

    #[test]
    fn json_that_qemu_would_refuse_is_no_device() {
        assert_eq!(Device::parse(OsStr::new("{\"driver\":")), None);
        assert_eq!(set("{\"driver\":", "eim", "on"), None);
    }

    // QEMU 7.2 and 10.0 put {'driver':'e1000e','bus':'pcie.0','addr':240} at 00:1e.0.
    #[test]
    fn json_may_be_in_single_quotes() {
        assert_eq!(parse("{'driver':'e1000e','bus':'pcie.0','addr':240}").slot, Some(0x1e));
        let device = parse(r#"{'driver':'a"b\'c\"d\\','x':"it's"}"#);
        assert_eq!(device.driver, r#"a"b'c"d\"#);
        assert_eq!(device.properties["x"], "it's");
        assert_eq!(set("{'driver':'intel-iommu'}", "eim", "on").unwrap(), r#"{"driver":"intel-iommu","eim":"on"}"#);
    }

    // Types as libvirt writes them and QEMU accepts them (libvirt's qemuBuildIOMMUCommandLine).
    #[test]
    fn json_properties_get_the_types_of_qemu() {
        let mut device = r#"{"driver":"intel-iommu","id":"iommu0"}"#.to_owned();
        for (key, value) in [
            ("intremap", "on"),
            ("caching-mode", "on"),
            ("eim", "on"),
            ("device-iotlb", "on"),
            ("aw-bits", "48"),
            ("dma-translation", "off"),
        ] {
            device = set(&device, key, value).unwrap();
        }
        assert_eq!(
            device,
            r#"{"driver":"intel-iommu","id":"iommu0","intremap":"on","caching-mode":true,"eim":"on","device-iotlb":true,"aw-bits":48,"dma-translation":false}"#
        );
    }

    #[test]
    fn setting_replaces_in_place() {
        assert_eq!(
            set(r#"{"driver":"intel-iommu","caching-mode":false,"aw-bits":39}"#, "caching-mode", "on").unwrap(),
            r#"{"driver":"intel-iommu","caching-mode":true,"aw-bits":39}"#
        );
        assert_eq!(
            set("intel-iommu,caching-mode=off,aw-bits=39", "caching-mode", "on").unwrap(),
            "intel-iommu,caching-mode=on,aw-bits=39"
        );
        assert_eq!(set("intel-iommu", "aw-bits", "48").unwrap(), "intel-iommu,aw-bits=48");
    }
}
