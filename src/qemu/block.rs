//! Images on a command line: block nodes by their driver.

use std::ffi::OsStr;

use serde_json::Value;

use super::{arguments, device, option};

/// Options whose value describes an image, each with its implied first key.
const OPTIONS: [(&str, &str); 2] = [("blockdev", "driver"), ("drive", "")];
/// Options whose value is a file name.
const FILES: &[&str] = &["cdrom", "fda", "fdb", "hda", "hdb", "hdc", "hdd", "mtdblock", "pflash", "sd"];

/// How many images of a block driver the options open. A file name with the driver as its protocol opens one as well
/// (`bdrv_open_inherit`, `path_has_protocol`); what an image's own header names is not known.
pub(super) fn count<S: AsRef<OsStr>>(arguments: &[S], driver: &str) -> usize {
    let described = OPTIONS.map(|(name, implied)| {
        let names = [name];
        let images = arguments::values(arguments, &names);
        images.map(|(_, text)| described(&text.to_string_lossy(), implied, driver)).sum::<usize>()
    });
    let files = arguments::values(arguments, FILES);
    let files = files.filter(|(_, name)| opens("file", &name.to_string_lossy(), driver));
    described.into_iter().sum::<usize>() + files.count()
}

fn described(text: &str, implied: &str, driver: &str) -> usize {
    if device::is_json(text) {
        return in_json(text, driver);
    }
    // A key with a dot is that of a child: file.driver, backing.file.filename.
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let pairs = option::parse(text, implied);
    pairs.iter().filter(|pair| opens(&last(pair.key), &pair.value, driver)).count()
}

fn in_json(text: &str, driver: &str) -> usize {
    device::object(text).map_or(0, |object| nodes(&Value::Object(object), driver))
}

/// The nodes of this driver in a JSON description.
fn nodes(value: &Value, driver: &str) -> usize {
    match value {
        Value::Object(object) => {
            let own = |(key, value): (&String, &Value)| match value {
                Value::String(text) => usize::from(opens(key, text, driver)),
                value => nodes(value, driver),
            };
            object.iter().map(own).sum()
        }
        Value::Array(values) => values.iter().map(|value| nodes(value, driver)).sum(),
        _ => 0,
    }
}

fn opens(key: &str, value: &str, driver: &str) -> bool {
    let protocol = || value.strip_prefix(driver).is_some_and(|rest| rest.starts_with(':'));
    match key {
        "driver" => value == driver,
        "file" | "filename" => protocol() || value.strip_prefix("json:").is_some_and(|json| in_json(json, driver) > 0),
        _ => false,
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
