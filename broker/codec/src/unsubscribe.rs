//! UNSUBSCRIBE (MQTT 5.0 section 3.10).

use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len, put_text, put_two, text_len};
use crate::{
    DecodeError, DecodeErrorKind, PacketId, PacketType, Property, Reader, UserProperties, Version,
};
use alloc::vec::Vec;
use core::fmt;

/// A request to end subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The request's identifier; its UNSUBACK carries the same.
    pub packet_id: PacketId,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
    filters: UnsubscribeFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    /// Decodes what follows the fixed header.
    ///
    /// Errors: wrong flags, identifier 0, no filter, a filter that is not a string, bad properties.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        expect_flags(PacketType::Unsubscribe, version, flags)?;
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut raw: &[u8] = &[];
        if version.is_v5() {
            let place = Place::Packet(PacketType::Unsubscribe);
            raw = read_block(&mut reader, place, |_| Ok(()))?;
        }
        let filters = UnsubscribeFilters::check(reader)?;
        Ok(Self { packet_id, user_properties: UserProperties::of_checked(raw), filters })
    }

    /// The filters in their order.
    pub fn filters(&self) -> UnsubscribeFilters<'a> {
        self.filters.clone()
    }

    /// How many filters there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a decoded UNSUBSCRIBE is never empty")]
    pub fn len(&self) -> usize {
        self.filters.left
    }

    fn remaining_len(&self, version: Version) -> usize {
        let block = if version.is_v5() { self.block_len() } else { 0 };
        2 + block + self.filters().map(text_len).sum::<usize>()
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let kind = PacketType::Unsubscribe;
        if !begin(kind, kind.fixed_flags(), self.remaining_len(version), out) {
            return;
        }
        put_two(self.packet_id.get(), out);
        if version.is_v5() {
            self.write_block(out);
        }
        for filter in self.filters() {
            put_text(filter, out);
        }
    }
}

impl PropertySource for Unsubscribe<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        visit(&self.user_properties, each);
    }
}

/// The filters of an [`Unsubscribe`], checked when it was decoded.
#[derive(Clone)]
pub struct UnsubscribeFilters<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl PartialEq for UnsubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left && self.clone().eq(other.clone())
    }
}

impl Eq for UnsubscribeFilters<'_> {}

impl fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a> UnsubscribeFilters<'a> {
    fn check(reader: Reader<'a>) -> Result<Self, DecodeError> {
        let mut rest = reader;
        let mut left = 0;
        while !rest.is_empty() {
            //= [MQTT-3.10.3-1]
            //= 3.1.1 [MQTT-3.10.3-1]
            rest.text()?;
            left += 1;
        }
        //= [MQTT-3.10.3-2]
        //= 3.1.1 [MQTT-3.10.3-2]
        if left == 0 {
            return Err(DecodeErrorKind::NoFilter.into());
        }
        Ok(Self { reader, left })
    }
}

impl<'a> Iterator for UnsubscribeFilters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        self.reader.text().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for UnsubscribeFilters<'_> {}

/// An UNSUBSCRIBE to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubscribeOut<'a> {
    /// The request's identifier.
    pub packet_id: PacketId,
    /// The filters, at least one.
    pub filters: &'a [&'a str],
}

impl UnsubscribeOut<'_> {
    fn remaining_len(&self, version: Version) -> usize {
        let block = if version.is_v5() { 1 } else { 0 };
        2 + block + self.filters.iter().map(|filter| text_len(filter)).sum::<usize>()
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let kind = PacketType::Unsubscribe;
        if !begin(kind, kind.fixed_flags(), self.remaining_len(version), out) {
            return;
        }
        put_two(self.packet_id.get(), out);
        if version.is_v5() {
            out.push(0);
        }
        for filter in self.filters {
            put_text(filter, out);
        }
    }
}
