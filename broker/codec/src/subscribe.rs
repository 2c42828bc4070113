//! SUBSCRIBE (MQTT 5.0 section 3.8). Whether a filter is well-formed as a filter is not judged
//! here: the answer to a bad one is a code in SUBACK, not the end of the connection.

use crate::header::expect_flags;
use crate::property::{Place, PropertySource, read_block};
use crate::user_properties::visit;
use crate::writer::{begin, packet_len, put_text, put_two, text_len};
use crate::{
    DecodeError, DecodeErrorKind, PacketId, PacketType, Property, QoS, Reader, UserProperties,
    Version,
};
use alloc::vec::Vec;
use core::fmt;

const QOS: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RESERVED: u8 = 0b1100_0000;
/// What a filter of a shared subscription begins with (MQTT 5.0 section 4.8.2).
const SHARED_PREFIX: &str = "$share/";

/// When retained messages are sent because of a SUBSCRIBE (MQTT 5.0 section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// On every SUBSCRIBE.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// What a client asks of one subscription. In 3.1 and 3.1.1 only the QoS can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS that the client wants to be sent.
    pub qos: QoS,
    /// Do not send back what the client itself publishes.
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag on live messages.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// The options with that QoS and else the defaults: what a 3.x client can say.
    pub const fn with_qos(qos: QoS) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options byte of version 5.
    pub const fn to_bits(self) -> u8 {
        self.qos.bits()
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    /// The options for a byte of version 5; `None` if a reserved bit or value is used.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match Self::check_bits(bits) {
            Ok(options) => Some(options),
            Err(_) => None,
        }
    }

    const fn check_bits(bits: u8) -> Result<Self, DecodeErrorKind> {
        //= [MQTT-3.8.3-5]
        if bits & RESERVED != 0 {
            return Err(DecodeErrorKind::SubscriptionOptionsReserved);
        }
        let Some(qos) = QoS::from_bits(bits & QOS) else {
            return Err(DecodeErrorKind::SubscriptionQoS);
        };
        let retain_handling = match bits >> 4 & 3 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeErrorKind::RetainHandling),
        };
        Ok(Self {
            qos,
            no_local: bits & NO_LOCAL != 0,
            retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }

    fn read(version: Version, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bits = reader.byte()?;
        //= 3.1.1 [MQTT-3-8.3-4]
        if !version.is_v5() && bits & !QOS != 0 {
            return Err(DecodeErrorKind::SubscriptionOptionsReserved.into());
        }
        Ok(Self::check_bits(bits)?)
    }

    /// The byte that follows the filter in that version.
    const fn bits_in(self, version: Version) -> u8 {
        if version.is_v5() { self.to_bits() } else { self.qos.bits() }
    }
}

/// A topic filter and what is asked of its subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// The filter: well-formed UTF-8, its wildcards and shared form not yet judged.
    pub filter: &'a str,
    /// The options.
    pub options: SubscriptionOptions,
}

impl<'a> SubscribeFilter<'a> {
    fn read(version: Version, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        //= [MQTT-3.8.3-1]
        //= 3.1.1 [MQTT-3.8.3-1]
        let filter = reader.text()?;
        let options = SubscriptionOptions::read(version, reader)?;
        //= [MQTT-3.8.3-4]
        if options.no_local && filter.starts_with(SHARED_PREFIX) {
            return Err(DecodeErrorKind::NoLocalOnShared.into());
        }
        Ok(Self { filter, options })
    }
}

/// A request to subscribe, with one filter or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The request's identifier; its SUBACK carries the same.
    pub packet_id: PacketId,
    /// The number to be sent with each message of these subscriptions, 1 to 268 435 455.
    pub subscription_id: Option<u32>,
    /// The application's own properties.
    pub user_properties: UserProperties<'a>,
    filters: SubscribeFilters<'a>,
}

