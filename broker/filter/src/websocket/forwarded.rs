//! For whom a proxy connects: `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address that it was connected from, so only what trusted proxies have
//! appended can be believed: the lists are read from their ends, as far as the addresses in them
//! are trusted proxies themselves. A proxy that knows one of the headers may pass the other on as
//! its client wrote it; so two that do not agree are worth nothing.

use std::net::{IpAddr, SocketAddr};

use super::Settings;
use super::request::Headers;

/// The client for which a trusted proxy connects; `None` if it does not say, or not clearly.
pub(super) fn client(headers: &Headers<'_>, settings: &Settings) -> Option<SocketAddr> {
    // A value that is not all text is not known, which is not the same as none.
    if !headers.is_text("X-Forwarded-For") || !headers.is_text("Forwarded") {
        return None;
    }
    let plain = headers.list("X-Forwarded-For").map(address).collect();
    let tagged = headers.list("Forwarded").map(|element| address(node(element)?)).collect();
    match (nearest(plain, settings), nearest(tagged, settings)) {
        (Some(one), Some(other)) => (one.ip() == other.ip()).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The last address that is no trusted proxy's; if all are, the first. What is not an address ends
/// the list: who wrote it is not known.
fn nearest(hops: Vec<Option<SocketAddr>>, settings: &Settings) -> Option<SocketAddr> {
    let mut found = None;
    for hop in hops.into_iter().rev() {
        let Some(hop) = hop else { break };
        found = Some(hop);
        if !settings.trusted_proxies.contain(hop.ip()) {
            break;
        }
    }
    found
}

/// The node that an element of `Forwarded` names with `for`: once, and in an element whose quoted
/// strings hold nothing that separates pairs.
fn node(element: &str) -> Option<&str> {
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    let whole = element.split(';').all(|pair| pair.matches('"').count() % 2 == 0);
    let (first, second) = (nodes.next()?, nodes.next());
    (whole && second.is_none()).then(|| first.trim_matches('"'))
}

/// An address, with or without a port, an IPv6 one in brackets or not.
fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 0))
}
