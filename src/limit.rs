//! The locked-memory limit, RLIMIT_MEMLOCK.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text;

/// A limit on locked memory. Ordered: no limit is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "JsonLimit", into = "JsonLimit")]
pub enum Limit {
    /// A number of bytes.
    Bytes(u64),
    /// RLIM_INFINITY.
    Unlimited,
}

/// A limit in JSON: a number of bytes, or the word `unlimited`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum JsonLimit {
    Bytes(u64),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Unlimited,
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

impl From<JsonLimit> for Limit {
    fn from(written: JsonLimit) -> Limit {
        match written {
            JsonLimit::Bytes(bytes) => Limit::Bytes(bytes),
            JsonLimit::Word(Word::Unlimited) => Limit::Unlimited,
        }
    }
}

impl From<Limit> for JsonLimit {
    fn from(limit: Limit) -> JsonLimit {
        limit.for_kernel().map_or(JsonLimit::Word(Word::Unlimited), JsonLimit::Bytes)
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
