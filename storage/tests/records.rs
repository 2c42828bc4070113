//! The bodies of records: golden bytes of every version, round trips, and bytes that are no record.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::borrow::Cow;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use ringtide_storage::record::{
    CheckpointEndRecord, ConnectionRecord, Destination, Entry, EntryWriter, Exchange,
    ExchangeRecord, Filter, MessageHead, QueueRecord, RecordError, SessionEndRecord, SessionId,
    SessionRecord, Step, SubscriptionRecord, VoidRecord, WatermarkRecord, WillRecord,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    // What is there already stays.
    let mut out = b"before".to_vec();
    encode(&mut out);
    assert_eq!(&out[..6], b"before");
    out.split_off(6)
}

/// The bytes are those that version 1 has always had; cut anywhere, or with a byte more, or of a
/// version to come, they are refused.
fn check_golden<T: PartialEq + Debug>(
    record: &T,
    bytes: &[u8],
    golden: &str,
    decode: impl Fn(&[u8]) -> Result<T, RecordError>,
) {
    assert_eq!(hex(bytes), golden.replace([' ', '\n'], ""));
    assert_eq!(decode(bytes).as_ref(), Ok(record));
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(decode(&longer), Err(RecordError::Invalid));
    let mut newer = bytes.to_vec();
    newer[0] = 2;
    assert_eq!(decode(&newer), Err(RecordError::Version(2)));
}

fn sample_will() -> WillRecord {
    let message = b"gone".to_vec();
    WillRecord { message, expiry_s: Some(60), delay_s: 5, due_ms: 0x0102_0304 }
}

fn sample_entries() -> Vec<Entry<'static>> {
    let session = SessionId(0x11);
    vec![
        Entry { session, seq: 1, qos: 1, retain: false, membership: 0, ids: Cow::Borrowed(&[]) },
        Entry {
            session: SessionId(0x22),
            seq: 0x0203,
            qos: 2,
            retain: true,
            membership: 7,
            ids: Cow::Borrowed(&[1, 0x0fff_ffff]),
        },
    ]
}

#[test]
fn golden_message() {
    let head = MessageHead {
        retained: true,
        inbound: Some((SessionId(9), 0x1234)),
        origin: Some((3, 0x77)),
        destinations: Cow::Owned(vec![Destination { shard: 2, seq: 5, group: 0xabcd }]),
        entries: sample_entries(),
    };
    let bytes = encoded(|out| head.encode(out));
    let golden = "01 07 0900000000000000 3412 0300 7700000000000000
        01000000 0200 0500000000000000 cdab000000000000
        02000000 2e000000
        1100000000000000 0100000000000000 01
        2200000000000000 0302000000000000 1e 0700 0200 01000000 ffffff0f";
    assert_eq!(hex(&bytes), golden.replace([' ', '\n'], ""));
    let mut body = bytes.clone();
    body.extend_from_slice(b"the message");
    assert_eq!(MessageHead::decode(&body), Ok((head.clone(), &b"the message"[..])));
    assert_eq!(MessageHead::decode(&bytes), Ok((head, &b""[..])));
    for len in 0..bytes.len() {
        assert!(MessageHead::decode(&bytes[..len]).is_err(), "cut at {len}");
    }
    body[0] = 9;
    assert_eq!(MessageHead::decode(&body), Err(RecordError::Version(9)));
}

#[test]
fn golden_queue() {
    let record = QueueRecord { message: 0x99, entries: sample_entries() };
    let bytes = encoded(|out| record.encode(out));
    let golden = "01 9900000000000000 02000000 2e000000
        1100000000000000 0100000000000000 01
        2200000000000000 0302000000000000 1e 0700 0200 01000000 ffffff0f";
    check_golden(&record, &bytes, golden, |body| {
        QueueRecord::decode(body).map(|record| QueueRecord {
            message: record.message,
            entries: record.entries.iter().map(owned).collect(),
        })
    });
}

