//! The three protocol versions and the names and levels that a CONNECT announces them by.

/// A version of the protocol; ordered by age. The number is the protocol level of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`.
    V3_1 = 3,
    /// MQTT 3.1.1, protocol name `MQTT`.
    V3_1_1 = 4,
    /// MQTT 5.0, protocol name `MQTT`.
    V5 = 5,
}

impl Version {
    /// Whether packets of this version carry properties and reason codes.
    #[inline]
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }

    /// The protocol level byte in CONNECT (3, 4 or 5), without the bridge bit.
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The protocol name in CONNECT.
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::V3_1 => "MQIsdp",
            Self::V3_1_1 | Self::V5 => "MQTT",
        }
    }

    /// The version that a CONNECT with this name and level (bridge bit taken off) speaks.
    pub(crate) fn announced(name: &[u8], level: u8) -> Option<Self> {
        match (name, level) {
            (b"MQTT", 4) => Some(Self::V3_1_1),
            (b"MQTT", 5) => Some(Self::V5),
            (b"MQIsdp", 3) => Some(Self::V3_1),
            _ => None,
        }
    }
}
