//! Text for people: strings that tenants choose, names in commands, lists, byte counts.

use std::borrow::Cow;
use std::fmt::Display;

/// An enum whose variants are words, the same in JSON, in messages, in requests and in commands.
macro_rules! words {
    ($(#[$about:meta])+ pub enum $name:ident { $($(#[$doc:meta])+ $variant:ident = $word:literal,)+ }) => {
        $(#[$about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])+ $variant,)+ }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }

            /// The variant of a word.
            #[must_use]
            pub fn from_name(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

/// A string that is safe for a terminal and a log line: control characters, and the Unicode characters that change the
/// direction of text, become `\u{…}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_harmful, |c| c.escape_unicode().to_string())
}

/// The same for JSON, which stays equivalent: only its strings hold such characters, and line ends stay.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let harmful = |c: char| c != '\n' && is_harmful(c);
    // None of them is above U+FFFF, where JSON would want two escapes.
    escaped(json, harmful, |c| format!("\\u{:04x}", u32::from(c)))
}

/// At most so many bytes of a string, and `…` for the rest.
#[must_use]
pub fn cut(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let end = (0..=bytes).rev().find(|&at| text.is_char_boundary(at));
    Cow::Owned(end.and_then(|end| text.get(..end)).unwrap_or_default().to_owned() + "…")
}

/// Control characters, and Unicode's Bidi_Control.
fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

fn escaped(text: &str, harmful: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { escaped.push_str(&escape(c)) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// What follows a label at the beginning of a line, without blanks around it: of the first such line.
#[must_use]
pub fn labelled<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(label)).map(str::trim)
}

/// A list of alternatives in a sentence: `a, b or c`.
#[must_use]
pub fn alternatives<S: AsRef<str>>(words: &[S]) -> String {
    series(words, "or")
}

/// A list of things in a sentence: `a, b and c`.
#[must_use]
pub fn all_of<S: AsRef<str>>(words: &[S]) -> String {
    series(words, "and")
}

fn series<S: AsRef<str>>(words: &[S], conjunction: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} {conjunction} {last}", first.join(", ")),
        words => words.concat(),
    }
}

/// A domain as a word of a shell command: its name if that needs no quotes, else its UUID.
#[must_use]
pub fn shell_name(name: &str, uuid: Option<impl Display>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        return name.to_owned();
    }
    uuid.map_or_else(|| "DOMAIN".to_owned(), |uuid| uuid.to_string())
}

/// A line, broken between words so that it fits into `width` columns. The lines after the first are indented by `hang` columns.
/// Escape sequences that set colours have no width.
#[must_use]
pub fn wrap(line: &str, width: usize, hang: usize) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut column, mut indent) = (0, 0);
    for (number, word) in line.split(' ').enumerate() {
        let length = columns(word);
        if number > 0 && length > 0 && column > indent && column + 1 + length > width {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', hang));
            (column, indent) = (hang, hang);
        } else if number > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// Characters that a terminal shows: without the sequences `ESC [ … m`.
fn columns(word: &str) -> usize {
    let mut parts = word.split("\x1b[");
    let first = parts.next().map_or(0, |part| part.chars().count());
    first + parts.map(|part| part.split_once('m').map_or(0, |(_, shown)| shown.chars().count())).sum::<usize>()
}

/// How many there are of a thing: `1 device`, `2 devices`.
#[must_use]
pub fn count(number: impl Copy + Display + PartialEq + From<u8>, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1.into() { "" } else { "s" })
}

/// Bytes as people say them: `9 GiB`, `1.4 GiB`, `384 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.into_iter().find(|(_, size)| bytes >= *size);
    let Some((unit, size)) = unit else { return format!("{bytes} bytes") };
    let tenths = (u128::from(bytes) * 10 + u128::from(size) / 2) / u128::from(size);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(printable("web-1 ä"), "web-1 ä");
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d\u{202e}e"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d\\u{202e}e");
        assert_eq!(printable("a\u{61c}b"), "a\\u{61c}b");
        assert_eq!(
            printable_json("{\n  \"ä\": \"\u{9b}\u{7f}\u{2066}\"\n}"),
            "{\n  \"ä\": \"\\u009b\\u007f\\u2066\"\n}"
        );
    }

    #[test]
    fn a_name_in_a_command_cannot_be_a_command() {
        let uuid = "3a21c2ee-5ece-4225-baa4-9a11258f601e";
        assert_eq!(shell_name("web-1.example_2", Some(uuid)), "web-1.example_2");
        for name in ["", "-rf", "a b", "a;b", "$(id)", "`id`", "a'b", "a\"b", "a\nb", "a*", "\u{e4}"] {
            assert_eq!(shell_name(name, Some(uuid)), uuid, "{name}");
        }
        assert_eq!(shell_name("a;b", None::<&str>), "DOMAIN");
    }

    #[test]
    fn alternatives_read_as_a_sentence() {
        assert_eq!(alternatives(&["a", "b", "c"]), "a, b or c");
        assert_eq!(alternatives(&["a"]), "a");
        assert_eq!(alternatives::<&str>(&[]), "");
    }

    #[test]
    fn words_are_kept_whole_and_lines_within_the_width() {
        let line = "error  [code]  one two three four";
        assert_eq!(wrap(line, 80, 4), line);
        assert_eq!(wrap(line, 22, 4), "error  [code]  one two\n    three four");
        assert_eq!(wrap("a bbbbbbbbbbbb c", 5, 2), "a\n  bbbbbbbbbbbb\n  c");
        assert_eq!(wrap("\x1b[31merror\x1b[0m one", 9, 2), "\x1b[31merror\x1b[0m one");
        assert_eq!(wrap("", 9, 2), "");
    }

    #[test]
    fn one_thing_has_no_plural() {
        assert_eq!([count(0_u64, "line"), count(1, "line"), count(2, "line")], ["0 lines", "1 line", "2 lines"]);
    }

    #[test]
    fn bytes_are_readable() {
        for (number, text) in [
            (0, "0 bytes"),
            (1 << 30, "1 GiB"),
            (1_476_395_008, "1.4 GiB"),
            (402_653_184, "384 MiB"),
            (9_663_676_416, "9 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
