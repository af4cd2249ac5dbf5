//! Options and their values on a command line, as QEMU reads them.
//!
//! The tables say which options have a value, so that a value that looks like an option (`-name -device`) is not read as one.

use std::ffi::{OsStr, OsString};

use crate::note::{Code, Note};

/// Options without a value, of every supported QEMU (`qemu-options.hx`, the entries without `HAS_ARG`).
#[rustfmt::skip]
const WITHOUT_VALUE: &[&str] = &[
    "S", "alt-grab", "async-teardown", "audio-help", "ctrl-grab", "curses", "daemonize", "enable-fips",
    "enable-kvm", "enable-sync-profile", "full-screen", "h", "help", "jitdump", "mem-prealloc", "no-acpi",
    "no-fd-bootchk", "no-hpet", "no-quit", "no-reboot", "no-shutdown", "no-user-config", "nodefaults", "nographic",
    "old-param", "only-migratable", "perfmap", "portrait", "preconfig", "s", "sdl", "semihosting", "show-cursor",
    "singlestep", "snapshot", "usb", "version", "win2k-hack", "xen-attach", "xen-domid-restrict",
];

/// Options with a value, of every supported QEMU (`qemu-options.hx`, the entries with `HAS_ARG`).
#[rustfmt::skip]
const WITH_VALUE: &[&str] = &[
    "D", "L", "M", "accel", "acpitable", "action", "add-fd", "append", "audio", "audiodev", "bios", "blockdev", "boot",
    "cdrom", "chardev", "chroot", "compat", "cpu", "d", "debugcon", "device", "dfilter", "display", "drive", "dtb",
    "dump-vmstate", "echr", "fda", "fdb", "fsdev", "fw_cfg", "g", "gdb", "global", "hda", "hdb", "hdc", "hdd", "icount",
    "incoming", "initrd", "iscsi", "k", "kernel", "loadvm", "m", "machine", "mem-path", "mon", "monitor", "msg",
    "mtdblock", "name", "net", "netdev", "nic", "numa", "object", "option-rom", "overcommit", "parallel", "pflash",
    "pidfile", "plugin", "prom-env", "qmp", "qmp-pretty", "qtest", "qtest-log", "readconfig", "rotate", "rtc",
    "run-with", "runas", "sandbox", "sd", "seed", "semihosting-config", "serial", "set", "shim", "smbios", "smp",
    "soundhw", "spice", "tb-size", "tpmdev", "trace", "usbdevice", "uuid", "vga", "virtfs", "vnc", "watchdog", "watchdog-action",
    "writeconfig", "xen-domid",
];

/// One option of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandOption<'a> {
    /// Index of the argument that names it.
    pub(super) at: usize,
    /// Its name without dashes. Empty where it is not UTF-8: QEMU has no such option.
    pub(super) name: &'a str,
    /// Its value, which is the argument at `at + 1`.
    pub(super) value: Option<&'a OsStr>,
}

/// The options in `arguments` (without `argv[0]`), as QEMU's `lookup_opt` reads them: `--option` is `-option`, and an argument
/// without a dash in place of an option is a disk image.
pub(super) fn options<S: AsRef<OsStr>>(arguments: &[S]) -> impl Iterator<Item = CommandOption<'_>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        loop {
            let at = next;
            let argument = arguments.get(at)?.as_ref();
            next += 1;
            if !looks_like_option(argument) {
                continue;
            }
            let text = argument.to_str().unwrap_or_default();
            let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or_default();
            let value = arguments.get(next).map(AsRef::as_ref).filter(|value| takes_value(name, value));
            if value.is_some() {
                next += 1;
            }
            return Some(CommandOption { at, name, value });
        }
    })
}

/// The values of every option with one of these `names`, each with the index of the argument that holds it.
pub(super) fn values<'a, S: AsRef<OsStr>>(
    arguments: &'a [S],
    names: &'a [&str],
) -> impl Iterator<Item = (usize, &'a OsStr)> {
    options(arguments)
        .filter(|option| names.contains(&option.name))
        .filter_map(|option| Some((option.at + 1, option.value?)))
}

/// An option at the end of the line that lacks its value. QEMU refuses such a line ("requires an argument", `lookup_opt`), and
/// an argument appended to it would become that value.
pub(super) fn without_value<S: AsRef<OsStr>>(arguments: &[S]) -> Option<&str> {
    let last = options(arguments).last()?;
    (last.value.is_none() && is_one_of(WITH_VALUE, last.name)).then_some(last.name)
}

