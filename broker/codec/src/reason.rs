//! Reason codes (MQTT 5.0 table 2-6): one table of code, text, and who may send it in which packet.

use crate::PacketType;
use core::fmt;

const CONNACK: u16 = 1 << 2;
const ACK: u16 = 1 << 4 | 1 << 5;
const REL: u16 = 1 << 6 | 1 << 7;
const SUBACK: u16 = 1 << 9;
const UNSUBACK: u16 = 1 << 11;
const DISCONNECT: u16 = 1 << 14;
const AUTH: u16 = 1 << 15;

/// Defines the codes: value, text, packets in which a client may send it, and a server.
macro_rules! reason_codes {
    ($($name:ident = $value:literal, $text:literal, $client:expr, $server:expr;)*) => {
        /// The outcome of an operation, as MQTT 5.0 numbers it. Below 0x80: success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(#[doc = concat!($text, " (", stringify!($value), ").")] $name = $value,)*
        }

        impl ReasonCode {
            /// Every code, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code for a byte; `None` if table 2-6 has no such code.
            #[inline]
            pub const fn from_u8(code: u8) -> Option<Self> {
                match code {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The code's name in words, as in the standard.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            const fn packets(self, from_client: bool) -> u16 {
                match (self, from_client) {
                    $((Self::$name, true) => $client, (Self::$name, false) => $server,)*
                }
            }
        }
    };
}

