//! One question to systemd: when a unit last changed its state, a reload included.
//!
//! Nothing else on a host remembers that a daemon was reloaded. systemd keeps the time over its own reloads, and answers root
//! on a socket of its own, in the D-Bus protocol (D-Bus specification, "Message Protocol"): one call, one reply, and no
//! program started. Whatever goes wrong, the answer is "not known".

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOCKET: &str = "/run/systemd/private";
/// systemd answers in milliseconds; one that hangs must not hang who asks.
const PATIENCE: Duration = Duration::from_secs(2);
/// The reply has some 100 bytes.
const MOST: usize = 4096;

/// When the state of a unit last changed, seconds since the epoch (`StateChangeTimestamp`).
#[must_use]
pub fn state_changed(unit: &str) -> Option<u64> {
    let mut stream = UnixStream::connect(SOCKET).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    // "30" is uid 0 in hexadecimal digits of its text: systemd takes the socket's word for it, and talks to root only.
    stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n").ok()?;
    stream.write_all(&call(unit)).ok()?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < MOST {
        line.push(byte(&mut stream)?);
    }
    line.starts_with(b"OK ").then_some(())?;
    let mut head = [0; 16];
    stream.read_exact(&mut head).ok()?;
    let (body, fields) = (number(&head, 4)?, number(&head, 12)?);
    let mut rest = vec![0; fields.next_multiple_of(8).checked_add(body).filter(|length| *length <= MOST)?];
    stream.read_exact(&mut rest).ok()?;
    let microseconds = value(&head, rest.get(fields.next_multiple_of(8)..)?)?;
    (microseconds > 0).then_some(microseconds / 1_000_000)
}

fn byte(stream: &mut UnixStream) -> Option<u8> {
    let mut one = [0];
    stream.read_exact(&mut one).ok()?;
    one.first().copied()
}

/// `org.freedesktop.DBus.Properties.Get("org.freedesktop.systemd1.Unit", "StateChangeTimestamp")`.
fn call(unit: &str) -> Vec<u8> {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for byte in unit.bytes() {
        // bus_label_escape
        let _ = if byte.is_ascii_alphanumeric() {
            write!(path, "{}", char::from(byte))
        } else {
            write!(path, "_{byte:02x}")
        };
    }
    let mut body = Vec::new();
    string(&mut body, "org.freedesktop.systemd1.Unit");
    string(&mut body, "StateChangeTimestamp");

    let mut fields = Vec::new();
    let texts = [(1, b'o', path.as_str()), (2, b's', "org.freedesktop.DBus.Properties"), (3, b's', "Get")];
    for (field, kind, text) in texts.into_iter().chain([(6, b's', "org.freedesktop.systemd1")]) {
        align(&mut fields, 8);
        fields.extend([field, 1, kind, 0]);
        string(&mut fields, text);
    }
    align(&mut fields, 8);
    fields.extend([8, 1, b'g', 0, 2, b's', b's', 0]);

    // Little-endian, a method call, no flags, protocol 1, its body's length, serial number 1, the fields' length.
    let mut message = vec![b'l', 1, 0, 1];
    for number in [body.len(), 1, fields.len()] {
        length(&mut message, number);
    }
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    message
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn length(bytes: &mut Vec<u8>, number: usize) {
    // Nothing here is longer than a unit's name.
    bytes.extend(u32::try_from(number).unwrap_or(0).to_le_bytes());
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    align(bytes, 4);
    length(bytes, text.len());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

/// The number in the body of a reply: a variant that holds a `t`. An error is a reply of another type.
fn value(head: &[u8], body: &[u8]) -> Option<u64> {
    (head.get(..2)? == [b'l', 2] && body.get(..3)? == [1, b't', 0]).then_some(())?;
    Some(u64::from_le_bytes(body.get(8..16)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_in_the_words_of_the_specification() {
        let message = call("libvirtd.service");
        // Every length is where the specification wants it, and what it counts is there.
        let (body, fields) = (number(&message, 4).unwrap(), number(&message, 12).unwrap());
        assert_eq!(message.len(), (16 + fields).next_multiple_of(8) + body);
        assert_eq!(message[16..24], [1, 1, b'o', 0, 49, 0, 0, 0], "the path comes first, with its length");
        assert!(message[24..].starts_with(b"/org/freedesktop/systemd1/unit/libvirtd_2eservice\0"));
        assert!(message.ends_with(b"StateChangeTimestamp\0"));
    }

    #[test]
    fn takes_a_number_and_nothing_else() {
        let body = [&[1, b't', 0, 0, 0, 0, 0, 0][..], &1_700_000_000_000_000u64.to_le_bytes()].concat();
        assert_eq!(value(b"l\x02\x01\x01", &body), Some(1_700_000_000_000_000));
        assert_eq!(value(b"l\x03\x01\x01", &body), None, "an error");
        assert_eq!(value(b"l\x02\x01\x01", &body[..15]), None);
        assert_eq!(value(b"l\x02\x01\x01", b"\x01s\0\0\x01\0\0\0x\0\0\0\0\0\0\0"), None, "a string");
    }
}
