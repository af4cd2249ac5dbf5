//! Version numbers of libvirt and QEMU.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The oldest supported libvirt.
pub const OLDEST_LIBVIRT: Version = Version::new(7, 0);
/// The newest tested libvirt; an unknown version counts as this one.
pub const NEWEST_LIBVIRT: Version = Version::new(12, 9);
/// The oldest supported QEMU.
pub const OLDEST_QEMU: Version = Version::new(5, 2);
/// The newest tested QEMU; an unknown version counts as this one.
pub const NEWEST_QEMU: Version = Version::new(11, 1);

/// Why a version is not supported, as the end of a sentence about it, and what to do; none where it is supported.
#[must_use]
pub fn unsupported(version: Version, oldest: Version, newest: Version) -> Option<(String, &'static str)> {
    if version < oldest {
        Some((format!("is older than {oldest}, the oldest supported version"), "upgrade it"))
    } else if (version.major, version.minor) > (newest.major, newest.minor) {
        Some((format!("is newer than {newest}, the newest tested version"), "look for a newer viommu"))
    } else {
        None
    }
}

/// A version as libvirt and QEMU count them: major, minor, micro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub micro: u32,
}

impl Version {
    /// `major.minor.0`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Version {
        Version { major, minor, micro: 0 }
    }

    /// From libvirt's own encoding, major × 1,000,000 + minor × 1,000 + micro (`virParseVersionString`).
    #[must_use]
    pub const fn from_libvirt_number(number: u32) -> Version {
        Version { major: number / 1_000_000, minor: number / 1000 % 1000, micro: number % 1000 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// The text is not `MAJOR.MINOR` or `MAJOR.MINOR.MICRO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is written MAJOR.MINOR or MAJOR.MINOR.MICRO, for example 9.0.0")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Version, VersionError> {
        let mut numbers = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.len() <= 6 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten().ok_or(VersionError)
        });
        let major = numbers.next().ok_or(VersionError)??;
        let minor = numbers.next().ok_or(VersionError)??;
        let micro = numbers.next().transpose()?.unwrap_or(0);
        if numbers.next().is_some() {
            return Err(VersionError);
        }
        Ok(Version { major, minor, micro })
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Version, VersionError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_versions() {
        assert_eq!("9.0.0".parse(), Ok(Version::new(9, 0)));
        assert_eq!("7.2".parse(), Ok(Version::new(7, 2)));
        assert_eq!("10.0.13".parse(), Ok(Version { major: 10, minor: 0, micro: 13 }));
        for wrong in ["", "9", "9.", ".0", "9.0.0.1", "9.x", "+9.0", "9999999.0", " 9.0"] {
            assert_eq!(wrong.parse::<Version>(), Err(VersionError), "{wrong:?}");
        }
        assert_eq!(Version::new(8, 7).to_string(), "8.7.0");
    }

    #[test]
    fn reads_libvirts_own_encoding() {
        // <selfvers> and <version> of the recorded capability caches of Debian 11 and 13.
        assert_eq!(Version::from_libvirt_number(11_003_000), Version::new(11, 3));
        assert_eq!(Version::from_libvirt_number(5_002_000), Version::new(5, 2));
    }

    #[test]
    fn orders_by_number_not_by_text() {
        assert!(Version::new(10, 0) > Version::new(9, 2));
        assert!("8.6.9".parse::<Version>().unwrap() < Version::new(8, 7));
    }
}
