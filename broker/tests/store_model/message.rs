//! Messages as the broker stores them, for the model.

use ringtide_codec::QoS;
use ringtide_shard::message::{Header, View};
use ringtide_shard::partition::PartitionMap;
use ringtide_topics::{TenantId, topic_hash};

pub(crate) use ringtide_shard::message::topic_of;

use super::KEY;
use super::shard::{ME, SHARDS};

/// The tenant of the model's clients.
const TENANT: TenantId = TenantId(7);

/// A message's bytes. An empty payload clears a retained topic.
pub(crate) fn message(topic: &str, number: u64, (origin, lsn): (u16, u64), empty: bool) -> Vec<u8> {
    let header = Header {
        flags: (number % 8) as u8,
        qos: if number.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce },
        retain: true,
        hops: (number % 3) as u8,
        tenant: TENANT,
        origin_node: (number % 2) as u16,
        origin_log: origin,
        partition: PartitionMap::even(KEY, SHARDS).partition(TENANT, topic),
        // The logs of other shards hold nothing of what they have given.
        lsn: if origin == ME { lsn } else { 0 },
        publisher: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ingress_ms: 1_700_000_000_000 + number / 3,
        expires_ms: if number.is_multiple_of(4) { 1_800_000_000_000 + number } else { 0 },
        topic_hash: topic_hash(TENANT, topic),
    };
    // Content Type, two characters.
    let properties: &[u8] = if number.is_multiple_of(5) { &[3, 0, 2, b'a', b'b'] } else { &[] };
    let payload: Vec<u8> = (0..1 + number % 40).map(|at| (number + at) as u8).collect();
    let payload = if empty { &[][..] } else { &payload };
    let view = View { header, topic, properties, payload };
    [&view.head()[..], topic.as_bytes(), properties, payload].concat()
}
