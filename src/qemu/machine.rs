//! `-machine`: reads a property from all of them, and sets one. QEMU merges them (`system/vl.c`), and `-accel` overrides the
//! irqchip.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};

use super::option::{self, Pair};
use super::{arguments, device};
use crate::note::{Code, Note};

const OPTIONS: &[&str] = &["machine", "M"];
/// The implied first key of `-machine`: the machine type, for example `pc-q35-10.0`.
pub(super) const TYPE: &str = "type";
/// The one property that `-accel` also has, where it overrides `-machine`.
const IRQCHIP: &str = "kernel-irqchip";

/// QEMU's message for interrupt remapping with the kernel's irqchip (`x86-iommu.c`).
pub const KERNEL_IRQCHIP: &str = "Interrupt Remapping cannot work with kernel-irqchip=on, please use 'split|off'.";

/// The value of a property in all `-machine` options, of which the last counts. The key may have dashes or underscores.
#[must_use]
pub fn get<S: AsRef<OsStr>>(arguments: &[S], key: &str) -> Option<String> {
    arguments::values(arguments, OPTIONS)
        .filter_map(|(_, text)| last(&option::parse(&text.to_string_lossy(), TYPE), key).map(|pair| pair.value.clone()))
        .last()
}

/// The irqchip that the arguments set: that of `-accel`, else that of `-machine`.
#[must_use]
pub fn irqchip<S: AsRef<OsStr>>(arguments: &[S]) -> Option<String> {
    accelerators(arguments).find_map(|(_, set)| set).or_else(|| get(arguments, IRQCHIP))
}

/// Whether the arguments turn ACPI on or off, where they say so: `-machine acpi=`, or `-no-acpi` before QEMU 9.0. The last counts.
#[must_use]
pub fn acpi<S: AsRef<OsStr>>(arguments: &[S]) -> Option<bool> {
    let said = arguments::options(arguments).filter_map(|option| match (option.name, option.value) {
        ("no-acpi", _) => Some(false),
        (name, Some(text)) if OPTIONS.contains(&name) => {
            let text = text.to_string_lossy();
            last(&option::parse(&text, TYPE), "acpi").map(|pair| device::boolean(&pair.value) != Some(false))
        }
        _ => None,
    });
    said.last()
}

/// Every `-accel`: the index of its value, and the irqchip that it sets.
fn accelerators<S: AsRef<OsStr>>(arguments: &[S]) -> impl Iterator<Item = (usize, Option<String>)> {
    arguments::values(arguments, &["accel"]).map(|(at, text)| {
        let text = text.to_string_lossy();
        (at, option::get(&option::parse(&text, "accel"), IRQCHIP).map(str::to_owned))
    })
}

/// Sets `key=value` where the key is, or else at the end of the last `-machine` that names a type. The number of arguments
/// does not change.
///
/// # Errors
/// `irqchip-conflict` if the in-kernel irqchip is set explicitly and another is wanted; `command-line-unsupported` if no
/// `-machine` names a type, or if the argument to change is not UTF-8.
pub(super) fn set(arguments: &mut [OsString], key: &str, value: &str) -> Result<(), Note> {
    if key.replace('_', "-") == IRQCHIP {
        set_irqchip_of_accelerators(arguments, value)?;
    }
    let Some(place) = place_of(arguments, key) else {
        return Err(Note::error(
            Code::CommandLineUnsupported,
            format!("QEMU's command line names no machine type, so {key}={value} cannot be set: add -machine TYPE"),
        ));
    };
    if place.value.as_deref() == Some(value) {
        return Ok(());
    }
    if let Some(present) = &place.value {
        check_irqchip(&place.key, present, value)?;
    }
    arguments::replace(arguments, place.at, "machine", |text| Some(option::set(text, TYPE, &place.key, value)))
}

/// Where a property of `-machine` has to be written.
struct Place {
    at: usize,
    /// The key, in the spelling found: QEMU refuses `kernel_irqchip` together with `kernel-irqchip`.
    key: String,
    /// The present value.
    value: Option<String>,
}

fn place_of(arguments: &[OsString], key: &str) -> Option<Place> {
    let machines: Vec<(usize, Cow<'_, str>)> =
        arguments::values(arguments, OPTIONS).map(|(at, text)| (at, text.to_string_lossy())).collect();
    let last_with = |key: &str| {
        machines.iter().rev().find_map(|(at, text)| {
            let pairs = option::parse(text, TYPE);
            last(&pairs, key).map(|pair| Place { at: *at, key: pair.key.to_owned(), value: Some(pair.value.clone()) })
        })
    };
    last_with(key).or_else(|| Some(Place { key: key.to_owned(), value: None, ..last_with(TYPE)? }))
}

/// `-accel kvm,kernel-irqchip=…` overrides `-machine`, so it must have the same value. There QEMU accepts the dash only.
fn set_irqchip_of_accelerators(arguments: &mut [OsString], value: &str) -> Result<(), Note> {
    for (at, present) in accelerators(arguments).collect::<Vec<_>>() {
        if let Some(present) = present.filter(|present| present != value) {
            check_irqchip(IRQCHIP, &present, value)?;
            arguments::replace(arguments, at, "accel", |text| Some(option::set(text, "accel", IRQCHIP, value)))?;
        }
    }
    Ok(())
}

/// Refuses to replace an explicit in-kernel irqchip: the user may have a reason for it. `wanted` is another.
fn check_irqchip(key: &str, present: &str, wanted: &str) -> Result<(), Note> {
    if !same_key(key, IRQCHIP) || present != "on" {
        return Ok(());
    }
    Err(Note::error(
        Code::IrqchipConflict,
        format!(
            "QEMU's command line has {key}=on, and interrupt remapping needs {key}={wanted}: remove \
             <ioapic driver='kvm'/> from the domain's features, or the option from <qemu:commandline>. QEMU itself would say: \
             {KERNEL_IRQCHIP}"
        ),
    ))
}

/// The pair that counts for a key, in either spelling.
fn last<'p, 'a>(pairs: &'p [Pair<'a>], key: &str) -> Option<&'p Pair<'a>> {
    pairs.iter().rfind(|pair| same_key(pair.key, key))
}

