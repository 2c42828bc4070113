mod forwarded;
mod frames;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::Settings;
use crate::{Fault, Filter, Layers, Networks, Received, Scratch};

/// The example of RFC 6455, section 1.2.
const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                      Sec-WebSocket-Protocol: mqtt\r\n\r\n";
const MESSAGE_BYTES_MAX: u32 = 100_000;

fn settings() -> Settings {
    Settings {
        path: "/mqtt".to_owned(),
        origins: Vec::new(),
        trusted_proxies: Networks::default(),
        message_bytes_max: MESSAGE_BYTES_MAX,
    }
}

fn filter_with(settings: Settings, peer: &str) -> Box<Filter> {
    let layers = Layers { websocket: Some(Arc::new(settings)), ..Layers::default() };
    let peer = peer.parse().expect("an address");
    let filter = Filter::new(&layers, Some(peer)).expect("no TLS to go wrong");
    filter.expect("a filter for a layer")
}

fn filter() -> Box<Filter> {
    filter_with(settings(), "192.0.2.1:50000")
}

/// All that a filter made of what it was given.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    plain: Vec<u8>,
    wire: Vec<u8>,
    ended: bool,
    client: Option<SocketAddr>,
    fault: Option<Fault>,
}

impl Seen {
    /// Feeds pieces to a filter until it gives the connection up.
    fn of<'p>(filter: &mut Filter, pieces: impl IntoIterator<Item = &'p [u8]>) -> Seen {
        let mut seen = Seen::default();
        let mut scratch = Scratch::default();
        for piece in pieces {
            let result = filter.receive(&mut piece.to_vec(), &mut scratch);
            seen.plain.append(&mut scratch.plain);
            seen.wire.append(&mut scratch.wire);
            match result {
                Ok(Received { ended, client, .. }) => {
                    seen.ended = ended;
                    seen.client = seen.client.or(client);
                }
                Err(fault) => {
                    seen.fault = Some(fault);
                    break;
                }
            }
        }
        seen
    }
}

/// Sends by a filter; without TLS nothing can go wrong.
fn send(filter: &mut Filter, head: &mut Vec<u8>, shared: &mut Vec<(u32, Bytes)>) {
    let sent = filter.send(head, shared, &mut Scratch::default());
    sent.expect("a WebSocket sends");
}

/// A filter whose upgrade was granted.
fn open() -> Box<Filter> {
    let mut filter = filter();
    let seen = Seen::of(&mut filter, [REQUEST.as_bytes()]);
    assert_eq!(String::from_utf8_lossy(&seen.wire), ANSWER);
    filter
}

/// `bytes` in pieces of these lengths, again and again.
fn cut<'b>(bytes: &'b [u8], lengths: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(length.clamp(1, rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
