//! Images on a command line: block nodes by their driver.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use serde_json::Value;

use super::{arguments, device, option};

/// Options whose value is a file name.
const FILES: &[&str] = &["cdrom", "fda", "fdb", "hda", "hdb", "hdc", "hdd", "mtdblock", "pflash", "sd"];

/// How many images of a block driver the options open. A file name of `-drive` with the driver as its protocol opens one as well
/// (`bdrv_open_inherit`, `path_has_protocol`); what an image's own header names is not known.
pub(super) fn count<S: AsRef<OsStr>>(arguments: &[S], driver: &str) -> usize {
    let all = |options: &[&str], images: &dyn Fn(&str) -> usize| {
        arguments::values(arguments, options).map(|(_, text)| images(&text.to_string_lossy())).sum::<usize>()
    };
    all(&["blockdev"], &|text| {
        if device::is_json(text) { in_json(text, driver) } else { in_list(text, "driver", &|_| 0, driver) }
    }) + all(&["drive"], &|text| in_list(text, "", &|name| in_file_name(name, driver), driver))
        + all(FILES, &|name| in_file_name(name, driver))
}

/// The images in a list of keys. A key with a dot is that of a child: file.driver, backing.file.filename.
fn in_list(text: &str, implied: &str, in_file_name: &dyn Fn(&str) -> usize, driver: &str) -> usize {
    let pairs = option::parse(text, implied);
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for pair in &pairs {
        let (node, key) = pair.key.rsplit_once('.').unwrap_or(("", pair.key));
        let images = match key {
            // -drive has both names for it.
            "driver" | "format" => usize::from(pair.value == driver),
            "file" | "filename" => in_file_name(&pair.value),
            _ => 0,
        };
        let node = nodes.entry(node).or_default();
        *node = images.max(*node);
    }
    nodes.values().sum()
}

fn in_file_name(name: &str, driver: &str) -> usize {
    match name.strip_prefix("json:") {
        Some(json) => in_json(json, driver),
        None => usize::from(name.strip_prefix(driver).is_some_and(|rest| rest.starts_with(':'))),
    }
}

fn in_json(text: &str, driver: &str) -> usize {
    device::object(text).map_or(0, |object| nodes(&Value::Object(object), driver))
}

/// The nodes of this driver in a JSON description.
fn nodes(value: &Value, driver: &str) -> usize {
    match value {
        Value::Object(object) => {
            let own = object.get("driver").and_then(Value::as_str) == Some(driver);
            usize::from(own) + object.values().map(|value| nodes(value, driver)).sum::<usize>()
        }
        Value::Array(values) => values.iter().map(|value| nodes(value, driver)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // docs/system/qemu-block-drivers.rst, "NVMe userspace driver".
    #[test]
    fn images_in_every_spelling() {
        for (arguments, images) in [
            (&["-drive", "file=nvme://0000:44:00.0/1,if=none,id=d0"][..], 1),
            (&["-drive", "if=none,format=raw,file.driver=nvme,file.device=0000:44:00.0,file.namespace=1"], 1),
            (&["-blockdev", "driver=nvme,node-name=n,device=0000:44:00.0,namespace=1"], 1),
            (&["-blockdev", r#"{"driver":"nvme","node-name":"n","device":"0000:44:00.0","namespace":1}"#], 1),
            (&["-blockdev", r#"{"driver":"raw","node-name":"r","file":{"driver":"nvme","device":"0000:44:00.0"}}"#], 1),
            (
                &["-blockdev", "driver=qcow2,node-name=q,file.driver=nvme,backing.driver=raw,backing.file.driver=nvme"],
                2,
            ),
            (&["-blockdev", r#"{"driver":"quorum","children":[{"driver":"nvme"},{"driver":"nvme"}]}"#], 2),
            (&["-hda", "nvme://0000:44:00.0/1"], 1),
            (&["-drive", "file.driver=nvme,file.filename=nvme://0000:44:00.0/1,if=none"], 1),
            (&["-drive", "format=nvme,device=0000:44:00.0,namespace=1,if=none"], 1),
            (&["-drive", r#"file=json:{"driver":"quorum",,"children":[{"driver":"nvme"},,{"driver":"nvme"}]}"#], 2),
            // -blockdev knows no protocols.
            (&["-blockdev", "driver=file,filename=nvme:x"], 0),
            (&["-blockdev", r#"{"driver":"file","filename":"nvme:x"}"#], 0),
            (&["-drive", r#"file=json:{"driver":"nvme",,"device":"0000:44:00.0"}"#], 1),
            (
                &[
                    "-drive",
                    "file=/nvme://x,if=none",
                    "-device",
                    "nvme,drive=d",
                    "-blockdev",
                    "driver=file,filename=nvme",
                ],
                0,
            ),
        ] {
            assert_eq!(count(arguments, "nvme"), images, "{arguments:?}");
        }
    }
}
