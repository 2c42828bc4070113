//! Packet identifiers.

use core::num::NonZeroU16;

/// The identifier of an exchange on one session, 1 to 65 535 (MQTT 5.0 section 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The smallest identifier.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The largest identifier.
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// An identifier, or `None` for 0, which the standard forbids.
    #[inline]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The identifier as it stands on the wire.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}
