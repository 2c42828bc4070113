//! The will inside a CONNECT (MQTT 5.0 sections 3.1.2.5 and 3.1.3.2).

use crate::property::{Place, PropertyIter, PropertySource, copy_if, read_block};
use crate::{DecodeError, DecodeErrorKind, Property, PropertyId, QoS, Reader, Version};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// The message that the server publishes when the client's connection ends without a goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// The quality of service it is published with.
    pub qos: QoS,
    /// Whether it is published as a retained message.
    pub retain: bool,
    /// Where it is published: a topic name, not empty.
    pub topic: &'a str,
    /// The application's bytes.
    pub payload: &'a [u8],
    /// Seconds between the end of the connection and the will, 0 below version 5.
    pub delay_s: u32,
    /// Seconds, from publication, until the message is of no use.
    pub message_expiry_s: Option<u32>,
    /// The properties that travel with the message, in order: format, content type, response topic,
    /// correlation data, user properties. Borrowed from the packet; only where delay or expiry
    /// stand between them is it a copy of what is left.
    pub properties: Cow<'a, [u8]>,
}

impl<'a> Will<'a> {
    /// Reads will properties, topic and payload, which follow the client identifier.
    pub(crate) fn read(
        version: Version,
        qos: QoS,
        retain: bool,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let mut delay_s = 0;
        let mut message_expiry_s = None;
        let mut raw: &[u8] = &[];
        if version.is_v5() {
            raw = read_block(reader, Place::Will, |property| {
                match property {
                    Property::WillDelayInterval(seconds) => delay_s = seconds,
                    Property::MessageExpiryInterval(seconds) => message_expiry_s = Some(seconds),
                    _ => {}
                }
                Ok(())
            })?;
        }
        //= [MQTT-3.1.3-11]
        //= 3.1.1 [MQTT-3.1.3-10]
        let topic = reader.topic_name()?;
        if topic.is_empty() {
            return Err(DecodeErrorKind::TopicEmpty.into());
        }
        let payload = reader.binary()?;
        let properties = forwardable(raw);
        Ok(Self { qos, retain, topic, payload, delay_s, message_expiry_s, properties })
    }
}

/// What is left of will properties without delay and expiry, in order.
//= [MQTT-3.1.3-10]
fn forwardable(raw: &[u8]) -> Cow<'_, [u8]> {
    let travels =
        |id| !matches!(id, PropertyId::WillDelayInterval | PropertyId::MessageExpiryInterval);
    // Clients mostly write delay and expiry first or last: then the rest is one piece.
    let mut properties = PropertyIter::new(raw);
    let mut pieces = 0;
    let mut inside = false;
    let (mut at, mut start, mut end) = (0, 0, 0);
    while let Some((property, bytes)) = properties.next_raw() {
        let keep = travels(property.id());
        if keep && !inside {
            pieces += 1;
            start = at;
        }
        at += bytes.len();
        if keep {
            end = at;
        }
        inside = keep;
    }
    match pieces {
        0 => Cow::Borrowed(&[]),
        1 => Cow::Borrowed(raw.get(start..end).unwrap_or_default()),
        _ => {
            let mut kept = Vec::with_capacity(raw.len());
            copy_if(raw, &mut kept, travels);
            Cow::Owned(kept)
        }
    }
}

impl PropertySource for Will<'_> {
    fn each(&self, each: &mut dyn FnMut(Property<'_>)) {
        if self.delay_s != 0 {
            each(Property::WillDelayInterval(self.delay_s));
        }
        if let Some(seconds) = self.message_expiry_s {
            each(Property::MessageExpiryInterval(seconds));
        }
        PropertyIter::new(&self.properties).for_each(each);
    }
}
