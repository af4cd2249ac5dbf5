//! QEMU's command line, with a comparison that ignores differences without an effect on QEMU.

use std::collections::{BTreeMap, BTreeSet};

/// A vIOMMU's `-device`.
#[derive(Debug, PartialEq, Eq)]
struct Viommu {
    /// Number of devices before it.
    devices_before: usize,
    /// The driver and every property, with values in the form of key=value.
    properties: BTreeMap<String, String>,
}

/// A command line without `argv[0]`.
#[derive(Debug)]
pub(crate) struct Line {
    viommus: Vec<Viommu>,
    /// Every other option in order, byte for byte, except for the order of keys in `-machine` and in virtio devices.
    rest: Vec<(String, Option<String>)>,
    /// The slots of other devices on the root bus.
    slots: BTreeSet<u8>,
    /// Number of devices before the first passed-through device.
    before_vfio: Option<usize>,
}

impl Line {
    /// The line in `domxml-to-native`'s form, which has no `<driver>` of a network interface.
    pub(crate) fn without_drivers_of_interfaces(words: &[String]) -> Line {
        let word = |word: &String| {
            if !word.contains("virtio-net-pci") {
                return word.clone();
            }
            let added = [",iommu_platform=on", ",ats=on", ",\"iommu_platform\":true", ",\"ats\":true"];
            added.into_iter().fold(word.clone(), |word, added| word.replace(added, ""))
        };
        Line::read(&words.iter().map(word).collect::<Vec<_>>())
    }

    pub(crate) fn read(words: &[String]) -> Line {
        let mut line = Line { viommus: vec![], rest: vec![], slots: BTreeSet::new(), before_vfio: None };
        let mut devices = 0;
        let mut words = words.iter().peekable();
        while let Some(option) = words.next() {
            let value = words.next_if(|value| !value.starts_with('-')).cloned();
            match (option.as_str(), value) {
                ("-device", Some(text)) => {
                    let properties = properties(&text);
                    let driver = properties["driver"].clone();
                    if ["intel-iommu", "amd-iommu", "AMDVI-PCI"].contains(&&*driver)
                        || driver.starts_with("virtio-iommu")
                    {
                        line.viommus.push(Viommu { devices_before: devices, properties });
                    } else {
                        if driver.starts_with("vfio-pci") {
                            line.before_vfio.get_or_insert(devices);
                        }
                        line.slots.extend(root_slot(&properties));
                        let text = if driver.starts_with("virtio-") { format!("{properties:?}") } else { text };
                        line.rest.push((option.clone(), Some(text)));
                    }
                    devices += 1;
                }
                ("-machine", Some(text)) => {
                    let mut keys: Vec<&str> = text.split(',').collect();
                    keys[1..].sort_unstable();
                    line.rest.push((option.clone(), Some(keys.join(","))));
                }
                // A clock with an offset from the current time differs between two calls.
                ("-rtc", Some(text)) if text.starts_with("base=20") => {
                    let rest = text.split_once(',').map_or("", |(_, rest)| rest);
                    line.rest.push((option.clone(), Some(format!("base=some time,{rest}"))));
                }
                (_, value) => line.rest.push((option.clone(), value.map(|text| without_descriptors(&text)))),
            }
        }
        line
    }
}

/// libvirt assigns the numbers of descriptors at each call.
fn without_descriptors(text: &str) -> String {
    let keys = ["fd\":\"", "fd=", "fds\":\"", "fds="];
    keys.iter().fold(text.to_owned(), |text, key| without_values(&text, key, |c| c.is_ascii_digit() || c == ':'))
}

/// Removes the characters of a value after each key.
fn without_values(text: &str, key: &str, of_value: fn(char) -> bool) -> String {
    let mut pieces = text.split(key);
    let mut result = pieces.next().unwrap().to_owned();
    for piece in pieces {
        result += key;
        result += piece.trim_start_matches(of_value);
    }
    result
}

