//! What can be wrong with a peer's bytes, and the reason code that answers it.

use crate::ReasonCode;
use core::fmt;

/// Defines the kinds with their reason code and sentence in one table.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident, $reason:ident, $text:literal;)*) => {
        /// What is wrong with a packet. One kind a rule of the standard, so that counters and
        /// logs can tell them apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum DecodeErrorKind {
            $($(#[$doc])* $name,)*
        }

        impl DecodeErrorKind {
            /// Every kind, in order of definition.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The MQTT 5 reason code that a server answers this with.
            pub const fn reason(self) -> ReasonCode {
                match self {
                    $(Self::$name => ReasonCode::$reason,)*
                }
            }

            /// One sentence for a log line, without the peer's bytes in it.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    /// A field runs past the end of the packet.
    Truncated, MalformedPacket, "a field runs past the end of the packet";
    /// Bytes are left over after the last field.
    TrailingBytes, MalformedPacket, "bytes are left over after the last field";
    /// Packet type 0, or 15 (AUTH) below version 5.
    ReservedPacketType, MalformedPacket, "the packet type is reserved";
    /// The low four bits of the first byte are not what the packet type demands.
    ReservedFlags, MalformedPacket, "reserved bits of the fixed header are wrong";
    /// Both QoS bits of a PUBLISH are set.
    PublishQoS, MalformedPacket, "a PUBLISH has QoS 3";
    /// DUP is set on a QoS 0 PUBLISH.
    DupWithoutQoS, MalformedPacket, "DUP is set on a QoS 0 PUBLISH";
    /// A variable byte integer is not in its shortest form or has more than four bytes.
    VarintOverlong, MalformedPacket, "a variable byte integer is longer than it may be";
    /// The whole packet is larger than this side accepts.
    PacketTooLarge, PacketTooLarge, "the packet is larger than the limit";
    /// A string is not well-formed UTF-8.
    InvalidUtf8, MalformedPacket, "a string is not well-formed UTF-8";
    /// A string holds U+0000.
    NullCharacter, MalformedPacket, "a string holds the character U+0000";
    /// A topic name holds `+` or `#`.
    TopicWildcard, TopicNameInvalid, "a topic name holds a wildcard";
    /// A topic name is empty and no topic alias stands for it.
    TopicEmpty, ProtocolError, "a topic name is empty and no topic alias is given";
    /// A response topic is empty or holds a wildcard.
    ResponseTopicInvalid, ProtocolError, "a response topic is empty or holds a wildcard";
    /// A packet identifier is 0.
    PacketIdZero, ProtocolError, "the packet identifier is 0";
    /// A topic alias is 0.
    TopicAliasZero, TopicAliasInvalid, "the topic alias is 0";
    /// CONNECT names a protocol or a level that is not offered.
    UnsupportedProtocol, UnsupportedProtocolVersion, "the protocol name or level is not offered";
    /// The reserved bit of the connect flags is set.
    ConnectFlagReserved, MalformedPacket, "the reserved connect flag is set";
    /// Will QoS or Will Retain is set without the Will Flag, or Will QoS is 3.
    WillFlags, MalformedPacket, "the will flags of CONNECT contradict each other";
    /// A password without a user name, which only version 5 allows.
    PasswordWithoutUsername, MalformedPacket, "a password without a user name needs MQTT 5";
    /// A property identifier that the standard does not define.
    PropertyUnknown, MalformedPacket, "a property identifier is not defined";
    /// A property that does not belong in this packet.
    PropertyMisplaced, MalformedPacket, "a property does not belong in this packet";
    /// A property that may be given once is given twice.
    PropertyRepeated, ProtocolError, "a property is given twice";
    /// A property has a value that the standard forbids.
    PropertyValue, ProtocolError, "a property has a forbidden value";
    /// A property that only the other side may send.
    PropertyDirection, ProtocolError, "a property may only be sent by the other side";
    /// Authentication data without an authentication method.
    AuthenticationDataAlone, ProtocolError, "authentication data without a method";
    /// AUTH without an authentication method.
    AuthenticationMethodMissing, ProtocolError, "AUTH without an authentication method";
    /// A reason or return code that is not defined for this packet.
    ReasonCodeUndefined, MalformedPacket, "the reason code is not defined for this packet";
    /// A reason code that only the other side may send.
    ReasonCodeDirection, ProtocolError, "the reason code may only be sent by the other side";
    /// SUBSCRIBE or UNSUBSCRIBE without a topic filter.
    NoFilter, ProtocolError, "the packet holds no topic filter";
    /// Reserved bits of the subscription options are set.
    SubscriptionOptionsReserved, MalformedPacket, "reserved subscription option bits are set";
    /// The QoS asked for in a subscription is 3.
    SubscriptionQoS, ProtocolError, "a subscription asks for QoS 3";
    /// Retain Handling is 3.
    RetainHandling, ProtocolError, "a subscription's retain handling is 3";
    /// No Local on a shared subscription.
    NoLocalOnShared, ProtocolError, "No Local is set on a shared subscription";
    /// A subscription identifier in a PUBLISH to a server.
    SubscriptionIdFromClient, ProtocolError, "a client's PUBLISH holds a subscription identifier";
    /// Reserved bits of the connect acknowledge flags are set, or a session is said to be present
    /// beside an error.
    ConnAckFlags, MalformedPacket, "the connect acknowledge flags are wrong";
    /// A packet that only the other side may send.
    WrongDirection, ProtocolError, "the packet may only be sent by the other side";
}

/// Why bytes were refused. Small and `Copy`: it is returned on the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// The MQTT 5 reason code that a server answers with, in CONNACK or DISCONNECT.
    pub reason: ReasonCode,
}

impl DecodeError {
    /// The error of a kind, with that kind's own reason code.
    #[inline]
    pub const fn new(kind: DecodeErrorKind) -> Self {
        Self { kind, reason: kind.reason() }
    }

    /// The return code of a 3.x CONNACK that answers a CONNECT with this error; `None` where the
    /// connection is closed without one.
    pub const fn v3_return_code(self) -> Option<u8> {
        //= 3.1.1 [MQTT-3.1.2-2]
        //= 3.1.1 [MQTT-3.1.4-1]
        match self.kind {
            DecodeErrorKind::UnsupportedProtocol => Some(1),
            _ => None,
        }
    }
}

impl From<DecodeErrorKind> for DecodeError {
    #[inline]
    fn from(kind: DecodeErrorKind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x})", self.kind.sentence(), self.reason as u8)
    }
}

impl core::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_error_is_small_and_answers_with_an_error_code() {
        assert!(size_of::<DecodeError>() <= 8);
        for &kind in DecodeErrorKind::ALL {
            assert!(kind.reason().is_error(), "{kind:?}");
            assert!(DecodeError::new(kind).to_string().contains(kind.sentence()), "{kind:?}");
        }
    }
}