fn owned(entry: &Entry<'_>) -> Entry<'static> {
    Entry { ids: Cow::Owned(entry.ids.to_vec()), ..*entry }
}

#[test]
fn golden_subscription() {
    let session = SessionId(4);
    let made = SubscriptionRecord { session, filter: "a/+", options: Some((0b1010, 77)) };
    let bytes = encoded(|out| made.encode(out));
    let golden = "01 0400000000000000 01 0a 4d000000 03000000 612f2b";
    assert_eq!(SubscriptionRecord::decode(&bytes), Ok(made.clone()));
    let own = |body: &[u8]| SubscriptionRecord::decode(body).map(|r| format!("{r:?}"));
    check_golden(&format!("{made:?}"), &bytes, golden, own);
    let removed = SubscriptionRecord { options: None, ..made };
    let bytes = encoded(|out| removed.encode(out));
    check_golden(&format!("{removed:?}"), &bytes, "01 0400000000000000 00 03000000 612f2b", own);
}

#[test]
fn golden_exchange() {
    let cases = [
        (Step::Sent { seq: 6, packet_id: 0x0102 }, "01 0600000000000000 0201"),
        (Step::Received { packet_id: 0x0102 }, "02 0201"),
        (Step::Completed { packet_id: 0x0102 }, "03 0201"),
        (Step::Done { seq: 6 }, "04 0600000000000000"),
        (Step::InboundDone { packet_id: 0x0102 }, "05 0201"),
        (Step::InboundBegun { packet_id: 0x0102 }, "06 0201"),
    ];
    for (step, golden) in cases {
        let record = ExchangeRecord { session: SessionId(8), step };
        let bytes = encoded(|out| record.encode(out));
        let golden = format!("01 0800000000000000 {golden}");
        check_golden(&record, &bytes, &golden, ExchangeRecord::decode);
    }
}

#[test]
fn golden_connection() {
    let mut record = ConnectionRecord {
        session: SessionId(8),
        username: Some("me".to_owned()),
        expiry_s: u32::MAX,
        connected_ms: 0x11,
        detached_ms: 0x22,
        will: Some(sample_will()),
    };
    let bytes = encoded(|out| record.encode(out));
    let golden = "01 0800000000000000 07 ffffffff 1100000000000000 2200000000000000
        02000000 6d65 3c000000 05000000 0403020100000000 04000000 676f6e65";
    check_golden(&record, &bytes, golden, ConnectionRecord::decode);
    record.username = None;
    record.will = None;
    let bytes = encoded(|out| record.encode(out));
    let golden = "01 0800000000000000 00 ffffffff 1100000000000000 2200000000000000";
    check_golden(&record, &bytes, golden, ConnectionRecord::decode);
}

#[test]
fn golden_ends_and_watermark() {
    let end = SessionEndRecord { session: SessionId(0x0a0b) };
    let bytes = encoded(|out| end.encode(out));
    check_golden(&end, &bytes, "01 0b0a000000000000", SessionEndRecord::decode);
    let bytes = encoded(|out| CheckpointEndRecord.encode(out));
    check_golden(&CheckpointEndRecord, &bytes, "01", CheckpointEndRecord::decode);
    let marks = vec![(1, 2), (0x0304, 0x0506)];
    let marks = WatermarkRecord { marks, sent: vec![(0, 9)] };
    let bytes = encoded(|out| marks.encode(out));
    let golden = "01 02000000 0100 0200000000000000 0403 0605000000000000
        01000000 0000 0900000000000000";
    check_golden(&marks, &bytes, golden, WatermarkRecord::decode);
}

#[test]
fn golden_void() {
    let void = VoidRecord { messages: vec![(1, 2), (0x0304, 0x0506)] };
    let bytes = encoded(|out| void.encode(out));
    let golden = "01 02000000 0100 0200000000000000 0403 0605000000000000";
    check_golden(&void, &bytes, golden, VoidRecord::decode);
}

fn sample_session() -> SessionRecord {
    SessionRecord {
        id: SessionId(3),
        tenant: 1,
        client_id: "sensor-0000000001".to_owned(),
        username: Some("me".to_owned()),
        expiry_s: 3600,
        connected_ms: 0x11,
        detached_ms: 0x22,
        will: Some(sample_will()),
        filters: vec![Filter { filter: "plant/+/state".to_owned(), options: 1, id: 7 }],
        inbound: vec![1, 0x0203],
        exchanges: vec![
            Exchange { packet_id: 1, seq: Some(9) },
            Exchange { packet_id: 2, seq: None },
        ],
    }
}

#[test]
fn golden_session() {
    let record = sample_session();
    let bytes = encoded(|out| record.encode(out));
    let golden = "01ac00000073656e736f722d30303030303030303031676f6e65706c616e742f2b2f7374
        6174658d000000f3ffffff01070000000100030201000109000000000000000200000000
        000000000000030000000000000001000000100e00001100000000000000220000000000
        00009100000097ffffff016d65ffffffffffff0196ffffff04000000013c000000050000
        0004030201000000008effffff0100000093ffffff020000008fffffff02000000";
    check_golden(&record, &bytes, golden, SessionRecord::decode);
}

#[test]
fn a_session_is_small() {
    let record = SessionRecord {
        will: None,
        inbound: Vec::new(),
        exchanges: Vec::new(),
        ..sample_session()
    };
    let bytes = encoded(|out| record.encode(out));
    assert!(bytes.len() <= 150, "{} bytes", bytes.len());
}

#[test]
fn fields_that_cannot_be_are_refused() {
    let head = MessageHead { entries: sample_entries(), ..MessageHead::default() };
    let bytes = encoded(|out| head.encode(out));
    // Flags of the head; the first entry's QoS; the numbers of destinations and of entries.
    for (at, value) in [(1, 0x80), (30, 3), (30, 0x20), (2, 0xff), (6, 0xff), (10, 0xff)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert!(MessageHead::decode(&bad).is_err(), "{value} at {at}");
    }
    let text = SubscriptionRecord { session: SessionId(1), filter: "abc", options: None };
    let mut bad = encoded(|out| text.encode(out));
    *bad.last_mut().unwrap() = 0xff;
    assert_eq!(SubscriptionRecord::decode(&bad), Err(RecordError::Invalid));
}

fn all_decoders(body: &[u8]) -> usize {
    let results = [
        MessageHead::decode(body).is_ok(),
        QueueRecord::decode(body).is_ok(),
        SessionRecord::decode(body).is_ok(),
        SubscriptionRecord::decode(body).is_ok(),
        ExchangeRecord::decode(body).is_ok(),
        ConnectionRecord::decode(body).is_ok(),
        SessionEndRecord::decode(body).is_ok(),
        WatermarkRecord::decode(body).is_ok(),
        CheckpointEndRecord::decode(body).is_ok(),
        VoidRecord::decode(body).is_ok(),
    ];
    results.into_iter().filter(|ok| *ok).count()
}

proptest! {
    #[test]
    fn messages_survive(head in common::head(), message in vec(any::<u8>(), 0..50)) {
        let mut body = encoded(|out| head.encode(out));
        let head_len = body.len();
        body.extend_from_slice(&message);
        prop_assert_eq!(MessageHead::decode(&body), Ok((head.clone(), message.as_slice())));
        for len in 0..head_len {
            prop_assert!(MessageHead::decode(&body[..len]).is_err());
        }
        // Gathered entries give the same bytes.
        let mut entries = EntryWriter::default();
        entries.push(&sample_entries()[1]);
        entries.clear();
        prop_assert!(entries.is_empty());
        for entry in &head.entries {
            entries.push(entry);
        }
        let gathered =
            encoded(|out| head.encode_with_entries(entries.bytes(), entries.count(), out));
        prop_assert_eq!(&gathered, &body[..head_len]);
        let record = QueueRecord { message: 7, entries: head.entries.clone() };
        let one = encoded(|out| record.encode(out));
        let (bytes, count) = (entries.bytes(), entries.count());
        let two = encoded(|out| QueueRecord::encode_with_entries(7, bytes, count, out));
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(QueueRecord::decode(&one), Ok(record));
    }

    #[test]
    fn sessions_survive(record in common::session()) {
        let bytes = encoded(|out| record.encode(out));
        prop_assert_eq!(SessionRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn the_others_survive(
        connection in common::connection(),
        exchange in common::exchange(),
        filter in ".{0,20}",
        options in proptest::option::of(any::<(u8, u32)>()),
        marks in vec(any::<(u16, u64)>(), 0..5),
        sent in vec(any::<(u16, u64)>(), 0..5),
    ) {
        let bytes = encoded(|out| connection.encode(out));
        prop_assert_eq!(ConnectionRecord::decode(&bytes), Ok(connection));
        let bytes = encoded(|out| exchange.encode(out));
        prop_assert_eq!(ExchangeRecord::decode(&bytes), Ok(exchange));
        let record = SubscriptionRecord { session: SessionId(5), filter: &filter, options };
        let bytes = encoded(|out| record.encode(out));
        prop_assert_eq!(SubscriptionRecord::decode(&bytes), Ok(record));
        let record = WatermarkRecord { marks, sent };
        let bytes = encoded(|out| record.encode(out));
        prop_assert_eq!(WatermarkRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(mut body in vec(any::<u8>(), 0..200)) {
        let any_version = all_decoders(&body);
        if let Some(first) = body.first_mut() {
            *first = 1;
        }
        prop_assert!(any_version <= 9 && all_decoders(&body) <= 9);
    }

    #[test]
    fn harmed_records_are_decoded_without_a_panic(
        session in common::session(),
        head in common::head(),
        connection in common::connection(),
        harm in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let records = [
            encoded(|out| session.encode(out)),
            encoded(|out| head.encode(out)),
            encoded(|out| connection.encode(out)),
        ];
        for mut bytes in records {
            for (at, value) in &harm {
                let len = bytes.len();
                bytes[at.index(len)] = *value;
            }
            prop_assert!(all_decoders(&bytes) <= 9);
        }
    }
}
