#![expect(clippy::disallowed_methods, reason = "the test reads the sources")]

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn names_are_unique_and_kebab_case() {
    for (index, code) in Code::ALL.iter().enumerate() {
        let name = code.as_str();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert_eq!(Code::ALL.iter().position(|other| other.as_str() == name), Some(index), "{name} is there twice");
        assert_eq!(Code::from_name(name), Some(*code));
    }
    assert_eq!(Code::from_name("no-such-code"), None);
}

/// Words with a capital at the start of a message: proper names and acronyms.
const PROPER: [&str; 8] = ["AppArmor", "KVM", "QEMU", "SELinux", "SMMUv3", "VFIO", "Windows", "XML"];

/// The source text before the text of a message.
const BEFORE: [&str; 9] = [
    "let message =",
    "Note::error(",
    "Note::warning(",
    "Note::info(",
    "Check::ok(",
    "Check::warning(",
    "Check::broken(",
    "Failure::Usage(",
    "complain(",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        match path.extension() {
            _ if is_test => {}
            None => sources(&path, found),
            Some(extension) if extension == "rs" => found.push(path),
            Some(_) => {}
        }
    }
}

/// The first string literal of a piece of code, with its line continuations joined.
fn literal(code: &str) -> Option<String> {
    let mut characters = code.split_once('"')?.1.chars();
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                '\n' => characters = characters.as_str().trim_start().chars(),
                escaped => text.push(escaped),
            },
            character => text.push(character),
        }
    }
}

/// The texts of all messages in the production code of the library.
fn messages() -> Vec<String> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let mut messages = Vec::new();
    for path in found {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for before in BEFORE {
            // Only in the next statement, and not in a call whose argument is a message from elsewhere.
            let calls = code.split(before).skip(1).map(|rest| rest.split(';').next().unwrap());
            messages.extend(calls.filter(|call| !call.contains("let ")).filter_map(literal));
        }
    }
    messages
}

#[test]
fn messages_have_one_form() {
    let messages = messages();
    assert!(messages.len() > 100, "only {} messages found", messages.len());
    for message in messages {
        let capital = message.starts_with(|c: char| c.is_uppercase());
        let proper = PROPER.iter().any(|name| message.starts_with(name));
        assert!(!capital || proper, "begins with a capital: {message}");
        assert!(!message.ends_with('.'), "ends with a full stop: {message}");
        let words = message.to_lowercase();
        for word in ["whoever", "nobody", "somebody"] {
            assert!(!words.split(|c: char| !c.is_alphabetic()).any(|found| found == word), "{word}: {message}");
        }
    }
}
