//! One line for the host's log, without ever waiting for it.
//!
//! journald's native protocol: fields with their length in front, so that no tenant-given string can forge another field
//! (systemd, JOURNAL_NATIVE_PROTOCOL). Where there is no journald, the line goes to syslog's socket. A log that is full or
//! gone loses the line: the hook runs with a domain's lock held.

use std::os::unix::net::UnixDatagram;

use crate::note::Level;
use crate::text::printable;

const JOURNALD: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

/// Logs a message with fields (upper-case names).
pub fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    let Ok(socket) = UnixDatagram::unbound() else { return };
    if socket.set_nonblocking(true).is_err() {
        return;
    }
    if socket.send_to(&native(level, message, fields), JOURNALD).is_err() {
        let _ = socket.send_to(syslog(level, message).as_bytes(), SYSLOG);
    }
}

/// LOG_ERR, LOG_WARNING or LOG_INFO.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
    }
}

/// The facility is LOG_DAEMON.
fn syslog(level: Level, message: &str) -> String {
    format!("<{}>viommu[{}]: {}", 24 + priority(level), std::process::id(), printable(message))
}

fn native(level: Level, message: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let priority = priority(level).to_string();
    let own = [("MESSAGE", message), ("PRIORITY", &priority), ("SYSLOG_IDENTIFIER", "viommu")];
    let mut datagram = Vec::new();
    for (name, value) in own.iter().chain(fields) {
        datagram.extend_from_slice(name.as_bytes());
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_forge_a_field() {
        let datagram = native(Level::Info, "a\nPRIORITY=0", &[]);
        assert_eq!(datagram.get(..8), Some(b"MESSAGE\n".as_slice()));
        assert_eq!(datagram.get(8..16), Some(12u64.to_le_bytes().as_slice()));
        assert_eq!(datagram.get(16..29), Some(b"a\nPRIORITY=0\n".as_slice()));
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let line = syslog(Level::Warning, "a\n<0>kernel: b\x1b[2J");
        assert_eq!(line, format!("<28>viommu[{}]: a\\u{{a}}<0>kernel: b\\u{{1b}}[2J", std::process::id()));
    }
}
