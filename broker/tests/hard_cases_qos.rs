//! Hard cases 9 to 15, 24 and 49: exchanges of QoS 1 and 2, resume, acknowledgements gone wrong.

mod common;

use std::time::Duration;

use common::packet::{PUBACK, PUBCOMP, PUBREC, PUBREL};
use common::{Client, Connect, Cx, Event, Fleet, PATIENCE, Packet, Publish, Settings};
use common::{V5, V311, code, packet};

static FLEET: Fleet = Fleet::new(Settings::new);

/// For the one test that looks at the broker's memory: nobody else may use it meanwhile.
static FLOODED: Fleet = Fleet::new(Settings::new);

/// A subscriber's CONNECT that keeps its session.
fn lasting(cx: &Cx<'_>, version: u8, name: &str) -> Connect {
    let connect = cx.version(version, name).resume();
    if version == V5 { connect.expiry(600) } else { connect }
}

/// Waits for the PUBREL of an exchange after PUBREC.
fn pubrec_answered(client: &mut Client, id: u16) {
    client.ack(PUBREC, id, 0);
    assert_eq!(client.expect_pubrel(id), 0);
}

#[test]
fn case_09_resume_resends_in_order_before_newer_messages() {
    FLEET.run("case_09", |cx| {
        for version in [V311, V5] {
            let topic = cx.topic(&format!("t{version}"));
            let mut sub = cx.connect(lasting(cx, version, "sub"));
            sub.subscribe(&topic, 2);
            let mut publisher = cx.publisher();
            let sent = [("m1", 1), ("m2", 2), ("m3", 1), ("m4", 2), ("m5", 2), ("m6", 1)];
            for (text, qos) in sent {
                publisher.publish(Publish::new(&topic, text).qos(qos));
            }
            let got: Vec<Publish> = (0..sent.len()).map(|_| sub.raw_message()).collect();
            assert!(got.iter().all(|m| !m.dup), "the first sending has DUP 0: {got:?}");
            // m1 and m2 end, m4 waits for its PUBCOMP, m3, m5 and m6 for a first answer.
            sub.finish(&got[0]);
            sub.finish(&got[1]);
            pubrec_answered(&mut sub, got[3].packet_id());
            sub.lose_network();
            publisher.publish(Publish::new(&topic, "m7").qos(1));
            publisher.publish(Publish::new(&topic, "m8").qos(2));

            let mut sub = cx.connect(lasting(cx, version, "sub"));
            assert!(sub.session_present());
            publisher.publish(Publish::new(&topic, "m9").qos(1));
            let mut resent = Vec::new();
            for _ in 0..3 {
                resent.push(sub.raw_message());
            }
            let expected: Vec<Publish> =
                [2, 4, 5].iter().map(|i: &usize| got[*i].clone().dup()).collect();
            assert_eq!(resent, expected, "re-sent with DUP, id and order kept");
            assert_eq!(sub.expect_pubrel(got[3].packet_id()), 0);
            sub.ack(PUBCOMP, got[3].packet_id(), 0);
            for message in &resent {
                sub.finish(message);
            }
            let later = sub.messages(3);
            let texts: Vec<String> = later.iter().map(Publish::text).collect();
            assert_eq!(texts, ["m7", "m8", "m9"]);
            assert!(later.iter().all(|m| !m.dup), "never sent before: {later:?}");
            sub.ping();
            sub.expect_silence();
        }
    });
}

#[test]
fn case_09_nothing_is_resent_while_the_connection_lasts() {
    FLEET.run("case_09b", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.watcher(&topic, 1);
        cx.publisher().publish(Publish::new(&topic, "once").qos(1));
        sub.raw_message();
        sub.expect_silence_for(Duration::from_secs(3));
    });
}

#[test]
fn case_10_an_owed_pubrel_holds_its_packet_id() {
    FLEET.run("case_10", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        let mut owed = Vec::new();
        for text in ["a", "b", "c"] {
            publisher.publish(Publish::new(&topic, text).qos(2));
            let id = sub.raw_message().packet_id();
            pubrec_answered(&mut sub, id);
            owed.push(id);
        }
        sub.lose_network();
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        for n in 0..50 {
            publisher.publish(Publish::new(&topic, format!("new {n}")).qos(1 + n % 2));
            let message = sub.raw_message();
            assert!(!owed.contains(&message.packet_id()), "id in use: {message:?}, {owed:?}");
            sub.finish(&message);
        }
        for id in owed {
            sub.expect_pubrel(id);
            sub.ack(PUBCOMP, id, 0);
        }
    });
}

