//! A domain's UUID, which is the only tenant-given string that ever becomes a file name.

use std::fmt;
use std::str::FromStr;

/// 16 bytes; written back in one form only, whatever the input's case or hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid([u8; 16]);

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct UuidError;

impl FromStr for Uuid {
    type Err = UuidError;

    /// Accepts what libvirt's `virUUIDParse` accepts: 32 hexadecimal digits, hyphens and blanks in front of a pair of them, and
    /// white space around.
    fn from_str(text: &str) -> Result<Uuid, UuidError> {
        const WHITE_SPACE: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];
        let mut rest = text.trim_start_matches(WHITE_SPACE).chars();
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let first = rest.find(|c| !matches!(c, '-' | ' '));
            let digit = |c: Option<char>| c.and_then(|c| c.to_digit(16)).ok_or(UuidError);
            *byte = u8::try_from(digit(first)? << 4 | digit(rest.next())?).map_err(|_| UuidError)?;
        }
        if rest.all(|c| WHITE_SPACE.contains(&c)) { Ok(Uuid(bytes)) } else { Err(UuidError) }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_only() {
        let uuid = "3a21c2ee-5ece-4225-baa4-9a11258f601e";
        for text in [
            uuid,
            "3A21C2EE5ECE4225BAA49A11258F601E",
            "3a21c2ee-5ece4225-baa4-9a11258f601e",
            "\n 3a-21 c2ee-5ece--4225 baa4 9a11258f601e\t ",
        ] {
            assert_eq!(text.parse::<Uuid>().unwrap().to_string(), uuid);
        }
    }

    #[test]
    fn refuses_what_could_be_a_path() {
        for text in [
            "",
            "../../etc/passwd",
            "3a21c2ee-5ece-4225-baa4-9a11258f601",
            "3a21c2ee-5ece-4225-baa4-9a11258f601e0",
            "3a21c2ee-5ece-4225-baa4-9a11258f601/",
            "3-a21c2ee-5ece-4225-baa4-9a11258f601e",
            "3a21c2ee-5ece-4225-baa4-9a11258f601e-",
            "３a21c2ee-5ece-4225-baa4-9a11258f601e",
        ] {
            assert_eq!(text.parse::<Uuid>(), Err(UuidError), "{text}");
        }
    }
}
