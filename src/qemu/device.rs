//! A `-device` value in either of QEMU's spellings, JSON (libvirt writes it for QEMU >= 7.0) or key=value, and `-global`.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use serde_json::{Map, Value};

use super::{arguments, option};

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
    /// The PCI slot and function that `addr` names, on whichever bus.
    pub(super) address: Option<(u8, u8)>,
}

impl Device {
    /// Reads a `-device` value; `None` if it is invalid JSON, with which QEMU does not start either. Bytes that are not UTF-8
    /// are replaced.
    pub(super) fn parse(value: &OsStr) -> Option<Device> {
        let text = value.to_string_lossy();
        let json = if is_json(&text) { Some(object(&text)?) } else { None };
        // Five bits of the slot and three of the function.
        let devfn = json.as_ref().and_then(|object| object.get("addr")?.as_u64());
        let mut properties = json.map_or_else(|| listed(&text, DRIVER), plain);
        let address = match devfn {
            Some(devfn) => u8::try_from(devfn).ok().map(|devfn| (devfn >> 3, devfn & 7)),
            None => properties.get("addr").and_then(|addr| slot_and_function(addr)),
        };
        Some(Device { driver: properties.remove(DRIVER).unwrap_or_default(), properties, address })
    }

    /// The value of a property that the device sets itself, as key=value text.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str)
    }

    /// The same, or what `-global` sets.
    pub(super) fn value<'a>(&'a self, globals: &'a Globals, key: &str) -> Option<&'a str> {
        self.get(key).or_else(|| globals.get(&self.driver, key))
    }
}

/// The pairs of each value of an option, in either spelling; invalid JSON has none.
pub(super) fn lists<'a, S: AsRef<OsStr>>(
    arguments: &'a [S],
    option: &'a [&str],
    implied: &'a str,
) -> impl Iterator<Item = BTreeMap<String, String>> {
    arguments::values(arguments, option).filter_map(move |(_, value)| {
        let text = value.to_string_lossy();
        if is_json(&text) { object(&text).map(plain) } else { Some(listed(&text, implied)) }
    })
}

/// Types of which a `-global` applies to a device of another name: a base of the device's type, or the type of which the name is
/// an alias.
const BASES: [(&str, &str); 8] = [
    ("VGA", "pci-vga"),
    ("secondary-vga", "pci-vga"),
    ("qxl", "pci-qxl"),
    ("qxl-vga", "pci-qxl"),
    ("intel-iommu", "x86-iommu"),
    ("amd-iommu", "x86-iommu"),
    ("virtio-iommu", "virtio-iommu-pci"),
    ("vfio-pci-nohotplug", "vfio-pci"),
];

/// What every `-global` of a command line sets: the values by driver and property. The last one of a property counts, also among
/// those of a type and of its base.
pub struct Globals(BTreeMap<String, BTreeMap<String, String>>);

impl Globals {
    /// Reads `pxb-pcie.bypass_iommu=on`, or that as a list of three keys (`qemu_global_option`).
    pub fn of<S: AsRef<OsStr>>(arguments: &[S]) -> Globals {
        let mut globals = Globals(BTreeMap::new());
        for (_, text) in arguments::values(arguments, &["global"]) {
            let text = text.to_string_lossy();
            let short = text.split_once('.').and_then(|(driver, rest)| Some((driver, rest.split_once('=')?)));
            if let Some((driver, (property, value))) = short {
                globals.set(driver, property, value);
                continue;
            }
            let pairs = option::parse(&text, "");
            let get = |key| option::get(&pairs, key);
            if let (Some(driver), Some(property), Some(value)) = (get(DRIVER), get("property"), get("value")) {
                globals.set(driver, property, value);
            }
        }
        globals
    }

    fn set(&mut self, driver: &str, property: &str, value: &str) {
        let derived = BASES.iter().filter(|(_, base)| *base == driver).map(|(name, _)| *name);
        for kind in derived.chain([driver]) {
            self.0.entry(kind.to_owned()).or_default().insert(property.to_owned(), value.to_owned());
        }
    }

    /// The value of a property of a device type.
    #[must_use]
    pub fn get(&self, driver: &str, property: &str) -> Option<&str> {
        self.0.get(driver)?.get(property).map(String::as_str)
    }

