//! Reads the vector files beside it.
//!
//! A vector is three lines: `role version | what it is`, the bytes, and what is expected; `#`
//! begins a comment. Bytes are hex (`-`: none), `'text'` for ASCII, `LL` for the remaining length
//! of what follows, `61*300` for repetition. Expected is one of
//! - `ok FRAGMENT; FRAGMENT`: accepted, each fragment stands in the packet's debug form, and
//!   encoding gives the same bytes; `ok~` where the bytes are not the form that the codec writes;
//! - `error KIND 0xNN`: refused with that kind and reason;
//! - `incomplete`: more bytes are needed.

#![allow(dead_code, reason = "each user takes the parts it needs")]

use ringtide_codec::{Role, Version};

/// What a vector's bytes must give.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Accepted; the fragments; whether encoding gives the bytes back.
    Ok { fragments: Vec<String>, canonical: bool },
    /// Refused: kind and reason.
    Error { kind: String, reason: u8 },
    /// More bytes are needed.
    Incomplete,
}

/// One vector.
#[derive(Debug)]
pub(crate) struct Vector {
    /// File and title, for messages.
    pub(crate) name: String,
    /// Who decodes.
    pub(crate) role: Role,
    /// The connection's version.
    pub(crate) version: Version,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// What they must give.
    pub(crate) expected: Expected,
}

const FILES: [(&str, &str); 8] = [
    ("framing", include_str!("framing.txt")),
    ("connect", include_str!("connect.txt")),
    ("connack", include_str!("connack.txt")),
    ("publish", include_str!("publish.txt")),
    ("acks", include_str!("acks.txt")),
    ("subscribe", include_str!("subscribe.txt")),
    ("properties", include_str!("properties.txt")),
    ("goodbye", include_str!("goodbye.txt")),
];

/// Every vector of every file.
pub(crate) fn all() -> Vec<Vector> {
    FILES.into_iter().flat_map(|(name, text)| parse(name, text)).collect()
}

fn parse(file: &str, text: &str) -> Vec<Vector> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert_eq!(lines.len() % 3, 0, "{file}: three lines a vector");
    lines.chunks(3).map(|lines| vector(file, lines[0], lines[1], lines[2])).collect()
}

fn vector(file: &str, head: &str, bytes: &str, expected: &str) -> Vector {
    let name = format!("{file}: {head}");
    let (who, _) = head.split_once('|').unwrap_or_else(|| panic!("{name}: no title"));
    let (role, version) = match who.split_whitespace().collect::<Vec<_>>()[..] {
        [role, version] => (role, version),
        _ => panic!("{name}: role and version"),
    };
    let role = match role {
        "server" => Role::Server,
        "client" => Role::Client,
        _ => panic!("{name}: role"),
    };
    let version = match version {
        "3.1" => Version::V3_1,
        "3.1.1" => Version::V3_1_1,
        "5.0" => Version::V5,
        _ => panic!("{name}: version"),
    };
    Vector { role, version, bytes: unhex(&name, bytes), expected: expect(&name, expected), name }
}

fn expect(name: &str, line: &str) -> Expected {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "ok" | "ok~" => Expected::Ok {
            fragments: rest.split(';').map(|part| part.trim().to_owned()).collect(),
            canonical: word == "ok",
        },
        "error" => {
            let (kind, reason) = rest.split_once(" 0x").unwrap_or_else(|| panic!("{name}: reason"));
            let reason = u8::from_str_radix(reason, 16).unwrap_or_else(|_| panic!("{name}: hex"));
            Expected::Error { kind: kind.to_owned(), reason }
        }
        "incomplete" => Expected::Incomplete,
        _ => panic!("{name}: expected what?"),
    }
}

fn unhex(name: &str, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length_at = None;
    for token in text.split_whitespace() {
        if token == "-" {
            continue;
        } else if token == "LL" {
            length_at = Some(bytes.len());
        } else if let Some(ascii) = token.strip_prefix('\'') {
            bytes.extend(ascii.strip_suffix('\'').unwrap_or_else(|| panic!("{name}")).bytes());
        } else {
            let (hex, times) = token.split_once('*').unwrap_or((token, "1"));
            let byte = u8::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{name}: {hex}"));
            let times = times.parse().unwrap_or_else(|_| panic!("{name}: {times}"));
            bytes.extend(std::iter::repeat_n(byte, times));
        }
    }
    if let Some(at) = length_at {
        let mut left = bytes.len() - at;
        let mut length = Vec::new();
        loop {
            let more = if left > 0x7F { 0x80 } else { 0 };
            length.push(left as u8 & 0x7F | more);
            left >>= 7;
            if left == 0 {
                break;
            }
        }
        bytes.splice(at..at, length);
    }
    bytes
}
