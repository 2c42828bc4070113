//! A message's bytes as a line's content, and back.

use std::borrow::Cow;

use ringtide_codec::QoS;
use ringtide_shard::message::{HEADER_BYTES, Header, View};
use ringtide_shard::partition::PartitionMap;
use ringtide_topics::{TenantId, topic_hash};

use super::format::{Base64, Content, Hex};

/// Reads a stored message; `None` if it is none. What only had a meaning in its log is left out.
pub(super) fn content_of(message: &[u8]) -> Option<Content<'_>> {
    let View { header, topic, properties, payload } = View::read(message).ok()?;
    Some(Content {
        tenant: header.tenant.0,
        topic: Cow::Borrowed(topic),
        qos: header.qos as u8,
        retain: header.retain,
        flags: header.flags,
        hops: header.hops,
        node: header.origin_node,
        publisher: Hex(header.publisher),
        published_ms: header.ingress_ms,
        expires_ms: header.expires_ms,
        properties: Base64(Cow::Borrowed(properties)),
        payload: Base64(Cow::Borrowed(payload)),
    })
}

/// The header of a stored message that no log has held yet.
pub(super) fn header(content: &Content<'_>, partitions: &PartitionMap) -> [u8; HEADER_BYTES] {
    let tenant = TenantId(content.tenant);
    let header = Header {
        flags: content.flags,
        // What has another QoS was refused before.
        qos: QoS::from_bits(content.qos).unwrap_or(QoS::AtMostOnce),
        retain: content.retain,
        hops: content.hops,
        tenant,
        origin_node: content.node,
        origin_log: 0,
        // As where it was published: only a retained message goes to its topic's home.
        partition: if content.retain { partitions.partition(tenant, &content.topic) } else { 0 },
        lsn: 0,
        publisher: content.publisher.0,
        ingress_ms: content.published_ms,
        expires_ms: content.expires_ms,
        topic_hash: topic_hash(tenant, &content.topic),
    };
    let (topic, properties) = (&*content.topic, &*content.properties.0);
    View { header, topic, properties, payload: &content.payload.0 }.head()
}

/// The parts of a stored message, to be laid one behind the other.
pub(super) fn parts<'a>(head: &'a [u8; HEADER_BYTES], content: &'a Content<'_>) -> [&'a [u8]; 4] {
    [head, content.topic.as_bytes(), &content.properties.0, &content.payload.0]
}