//= [MQTT-3.2.2-8]
//= [MQTT-3.4.2-1]
//= [MQTT-3.5.2-1]
//= [MQTT-3.6.2-1]
//= [MQTT-3.7.2-1]
//= [MQTT-3.9.3-2]
//= [MQTT-3.11.3-2]
//= [MQTT-3.14.2-1]
//= [MQTT-3.15.2-1]
// The two masks are "sent by a client in" and "sent by a server in".
reason_codes! {
    Success = 0x00, "Success",
        ACK | REL | DISCONNECT, CONNACK | ACK | REL | SUBACK | UNSUBACK | AUTH;
    GrantedQoS1 = 0x01, "Granted QoS 1", 0, SUBACK;
    GrantedQoS2 = 0x02, "Granted QoS 2", 0, SUBACK;
    DisconnectWithWill = 0x04, "Disconnect with Will Message", DISCONNECT, 0;
    NoMatchingSubscribers = 0x10, "No matching subscribers", 0, ACK;
    NoSubscriptionExisted = 0x11, "No subscription existed", 0, UNSUBACK;
    ContinueAuthentication = 0x18, "Continue authentication", AUTH, AUTH;
    ReAuthenticate = 0x19, "Re-authenticate", AUTH, 0;
    UnspecifiedError = 0x80, "Unspecified error",
        ACK | DISCONNECT, CONNACK | ACK | SUBACK | UNSUBACK | DISCONNECT;
    MalformedPacket = 0x81, "Malformed Packet", DISCONNECT, CONNACK | DISCONNECT;
    ProtocolError = 0x82, "Protocol Error", DISCONNECT, CONNACK | DISCONNECT;
    ImplementationSpecificError = 0x83, "Implementation specific error",
        ACK | DISCONNECT, CONNACK | ACK | SUBACK | UNSUBACK | DISCONNECT;
    UnsupportedProtocolVersion = 0x84, "Unsupported Protocol Version", 0, CONNACK;
    ClientIdentifierNotValid = 0x85, "Client Identifier not valid", 0, CONNACK;
    BadUserNameOrPassword = 0x86, "Bad User Name or Password", 0, CONNACK;
    NotAuthorized = 0x87, "Not authorized", ACK, CONNACK | ACK | SUBACK | UNSUBACK | DISCONNECT;
    ServerUnavailable = 0x88, "Server unavailable", 0, CONNACK;
    ServerBusy = 0x89, "Server busy", 0, CONNACK | DISCONNECT;
    Banned = 0x8A, "Banned", 0, CONNACK;
    ServerShuttingDown = 0x8B, "Server shutting down", 0, DISCONNECT;
    BadAuthenticationMethod = 0x8C, "Bad authentication method", 0, CONNACK | DISCONNECT;
    KeepAliveTimeout = 0x8D, "Keep Alive timeout", 0, DISCONNECT;
    SessionTakenOver = 0x8E, "Session taken over", 0, DISCONNECT;
    TopicFilterInvalid = 0x8F, "Topic Filter invalid", 0, SUBACK | UNSUBACK | DISCONNECT;
    TopicNameInvalid = 0x90, "Topic Name invalid", ACK | DISCONNECT, CONNACK | ACK | DISCONNECT;
    PacketIdentifierInUse = 0x91, "Packet Identifier in use", ACK, ACK | SUBACK | UNSUBACK;
    PacketIdentifierNotFound = 0x92, "Packet Identifier not found", REL, REL;
    ReceiveMaximumExceeded = 0x93, "Receive Maximum exceeded", DISCONNECT, DISCONNECT;
    TopicAliasInvalid = 0x94, "Topic Alias invalid", DISCONNECT, DISCONNECT;
    PacketTooLarge = 0x95, "Packet too large", DISCONNECT, CONNACK | DISCONNECT;
    MessageRateTooHigh = 0x96, "Message rate too high", DISCONNECT, DISCONNECT;
    QuotaExceeded = 0x97, "Quota exceeded", ACK | DISCONNECT, CONNACK | ACK | SUBACK | DISCONNECT;
    AdministrativeAction = 0x98, "Administrative action", DISCONNECT, DISCONNECT;
    PayloadFormatInvalid = 0x99, "Payload format invalid",
        ACK | DISCONNECT, CONNACK | ACK | DISCONNECT;
    RetainNotSupported = 0x9A, "Retain not supported", 0, CONNACK | DISCONNECT;
    QoSNotSupported = 0x9B, "QoS not supported", 0, CONNACK | DISCONNECT;
    UseAnotherServer = 0x9C, "Use another server", 0, CONNACK | DISCONNECT;
    ServerMoved = 0x9D, "Server moved", 0, CONNACK | DISCONNECT;
    SharedSubscriptionsNotSupported = 0x9E, "Shared Subscriptions not supported",
        0, SUBACK | DISCONNECT;
    ConnectionRateExceeded = 0x9F, "Connection rate exceeded", 0, CONNACK | DISCONNECT;
    MaximumConnectTime = 0xA0, "Maximum connect time", 0, DISCONNECT;
    SubscriptionIdentifiersNotSupported = 0xA1, "Subscription Identifiers not supported",
        0, SUBACK | DISCONNECT;
    WildcardSubscriptionsNotSupported = 0xA2, "Wildcard Subscriptions not supported",
        0, SUBACK | DISCONNECT;
}

impl ReasonCode {
    /// Whether the operation failed (0x80 and above).
    #[inline]
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether the standard lets a client (`from_client`) or a server send this code in a packet
    /// of that type. 0x00 in SUBACK is Granted QoS 0, in DISCONNECT the normal disconnection.
    pub const fn valid_in(self, packet: PacketType, from_client: bool) -> bool {
        self.packets(from_client) >> packet as u8 & 1 == 1
    }

    /// Whether either side may send this code in a packet of that type.
    pub(crate) const fn defined_in(self, packet: PacketType) -> bool {
        self.valid_in(packet, true) || self.valid_in(packet, false)
    }

    /// The return code of a 3.x CONNACK for this reason; `None` if none of the six fits, and the
    /// connection is then closed without a CONNACK.
    pub const fn v3_connack_code(self) -> Option<u8> {
        //= 3.1.1 [MQTT-3.2.2-6]
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::QuotaExceeded
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(5),
            _ => None,
        }
    }

    /// The reason that a 3.x CONNACK return code stands for; `None` above 5.
    pub const fn from_v3_connack_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x})", self.text(), *self as u8)
    }
}
