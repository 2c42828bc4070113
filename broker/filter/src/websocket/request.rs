//! The opening handshake: a GET that asks for an upgrade, and all that is checked of it.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::Header;
use tungstenite::handshake::derive_accept_key;

use super::answer::{self, Status};
use super::{Settings, forwarded};
use crate::fault::{Class, Fault};

/// Most bytes of a request's line and headers: all that is kept of it.
pub(super) const REQUEST_BYTES_MAX: usize = 8192;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Sub-protocols that are spoken, the one that is chosen first. Old clients of MQTT 3.1 ask for
/// the second.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What bytes of a request have come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its end has not come.
    More,
    /// The upgrade is granted; the request ended after so many of the bytes that were given.
    Upgraded {
        /// Bytes of the request among those given.
        used: usize,
        /// The client for which a trusted proxy connects.
        client: Option<SocketAddr>,
    },
}

/// A request that is not granted.
struct Refusal {
    status: Status,
    text: String,
}

/// Takes bytes of a request. `held` is what came of it before; it never grows beyond
/// [`REQUEST_BYTES_MAX`]. With `trusted` the peer is a proxy whose word for its client is taken.
pub(super) fn receive(
    held: &mut Vec<u8>,
    bytes: &[u8],
    settings: &Settings,
    trusted: bool,
    wire: &mut Vec<u8>,
) -> Result<Outcome, Fault> {
    if held.is_empty() {
        check_first(bytes)?;
    }
    let before = held.len();
    let room = REQUEST_BYTES_MAX - before;
    // The end may lie across the two pieces.
    let from = before.saturating_sub(3);
    held.extend_from_slice(&bytes[..bytes.len().min(room)]);
    let Some(end) = head_end(&held[from..]).map(|end| from + end) else {
        if bytes.len() < room {
            return Ok(Outcome::More);
        }
        let text = format!("the request's headers are larger than {REQUEST_BYTES_MAX} bytes");
        return Err(refuse(Refusal { status: Status::HeaderTooLarge, text }, None, wire));
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let granted = match request.parse(&held[..end]) {
        Ok(_) => check(&request, settings),
        Err(httparse::Error::TooManyHeaders) => Err(Refusal {
            status: Status::HeaderTooLarge,
            text: format!("the request has more than {HEADERS_MAX} headers"),
        }),
        Err(error) => {
            let text = format!("the request is not HTTP/1.1: {error}");
            Err(Refusal { status: Status::BadRequest, text })
        }
    };
    match granted {
        Ok((key, protocol)) => {
            answer::accept(&derive_accept_key(key.as_bytes()), protocol, wire);
            let client = match trusted {
                true => forwarded::client(&Headers(request.headers), settings),
                false => None,
            };
            Ok(Outcome::Upgraded { used: end - before, client })
        }
        Err(refusal) => Err(refuse(refusal, request.path, wire)),
    }
}

/// Names the peer that does not even begin to speak HTTP: it would only wait for an answer.
fn check_first(bytes: &[u8]) -> Result<(), Fault> {
    let text = match bytes.first() {
        None => return Ok(()),
        Some(byte) if byte.is_ascii_alphabetic() => return Ok(()),
        Some(0x10) => {
            "an MQTT CONNECT without WebSocket came to a WebSocket listener: connect the client to \
             a listener with transport \"tcp\", or let it use ws://"
        }
        Some(0x16) => {
            "a TLS handshake came to a WebSocket listener without TLS: let the client use ws://"
        }
        Some(_) => "what came to a WebSocket listener is no HTTP request",
    };
    Err(Fault::new(Class::WrongProtocol, text))
}

/// The length of the request up to and with its empty line. No more than the last three bytes of
/// an earlier piece can belong to that.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let ends = |at: usize| match bytes[..at] {
        [.., b'\n'] | [.., b'\n', b'\r'] => bytes[at] == b'\n',
        _ => false,
    };
    (0..bytes.len()).find(|&at| ends(at)).map(|at| at + 1)
}

