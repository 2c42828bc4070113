//! The property table of MQTT 5.0 (table 2-4): for each property its identifier, its data type and
//! the packets it belongs in; and the checked walk over a property block.
//!
//! The table is the only place that knows the properties; packets only pick the ones they want.

use crate::writer::{binary_len, put_binary, put_four, put_text, put_two, text_len};
use crate::{DecodeError, DecodeErrorKind, PacketType, QoS, Reader, varint};
use alloc::vec::Vec;

/// What a property block belongs to: a packet, or the will inside a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Packet(PacketType),
    Will,
}

impl Place {
    const fn bit(self) -> u16 {
        match self {
            Self::Packet(packet) => 1 << packet as u8,
            Self::Will => WILL,
        }
    }
}

const WILL: u16 = 1;
const CONNECT: u16 = 1 << 1;
const CONNACK: u16 = 1 << 2;
const PUBLISH: u16 = 1 << 3;
const SUBSCRIBE: u16 = 1 << 8;
const DISCONNECT: u16 = 1 << 14;
const AUTH: u16 = 1 << 15;
/// Every packet but PUBLISH, CONNECT, SUBSCRIBE, UNSUBSCRIBE and the two pings.
const ANSWERS: u16 = CONNACK | DISCONNECT | AUTH | 0b1010_1111_0000;
/// Every packet but the two pings.
const ANY: u16 = !(1 << 12 | 1 << 13);

/// A data type of MQTT 5.0 section 1.5 with the values that a property forbids taken out.
trait DataType<'a> {
    type Value;
    fn read(reader: &mut Reader<'a>) -> Result<Self::Value, DecodeError>;
    fn len(value: Self::Value) -> usize;
    fn write(value: Self::Value, out: &mut Vec<u8>);
}

/// Defines data types: `name, type of the value, reading, length in bytes, writing`.
macro_rules! data_types {
    ($($name:ident, $ty:ty, $read:expr, $len:expr, $write:expr;)*) => {
        $(
            struct $name;
            impl<'a> DataType<'a> for $name {
                type Value = $ty;
                #[inline]
                fn read(reader: &mut Reader<'a>) -> Result<$ty, DecodeError> {
                    let read: fn(&mut Reader<'a>) -> Result<$ty, DecodeError> = $read;
                    read(reader)
                }
                #[inline]
                fn len(value: $ty) -> usize {
                    let len: fn($ty) -> usize = $len;
                    len(value)
                }
                #[inline]
                fn write(value: $ty, out: &mut Vec<u8>) {
                    let write: fn($ty, &mut Vec<u8>) = $write;
                    write(value, out);
                }
            }
        )*
    };
}

fn forbidden() -> DecodeError {
    DecodeErrorKind::PropertyValue.into()
}

fn not_zero<T: Default + PartialEq>(value: T) -> Result<T, DecodeError> {
    if value == T::default() { Err(forbidden()) } else { Ok(value) }
}

fn boolean(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(forbidden()),
    }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    //= [MQTT-3.3.2-13]
    //= [MQTT-3.3.2-14]
    let topic = reader.topic_name().map_err(|error| match error.kind {
        DecodeErrorKind::TopicWildcard => DecodeErrorKind::ResponseTopicInvalid.into(),
        _ => error,
    })?;
    if topic.is_empty() { Err(DecodeErrorKind::ResponseTopicInvalid.into()) } else { Ok(topic) }
}

fn topic_alias(reader: &mut Reader<'_>) -> Result<u16, DecodeError> {
    //= [MQTT-3.3.2-8]
    match reader.two()? {
        0 => Err(DecodeErrorKind::TopicAliasZero.into()),
        alias => Ok(alias),
    }
}

