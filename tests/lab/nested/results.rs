//! The output of the scenarios in L1: lines `RESULT name key=value …`, in which `message=` is the last key and takes
//! the rest of the line.

use std::collections::HashMap;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
/// RAM of a scenario's guest: the smallest for which four times its size exceeds a limit for one (`lib.sh`, `arch.sh`).
pub(super) const RAM: u64 = 384 * MIB;
/// The user `libvirt-qemu` of every Debian.
const LIBVIRT_QEMU: &str = "64055";

/// The `RESULT` lines of one scenario.
#[derive(Debug)]
pub(super) struct Results {
    by_name: HashMap<String, Values>,
    output: String,
}

/// One `RESULT` line.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub(super) line: String,
    values: HashMap<String, String>,
}

impl Results {
    pub(super) fn parse(output: &str) -> Self {
        let by_name = output
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("RESULT ")?.split_once(' ')?;
                Some((name.to_owned(), Values::parse(line, rest)))
            })
            .collect();
        Self { by_name, output: output.to_owned() }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Values> {
        self.by_name.get(name)
    }

    /// The results of one scenario, in the order of its output: those with its name, or with its name and a hyphen as
    /// prefix.
    pub(super) fn names(&self, scenario: &str) -> Vec<&str> {
        let names = self.output.lines().filter_map(|line| line.strip_prefix("RESULT ")?.split(' ').next());
        let own =
            |name: &&str| name.strip_prefix(scenario).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        names.filter(own).collect()
    }

    #[track_caller]
    pub(super) fn of(&self, name: &str) -> &Values {
        self.find(name).unwrap_or_else(|| panic!("no RESULT of {name} in:\n{}", self.output))
    }

    /// A Linux with two NICs (`os.sh`) has used the vIOMMU for them, and has unlocked the memory that it does not map.
    #[track_caller]
    pub(super) fn linux_guest(&self, name: &str) -> &Values {
        let guest = self.of(name);
        guest.assert_value("status", "0");
        guest.assert_value("done", "1");
        guest.assert_value("leases", "2");
        guest.assert_value("nic_groups", "2");
        assert!(guest.number("vmlck_kb") < 64 * 1024, "the guest maps more than it needs: {}", guest.line);
        self.of(&format!("{name}-end")).assert_clean();
        guest
    }

    /// The same for an x86 guest with 512 MiB.
    #[track_caller]
    pub(super) fn assert_linux_guest(&self, name: &str) {
        let guest = self.linux_guest(name);
        guest.assert_value("dmar", "1");
        guest.assert_value("remapping", "1");
        assert!(guest.number("peak_kb") > 1023 * 1024, "two address spaces of 512 MiB: {}", guest.line);
    }
}

impl Values {
    fn parse(line: &str, rest: &str) -> Self {
        let (pairs, message) = rest.split_once("message=").unwrap_or((rest, ""));
        let mut values: HashMap<String, String> = pairs
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        values.insert("message".to_owned(), message.trim().to_owned());
        Self { line: line.to_owned(), values }
    }

    /// All keys except the message, in the order of the output.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.line.split("message=").next().unwrap_or_default();
        pairs.split_whitespace().filter_map(|pair| pair.split_once('='))
    }

    #[track_caller]
    pub(super) fn get(&self, key: &str) -> &str {
        self.values.get(key).unwrap_or_else(|| panic!("no {key} in: {}", self.line))
    }

    #[track_caller]
    pub(super) fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} is no number in: {}", self.line))
    }

    #[track_caller]
    pub(super) fn assert_value(&self, key: &str, expected: &str) {
        assert_eq!(self.get(key), expected, "{key} in: {}", self.line);
    }

    #[track_caller]
    pub(super) fn assert_message(&self, part: &str) {
        assert!(self.get("message").contains(part), "{part:?} is not in: {}", self.line);
    }

    /// Started by libvirt as every guest: as libvirt's QEMU user, without the capability that bypasses the limit.
    #[track_caller]
    pub(super) fn assert_started(&self) {
        self.assert_value("status", "0");
        self.assert_value("uid", LIBVIRT_QEMU);
        self.assert_value("capeff", "0000000000000000");
        self.assert_clean();
    }

    /// No guard runs any more, and the ended guest's state is removed.
    #[track_caller]
    pub(super) fn assert_clean(&self) {
        self.assert_value("guards", "0");
        self.assert_value("files", "0");
    }

    #[track_caller]
    pub(super) fn assert_limit(&self, bytes: u64) {
        self.assert_value("limit", &bytes.to_string());
    }

    /// RAM is locked this many times, with a tolerance of some hundred KiB each: holes below 1 MiB that a PC does not
    /// map, and ROMs.
    #[track_caller]
    pub(super) fn assert_locked(&self, times: u64, ram: u64) {
        let (locked, exact) = (self.number("vmlck_kb") * 1024, times * ram);
        let near = exact - times * MIB..=exact + times * MIB;
        assert!(near.contains(&locked), "not {times} x {ram} bytes locked: {}", self.line);
    }
}
