//! libvirt's messages in other languages, by the message catalogues that are installed with it.
//!
//! A catalogue is a file of GNU gettext: pairs of an English format of printf and its translation. A translated line becomes
//! English again: the text that stands for each conversion of the translation is put into the English format.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;

/// Errors of system calls that follow a message; libvirt takes their text from the C library's catalogue.
const ERRORS: [&str; 4] =
    ["Operation not permitted", "Permission denied", "No such file or directory", "Device or resource busy"];
/// Bytes that a translation must have between two conversions to be recognised by them.
const MIN_LITERAL: usize = 8;
/// Translations that are compared with a line: a tenant's line can have the keys of all, and is searched in linear time.
const MAX_CANDIDATES: usize = 16;
/// A message, the message that it quotes, and the error of a system call.
const ROUNDS: usize = 3;

/// A piece of a format of printf.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// The number of the argument, from 0.
    Argument(usize),
}

/// The pieces of a format; `None` where it is no format of printf.
fn pieces(format: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = format;
    let mut next = 0;
    while let Some((literal, after)) = rest.split_once('%') {
        push(&mut pieces, literal);
        if let Some(after) = after.strip_prefix('%') {
            push(&mut pieces, "%");
            rest = after;
            continue;
        }
        let end = after.find(|c: char| c.is_ascii_alphabetic() && !"hlzjt".contains(c))?;
        let (flags, tail) = after.split_at_checked(end + 1)?;
        let argument = match flags.split_once('$') {
            Some((number, _)) => number.parse::<usize>().ok()?.checked_sub(1)?,
            None => next,
        };
        pieces.push(Piece::Argument(argument));
        next = argument + 1;
        rest = tail;
    }
    push(&mut pieces, rest);
    Some(pieces)
}

fn push(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Literal(literal)) => literal.push_str(text),
        _ => pieces.push(Piece::Literal(text.to_owned())),
    }
}

/// An English format and its translation.
#[derive(Debug)]
struct Translation {
    english: Vec<Piece>,
    translated: Vec<Piece>,
}

impl Translation {
    fn of(english: &str, translated: &str) -> Option<Translation> {
        Some(Translation { english: pieces(english)?, translated: pieces(translated)? })
    }

    /// The longest text between two conversions of the translation.
    fn key(&self) -> &str {
        let literals = self.translated.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Argument(_) => None,
        });
        literals.max_by_key(|text| text.len()).unwrap_or_default()
    }

    /// The line with the English message in place of the translated one.
    fn in_english(&self, line: &str) -> Option<String> {
        let (mut arguments, mut open) = (Vec::new(), None);
        let mut before = None;
        let mut rest = line;
        for piece in &self.translated {
            match piece {
                Piece::Literal(text) => {
                    let (skipped, after) = rest.split_once(text.as_str())?;
                    match open.take() {
                        Some(argument) => arguments.push((argument, skipped)),
                        None => drop(before.get_or_insert(skipped)),
                    }
                    rest = after;
                }
                Piece::Argument(argument) => open = Some(*argument),
            }
        }
        // What follows the last conversion cannot be told from its text, and stays behind it.
        if let Some(argument) = open {
            arguments.push((argument, std::mem::take(&mut rest)));
        }
        let mut english = before.unwrap_or_default().to_owned();
        for piece in &self.english {
            match piece {
                Piece::Literal(text) => english.push_str(text),
                Piece::Argument(number) => english.push_str(arguments.iter().find(|(known, _)| known == number)?.1),
            }
        }
        Some(english + rest)
    }
}

/// The translations of the lines that have a page.
#[derive(Debug)]
pub(super) struct Translations {
    search: AhoCorasick,
    entries: Vec<Translation>,
}

impl Translations {
    /// Reads catalogues. Only messages for which `is_known` are kept. A file that is no catalogue has none.
    pub(super) fn of(catalogues: &[Vec<u8>], is_known: impl Fn(&str) -> bool) -> Option<Translations> {
        let pairs = catalogues.iter().flat_map(|catalogue| messages(catalogue));
        let known = pairs
            .filter(|(english, translated)| english != translated && (ERRORS.contains(english) || is_known(english)));
        let entries = known.filter_map(|(english, translated)| Translation::of(english, translated));
        let entries: Vec<Translation> = entries.filter(|entry| entry.key().trim().len() >= MIN_LITERAL).collect();
        Some(Translations { search: AhoCorasick::new(entries.iter().map(Translation::key)).ok()?, entries })
    }

