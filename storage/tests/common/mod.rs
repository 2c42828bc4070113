//! Random records.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod message;
pub(crate) mod shard;

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use ringtide_storage::record::{
    ConnectionRecord, Destination, Entry, Exchange, ExchangeRecord, Filter, MessageHead, SessionId,
    SessionRecord, Step, WillRecord,
};

pub(crate) fn entry() -> impl Strategy<Value = Entry<'static>> {
    let ids = vec(any::<u32>(), 0..4);
    (any::<u64>(), any::<u64>(), 0..3_u8, any::<bool>(), any::<u16>(), ids).prop_map(
        |(session, seq, qos, retain, membership, ids)| Entry {
            session: SessionId(session),
            seq,
            qos,
            retain,
            membership,
            ids: Cow::Owned(ids),
        },
    )
}

pub(crate) fn head() -> impl Strategy<Value = MessageHead<'static>> {
    let destination = (any::<u16>(), any::<u64>(), any::<u64>());
    let destination = destination.prop_map(|(shard, seq, group)| Destination { shard, seq, group });
    let inbound = option::of((any::<u64>().prop_map(SessionId), any::<u16>()));
    let origin = option::of((any::<u16>(), any::<u64>()));
    (any::<bool>(), inbound, origin, vec(destination, 0..4), vec(entry(), 0..5)).prop_map(
        |(retained, inbound, origin, destinations, entries)| MessageHead {
            retained,
            inbound,
            origin,
            destinations: Cow::Owned(destinations),
            entries,
        },
    )
}

pub(crate) fn will() -> impl Strategy<Value = WillRecord> {
    let message = vec(any::<u8>(), 0..50);
    (message, option::of(any::<u32>()), any::<u32>(), any::<u64>()).prop_map(
        |(message, expiry_s, delay_s, due_ms)| WillRecord { message, expiry_s, delay_s, due_ms },
    )
}

pub(crate) fn session() -> impl Strategy<Value = SessionRecord> {
    let filter = (".{0,12}", any::<u8>(), any::<u32>());
    let filter = filter.prop_map(|(filter, options, id)| Filter { filter, options, id });
    let exchange = (any::<u16>(), option::of(any::<u64>()));
    let exchange = exchange.prop_map(|(packet_id, seq)| Exchange { packet_id, seq });
    let name = (any::<u64>(), any::<u32>(), ".{0,30}", option::of(".{0,10}"));
    let times = (any::<u32>(), any::<u64>(), any::<u64>());
    let lists = (vec(filter, 0..4), vec(any::<u16>(), 0..4), vec(exchange, 0..4));
    (name, times, option::of(will()), lists).prop_map(|(name, times, will, lists)| SessionRecord {
        id: SessionId(name.0),
        tenant: name.1,
        client_id: name.2,
        username: name.3,
        expiry_s: times.0,
        connected_ms: times.1,
        detached_ms: times.2,
        will,
        filters: lists.0,
        inbound: lists.1,
        exchanges: lists.2,
    })
}

pub(crate) fn connection() -> impl Strategy<Value = ConnectionRecord> {
    let times = (any::<u32>(), any::<u64>(), any::<u64>());
    (any::<u64>(), option::of(".{0,10}"), times, option::of(will())).prop_map(
        |(session, username, times, will)| ConnectionRecord {
            session: SessionId(session),
            username,
            expiry_s: times.0,
            connected_ms: times.1,
            detached_ms: times.2,
            will,
        },
    )
}

pub(crate) fn exchange() -> impl Strategy<Value = ExchangeRecord> {
    (any::<u64>(), 0..6_u8, any::<u64>(), any::<u16>()).prop_map(
        |(session, step, seq, packet_id)| {
            let step = match step {
                0 => Step::Sent { seq, packet_id },
                1 => Step::Received { packet_id },
                2 => Step::Completed { packet_id },
                3 => Step::Done { seq },
                4 => Step::InboundDone { packet_id },
                _ => Step::InboundBegun { packet_id },
            };
            ExchangeRecord { session: SessionId(session), step }
        },
    )
}
