//! Version 1: a line of text, `PROXY TCP4 192.0.2.7 192.0.2.1 56324 1883` and CR LF.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Client, Told, fault};
use crate::fault::Fault;

pub(super) const PREFIX: &[u8] = b"PROXY ";

/// Most bytes of a line, its end included.
const LINE_BYTES_MAX: usize = 107;

/// See [`super::parse`].
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(usize, Told)>, Fault> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return match seen.len() {
            LINE_BYTES_MAX => {
                Err(fault(format!("a PROXY line has no end within {LINE_BYTES_MAX} bytes")))
            }
            _ => Ok(None),
        };
    };
    let client = str::from_utf8(&seen[PREFIX.len()..end]).ok().and_then(client);
    match client {
        Some(client) => Ok(Some((end + 2, Told { client, ..Told::default() }))),
        None => {
            let line = String::from_utf8_lossy(&seen[..end]);
            Err(fault(format!("a PROXY line is not understood: {line:?}")))
        }
    }
}

/// The client of a line without its prefix and its end.
fn client(text: &str) -> Option<Client> {
    let mut words = text.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows is to be ignored.
        return Some(Client::Proxy);
    }
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port);
    let (source_port, _destination_port) = (port()?, port()?);
    words.next().is_none().then_some(Client::Address(SocketAddr::new(source, source_port)))
}

/// A port as it must be written: digits alone, without a zero in front.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (word == "0" || !word.starts_with('0'))).then(|| word.parse().ok()).flatten()
}