/// The key and the sub-protocol of an upgrade that is granted.
fn check<'r>(
    request: &'r httparse::Request<'_, '_>,
    settings: &Settings,
) -> Result<(&'r str, &'static str), Refusal> {
    let refused = |status, text: String| Err(Refusal { status, text });
    let headers = Headers(request.headers);
    if request.method != Some("GET") {
        let text = "only GET is answered here, to open a WebSocket".to_owned();
        return refused(Status::MethodNotAllowed, text);
    }
    if !headers.list_holds("Upgrade", "websocket") {
        let text = format!(
            "this port speaks MQTT over WebSocket: connect an MQTT client to ws://HOST:PORT{}",
            settings.path
        );
        return refused(Status::UpgradeRequired, text);
    }
    if request.version != Some(1) {
        let text = "a WebSocket is opened with HTTP/1.1".to_owned();
        return refused(Status::VersionNotSupported, text);
    }
    if path_of(request.path.unwrap_or_default()) != settings.path {
        let text = format!("there is no WebSocket at this path: MQTT is at {}", settings.path);
        return refused(Status::NotFound, text);
    }
    if !headers.list_holds("Connection", "upgrade") {
        let text = "the Connection header lacks `Upgrade`: is a proxy in between?".to_owned();
        return refused(Status::BadRequest, text);
    }
    if headers.only("Host").is_none() {
        return refused(Status::BadRequest, "one Host header is needed".to_owned());
    }
    if headers.only("Sec-WebSocket-Version") != Some("13") {
        let text = "version 13 of the WebSocket protocol is spoken here".to_owned();
        return refused(Status::UpgradeRequired, text);
    }
    let Some(key) = headers.only("Sec-WebSocket-Key").filter(|key| is_key(key)) else {
        let text = "Sec-WebSocket-Key is not 16 bytes in base64".to_owned();
        return refused(Status::BadRequest, text);
    };
    let origins = &settings.origins;
    let origin = headers.only("Origin");
    if headers.all("Origin").next().is_some()
        && !origins.is_empty()
        && !origins.iter().any(|known| origin.is_some_and(|own| own.eq_ignore_ascii_case(known)))
    {
        return refused(Status::Forbidden, "this Origin is not let in".to_owned());
    }
    let offered = |protocol: &&&str| headers.list_has("Sec-WebSocket-Protocol", protocol);
    match PROTOCOLS.iter().find(offered) {
        Some(protocol) => Ok((key, protocol)),
        None => {
            let text = "offer the WebSocket sub-protocol `mqtt`".to_owned();
            refused(Status::BadRequest, text)
        }
    }
}

/// 16 bytes in base64.
fn is_key(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// The path of a request's target, which may be a whole address and may have a query.
fn path_of(target: &str) -> &str {
    let whole = if target.starts_with('/') { None } else { target.split_once("://") };
    let path = match whole {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn refuse(refusal: Refusal, path: Option<&str>, wire: &mut Vec<u8>) -> Fault {
    let Refusal { status, text } = refusal;
    answer::refuse(status, &text, wire);
    let at = path.map_or_else(String::new, |path| format!(" for {path:?}"));
    Fault::new(Class::Upgrade, format!("an HTTP request{at} was refused: {text}"))
}

/// The headers of a request.
pub(super) struct Headers<'h>(&'h [Header<'h>]);

impl<'h> Headers<'h> {
    /// Values of all headers of a name, without white space around them; none for bytes that are
    /// no text.
    fn all(&self, name: &str) -> impl Iterator<Item = Option<&'h str>> {
        let named = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| str::from_utf8(header.value).ok().map(str::trim))
    }

    /// The value of a header that must be there once.
    fn only(&self, name: &str) -> Option<&'h str> {
        let mut all = self.all(name);
        let first = all.next()??;
        all.next().is_none().then_some(first)
    }

    /// The members of a list, over all headers of that name.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &'h str> {
        self.all(name).flatten().flat_map(|value| value.split(',').map(str::trim))
    }

    /// Whether every header of that name is text.
    pub(super) fn is_text(&self, name: &str) -> bool {
        self.all(name).all(|value| value.is_some())
    }

    /// Whether a list holds a token, in any case of its letters.
    fn list_holds(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|member| member.eq_ignore_ascii_case(token))
    }

    /// Whether a list holds a name exactly so.
    fn list_has(&self, name: &str, member: &str) -> bool {
        self.list(name).any(|own| own == member)
    }
}
