//! MQTT 3.1, 3.1.1 and 5.0 packets: bytes to packets and back.
//!
//! Owns the wire format: framing, every packet, every property, the checks that one packet alone
//! can tell. Must not know sessions, topics' meaning, sockets, clocks or the heap beyond the
//! caller's output buffer: decoded packets borrow from the input, nothing is allocated while
//! decoding but the rare will whose properties are interleaved (see [`Will::properties`]).
//!
//! The way in: [`fixed_header`] over what has been received (it refuses an oversized packet before
//! its body is buffered), then [`decode`] over the body, or [`Publish::decode`] and
//! [`Ack::decode`] directly where speed counts. No bytes panic; every refusal is a
//! [`DecodeError`] with the MQTT 5 reason code that answers it.
//!
//! The way out: `encode(version, &mut Vec<u8>)` on each packet, [`PublishOut`] and [`write_ack`]
//! where speed counts. A packet longer than [`PACKET_BYTES_MAX`] cannot be written in MQTT at all:
//! the encoders then write nothing, so callers compare `packet_len` with their limit first.
//! Strings and binary fields longer than 65 535 bytes are cut (strings at a character).
//!
//! ```
//! use ringtide_codec::{Packet, Role, Version, decode, fixed_header};
//!
//! let received = b"\x30\x07\x00\x03a/bhi and the next packet";
//! let header = fixed_header(received, 1 << 20)?.expect("all of the header is there");
//! let (head_len, total_len) = (usize::from(header.header_len), header.total_len());
//! let body = received.get(head_len..total_len).expect("all of the packet is there");
//! match decode(Role::Server, Version::V3_1_1, &header, body)? {
//!     Packet::Publish(publish) => {
//!         assert_eq!((publish.topic, publish.payload), ("a/b", &b"hi"[..]));
//!     }
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), ringtide_codec::DecodeError>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod error;
mod header;
mod packet;
mod packet_id;
mod ping;
mod property;
mod publish;
mod publish_out;
mod qos;
mod reader;
mod reason;
mod suback;
mod subscribe;
mod text;
mod unsuback;
mod unsubscribe;
mod user_properties;
mod varint;
mod version;
mod will;
mod writer;

pub use ack::{Ack, AckKind, write_ack};
pub use auth::Auth;
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties};
pub use disconnect::Disconnect;
pub use error::{DecodeError, DecodeErrorKind};
pub use header::{FixedHeader, PacketType, fixed_header};
pub use packet::{Packet, Role, decode};
pub use packet_id::PacketId;
pub use ping::{PingReq, PingResp};
pub use property::{Property, PropertyId, PropertyIter};
pub use publish::{Publish, PublishProperties};
pub use publish_out::PublishOut;
pub use qos::QoS;
pub use reader::Reader;
pub use reason::ReasonCode;
pub use suback::SubAck;
pub use subscribe::{
    RetainHandling, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeOut, SubscriptionOptions,
};
pub use unsuback::UnsubAck;
pub use unsubscribe::{Unsubscribe, UnsubscribeFilters, UnsubscribeOut};
pub use user_properties::{UserProperties, UserPropertyIter, push_user_property};
pub use varint::VARINT_MAX;
pub use version::Version;
pub use will::Will;

/// The longest packet MQTT can express, in bytes: the largest remaining length and the five bytes
/// of fixed header before it.
pub const PACKET_BYTES_MAX: usize = VARINT_MAX as usize + 5;
