//! Hard cases 41 and 45, and what else a CONNECT decides: client ids, versions, the first packet.

mod common;

use std::collections::BTreeSet;

use common::packet::{PUBACK, PUBREL};
use common::wire::{frame, string};
use common::{Client, Connect, Event, Fleet, PATIENCE, Packet, Props, Publish, Settings};
use common::{Subscribe, V5, V31, V311, code, packet, prop};

static FLEET: Fleet = Fleet::new(Settings::new);

#[test]
fn case_41_an_empty_client_id_gets_an_assigned_one_in_5() {
    FLEET.run("case_41", |cx| {
        let mut assigned = BTreeSet::new();
        for clean in [true, false, true, false, false, false, false, false] {
            let mut connect = Connect::new(V5, "").expiry(600);
            connect.clean = clean;
            let mut client = cx.connect(connect);
            assert!(!client.session_present());
            let id = client.connack_props().text(prop::ASSIGNED_CLIENT_ID);
            let id = id.expect("an assigned client id").to_owned();
            assert!(!id.is_empty());
            let topic = cx.topic("t");
            client.subscribe(&topic, 1);
            client.lose_network();
            // It is an id like any other: the session is there under it.
            let mut client = cx.connect(Connect::new(V5, &id).resume());
            assert!(client.session_present(), "the session of {id}");
            assert!(!client.connack_props().has(prop::ASSIGNED_CLIENT_ID));
            client.publish(Publish::new(&topic, "x").qos(1));
            client.expect_message("x");
            assert!(assigned.insert(id), "an id assigned twice");
            client.disconnect();
        }
    });
}

#[test]
fn case_41_many_assigned_ids_differ_and_do_not_take_each_other_over() {
    FLEET.run("case_41b", |cx| {
        let mut clients: Vec<Client> = (0..50).map(|_| cx.connect(Connect::new(V5, ""))).collect();
        let ids: BTreeSet<String> = clients
            .iter()
            .map(|c| c.connack_props().text(prop::ASSIGNED_CLIENT_ID).expect("an id").to_owned())
            .collect();
        assert_eq!(ids.len(), clients.len());
        for client in &mut clients {
            client.ping();
        }
    });
}

#[test]
fn case_41_an_empty_client_id_below_5() {
    FLEET.run("case_41c", |cx| {
        let mut one = cx.connect(Connect::new(V311, ""));
        let mut two = cx.connect(Connect::new(V311, ""));
        one.ping();
        two.ping();
        let mut refused = cx.attempt(&Connect::new(V311, "").resume());
        refused.expect_connack(2);
        refused.expect_closed();
        for connect in [Connect::new(V31, ""), Connect::new(V31, "").resume()] {
            let mut refused = cx.attempt(&connect);
            refused.expect_connack(2);
            refused.expect_closed();
        }
    });
}

#[test]
fn client_ids_of_1_to_23_letters_and_digits_are_accepted() {
    FLEET.run("ids", |cx| {
        let ids = ["0", "aZ9", "abcdefghijklmnopqrstuvw", "ABCDEFGHIJKLMNOPQRSTUVW"];
        for version in [V31, V311, V5] {
            for id in ids {
                let mut client = cx.connect(Connect::new(version, id));
                client.ping();
                client.disconnect();
            }
        }
    });
}

/// Everything in these acknowledgements that a client without problem information must not get.
fn expect_no_problem_information(packet: &Packet) {
    let props = match packet {
        Packet::PubAck(a) | Packet::PubRec(a) | Packet::PubRel(a) | Packet::PubComp(a) => &a.props,
        Packet::SubAck { props, .. } | Packet::UnsubAck { props, .. } => props,
        Packet::Auth { props, .. } => props,
        _ => return,
    };
    assert!(!props.has(prop::REASON_STRING), "{packet:?}");
    assert!(!props.has(prop::USER_PROPERTY), "{packet:?}");
}

#[test]
fn case_45_problem_information_0_brings_no_reasons_on_acknowledgements() {
    FLEET.run("case_45", |cx| {
        let quiet = |p: Props| p.byte(prop::REQUEST_PROBLEM_INFO, 0);
        let mut client = cx.connect(cx.v5("a").prop(quiet));
        let requests = [
            Subscribe::new(1, "a/#/b", 0).encode(V5),
            Subscribe::new(2, "$share//x", 0).encode(V5),
            packet::Unsubscribe { id: 3, filters: vec![b"nothing".to_vec()] }.encode(V5),
            Publish::new("$SYS/forged", "x").qos(1).id(4).encode(V5),
            Publish::new("nobody/there", "x").qos(1).id(5).encode(V5),
            Publish::new("nobody/there", "x").qos(2).id(6).encode(V5),
            packet::ack(PUBREL, 6, 0),
            packet::ack(PUBREL, 77, 0),
        ];
        for bytes in requests {
            client.send(&bytes);
            match client.event(PATIENCE) {
                Event::Packet(Packet::Disconnect { .. }) | Event::Closed => {
                    client = cx.connect(cx.v5("a").prop(quiet));
                }
                Event::Packet(packet) => expect_no_problem_information(&packet),
                Event::Nothing => panic!("no answer"),
            }
        }
        client.ping();
        // On a PUBLISH user properties are the publisher's own and stay.
        let topic = cx.topic("t");
        client.subscribe(&topic, 0);
        let publish = Publish::new(&topic, "x").props(Props::none().user("k", "v"));
        cx.publisher().publish(publish);
        assert!(client.message().props.has(prop::USER_PROPERTY));
    });
}

