//! What holds for any bytes that a peer sends: shared by the tests over random bytes and the fuzz
//! target.

#![allow(dead_code, reason = "each user takes the laws that it tests")]

use std::sync::Arc;

use ringtide_filter::{Fault, Filter, Layers, Networks, Received, Scratch, websocket};

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// All that a filter has made of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    plain: Vec<u8>,
    wire: Vec<u8>,
    ended: bool,
    fault: Option<Fault>,
}

fn filter(upgraded: bool) -> Box<Filter> {
    let settings = websocket::Settings {
        path: "/mqtt".to_owned(),
        origins: vec!["https://example.org".to_owned()],
        trusted_proxies: Networks::default(),
        message_bytes_max: 1000,
    };
    let layers = Layers { websocket: Some(Arc::new(settings)), ..Layers::default() };
    let filter = Filter::new(&layers, None).expect("no TLS to go wrong");
    let mut filter = filter.expect("a filter for a layer");
    if upgraded {
        let granted = filter.receive(&mut UPGRADE.to_vec(), &mut Scratch::default());
        assert_eq!(granted, Ok(Received::default()));
    }
    filter
}

fn seen<'b>(filter: &mut Filter, pieces: impl Iterator<Item = &'b [u8]>) -> Seen {
    let mut scratch = Scratch::default();
    let mut seen = Seen::default();
    for piece in pieces {
        match filter.receive(&mut piece.to_vec(), &mut scratch) {
            Ok(Received { ended, .. }) => seen.ended = ended,
            Err(fault) => {
                seen.fault = Some(fault);
                break;
            }
        }
    }
    Seen { plain: scratch.plain, wire: scratch.wire, ..seen }
}

/// A PROXY header tells the same however it is cut, and takes no byte that is not its own; until it
/// is whole nothing is passed on. The first byte chooses the cut.
pub(crate) fn proxy(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let length = usize::from(choice) + 1;
    let told = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut filter = Filter::behind_proxy();
        let mut scratch = Scratch::default();
        let mut before = 0;
        for piece in pieces {
            let received = filter.receive(&mut piece.to_vec(), &mut scratch)?;
            assert!(scratch.plain.is_empty() && scratch.wire.is_empty());
            if let Some((used, told)) = received.proxied {
                return Ok(Some((before + used, told)));
            }
            before += piece.len();
        }
        Ok::<_, Fault>(None)
    };
    let whole = told(&mut std::iter::once(bytes));
    assert_eq!(whole, told(&mut bytes.chunks(length)), "in pieces of {length}");
    assert_eq!(whole, told(&mut bytes.chunks(1)));
    if let Ok(Some((used, _))) = whole {
        assert!(used <= bytes.len());
        assert_eq!(told(&mut std::iter::once(&bytes[..used - 1])), Ok(None));
    }
}

/// A stream is the same however it is cut, gives no more than it has, and what is answered after
/// an upgrade are frames that a client can read. The first byte chooses the cut, and whether an
/// upgrade came before.
pub(crate) fn websocket(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let (upgraded, length) = (choice & 1 == 1, usize::from(choice >> 1) + 1);
    let whole = seen(&mut filter(upgraded), std::iter::once(bytes));
    let mut cut = filter(upgraded);
    assert_eq!(whole, seen(&mut cut, bytes.chunks(length)), "in pieces of {length}");
    assert!(whole.plain.len() <= bytes.len());
    assert_eq!(cut.has_ended(), whole.ended || whole.fault.is_some());
    if upgraded {
        let mut rest = whole.wire.as_slice();
        while let [first, second, after @ ..] = rest {
            assert!([0x88, 0x8A].contains(first) && *second < 126, "{first:#x} {second}");
            rest = &after[usize::from(*second)..];
        }
        assert!(rest.is_empty());
    }
}