/// Whether two keys are equal for QEMU, which accepts underscores for dashes (`machine_set_property`).
pub(super) fn same_key(left: &str, right: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    left.bytes().map(dashed).eq(right.bytes().map(dashed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn split(words: &[&str]) -> Result<Vec<OsString>, Note> {
        let mut arguments = arguments(words);
        set(&mut arguments, "kernel_irqchip", "split").map(|()| arguments)
    }

    fn assert_split(before: &[&str], after: &[&str]) {
        assert_eq!(split(before).unwrap(), arguments(after));
    }

    fn assert_refused(words: &[&str], code: Code) {
        assert_eq!(split(words).unwrap_err().code, code, "{words:?}");
    }

    #[test]
    fn last_value_counts_over_all_machines() {
        let words = ["-machine", "none,accel=kvm", "-M", "q35", "-machine", "accel=tcg"];
        assert_eq!(get(&words, TYPE).as_deref(), Some("q35"));
        assert_eq!(get(&words, "accel").as_deref(), Some("tcg"));
        assert_eq!(get(&words, "usb"), None);
        assert_eq!(get(&["-name", "-machine", "q35"], TYPE), None);
    }

    // -no-acpi is acpi=off (system/vl.c of QEMU 8.2).
    #[test]
    fn acpi_is_as_the_last_option_says() {
        assert_eq!(acpi(&["-machine", "q35,usb=off"]), None);
        assert_eq!(acpi(&["-machine", "acpi=off"]), Some(false));
        assert_eq!(acpi(&["-machine", "acpi=on", "-no-acpi"]), Some(false));
        assert_eq!(acpi(&["-no-acpi", "-M", "q35,acpi=yes"]), Some(true));
        assert_eq!(acpi(&["-machine", "acpi=auto"]), Some(true));
        assert_eq!(acpi(&["-name", "-no-acpi"]), None);
    }

    #[test]
    fn missing_key_is_appended_to_the_machine_with_a_type() {
        assert_split(&["-machine", "q35,usb=off"], &["-machine", "q35,usb=off,kernel_irqchip=split"]);
        assert_split(
            &["-M", "pc", "--machine", "type=q35", "-machine", "usb=off"],
            &["-M", "pc", "--machine", "type=q35,kernel_irqchip=split", "-machine", "usb=off"],
        );
        assert_refused(&["-machine", "usb=off"], Code::CommandLineUnsupported);
        assert_refused(&[], Code::CommandLineUnsupported);
    }

    // QEMU: "Conflict between 'kernel_irqchip' and 'kernel-irqchip'" where both spellings stand.
    #[test]
    fn spelling_found_is_kept() {
        assert_split(
            &["-machine", "q35,kernel-irqchip=off,usb=off"],
            &["-machine", "q35,kernel-irqchip=split,usb=off"],
        );
        assert_split(
            &["-machine", "q35", "-machine", "kernel-irqchip=off"],
            &["-machine", "q35", "-machine", "kernel-irqchip=split"],
        );
    }

    #[test]
    fn nothing_changes_where_split_wins_already() {
        for words in [
            &["-machine", "q35,kernel_irqchip=split,usb=off"][..],
            &["-machine", "q35,kernel_irqchip=on", "-machine", "kernel_irqchip=split"],
            &["-machine", "q35,kernel_irqchip=split", "-accel", "kvm,kernel-irqchip=split"],
        ] {
            assert_split(words, words);
        }
    }

    #[test]
    fn explicit_in_kernel_irqchip_is_refused() {
        assert_refused(&["-machine", "q35,kernel_irqchip=on"], Code::IrqchipConflict);
        assert_refused(&["-machine", "q35,kernel-irqchip=split", "-M", "kernel-irqchip=on"], Code::IrqchipConflict);
        assert_refused(&["-machine", "q35", "-accel", "kvm,kernel-irqchip=on"], Code::IrqchipConflict);
        let note = split(&["-machine", "q35,kernel_irqchip=on"]).unwrap_err();
        assert!(note.message.contains("please use 'split|off'"), "{}", note.message);
    }

    #[test]
    fn accelerator_must_say_the_same() {
        assert_split(
            &["-accel", "kvm,kernel-irqchip=off,dirty-ring-size=1024", "-machine", "q35", "-accel", "tcg"],
            &[
                "-accel",
                "kvm,kernel-irqchip=split,dirty-ring-size=1024",
                "-machine",
                "q35,kernel_irqchip=split",
                "-accel",
                "tcg",
            ],
        );
    }

    #[test]
    fn other_keys_leave_the_accelerator_alone() {
        let mut words = arguments(&["-machine", "virt,iommu=none", "-accel", "kvm,kernel-irqchip=on"]);
        set(&mut words, "iommu", "smmuv3").unwrap();
        assert_eq!(words, arguments(&["-machine", "virt,iommu=smmuv3", "-accel", "kvm,kernel-irqchip=on"]));
    }
}
