//! The `key=value,key=value` lists of QEMU's options (`util/qemu-option.c`, `util/keyval.c`).
//!
//! Handles commas, their doubling, the implied first key and short-form flags. An edit changes one pair and keeps the rest as
//! written.

/// One element of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    /// As it was written.
    pub(super) raw: &'a str,
    /// Its key.
    pub(super) key: &'a str,
    /// Its value, commas undoubled.
    pub(super) value: String,
}

/// Splits a list. A first element without `=` is the value of the key `implied`; a later one is a flag: `key` is
/// `key=on` and `nokey` is `key=off`, which QEMU takes up to 5.2 everywhere and later for devices.
pub(super) fn parse<'a>(text: &'a str, implied: &'a str) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let name = rest.find(['=', ',']).unwrap_or(rest.len());
        let (pair, length) = match rest.split_at(name) {
            (key, value) if value.starts_with('=') => {
                let value = value.strip_prefix('=').unwrap_or_default();
                let length = value_length(value);
                (Pair { raw: "", key, value: undouble(value.split_at(length).0) }, name + 1 + length)
            }
            _ if pairs.is_empty() => {
                let length = value_length(rest);
                (Pair { raw: "", key: implied, value: undouble(rest.split_at(length).0) }, length)
            }
            (flag, _) => {
                let (key, value) = flag.strip_prefix("no").map_or((flag, "on"), |key| (key, "off"));
                (Pair { raw: "", key, value: value.to_owned() }, name)
            }
        };
        let (raw, after) = rest.split_at(length);
        pairs.push(Pair { raw, ..pair });
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    pairs
}

/// The value of `key`: the last one counts.
pub(super) fn get<'a>(pairs: &'a [Pair<'_>], key: &str) -> Option<&'a str> {
    pairs.iter().rfind(|pair| pair.key == key).map(|pair| pair.value.as_str())
}

/// The list with `key=value` in the place of the last such key, or else at its end.
pub(super) fn set(text: &str, implied: &str, key: &str, value: &str) -> String {
    let pairs = parse(text, implied);
    let wanted = format!("{key}={}", value.replace(',', ",,"));
    let Some(at) = pairs.iter().rposition(|pair| pair.key == key) else {
        return pairs.iter().map(|pair| pair.raw).chain([wanted.as_str()]).collect::<Vec<_>>().join(",");
    };
    let (before, from) = pairs.split_at(at);
    // One comma ends each pair.
    let (head, tail) = text.split_at(before.iter().map(|pair| pair.raw.len() + 1).sum());
    let replaced = from.first().map_or(0, |pair| pair.raw.len());
    format!("{head}{wanted}{}", tail.split_at(replaced).1)
}

/// Whether the list asks for help instead of setting something (`is_help_option`).
pub(super) fn asks_for_help(text: &str, implied: &str) -> bool {
    let is_help = |word: &str| matches!(word, "help" | "?");
    parse(text, implied).iter().any(|pair| is_help(pair.raw) || (pair.key == implied && is_help(&pair.value)))
}

/// Where the value that `text` begins with ends: before the first comma that is not doubled.
fn value_length(text: &str) -> usize {
    let mut commas = text.match_indices(',').map(|(at, _)| at).peekable();
    while let Some(at) = commas.next() {
        if commas.next_if_eq(&(at + 1)).is_none() {
            return at;
        }
    }
    text.len()
}

fn undouble(value: &str) -> String {
    value.replace(",,", ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(&str, String)> {
        parse(text, "type").into_iter().map(|pair| (pair.key, pair.value)).collect()
    }

    fn expected<'a>(pairs: &[(&'a str, &str)]) -> Vec<(&'a str, String)> {
        pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
    }

    #[test]
    fn first_key_is_implied_and_the_others_are_named() {
        assert_eq!(split("q35,usb=off"), expected(&[("type", "q35"), ("usb", "off")]));
        assert_eq!(split("type=q35,usb=off"), expected(&[("type", "q35"), ("usb", "off")]));
        assert_eq!(split("usb=off"), expected(&[("usb", "off")]));
        assert_eq!(split(""), expected(&[]));
    }

    // qemu-option.c, get_opt_value: ",," is a comma in any value; ",,," is a comma and an end.
    #[test]
    fn doubled_commas_belong_to_the_value() {
        assert_eq!(split("a,,b=c,d=e"), expected(&[("type", "a,b=c"), ("d", "e")]));
        assert_eq!(split("guest=a,,,b=c"), expected(&[("guest", "a,"), ("b", "c")]));
        assert_eq!(split("guest=,,,,x"), expected(&[("guest", ",,x")]));
        assert_eq!(split("a=,b="), expected(&[("a", ""), ("b", "")]));
    }

    #[test]
    fn flags_are_on_or_off() {
        assert_eq!(split("x,server,nowait"), expected(&[("type", "x"), ("server", "on"), ("wait", "off")]));
    }

    #[test]
    fn last_value_counts() {
        let pairs = parse("a=1,b=2,a=3", "type");
        assert_eq!(get(&pairs, "a"), Some("3"));
        assert_eq!(get(&pairs, "c"), None);
    }

    #[test]
    fn setting_leaves_the_rest_as_written() {
        assert_eq!(set("q35,a=x,,y,b=1", "type", "b", "2"), "q35,a=x,,y,b=2");
        assert_eq!(set("q35,a=x,,y,b=1", "type", "c", "1,2"), "q35,a=x,,y,b=1,c=1,,2");
        assert_eq!(set("q35,b=1,b=2", "type", "b", "3"), "q35,b=1,b=3");
        assert_eq!(set("x,nowait", "type", "wait", "on"), "x,wait=on");
        assert_eq!(set("b=1,flag,,", "type", "b", "2"), "b=2,flag,,");
    }

    // ",key" after a trailing comma would become a doubled comma.
    #[test]
    fn a_new_key_after_a_trailing_comma_stays_a_key() {
        assert_eq!(set("q35,", "type", "b", "1"), "q35,b=1");
        assert_eq!(set("q35,,", "type", "b", "1"), "q35,,,b=1");
        assert_eq!(split("q35,,,b=1"), expected(&[("type", "q35,"), ("b", "1")]));
        assert_eq!(set("", "type", "b", "1"), "b=1");
    }

    #[test]
    fn help_is_a_separate_word() {
        assert!(asks_for_help("help", "driver"));
        assert!(asks_for_help("driver=help", "driver"));
        assert!(asks_for_help("e1000e,?", "driver"));
        assert!(!asks_for_help("e1000e,id=help", "driver"));
        assert!(!asks_for_help("helper", "driver"));
    }
}
