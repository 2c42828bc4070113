use super::*;
use crate::sequence::Stamp;
use crate::wire::Scanner;

fn receipts(publishers: usize) -> Receipts {
    let templates =
        Templates::new(Version::V3_1_1, 1, &["t".to_owned()], 16, &bytes::Bytes::new()).unwrap();
    let unacked_ns = VecDeque::from([100, 200, 300]);
    let publisher =
        Publisher { templates, sent: 8, acked: 0, received: 0, unacked_ns, due: 0, touched: false };
    let mut list = Vec::new();
    list.resize_with(publishers, || Publisher {
        templates: publisher.templates.clone(),
        unacked_ns: publisher.unacked_ns.clone(),
        ..publisher
    });
    Receipts {
        publishers: list,
        touched: Vec::new(),
        faults: Faults::default(),
        received: 0,
        latency: latencies(),
        ack_latency: latencies(),
        record_from_ns: 0,
        record_all: true,
    }
}

const LIMITS: Limits =
    Limits { version: Version::V3_1_1, qos: 1, window: 16, batch: 8, fan: 1, publishers: 2 };

fn feed(bytes: &[u8], receipts: &mut Receipts, subscriber: &mut Subscriber) -> Vec<u8> {
    let mut out = Vec::new();
    let on = |frame: Frame<'_>| {
        delivery(&LIMITS, &frame, subscriber, receipts, &mut out, &mut true, 500);
    };
    assert_eq!(Scanner::default().scan(bytes, on), Ok(()));
    out
}

fn publish(qos: u8, publisher: u32, sequence: u32) -> Vec<u8> {
    let mut bytes = wire::publish_head(Version::V3_1_1, qos, "t", 16);
    bytes.extend_from_slice(&Stamp { publisher, sequence, time_ns: 400 }.to_bytes());
    bytes
}

#[test]
fn deliveries_are_counted_checked_and_acknowledged() {
    let mut receipts = receipts(2);
    let mut subscriber = Subscriber { first_publisher: 1, streams: vec![Stream::default()] };
    let bytes = [publish(0, 1, 0), publish(1, 1, 1), publish(2, 1, 3), vec![0x62, 2, 0, 9]];
    let out = feed(&bytes.concat(), &mut receipts, &mut subscriber);
    assert_eq!(out, [0x40, 2, 0, 0, 0x50, 2, 0, 0, 0x70, 2, 0, 9]);
    assert_eq!((receipts.received, receipts.publishers[1].received), (3, 3));
    assert_eq!(receipts.faults, Faults { lost: 1, ..Faults::default() });
    assert_eq!(receipts.touched, [1]);
    assert_eq!((receipts.latency.len(), receipts.latency.max()), (3, 100));
}

#[test]
fn what_does_not_belong_here_is_a_fault() {
    let mut receipts = receipts(2);
    let mut subscriber = Subscriber { first_publisher: 1, streams: vec![Stream::default()] };
    let bytes = [publish(0, 0, 0), publish(0, 2, 0), vec![0xd0, 0]].concat();
    assert!(feed(&bytes, &mut receipts, &mut subscriber).is_empty());
    assert_eq!(receipts.faults, Faults { misrouted: 2, protocol: 1, ..Faults::default() });
}

#[test]
fn the_window_opens_on_receipt_and_acknowledgement() {
    let mut receipts = receipts(1);
    let publisher = &mut receipts.publishers[0];
    publisher.sent = 16;
    assert_eq!(room(&LIMITS, publisher, false), 0);
    publisher.received = 8;
    assert_eq!(room(&LIMITS, publisher, false), 0);
    publisher.acked = 8;
    assert_eq!(room(&LIMITS, publisher, false), 8);
    assert_eq!(room(&Limits { fan: 3, qos: 0, ..LIMITS }, publisher, false), 0);
    publisher.received = 24;
    assert_eq!(room(&Limits { fan: 3, qos: 0, ..LIMITS }, publisher, false), 8);
}

#[test]
fn a_fixed_rate_sends_what_is_due() {
    let mut receipts = receipts(1);
    let publisher = &mut receipts.publishers[0];
    publisher.due = 3;
    assert_eq!(room(&LIMITS, publisher, true), 3);
    publisher.due = 1000;
    assert_eq!(room(&LIMITS, publisher, true), 8);
}

#[test]
fn acknowledgements_are_taken_in_order() {
    let mut receipts = receipts(1);
    let mut out = Vec::new();
    let bytes = [[0x50, 2, 0, 1], [0x70, 2, 0, 1], [0x40, 2, 0, 2], [0x40, 2, 0, 9]].concat();
    receipts.record_from_ns = 150;
    let on = |frame: Frame<'_>| acknowledgement(&LIMITS, &frame, 0, &mut receipts, &mut out, 700);
    assert_eq!(Scanner::default().scan(&bytes, on), Ok(()));
    assert_eq!(out, [0x62, 2, 0, 1]);
    assert_eq!((receipts.publishers[0].acked, receipts.faults.protocol), (3, 1));
    // The first was sent before the recording began.
    assert_eq!((receipts.ack_latency.len(), receipts.ack_latency.max()), (2, 500));
    assert_eq!(receipts.received, 0);
    assert_eq!((packet_id(65_534), packet_id(65_535)), (65_535, 1));
}

#[test]
fn where_nobody_receives_the_acknowledgement_counts() {
    let mut receipts = receipts(1);
    let offline = Limits { fan: 0, ..LIMITS };
    receipts.publishers[0].sent = 16;
    assert_eq!(room(&offline, &receipts.publishers[0], false), 0);
    let acks: Vec<u8> = (1..=8).flat_map(|id| [0x40, 2, 0, id]).collect();
    let mut out = Vec::new();
    let on = |frame: Frame<'_>| acknowledgement(&offline, &frame, 0, &mut receipts, &mut out, 700);
    assert_eq!(Scanner::default().scan(&acks, on), Ok(()));
    assert_eq!((receipts.received, room(&offline, &receipts.publishers[0], false)), (8, 8));
}