#[test]
fn case_45_response_information_only_when_asked_for() {
    FLEET.run("case_45b", |cx| {
        for asked in [None, Some(0)] {
            let mut connect = cx.v5("a");
            if let Some(value) = asked {
                connect = connect.prop(|p| p.byte(prop::REQUEST_RESPONSE_INFO, value));
            }
            let client = cx.connect(connect);
            assert!(!client.connack_props().has(prop::RESPONSE_INFO));
        }
    });
}

#[test]
fn connack_announces_only_what_the_standard_allows() {
    FLEET.run("connack", |cx| {
        let client = cx.connect(cx.v5("a").expiry(60));
        let props = client.connack_props();
        assert_ne!(props.number(prop::RECEIVE_MAXIMUM), Some(0));
        assert_ne!(props.number(prop::MAXIMUM_PACKET_SIZE), Some(0));
        assert_ne!(props.number(prop::MAXIMUM_QOS), Some(2), "2 is said by saying nothing");
        assert!(!props.has(prop::AUTH_METHOD) && !props.has(prop::AUTH_DATA));
        assert!(!props.has(prop::ASSIGNED_CLIENT_ID));
        let granted = props.number(prop::SESSION_EXPIRY).unwrap_or(60);
        assert_eq!(granted, 60);
    });
}

#[test]
fn unsupported_protocols_are_refused() {
    FLEET.run("protocols", |cx| {
        let connect = |name: &[u8], level: u8| {
            let mut body = string(name);
            body.extend([level, 2, 0, 0]);
            if level >= V5 {
                body.push(0);
            }
            body.extend(string(cx.id("a").as_bytes()));
            frame(0x10, &body)
        };
        // Levels that nobody knows: 3.x or 5.0 answer, then a close.
        for level in [0, 2, 6, 7, 42, 127] {
            let mut client = cx.raw(V311);
            client.send(&connect(b"MQTT", level));
            answered_and_closed(&mut client, level);
        }
        for name in ["MQTX", "mqtt", "MQIsdp", "HTTP", ""] {
            let mut client = cx.raw(V311);
            client.send(&connect(name.as_bytes(), V311));
            answered_and_closed(&mut client, V311);
        }
        let mut http = cx.raw(V311);
        http.send(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n");
        http.expect_closed();
    });
}

/// CONNACK 0x01 (3.x), CONNACK 0x84 (5.0) or nothing, then a close. Read as bytes: the server is
/// free in the form of its answer.
fn answered_and_closed(client: &mut Client, level: u8) {
    use std::io::Read;
    let mut stream = client.stream();
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let reset = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(end.as_ref().map_or_else(reset, |_| true), "not closed: {end:?}");
    let fits = match answer.as_slice() {
        [] | [0x20, 2, 0, 1] => true,
        [0x20, _, 0, code, ..] => *code == code::UNSUPPORTED_VERSION,
        _ => false,
    };
    assert!(fits, "level {level} answered by {answer:x?}");
}

#[test]
fn the_first_packet_must_be_connect_and_only_the_first() {
    FLEET.run("first", |cx| {
        let first = [
            Publish::new(&cx.topic("t"), "x").encode(V5),
            Subscribe::new(1, "t", 0).encode(V5),
            packet::PINGREQ.to_vec(),
            packet::disconnect(V5, 0, &Props::none()),
            packet::auth(0x18, &Props::none()),
            packet::ack(PUBACK, 1, 0),
        ];
        let mut watcher = cx.watcher(&cx.topic("t"), 0);
        for bytes in first {
            let mut client = cx.raw(V5);
            client.send(&bytes);
            client.expect_closed();
        }
        watcher.ping();
        watcher.expect_silence();
        for version in [V31, V311, V5] {
            let mut client = cx.connect(cx.version(version, "a"));
            client.send(&cx.version(version, "a").encode());
            client.expect_disconnect(&[code::PROTOCOL_ERROR]);
        }
    });
}

#[test]
fn nothing_after_a_refused_connect_is_processed() {
    FLEET.run("refused", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 0);
        let mut bytes = Connect::new(V311, "").resume().encode();
        bytes.extend(Publish::new(&topic, "x").encode(V311));
        let mut client = cx.raw(V311);
        client.send(&bytes);
        client.expect_connack(2);
        client.expect_closed();
        watcher.ping();
        watcher.expect_silence();
    });
}

#[test]
fn connect_subscribe_and_publish_may_come_in_one_write() {
    FLEET.run("pipeline", |cx| {
        for n in 0..12 {
            for version in [V31, V311, V5] {
                let topic = cx.topic(&format!("t{n}"));
                let mut bytes = cx.version(version, &format!("a{n}")).encode();
                bytes.extend(Subscribe::new(1, &topic, 2).encode(version));
                bytes.extend(Publish::new(&topic, "own").qos(1).id(2).encode(version));
                bytes.extend(packet::PINGREQ);
                let mut client = cx.raw(version);
                client.send(&bytes);
                client.expect_connack(0);
                client.expect_message("own");
                client.expect_puback(2);
                client.ping();
            }
        }
    });
}