    /// The properties of a device of one of these types, with those that it does not set itself (`object_apply_global_props`).
    #[must_use]
    pub fn complete(&self, drivers: &[&str], mut properties: BTreeMap<String, String>) -> BTreeMap<String, String> {
        for (property, value) in drivers.iter().filter_map(|driver| self.0.get(*driver)).flatten() {
            properties.entry(property.clone()).or_insert_with(|| value.clone());
        }
        properties
    }
}

/// Whether QEMU reads a value as true.
#[must_use]
pub fn is_on(value: &str) -> bool {
    boolean(value) == Some(true)
}

/// A boolean (`qapi_bool_parse`).
#[must_use]
pub(super) fn boolean(value: &str) -> Option<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// The properties, booleans as `on` and `off`. One of QEMU's type `OnOffAuto` takes these words only.
#[must_use]
pub fn with_plain_booleans(properties: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let plain = |(key, value): (String, String)| match boolean(&value).filter(|_| !ON_OFF_AUTO.contains(&key.as_str()))
    {
        Some(on) => (key, if on { "on" } else { "off" }.to_owned()),
        None => (key, value),
    };
    properties.into_iter().map(plain).collect()
}

/// The `-device` value with a property set, in the spelling that it has; `None` if it is invalid JSON. `value` is key=value
/// text in either spelling.
pub(super) fn set(device: &str, key: &str, value: &str) -> Option<String> {
    if !is_json(device) {
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

/// Whether a value is JSON, by its first character as for QEMU.
pub(super) fn is_json(text: &str) -> bool {
    text.starts_with('{')
}

/// Reads JSON. QEMU also accepts strings in single quotes (`json-lexer.c`), which users write in `<qemu:arg value="…"/>`.
pub(super) fn object(text: &str) -> Option<Map<String, Value>> {
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

fn plain(object: Map<String, Value>) -> BTreeMap<String, String> {
    object.into_iter().map(|(key, value)| (key, plain_text(value))).collect()
}

fn listed(text: &str, implied: &str) -> BTreeMap<String, String> {
    option::parse(text, implied).into_iter().map(|pair| (pair.key.to_owned(), pair.value)).collect()
}

/// `slot` or `slot.function`: both hexadecimal, with or without `0x` (`hw/core/qdev-properties-system.c`, `set_pci_devfn`).
fn slot_and_function(addr: &str) -> Option<(u8, u8)> {
    let (slot, function) = addr.split_once('.').unwrap_or((addr, "0"));
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        u8::from_str_radix(digits, 16).ok()
    };
    Some((number(slot).filter(|slot| *slot < 32)?, number(function).unwrap_or(0)))
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
        assert_eq!(parse("e1000e,bus=pcie.0,addr=10").address, Some((0x10, 0)));
        assert_eq!(parse(r#"{"driver":"e1000e","bus":"pcie.0","addr":"0x10"}"#).address, Some((0x10, 0)));
        assert_eq!(parse(r#"{"driver":"e1000e","bus":"pcie.0","addr":16}"#).address, Some((2, 0)));
        assert_eq!(parse(r#"{"driver":"pc-dimm","addr":4294967296}"#).address, None);
    }

    #[test]
    fn addresses_are_read_as_qemu_reads_them() {
        for (text, slot, function) in [
            ("0x2.0x1", 2, 1),
            ("2.1", 2, 1),
            ("02", 2, 0),
            ("0x1e", 0x1e, 0),
            ("1e.0", 0x1e, 0),
            ("10", 0x10, 0),
            ("0X1F", 0x1f, 0),
        ] {
            assert_eq!(slot_and_function(text), Some((slot, function)), "{text}");
        }
        for text in ["", "0x20", "20", "-1", "g", "0x", "256"] {
            assert_eq!(slot_and_function(text), None, "{text}");
        }
        assert_eq!(parse(r#"{"driver":"vfio-pci","addr":25}"#).address, Some((3, 1)));
        assert_eq!(parse(r#"{"driver":"vfio-pci","addr":256}"#).address, None);
    }

    #[test]
    fn json_that_qemu_would_refuse_is_no_device() {
        assert_eq!(Device::parse(OsStr::new("{\"driver\":")), None);
        assert_eq!(set("{\"driver\":", "eim", "on"), None);
    }

    // QEMU 7.2 and 10.0 put {'driver':'e1000e','bus':'pcie.0','addr':240} at 00:1e.0.
    #[test]
    fn json_may_be_in_single_quotes() {
        assert_eq!(parse("{'driver':'e1000e','bus':'pcie.0','addr':240}").address, Some((0x1e, 0)));
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
