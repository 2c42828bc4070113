//! What shards do with what an earlier run has left.

use ringtide_codec::QoS;
use ringtide_shard::message::{Header, Message, View};
use ringtide_storage::record::{Filter, SessionId, SessionRecord, WillRecord};
use ringtide_storage::state::{Body, Kept, Parts, Pending, SessionPart};
use ringtide_topics::{TenantId, topic_hash};

use crate::harness::{World, quiet};
use crate::packets::*;

/// More than a lane holds.
const MESSAGES: usize = 700;
const BYTES: usize = 2000;

fn message(topic: &str, payload: &str) -> Message {
    let tenant = TenantId(0);
    let header = Header {
        flags: 0,
        qos: QoS::AtLeastOnce,
        retain: false,
        hops: 0,
        tenant,
        origin_node: 0,
        origin_log: 0,
        partition: 0,
        lsn: 1,
        publisher: 1,
        ingress_ms: 0,
        expires_ms: 0,
        topic_hash: topic_hash(tenant, topic),
    };
    Message::new(&View { header, topic, properties: &[], payload: payload.as_bytes() })
}

/// A session of an earlier run: kept for its will alone, if it has one.
fn session(client_id: &str, filters: &[&str], will: Option<Message>) -> SessionPart {
    let filter = |filter: &&str| Filter { filter: (*filter).to_owned(), options: 1, id: 0 };
    let expiry_s = if will.is_some() { 0 } else { u32::MAX };
    let will = will.map(|will| WillRecord {
        message: will.raw().to_vec(),
        expiry_s: None,
        delay_s: 0,
        due_ms: 0,
    });
    let record = SessionRecord {
        id: SessionId(1),
        client_id: client_id.to_owned(),
        expiry_s,
        will,
        filters: filters.iter().map(filter).collect(),
        ..SessionRecord::default()
    };
    SessionPart { record, waiting: Vec::new() }
}

/// A destination takes what it is given in order, so a will that came before what was under way at
/// the crash would make that count as taken. (With a thread for each shard the lane may get room
/// between the two; the crash tests have that.)
#[test]
fn a_will_of_the_start_does_not_overtake_what_is_sent_again() {
    let mut names = World::new(2, quiet());
    let (reader, testator) = (names.name_at(1, "reader"), names.name_at(0, "testator"));
    let pending = (0..MESSAGES).map(|number| {
        let text = format!("{number:0BYTES$}");
        let body = Body::Here(message("t", &text).raw());
        let seq = number as u64 + 1;
        let message = Kept { lsn: seq, body, place: None, is_shared: false };
        Pending { shard: 1, seq, group: 0, message }
    });
    let sends = Parts {
        sessions: vec![session(&testator, &[], Some(message("will", "gone")))],
        pending: pending.collect(),
        last_session: SessionId(1),
        ..Parts::default()
    };
    let takes = Parts {
        sessions: vec![session(&reader, &["t", "will"], None)],
        last_session: SessionId(1),
        ..Parts::default()
    };
    let mut world = World::restored(vec![sends, takes], quiet());
    // The reader's shard has not the time for a lane in a turn.
    world.look_takes_us(50);
    world.turns(500);
    world.look_takes_us(0);
    world.turns(50);
    world.accept(1, 10, &connect_lasting(&reader, None));
    let mut got = Vec::new();
    for _ in 0..200 {
        world.turns(5);
        let sent = read(&world.sent(1, 10));
        got.extend(payloads(&sent).into_iter().map(str::to_owned));
    }
    let numbers = (0..MESSAGES).map(|number| format!("{number:0BYTES$}"));
    let wanted: Vec<String> = numbers.chain(["gone".to_owned()]).collect();
    assert_eq!(got.len(), wanted.len());
    assert!(got == wanted, "they came in another order");
}