data_types! {
    Boolean, bool, boolean, |_| 1, |value, out| out.push(u8::from(value));
    LowQoS, QoS,
        |reader| Ok(if boolean(reader)? { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
        |_| 1, |value, out| out.push(value.bits());
    Two, u16, |reader| reader.two(), |_| 2, put_two;
    TwoNotZero, u16,
        |reader| not_zero(reader.two()?),
        |_| 2, put_two;
    Alias, u16, topic_alias, |_| 2, put_two;
    Four, u32, |reader| reader.four(), |_| 4, put_four;
    FourNotZero, u32,
        |reader| not_zero(reader.four()?),
        |_| 4, put_four;
    VarintNotZero, u32,
        |reader| not_zero(reader.varint()?),
        |value| varint::len(value as usize), |value, out| varint::write(value as usize, out);
    Text, &'a str, |reader| reader.text(), text_len, put_text;
    Topic, &'a str, response_topic, text_len, put_text;
    Binary, &'a [u8], |reader| reader.binary(), binary_len, put_binary;
    //= [MQTT-1.5.7-1]
    Pair, (&'a str, &'a str), |reader| Ok((reader.text()?, reader.text()?)),
        |(name, value)| text_len(name) + text_len(value),
        |(name, value), out| { put_text(name, out); put_text(value, out); };
}

/// Defines the properties: `Name = identifier: Rust type, data type, packets it belongs in`.
macro_rules! property_table {
    ($($(#[$doc:meta])* $name:ident = $id:literal: $ty:ty, $kind:ident, $places:expr;)*) => {
        /// The identifier of a property (MQTT 5.0 section 2.2.2.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $($(#[$doc])* $name = $id,)*
        }

        impl PropertyId {
            /// Every property, by ascending identifier.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The property for an identifier; `None` if the standard defines none.
            #[inline]
            pub const fn from_u8(id: u8) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }

            const fn places(self) -> u16 {
                match self {
                    $(Self::$name => $places,)*
                }
            }
        }

        /// A property with its value, borrowed from the packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Property<'a> {
            $($(#[$doc])* $name($ty),)*
        }

        impl<'a> Property<'a> {
            /// Which property this is.
            pub const fn id(&self) -> PropertyId {
                match self {
                    $(Self::$name(_) => PropertyId::$name,)*
                }
            }

            /// Reads the value that follows the identifier.
            fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                Ok(match id {
                    $(PropertyId::$name => Self::$name($kind::read(reader)?),)*
                })
            }

            /// Bytes of identifier and value.
            pub fn encoded_len(&self) -> usize {
                1 + match *self {
                    $(Self::$name(value) => $kind::len(value),)*
                }
            }

            /// Appends identifier and value.
            pub fn write(&self, out: &mut Vec<u8>) {
                out.push(self.id() as u8);
                match *self {
                    $(Self::$name(value) => $kind::write(value, out),)*
                }
            }
        }
    };
}

property_table! {
    /// Whether the payload is UTF-8 text.
    PayloadFormatIndicator = 0x01: bool, Boolean, PUBLISH | WILL;
    /// Seconds until the message is of no use.
    MessageExpiryInterval = 0x02: u32, Four, PUBLISH | WILL;
    /// What the payload is, in the application's terms.
    //= [MQTT-3.3.2-19]
    ContentType = 0x03: &'a str, Text, PUBLISH | WILL;
    /// Where an answer is expected.
    ResponseTopic = 0x08: &'a str, Topic, PUBLISH | WILL;
    /// What an answer should carry so that its request is recognised.
    CorrelationData = 0x09: &'a [u8], Binary, PUBLISH | WILL;
    /// The number a client gave its subscription, 1 to 268 435 455.
    SubscriptionIdentifier = 0x0B: u32, VarintNotZero, PUBLISH | SUBSCRIBE;
    /// Seconds that the session outlives its connection; `u32::MAX`: for ever.
    SessionExpiryInterval = 0x11: u32, Four, CONNECT | CONNACK | DISCONNECT;
    /// The client identifier that the server made up.
    AssignedClientIdentifier = 0x12: &'a str, Text, CONNACK;
    /// The keep alive in seconds that holds instead of the client's.
    ServerKeepAlive = 0x13: u16, Two, CONNACK;
    /// The name of the method of enhanced authentication.
    AuthenticationMethod = 0x15: &'a str, Text, CONNECT | CONNACK | AUTH;
    /// What that method sends.
    AuthenticationData = 0x16: &'a [u8], Binary, CONNECT | CONNACK | AUTH;
    /// Whether the client wants reason strings and user properties on failures.
    RequestProblemInformation = 0x17: bool, Boolean, CONNECT;
    /// Seconds between the end of the connection and its will.
    WillDelayInterval = 0x18: u32, Four, WILL;
    /// Whether the client wants Response Information.
    RequestResponseInformation = 0x19: bool, Boolean, CONNECT;
    /// The basis for the client's response topics.
    ResponseInformation = 0x1A: &'a str, Text, CONNACK;
    /// Another server to use.
    ServerReference = 0x1C: &'a str, Text, CONNACK | DISCONNECT;
    /// A diagnosis for people.
    ReasonString = 0x1F: &'a str, Text, ANSWERS;
    /// How many QoS 1 and 2 messages the sender takes unacknowledged, 1 to 65 535.
    ReceiveMaximum = 0x21: u16, TwoNotZero, CONNECT | CONNACK;
    /// The highest topic alias that the sender takes.
    TopicAliasMaximum = 0x22: u16, Two, CONNECT | CONNACK;
    /// The number that stands for a topic name, 1 to 65 535.
    TopicAlias = 0x23: u16, Alias, PUBLISH;
    /// The highest QoS that the server supports, 0 or 1.
    MaximumQoS = 0x24: QoS, LowQoS, CONNACK;
    /// Whether the server keeps retained messages.
    RetainAvailable = 0x25: bool, Boolean, CONNACK;
    /// A name and a value of the application's own.
    UserProperty = 0x26: (&'a str, &'a str), Pair, ANY;
    /// The largest packet in bytes that the sender takes.
    MaximumPacketSize = 0x27: u32, FourNotZero, CONNECT | CONNACK;
    /// Whether the server takes wildcards in filters.
    WildcardSubscriptionAvailable = 0x28: bool, Boolean, CONNACK;
    /// Whether the server takes subscription identifiers.
    SubscriptionIdentifierAvailable = 0x29: bool, Boolean, CONNACK;
    /// Whether the server takes shared subscriptions.
    SharedSubscriptionAvailable = 0x2A: bool, Boolean, CONNACK;
}

impl PropertyId {
    /// Whether it may be given more than once in that place.
    const fn repeats(self, place: Place) -> bool {
        match self {
            Self::UserProperty => true,
            Self::SubscriptionIdentifier => matches!(place, Place::Packet(PacketType::Publish)),
            _ => false,
        }
    }
}

/// Reads a property block with its length, checks all of it and shows each property to `each`.
/// Returns the block without its length.
#[inline]
pub(crate) fn read_block<'a>(
    reader: &mut Reader<'a>,
    place: Place,
    mut each: impl FnMut(Property<'a>) -> Result<(), DecodeError>,
) -> Result<&'a [u8], DecodeError> {
    let raw = raw_block(reader)?;
    walk(raw, place, &mut each)?;
    Ok(raw)
}

/// Reads a property block with its length, but checks only that it is there.
#[inline]
pub(crate) fn raw_block<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = reader.varint()? as usize;
    reader.take(len)
}