/// The machine, the devices and their spelling. The result is equal for guests that differ only in name, UUID and MAC
/// addresses.
pub(crate) fn hardware(words: &[String]) -> String {
    let line = Line::read(words);
    let named = |option: &str| ["-name", "-uuid"].contains(&option);
    let json = words.windows(2).any(|pair| pair[0] == "-device" && pair[1].starts_with('{'));
    let mut result = format!("{json} {:?}", line.viommus);
    for (option, value) in line.rest.iter().filter(|(option, _)| !named(option)) {
        let value = value.as_deref().unwrap_or_default();
        // Paths of libvirt's own files contain the name.
        let value = ["/domain-", "/nvram/"].iter().fold(value, |value, path| value.split(path).next().unwrap());
        let keys = ["mac\":\"", "mac\": \"", "mac="];
        let of_mac = |c: char| c.is_ascii_hexdigit() || c == ':';
        let value = keys.iter().fold(value.to_owned(), |value, key| without_values(&value, key, of_mac));
        result.extend([option, " ", &value, "\n"]);
    }
    result
}

/// The driver and the properties of a `-device` in either spelling.
fn properties(text: &str) -> BTreeMap<String, String> {
    if text.starts_with('{') {
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).unwrap();
        let plain = |value: serde_json::Value| match value {
            serde_json::Value::Bool(true) => "on".to_owned(),
            serde_json::Value::Bool(false) => "off".to_owned(),
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        return object.into_iter().map(|(key, value)| (key, plain(value))).collect();
    }
    let (driver, rest) = text.split_once(',').unwrap_or((text, ""));
    let pairs = rest.split(',').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pairs.chain([("driver".to_owned(), driver.to_owned())]).collect()
}

fn root_slot(properties: &BTreeMap<String, String>) -> Option<u8> {
    if properties.get("bus").is_some_and(|bus| bus != "pcie.0") {
        return None;
    }
    let slot = properties.get("addr")?.split('.').next()?;
    u8::from_str_radix(slot.trim_start_matches("0x"), 16).ok()
}

/// # Errors
///
/// The difference between the wrapper's command line and libvirt's own.
pub(crate) fn compare(native: &Line, wrapped: &Line) -> Result<(), String> {
    if native.rest != wrapped.rest {
        let differ = native.rest.iter().zip(&wrapped.rest).find(|(native, wrapped)| native != wrapped);
        let lengths = (native.rest.len(), wrapped.rest.len());
        return Err(format!("other options differ, {lengths:?} of them, first here: {differ:#?}"));
    }
    let mut both = [&native.viommus, &wrapped.viommus]
        .map(|viommus| viommus.iter().map(|viommu| viommu.properties.clone()).collect::<Vec<_>>());
    // AMD's vIOMMU is two devices. The wrapper writes a property of one of them that libvirt cannot write: dma-remap.
    for amd in both[1].iter_mut().filter(|viommu| viommu["driver"] == "amd-iommu") {
        if amd.remove("dma-remap").as_deref() != Some("on") {
            return Err(format!("nothing is translated: {amd:?}"));
        }
    }
    if both.iter().any(|viommus| viommus.len() > 1 && viommus[0]["driver"] != "AMDVI-PCI") {
        return Err(format!("two vIOMMUs: {both:#?}"));
    }
    for (line, viommus) in [native, wrapped].into_iter().zip(&mut both) {
        for viommu in viommus {
            viommu.remove("id");
            viommu.remove("pci-id");
            if viommu.contains_key("bus") {
                // libvirt takes the first free slot. The wrapper takes the last, which QEMU's own devices do not use.
                let slot = root_slot(viommu).ok_or_else(|| format!("no slot on the root bus: {viommu:?}"))?;
                if line.slots.contains(&slot) {
                    return Err(format!("slot {slot:#x} is taken: {viommu:?}"));
                }
                viommu.remove("addr");
            }
        }
    }
    let [native_has, wrapped_has] = both;
    if native_has != wrapped_has {
        return Err(format!("natively {native_has:?}, wrapped {wrapped_has:?}"));
    }
    // In each case a passed-through device must come after its vIOMMU.
    for line in [native, wrapped] {
        let late = line.viommus.iter().find(|viommu| line.before_vfio.is_some_and(|vfio| viommu.devices_before > vfio));
        if let Some(viommu) = late {
            return Err(format!("a vfio-pci stands before {viommu:?}"));
        }
    }
    Ok(())
}