    /// The line in English; `None` where it has no known message of another language.
    pub(super) fn in_english(&self, line: &str) -> Option<String> {
        let mut english: Option<String> = None;
        for _ in 0..ROUNDS {
            let line = english.as_deref().unwrap_or(line);
            let found = self.search.find_overlapping_iter(line).map(|found| found.pattern().as_usize());
            let distinct: BTreeSet<usize> = found.collect();
            let mut found: Vec<&Translation> =
                distinct.into_iter().filter_map(|found| self.entries.get(found)).collect();
            found.sort_by_key(|entry| std::cmp::Reverse(entry.key().len()));
            found.truncate(MAX_CANDIDATES);
            let Some(next) = found.into_iter().find_map(|entry| entry.in_english(line)) else { break };
            english = Some(next);
        }
        english
    }
}

/// The messages of a catalogue and their translations (gettext's manual, "The Format of GNU MO Files").
fn messages(catalogue: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    const MAGIC: u32 = 0x9504_12de;
    let word = |at: usize| Some(u32::from_le_bytes(*catalogue.get(at..)?.first_chunk()?) as usize);
    let is_catalogue = word(0) == Some(MAGIC as usize);
    let [count, originals, translations] = [8, 12, 16].map(|at| word(at).filter(|_| is_catalogue).unwrap_or(0));
    let text = move |table: usize, index: usize| {
        let (length, start) = (word(table + 8 * index)?, word(table + 8 * index + 4)?);
        // Of a message with a plural the first form.
        let text = catalogue.get(start..start.checked_add(length)?)?.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    };
    let count = count.min(catalogue.len() / 8);
    (0..count).filter_map(move |index| Some((text(originals, index)?, text(translations, index)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `msgfmt` of GNU gettext wrote the file from messages of libvirt 9.0's catalogues.
    const CATALOGUE: &[u8] = include_bytes!("../../tests/data/translated.mo");

    fn english(line: &str) -> Option<String> {
        Translations::of(&[CATALOGUE.to_vec()], |_| true).unwrap().in_english(line)
    }

    #[test]
    fn a_translated_message_becomes_english_with_its_arguments() {
        for (translated, original) in [
            (
                "ошибка: не удалось ограничить заблокированную память процесса 436 до 1879048192: Операция не позволена",
                "ошибка: cannot limit locked memory of process 436 to 1879048192: Operation not permitted",
            ),
            (
                "错误：PCI 设备 0000:3b:00.0 在被驱动程序 QEMU ，域 gw 使用",
                "错误：PCI device 0000:3b:00.0 is in use by driver QEMU, domain gw",
            ),
            (
                "error: この QEMU バイナリーでは、IOMMU デバイス: 'virtio' はサポートされません",
                "error: IOMMU device: 'virtio' is not supported with this QEMU binary",
            ),
            ("iommu 型号 'intel' 不能有地址", "iommu model 'intel' can't have address"),
        ] {
            assert_eq!(english(translated).as_deref(), Some(original));
        }
        assert_eq!(english("cannot limit locked memory of process 436 to 1"), None);
    }

    #[test]
    fn conversions_are_numbered_or_in_order() {
        let swapped = Translation::of("%1$s is in %2$04x, 100%%", "in %2$x liegt: %1$s! 100%%").unwrap();
        assert_eq!(swapped.in_english("x in 0a liegt: b! 100%").as_deref(), Some("x b is in 0a, 100%"));
        let in_order = Translation::of("a %s b %lld c", "A %s B %lld C").unwrap();
        assert_eq!(in_order.in_english("A 1 B 2 Cd").as_deref(), Some("a 1 b 2 cd"));
        assert_eq!(in_order.in_english("A 1 C 2 B"), None);
        assert!(pieces("50 %").is_none() && pieces("%0$s").is_none() && pieces("%99999999999999999999$s").is_none());
    }

    #[test]
    fn a_damaged_catalogue_has_fewer_messages() {
        assert_eq!(messages(CATALOGUE).count(), 5);
        for end in 0..CATALOGUE.len() {
            assert!(messages(&CATALOGUE[..end]).count() <= 5);
        }
        for at in 0..28 {
            let mut damaged = CATALOGUE.to_vec();
            damaged[at] ^= 0xff;
            let _ = messages(&damaged).count();
        }
        assert_eq!(messages(b"\x95\x04\x12\xdenothing").count(), 0);
    }
}