#[test]
fn case_11_a_repeated_qos_2_publish_is_delivered_once() {
    FLEET.run("case_11", |cx| {
        for version in [V311, V5] {
            let topic = cx.topic(&format!("t{version}"));
            let mut watcher = cx.watcher(&topic, 2);
            let mut publisher = cx.connect(lasting(cx, version, "pub"));
            let publish = Publish::new(&topic, "first").qos(2).id(5);
            let other = Publish::new(&topic, "other content").qos(2).id(5);
            for repeat in [publish.clone(), publish.clone().dup(), publish.clone(), other] {
                publisher.send_publish(&repeat);
                assert!(publisher.expect_pubrec(5) < 0x80);
            }
            publisher.lose_network();
            let mut publisher = cx.connect(lasting(cx, version, "pub"));
            assert!(publisher.session_present());
            publisher.send_publish(&publish.dup());
            assert!(publisher.expect_pubrec(5) < 0x80);
            publisher.ack(PUBREL, 5, 0);
            assert_eq!(publisher.expect_pubcomp(5), 0);
            // The id is free again: the same bytes are a new message.
            publisher.publish(Publish::new(&topic, "second").qos(2).id(5));
            assert_eq!(watcher.texts(2), ["first", "second"]);
            watcher.expect_silence();
        }
    });
}

#[test]
fn case_12_a_flood_of_one_qos_2_id_does_not_grow_memory() {
    FLOODED.run("case_12", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 2);
        let mut publisher = cx.connect(lasting(cx, V5, "pub"));
        let payload = [7; 512];
        let batch: Vec<u8> =
            (0..200).flat_map(|_| Publish::new(&topic, payload).qos(2).id(9).encode(V5)).collect();
        let mut flood = |batches: usize| {
            for _ in 0..batches {
                publisher.send(&batch);
                for _ in 0..200 {
                    publisher.expect_pubrec(9);
                }
            }
        };
        flood(20);
        let before = cx.broker.resident_kib();
        flood(200);
        if let (Some(before), Some(after)) = (before, cx.broker.resident_kib()) {
            // 20 MB of payload went by.
            assert!(after < before + 12 * 1024, "from {before} KiB to {after} KiB");
        }
        watcher.message();
        watcher.expect_silence();
    });
}

#[test]
fn case_13_pubrel_for_an_unknown_id() {
    FLEET.run("case_13", |cx| {
        let mut v5 = cx.connect(cx.v5("a"));
        v5.ack(PUBREL, 77, 0);
        assert_eq!(v5.expect_pubcomp(77), code::ID_NOT_FOUND);
        v5.ping();
        let mut v3 = cx.connect(cx.v311("b"));
        v3.ack(PUBREL, 77, 0);
        v3.expect_pubcomp(77);
        v3.ping();
    });
}

#[test]
fn case_13_pubrel_after_a_resume_succeeds() {
    FLEET.run("case_13b", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 2);
        let mut publisher = cx.connect(lasting(cx, V5, "pub"));
        publisher.send_publish(&Publish::new(&topic, "once").qos(2).id(7));
        assert!(publisher.expect_pubrec(7) < 0x80);
        publisher.lose_network();
        let mut publisher = cx.connect(lasting(cx, V5, "pub"));
        publisher.ack(PUBREL, 7, 0);
        assert_eq!(publisher.expect_pubcomp(7), code::SUCCESS);
        watcher.expect_message("once");
        watcher.expect_silence();
    });
}

