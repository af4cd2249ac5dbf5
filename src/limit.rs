//! The locked-memory limit, RLIMIT_MEMLOCK.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text;

/// A limit on locked memory. In JSON it is a number of bytes, or the word `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// RLIM_INFINITY.
    Unlimited,
    /// A number of bytes.
    #[serde(untagged)]
    Bytes(u64),
}

impl Limit {
    /// The limit of the kernel's number; RLIM_INFINITY is no limit.
    #[must_use]
    pub fn of_kernel(number: Option<u64>) -> Limit {
        number.map_or(Limit::Unlimited, Limit::Bytes)
    }

    /// The number of bytes for the kernel; none is RLIM_INFINITY.
    #[must_use]
    pub fn for_kernel(self) -> Option<u64> {
        match self {
            Limit::Bytes(bytes) => Some(bytes),
            Limit::Unlimited => None,
        }
    }
}

impl fmt::Display for Limit {
    /// `9 GiB` or `no limit`; with `#` also the exact number, `9 GiB (9663676416 bytes)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Bytes(number) if f.alternate() => write!(f, "{} ({number} bytes)", text::bytes(*number)),
            Limit::Bytes(number) => f.write_str(&text::bytes(*number)),
            Limit::Unlimited => f.write_str("no limit"),
        }
    }
}

impl Ord for Limit {
    /// No limit is the largest.
    fn cmp(&self, other: &Limit) -> Ordering {
        let key = |limit: &Limit| (*limit == Limit::Unlimited, limit.for_kernel());
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Limit {
    fn partial_cmp(&self, other: &Limit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_back() {
        for (limit, json) in [(Limit::Bytes(9_663_676_416), "9663676416"), (Limit::Unlimited, "\"unlimited\"")] {
            assert_eq!(serde_json::to_string(&limit).unwrap(), json);
            assert_eq!(serde_json::from_str::<Limit>(json).unwrap(), limit);
        }
        for wrong in ["-1", "1.5", "\"none\"", "null", "{\"bytes\":1}"] {
            assert!(serde_json::from_str::<Limit>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units_and_bytes_on_request() {
        let limit = Limit::Bytes(9_663_676_416);
        assert_eq!(
            (format!("{limit}"), format!("{limit:#}")),
            ("9 GiB".to_owned(), "9 GiB (9663676416 bytes)".to_owned())
        );
        assert_eq!(format!("{:#}", Limit::Unlimited), "no limit");
        assert!(Limit::Unlimited > Limit::Bytes(u64::MAX));
    }
}
