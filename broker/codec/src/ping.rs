//! PINGREQ and PINGRESP (MQTT 5.0 sections 3.12 and 3.13): two bytes each, in every version.

use crate::header::expect_flags;
use crate::{DecodeError, PacketType, Reader, Version};
use alloc::vec::Vec;

/// Defines a packet that is only a fixed header.
macro_rules! bare_packet {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        impl $name {
            /// Checks what follows the fixed header. Errors: wrong flags, any byte at all.
            pub fn decode(version: Version, flags: u8, body: &[u8]) -> Result<Self, DecodeError> {
                expect_flags(PacketType::$name, version, flags)?;
                Reader::new(body).finish()?;
                Ok(Self)
            }

            /// Bytes of the whole packet: 2.
            pub const fn packet_len(&self, _version: Version) -> usize {
                2
            }

            /// Appends the packet.
            pub fn encode(&self, _version: Version, out: &mut Vec<u8>) {
                out.extend_from_slice(&[(PacketType::$name as u8) << 4, 0]);
            }
        }
    };
}

bare_packet!(PingReq, "A client's request for a sign of life.");
bare_packet!(PingResp, "A server's answer to PINGREQ.");
