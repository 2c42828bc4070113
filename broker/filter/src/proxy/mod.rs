//! The PROXY protocol, versions 1 and 2, the receiver's side: the header with which a proxy says
//! for whom it connects (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! A header stands once, before everything else. Whether its sender is trusted has been decided
//! before a [`Receiver`] is made; here it is read, in any pieces. What is broken is refused with
//! the first byte that shows it, and nothing is kept beyond what has come of a header whose size
//! is known to be allowed.

mod v1;
mod v2;

use std::net::SocketAddr;

use crate::fault::{Class, Fault};

/// Most bytes of a header of version 2 behind its first 16: addresses, and what a proxy adds.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Whom a header speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// The proxy itself, which looks whether somebody is here, or someone it cannot name.
    #[default]
    Proxy,
    /// A client with this address.
    Address(SocketAddr),
    /// A client of a Unix socket of the proxy's.
    Unix,
}

/// What a header tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// For whom the proxy connects.
    pub client: Client,
    /// The protocol that client and proxy have agreed on in TLS (ALPN).
    pub protocol: Option<Box<str>>,
    /// The name that the client has asked the proxy for (SNI).
    pub server_name: Option<Box<str>>,
    /// The proxy's own name for the connection, at most 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
    /// The version of TLS between client and proxy.
    pub tls_version: Option<Box<str>>,
    /// The common name of the client's certificate, if the proxy has verified that.
    pub common_name: Option<Box<str>>,
}

/// A header that is being received.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// What has come of it in earlier pieces.
    held: Vec<u8>,
}

impl Receiver {
    /// Takes bytes. Once the header has come whole: what it tells, and how many of `bytes` belong
    /// to it.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Option<(usize, Box<Told>)>, Fault> {
        let before = self.held.len();
        if before == 0 {
            // Most headers come whole.
            if let Some((used, told)) = parse(bytes)? {
                return Ok(Some((used, Box::new(told))));
            }
            self.held.extend_from_slice(bytes);
            return Ok(None);
        }
        // What is behind the header must not be held, so it comes as parts of growing size.
        let mut taken = 0;
        while taken < bytes.len() {
            let wanted = missing(&self.held).clamp(1, bytes.len() - taken);
            self.held.extend_from_slice(&bytes[taken..taken + wanted]);
            taken += wanted;
            if let Some((_, told)) = parse(&self.held)? {
                self.held = Vec::new();
                return Ok(Some((taken, Box::new(told))));
            }
        }
        Ok(None)
    }
}

/// How many bytes are missing at least until more is known of a header that has begun.
fn missing(held: &[u8]) -> usize {
    match v2::length(held) {
        Some(length) => length - held.len(),
        None => 1,
    }
}

/// A header's length and what it tells, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Told)>, Fault> {
    if begins(bytes, v2::SIGNATURE) {
        v2::parse(bytes)
    } else if begins(bytes, v1::PREFIX) {
        v1::parse(bytes)
    } else {
        Err(fault(
            "what came is no PROXY header, and this listener asks for one (proxy_protocol): let \
             the proxy send it, or let clients use another listener",
        ))
    }
}

/// Whether bytes, as far as they have come, begin like this.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let len = bytes.len().min(with.len());
    bytes[..len] == with[..len]
}

/// Whether the first bytes of a connection are those of a PROXY header.
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(v2::SIGNATURE) || bytes.starts_with(v1::PREFIX)
}

fn fault(text: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(Class::ProxyHeader, text)
}

#[cfg(test)]
mod tests;