impl<'a> Subscribe<'a> {
    /// Decodes what follows the fixed header.
    ///
    /// Errors: wrong flags, identifier 0, no filter, a filter that is not a string, reserved option
    /// bits, No Local on a shared subscription, bad properties.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        expect_flags(PacketType::Subscribe, version, flags)?;
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        let mut raw: &[u8] = &[];
        if version.is_v5() {
            raw = read_block(&mut reader, Place::Packet(PacketType::Subscribe), |property| {
                if let Property::SubscriptionIdentifier(id) = property {
                    subscription_id = Some(id);
                }
                Ok(())
            })?;
        }
        let filters = SubscribeFilters::check(version, reader)?;
        let user_properties = UserProperties::of_checked(raw);
        Ok(Self { packet_id, subscription_id, user_properties, filters })
    }

    /// The filters in their order.
    pub fn filters(&self) -> SubscribeFilters<'a> {
        self.filters.clone()
    }

    /// How many filters there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a decoded SUBSCRIBE is never empty")]
    pub fn len(&self) -> usize {
        self.filters.left
    }

    fn remaining_len(&self, version: Version) -> usize {
        let block = if version.is_v5() { self.block_len() } else { 0 };
        2 + block + filters_len(self.filters.clone().map(|item| item.filter))
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet. Below version 5 options other than the QoS are left out.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let kind = PacketType::Subscribe;
        if !begin(kind, kind.fixed_flags(), self.remaining_len(version), out) {
            return;
        }
        put_two(self.packet_id.get(), out);
        if version.is_v5() {
            self.write_block(out);
        }
        for item in self.filters() {
            put_text(item.filter, out);
            out.push(item.options.bits_in(version));
        }
    }
}

impl PropertySource for Subscribe<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(id) = self.subscription_id {
            each(Property::SubscriptionIdentifier(id));
        }
        visit(&self.user_properties, each);
    }
}

fn filters_len<'a>(filters: impl Iterator<Item = &'a str>) -> usize {
    filters.map(|filter| text_len(filter) + 1).sum()
}

/// The filters of a [`Subscribe`], checked when it was decoded.
#[derive(Clone)]
pub struct SubscribeFilters<'a> {
    version: Version,
    reader: Reader<'a>,
    left: usize,
}

impl PartialEq for SubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left && self.clone().eq(other.clone())
    }
}

impl Eq for SubscribeFilters<'_> {}

impl fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a> SubscribeFilters<'a> {
    fn check(version: Version, reader: Reader<'a>) -> Result<Self, DecodeError> {
        let mut rest = reader;
        let mut left = 0;
        while !rest.is_empty() {
            SubscribeFilter::read(version, &mut rest)?;
            left += 1;
        }
        //= [MQTT-3.8.3-2]
        //= 3.1.1 [MQTT-3.8.3-3]
        if left == 0 {
            return Err(DecodeErrorKind::NoFilter.into());
        }
        Ok(Self { version, reader, left })
    }
}

impl<'a> Iterator for SubscribeFilters<'a> {
    type Item = SubscribeFilter<'a>;

    fn next(&mut self) -> Option<SubscribeFilter<'a>> {
        self.left = self.left.checked_sub(1)?;
        SubscribeFilter::read(self.version, &mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for SubscribeFilters<'_> {}

/// A SUBSCRIBE to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeOut<'a> {
    /// The request's identifier.
    pub packet_id: PacketId,
    /// The number for these subscriptions, 1 to 268 435 455. Not sent below version 5.
    pub subscription_id: Option<u32>,
    /// Filters and their options, at least one.
    pub filters: &'a [(&'a str, SubscriptionOptions)],
}

impl SubscribeOut<'_> {
    fn remaining_len(&self, version: Version) -> usize {
        let block = if version.is_v5() { self.block_len() } else { 0 };
        2 + block + filters_len(self.filters.iter().map(|&(filter, _)| filter))
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self, version: Version) -> usize {
        packet_len(self.remaining_len(version))
    }

    /// Appends the packet. Below version 5 options other than the QoS are left out.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let kind = PacketType::Subscribe;
        if !begin(kind, kind.fixed_flags(), self.remaining_len(version), out) {
            return;
        }
        put_two(self.packet_id.get(), out);
        if version.is_v5() {
            self.write_block(out);
        }
        for &(filter, options) in self.filters {
            put_text(filter, out);
            out.push(options.bits_in(version));
        }
    }
}

impl PropertySource for SubscribeOut<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if let Some(id) = self.subscription_id {
            each(Property::SubscriptionIdentifier(id));
        }
    }
}