/// Replaces the argument at `at`, the value of `-option`, by what `edit` makes of it.
///
/// # Errors
/// `command-line-unsupported` if the value is not UTF-8, or if `edit` cannot read it.
pub(super) fn replace(
    arguments: &mut [OsString],
    at: usize,
    option: &str,
    edit: impl FnOnce(&str) -> Option<String>,
) -> Result<(), Note> {
    let argument = arguments.get_mut(at);
    let edited = argument.as_ref().and_then(|argument| edit(argument.to_str()?));
    let (Some(argument), Some(edited)) = (argument, edited) else {
        return Err(Note::error(
            Code::CommandLineUnsupported,
            format!("the value of -{option} on QEMU's command line must change and cannot be read: correct it"),
        ));
    };
    *argument = edited.into();
    Ok(())
}

/// `sorted` is one of the tables above.
fn is_one_of(sorted: &[&str], name: &str) -> bool {
    sorted.binary_search(&name).is_ok()
}

fn looks_like_option(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().starts_with(b"-")
}

/// Whether `value`, the argument after the option, is its value. For an option of a later QEMU it is, unless it looks like an
/// option: a missed `-device` would be worse than a misread value of an unknown option.
fn takes_value(name: &str, value: &OsStr) -> bool {
    if looks_like_option(value) { is_one_of(WITH_VALUE, name) } else { !is_one_of(WITHOUT_VALUE, name) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn walked<'a>(arguments: &'a [&'a str]) -> Vec<(&'a str, Option<&'a str>)> {
        options(arguments).map(|option| (option.name, option.value.and_then(OsStr::to_str))).collect()
    }

    #[test]
    fn value_that_looks_like_an_option_is_a_value() {
        assert_eq!(
            walked(&["-name", "-device", "-append", "--uuid", "-S", "-device", "e1000e"]),
            [("name", Some("-device")), ("append", Some("--uuid")), ("S", None), ("device", Some("e1000e"))]
        );
    }

    #[test]
    fn two_dashes_are_one_and_disk_images_are_skipped() {
        assert_eq!(
            walked(&["disk.img", "--device", "e1000e", "", "-no-shutdown", "other.img", "--S"]),
            [("device", Some("e1000e")), ("no-shutdown", None), ("S", None)]
        );
    }

    #[test]
    fn unknown_option_does_not_take_an_option_as_its_value() {
        assert_eq!(
            walked(&["-flag-of-2030", "-device", "e1000e", "-option-of-2030", "value", "-S"]),
            [("flag-of-2030", None), ("device", Some("e1000e")), ("option-of-2030", Some("value")), ("S", None)]
        );
    }

    #[test]
    fn last_option_may_lack_its_value() {
        assert_eq!(walked(&["-S", "-uuid"]), [("S", None), ("uuid", None)]);
        assert_eq!(walked(&["-", "--"]), [("", None), ("", None)]);
    }

    #[test]
    fn argument_that_is_not_utf8_is_skipped() {
        let arguments = [
            OsStr::new("-kernel"),
            OsStr::from_bytes(b"/boot/\xff"),
            OsStr::from_bytes(b"-\xff"),
            OsStr::new("-device"),
            OsStr::from_bytes(b"\xfe"),
        ];
        let names: Vec<_> = options(&arguments).map(|option| (option.at, option.name)).collect();
        assert_eq!(names, [(0, "kernel"), (2, ""), (3, "device")]);
        assert_eq!(
            values(&arguments, &["device", "kernel"]).collect::<Vec<_>>(),
            [(1, OsStr::from_bytes(b"/boot/\xff")), (4, OsStr::from_bytes(b"\xfe"))]
        );
    }

    #[test]
    fn only_what_must_be_edited_must_be_utf8() {
        let mut arguments: Vec<OsString> = vec![OsStr::from_bytes(b"\xff").into(), "q35".into()];
        replace(&mut arguments, 1, "machine", |text| Some(format!("{text},usb=off"))).unwrap();
        assert_eq!(arguments[1], "q35,usb=off");
        let note = replace(&mut arguments, 0, "machine", |text| Some(text.to_owned())).unwrap_err();
        assert_eq!(note.code, Code::CommandLineUnsupported);
    }

    #[test]
    fn tables_are_sorted_and_have_no_common_option() {
        assert!(WITH_VALUE.is_sorted() && WITHOUT_VALUE.is_sorted());
        assert!(WITHOUT_VALUE.iter().all(|name| !WITH_VALUE.contains(name)));
    }
}