/// Checks all of a property block and shows each property to `each`.
pub(crate) fn walk<'a>(
    raw: &'a [u8],
    place: Place,
    each: &mut impl FnMut(Property<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(raw);
    // Identifiers are below 64, so one word remembers which were given.
    let mut given = 0_u64;
    while !reader.is_empty() {
        // The identifier is a variable byte integer of which all defined values take one byte.
        let id = u8::try_from(reader.varint()?).ok().and_then(PropertyId::from_u8);
        let id = id.ok_or(DecodeErrorKind::PropertyUnknown)?;
        if id.places() & place.bit() == 0 {
            return Err(DecodeErrorKind::PropertyMisplaced.into());
        }
        let bit = 1_u64 << id as u8;
        if given & bit != 0 && !id.repeats(place) {
            return Err(DecodeErrorKind::PropertyRepeated.into());
        }
        given |= bit;
        each(Property::read(id, &mut reader)?)?;
    }
    Ok(())
}

/// Checks a property block without its length.
pub(crate) fn check(raw: &[u8], place: Place) -> Result<(), DecodeError> {
    walk(raw, place, &mut |_| Ok(()))
}

/// The properties of a block that was checked when its packet was decoded, in their order.
///
/// Over bytes that were not checked it ends at the first error.
#[derive(Clone, Debug)]
pub struct PropertyIter<'a> {
    reader: Reader<'a>,
}

impl<'a> PropertyIter<'a> {
    /// The properties in `raw`, a property block without its length.
    pub const fn new(raw: &'a [u8]) -> Self {
        Self { reader: Reader::new(raw) }
    }

    fn read(&mut self) -> Result<(Property<'a>, &'a [u8]), DecodeError> {
        let before = self.reader.rest();
        let id = PropertyId::from_u8(self.reader.byte()?);
        let property =
            Property::read(id.ok_or(DecodeErrorKind::PropertyUnknown)?, &mut self.reader)?;
        let len = before.len() - self.reader.rest().len();
        Ok((property, before.get(..len).unwrap_or(before)))
    }

    /// The next property with its bytes, identifier included.
    pub(crate) fn next_raw(&mut self) -> Option<(Property<'a>, &'a [u8])> {
        if self.reader.is_empty() {
            return None;
        }
        let next = self.read().ok();
        if next.is_none() {
            self.reader = Reader::new(&[]);
        }
        next
    }
}

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        self.next_raw().map(|(property, _)| property)
    }
}

/// Appends the properties of a checked block that `keep` says yes to, byte by byte as they came.
pub(crate) fn copy_if(raw: &[u8], out: &mut Vec<u8>, keep: impl Fn(PropertyId) -> bool) {
    let mut properties = PropertyIter::new(raw);
    while let Some((property, bytes)) = properties.next_raw() {
        if keep(property.id()) {
            out.extend_from_slice(bytes);
        }
    }
}

/// Something that has properties to send: one list gives both the length and the bytes.
pub(crate) trait PropertySource {
    /// Shows each property in the order it is sent.
    fn each(&self, visit: &mut dyn FnMut(Property<'_>));

    /// Bytes of the properties, without the block's length.
    fn properties_len(&self) -> usize {
        let mut len = 0;
        self.each(&mut |property| len += property.encoded_len());
        len
    }

    /// Bytes of the block with its length in front.
    fn block_len(&self) -> usize {
        let len = self.properties_len();
        varint::len(len) + len
    }

    /// Appends the block with its length in front.
    //= [MQTT-2.2.2-1]
    fn write_block(&self, out: &mut Vec<u8>) {
        varint::write(self.properties_len(), out);
        self.each(&mut |property| property.write(out));
    }
}