#[test]
fn case_14_an_error_in_pubrec_ends_the_exchange() {
    FLEET.run("case_14", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(lasting(cx, V5, "sub").receive_maximum(1));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        for text in ["a", "b", "c"] {
            publisher.publish(Publish::new(&topic, text).qos(2));
        }
        for text in ["a", "b"] {
            let message = sub.raw_message();
            assert_eq!(message.text(), text);
            sub.ack(PUBREC, message.packet_id(), code::UNSPECIFIED);
        }
        // The quota of 1 is free: the next message comes, and no PUBREL before it.
        match sub.packet() {
            Packet::Publish(m) => {
                assert_eq!(m.text(), "c");
                sub.ack(PUBREC, m.packet_id(), code::NOT_AUTHORIZED);
            }
            other => panic!("expected the third message, got {other:?}"),
        }
        sub.ping();
        sub.lose_network();
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_14_an_error_in_puback_ends_the_exchange() {
    FLEET.run("case_14b", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(lasting(cx, V5, "sub").receive_maximum(1));
        sub.subscribe(&topic, 1);
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "a").qos(1));
        publisher.publish(Publish::new(&topic, "b").qos(1));
        let first = sub.raw_message();
        sub.ack(PUBACK, first.packet_id(), code::UNSPECIFIED);
        sub.expect_message("b");
        sub.ping();
        sub.lose_network();
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_15_an_acknowledgement_of_the_wrong_kind_does_no_damage() {
    FLEET.run("case_15", |cx| {
        let cases = [
            (2, PUBACK, "PUBACK to QoS 2"),
            (2, PUBCOMP, "PUBCOMP before PUBREC"),
            (1, PUBREC, "PUBREC to QoS 1"),
            (1, PUBCOMP, "PUBCOMP to QoS 1"),
        ];
        for (n, (qos, wrong, what)) in cases.into_iter().enumerate() {
            let topic = cx.topic(&format!("t{n}"));
            let name = format!("sub{n}");
            let mut sub = cx.connect(lasting(cx, V5, &name));
            sub.subscribe(&topic, 2);
            cx.publisher().publish(Publish::new(&topic, what).qos(qos));
            let message = sub.raw_message();
            sub.ack(wrong, message.packet_id(), 0);
            sub.expect_disconnect(&[code::PROTOCOL_ERROR]);
            let mut sub = cx.connect(lasting(cx, V5, &name));
            assert_eq!(sub.raw_message(), message.clone().dup(), "{what}");
            sub.finish(&message);
            sub.ping();
            sub.expect_silence();
        }
    });
}

#[test]
fn case_15_an_acknowledgement_of_nothing_does_no_damage() {
    FLEET.run("case_15b", |cx| {
        let topic = cx.topic("t");
        for (n, first) in [PUBACK, PUBREC, PUBCOMP].into_iter().enumerate() {
            let mut sub = cx.connect(lasting(cx, V5, &format!("sub{n}")));
            sub.subscribe(&topic, 2);
            sub.ack(first, 4711, 0);
            // Either tolerated (PUBREC is answered by PUBREL 0x92) or a protocol error.
            if first == PUBREC {
                match sub.packet() {
                    Packet::PubRel(ack) => assert_eq!(ack.code, code::ID_NOT_FOUND),
                    Packet::Disconnect { code, .. } => assert_eq!(code, code::PROTOCOL_ERROR),
                    other => panic!("PUBREC of nothing answered by {other:?}"),
                }
            }
            sub.lose_network();
            let mut sub = cx.connect(lasting(cx, V5, &format!("sub{n}")));
            assert!(sub.session_present());
            cx.publisher().publish(Publish::new(&topic, "still subscribed").qos(2));
            sub.expect_message("still subscribed");
            sub.unsubscribe(&[&topic]);
        }
    });
}

/// A message that is to be sent before it expires, however busy the machine is.
const EXPIRY_S: u32 = 6;

#[test]
fn case_24_expiry_does_not_cut_an_exchange_that_has_begun() {
    FLEET.run("case_24", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        for (text, qos) in [("one", 1), ("two", 2), ("released", 2)] {
            publisher.publish(Publish::new(&topic, text).qos(qos).expiry(EXPIRY_S));
        }
        let got: Vec<Publish> = (0..3).map(|_| sub.raw_message()).collect();
        pubrec_answered(&mut sub, got[2].packet_id());
        sub.lose_network();
        publisher.publish(Publish::new(&topic, "expires in the queue").qos(1).expiry(EXPIRY_S));
        std::thread::sleep(Duration::from_secs(u64::from(EXPIRY_S) + 2));
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        for first in &got[..2] {
            let again = sub.raw_message();
            assert_eq!((again.text(), again.id), (first.text(), first.id));
            assert!(again.dup);
            sub.finish(&again);
        }
        let owed = got[2].packet_id();
        assert_eq!(sub.expect_pubrel(owed), 0);
        sub.ack(PUBCOMP, owed, 0);
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_24_the_publishers_exchange_outlives_the_expiry() {
    FLEET.run("case_24b", |cx| {
        let topic = cx.topic("t");
        let mut publisher = cx.connect(lasting(cx, V5, "pub"));
        publisher.send_publish(&Publish::new(&topic, "x").qos(2).id(3).expiry(1));
        assert!(publisher.expect_pubrec(3) < 0x80);
        std::thread::sleep(Duration::from_millis(2500));
        publisher.ack(PUBREL, 3, 0);
        assert_eq!(publisher.expect_pubcomp(3), code::SUCCESS);
    });
}

#[test]
fn case_49_unsubscribe_of_nothing() {
    FLEET.run("case_49", |cx| {
        let (a, b, c) = (cx.topic("a"), cx.topic("b"), cx.topic("c"));
        let mut v5 = cx.connect(cx.v5("a"));
        v5.subscribe(&b, 0);
        let wildcard = cx.topic("+");
        let codes = v5.unsubscribe(&[&a, &b, &c, &wildcard]);
        let none = code::NO_SUBSCRIPTION_EXISTED;
        assert_eq!(codes, [none, 0, none, none]);
        let mut v3 = cx.connect(cx.v311("b"));
        assert_eq!(v3.unsubscribe(&[&a, &b]), Vec::<u8>::new(), "3.1.1 has no codes");
        v3.ping();
    });
}

#[test]
fn case_49_unsubscribe_lets_an_exchange_in_flight_end() {
    FLEET.run("case_49b", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        for (text, qos) in [("a", 2), ("b", 1), ("c", 2)] {
            publisher.publish(Publish::new(&topic, text).qos(qos));
        }
        let got: Vec<Publish> = (0..3).map(|_| sub.raw_message()).collect();
        pubrec_answered(&mut sub, got[0].packet_id());
        assert_eq!(sub.unsubscribe(&[&topic]), [0]);
        publisher.publish(Publish::new(&topic, "not for the client").qos(1));
        sub.ack(PUBCOMP, got[0].packet_id(), 0);
        sub.lose_network();
        let mut sub = cx.connect(lasting(cx, V5, "sub"));
        for first in &got[1..] {
            assert_eq!(sub.raw_message(), first.clone().dup());
            sub.finish(first);
        }
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn acknowledgements_come_in_the_order_of_the_publishes() {
    FLEET.run("ack_order", |cx| {
        let topic = cx.topic("t");
        let mut publisher = cx.connect(cx.v5("pub"));
        let ids: Vec<u16> = (1..=300).rev().collect();
        for qos in [1, 2] {
            let all: Vec<u8> = ids
                .iter()
                .flat_map(|id| Publish::new(&topic, "x").qos(qos).id(*id).encode(V5))
                .collect();
            publisher.send(&all);
            let mut acked = Vec::new();
            while acked.len() < ids.len() {
                match publisher.event(PATIENCE) {
                    Event::Packet(Packet::PubAck(a)) if qos == 1 => acked.push(a.id),
                    Event::Packet(Packet::PubRec(a)) if qos == 2 => acked.push(a.id),
                    other => panic!("expected an acknowledgement, got {other:?}"),
                }
            }
            assert_eq!(acked, ids);
        }
        let all: Vec<u8> = ids.iter().flat_map(|id| packet::ack(PUBREL, *id, 0)).collect();
        publisher.send(&all);
        for id in ids {
            match publisher.packet() {
                Packet::PubComp(a) => assert_eq!(a.id, id),
                other => panic!("expected PUBCOMP, got {other:?}"),
            }
        }
    });
}

#[test]
fn a_message_is_delivered_at_the_lower_of_both_qos() {
    FLEET.run("min_qos", |cx| {
        let topic = cx.topic("t");
        for granted in 0..=2 {
            for sent in 0..=2 {
                for version in [V311, V5] {
                    let mut sub = cx.connect(cx.version(version, "sub"));
                    assert_eq!(sub.subscribe(&topic, granted), granted);
                    cx.publisher().publish(Publish::new(&topic, "x").qos(sent));
                    assert_eq!(sub.message().qos, sent.min(granted));
                    sub.disconnect();
                }
            }
        }
    });
}
