//! Hard cases 40, 42, 43, 44 and 47: strings, flags, properties and packets that a server refuses.

mod common;

use common::packet::header_only;
use common::wire::{frame, string};
use common::{Client, Connect, Cx, Event, Fleet, PATIENCE, Packet, Props, Publish, Settings};
use common::{Subscribe, V5, V31, V311, Will, code, packet, prop};

static FLEET: Fleet = Fleet::new(Settings::new);

/// What is no MQTT string, and why.
const BAD_STRINGS: [(&str, &[u8]); 11] = [
    ("U+0000", b"a\0b"),
    ("over-long U+0000", b"a\xC0\x80b"),
    ("over-long slash", b"a\xC0\xAFb"),
    ("over-long in three bytes", b"\xE0\x80\xAF"),
    ("first surrogate", b"\xED\xA0\x80"),
    ("last surrogate", b"\xED\xBF\xBF"),
    ("surrogate pair", b"\xED\xA0\x81\xED\xB0\x80"),
    ("above U+10FFFF", b"\xF4\x90\x80\x80"),
    ("cut in the middle", b"ab\xE2\x82"),
    ("a lone continuation", b"a\x80b"),
    ("no UTF-8 at all", b"\xFF\xFE"),
];

/// Strings that are unusual and good: BOM, outside the basic plane, non-characters, controls.
const GOOD_STRINGS: [&str; 5] = ["\u{FEFF}bom", "a\u{FEFF}", "\u{1F600}", "\u{FFFF}", "é\u{301}"];

/// A PUBLISH whose topic is raw bytes.
fn publish_raw(version: u8, topic: &[u8], props: &Props) -> Vec<u8> {
    let mut body = string(topic);
    if version == V5 {
        body.extend(props.encode());
    }
    body.extend(b"payload");
    frame(0x30, &body)
}

#[test]
fn case_40_bad_strings_in_packets_close_the_connection() {
    FLEET.run("case_40", |cx| {
        let mut bystander = cx.watcher(&cx.topic("#"), 0);
        for (what, bad) in BAD_STRINGS {
            for version in [V311, V5] {
                let mut filters = 7u16.to_be_bytes().to_vec();
                if version == V5 {
                    filters.push(0);
                }
                filters.extend(string(bad));
                let unsubscribe = frame(0xA2, &filters);
                let subscribe = Subscribe::new(7, bad, 0).encode(version);
                let publish = publish_raw(version, bad, &Props::none());
                for bytes in [publish, subscribe, unsubscribe] {
                    let mut client = cx.connect(cx.version(version, "a"));
                    client.send(&bytes);
                    expect_malformed(&mut client, what);
                }
            }
        }
        bystander.ping();
        bystander.expect_silence();
    });
}

/// A bad topic may also be called invalid; everything else about strings is malformed.
fn expect_malformed(client: &mut Client, what: &str) {
    if client.version == V5 {
        match client.packet() {
            Packet::Disconnect { code, .. } => {
                assert_eq!(code, code::MALFORMED, "{what}");
            }
            other => panic!("{what} got {other:?}"),
        }
    }
    client.expect_closed();
}

#[test]
fn case_40_bad_strings_in_publish_properties_close_the_connection() {
    FLEET.run("case_40b", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 0);
        for (what, bad) in BAD_STRINGS {
            let text = string(bad);
            let key_first = [text.clone(), string(b"v")].concat();
            let key_last = [string(b"k"), text.clone()].concat();
            let placed = [
                (prop::RESPONSE_TOPIC, &text),
                (prop::CONTENT_TYPE, &text),
                (prop::USER_PROPERTY, &key_first),
                (prop::USER_PROPERTY, &key_last),
            ];
            for (id, value) in placed {
                let mut client = cx.connect(cx.v5("a"));
                let props = Props::none().raw(id, value);
                client.send(&publish_raw(V5, topic.as_bytes(), &props));
                expect_malformed(&mut client, what);
            }
        }
        watcher.ping();
        watcher.expect_silence();
    });
}

#[test]
fn case_40_bad_strings_in_connect_are_refused() {
    FLEET.run("case_40c", |cx| {
        for (what, bad) in BAD_STRINGS {
            for version in [V311, V5] {
                let mut id = cx.version(version, "a");
                id.client_id = bad.to_vec();
                let name = cx.version(version, "b").username(bad);
                let mut topic = cx.version(version, "c").will(Will::new("t", "will"));
                if let Some(will) = &mut topic.will {
                    will.topic = bad.to_vec();
                }
                for connect in [id, name, topic] {
                    eprintln!("{what}, version {version}");
                    cx.attempt(&connect).expect_refused(&[code::MALFORMED, 2]);
                }
            }
            let user =
                Props::none().raw(prop::USER_PROPERTY, &[string(b"k"), string(bad)].concat());
            let mut connect = cx.v5("d");
            connect.props = user.clone();
            cx.attempt(&connect).expect_refused(&[code::MALFORMED]);
            let will = Will::new("t", "will").props(user);
            cx.attempt(&cx.v5("e").will(will)).expect_refused(&[code::MALFORMED]);
        }
    });
}

#[test]
fn case_40_unusual_good_strings_are_kept_as_they_are() {
    FLEET.run("case_40d", |cx| {
        for (n, good) in GOOD_STRINGS.into_iter().enumerate() {
            let topic = cx.topic(good);
            let mut watcher = cx.watcher(&topic, 1);
            let plain = cx.topic(good.trim_start_matches('\u{FEFF}'));
            let props = Props::none().user(good, good).str(prop::CONTENT_TYPE, good);
            let mut client = cx.connect(cx.v5(&format!("{good}{n}")).username(good));
            client.publish(Publish::new(&topic, "exact").qos(1).props(props.clone()));
            let message = watcher.expect_message("exact");
            assert_eq!((message.topic.as_str(), message.props.forwarded()), (&*topic, props));
            if plain != topic {
                client.publish(Publish::new(&plain, "without the mark").qos(1));
            }
            watcher.ping();
            watcher.expect_silence();
        }
    });
}

#[test]
fn case_40_a_character_may_be_cut_anywhere_by_the_network() {
    FLEET.run("case_40e", |cx| {
        let topic = cx.topic("\u{1F600}é");
        let mut watcher = cx.watcher(&topic, 0);
        let mut client = cx.raw(V5);
        let mut bytes = cx.v5("a").username("\u{1F600}").encode();
        bytes.extend(Publish::new(&topic, "bytewise").encode(V5));
        for byte in bytes {
            client.send(&[byte]);
        }
        client.expect_connack(0);
        watcher.expect_message("bytewise");
    });
}

/// A CONNECT that must be refused: why, the packet, and the code of 5.0.
type Refused = (&'static str, Vec<u8>, u8);

/// Flags that disagree with the payload, for one version.
fn flag_cases(cx: &Cx<'_>, version: u8) -> Vec<Refused> {
    let plain = || cx.version(version, "a");
    let will = || plain().will(Will::new("t", "will"));
    let malformed = code::MALFORMED;
    vec![
        ("reserved flag 1", plain().encode_with(0x03, &[]), malformed),
        ("user name missing", plain().encode_with(0x82, &[]), malformed),
        ("password missing", plain().username("u").encode_with(0xC2, &[]), malformed),
        ("left-over bytes", plain().encode_with(0x02, &string(b"u")), malformed),
        ("will QoS without a will", plain().encode_with(0x0A, &[]), malformed),
        ("will retain without a will", plain().encode_with(0x22, &[]), malformed),
        ("will QoS 3", will().encode_with(0x1E, &[]), malformed),
        ("will missing", plain().encode_with(0x06, &[]), malformed),
        ("will without a flag", will().encode_with(0x02, &[]), malformed),
    ]
}

#[test]
fn case_42_connect_flags_must_agree_with_the_payload() {
    FLEET.run("case_42", |cx| {
        // 3.1 says nothing of reserved flags, and lets a user name be missing.
        for version in [V311, V5] {
            for (what, bytes, code) in flag_cases(cx, version) {
                eprintln!("{what}, version {version}");
                let mut client = cx.raw(version);
                client.send(&bytes);
                client.expect_refused(&[code]);
            }
        }
    });
}

#[test]
fn case_42_a_password_without_a_user_name() {
    FLEET.run("case_42b", |cx| {
        cx.attempt(&cx.v311("a").password("p")).expect_refused(&[4, 5]);
        let mut client = cx.connect(cx.v5("a").password("p"));
        client.ping();
    });
}

/// CONNECT properties that must be refused, with the codes that fit.
fn bad_connect_props() -> Vec<(&'static str, Props, &'static [u8])> {
    const MALFORMED: &[u8] = &[code::MALFORMED];
    const PROTOCOL: &[u8] = &[code::PROTOCOL_ERROR];
    let none = Props::none;
    let twice = |p: Props| Props([p.0.clone(), p.0].concat());
    vec![
        ("expiry twice", twice(none().u32(prop::SESSION_EXPIRY, 1)), PROTOCOL),
        ("receive maximum twice", twice(none().u16(prop::RECEIVE_MAXIMUM, 9)), PROTOCOL),
        ("method twice", twice(none().str(prop::AUTH_METHOD, "m")), PROTOCOL),
        ("receive maximum 0", none().u16(prop::RECEIVE_MAXIMUM, 0), PROTOCOL),
        ("packet size 0", none().u32(prop::MAXIMUM_PACKET_SIZE, 0), PROTOCOL),
        ("boolean 2", none().byte(prop::REQUEST_PROBLEM_INFO, 2), PROTOCOL),
        ("boolean 255", none().byte(prop::REQUEST_RESPONSE_INFO, 255), PROTOCOL),
        ("data without a method", none().bin(prop::AUTH_DATA, b"x"), PROTOCOL),
        ("a PUBLISH property", none().u16(prop::TOPIC_ALIAS, 1), &[0x81, 0x82]),
        ("a CONNACK property", none().u16(prop::SERVER_KEEP_ALIVE, 1), &[0x81, 0x82]),
        ("a will property", none().u32(prop::WILL_DELAY, 1), &[0x81, 0x82]),
        ("an unknown id", none().raw(0x7E, &[1]), MALFORMED),
        ("an unknown id of two bytes", none().raw(0x80, &[0x01, 1]), MALFORMED),
        ("cut short", none().raw(prop::SESSION_EXPIRY, &[0, 0]), MALFORMED),
    ]
}

#[test]
fn case_43_bad_properties_in_connect() {
    FLEET.run("case_43", |cx| {
        for (what, props, codes) in bad_connect_props() {
            eprintln!("{what}");
            let mut connect = cx.v5("a");
            connect.props = props;
            cx.attempt(&connect).expect_refused(codes);
        }
    });
}

#[test]
fn case_43_bad_properties_in_wills() {
    FLEET.run("case_43b", |cx| {
        let twice = |p: Props| Props([p.0.clone(), p.0].concat());
        let none = Props::none;
        let bad: [(&str, Props, &[u8]); 6] = [
            ("delay twice", twice(none().u32(prop::WILL_DELAY, 1)), &[0x82]),
            ("format 2", none().byte(prop::PAYLOAD_FORMAT, 2), &[0x82, 0x99]),
            ("an alias", none().u16(prop::TOPIC_ALIAS, 1), &[0x81, 0x82]),
            ("a session's", none().u32(prop::SESSION_EXPIRY, 1), &[0x81, 0x82]),
            ("unknown", none().raw(0x7E, &[1]), &[0x81]),
            ("response topic #", none().str(prop::RESPONSE_TOPIC, "#"), &[0x82, 0x90]),
        ];
        for (what, props, codes) in bad {
            eprintln!("{what}");
            let will = Will::new("t", "will").props(props);
            cx.attempt(&cx.v5("a").will(will)).expect_refused(codes);
        }
        for topic in ["a/#", "+", ""] {
            let will = Will::new(topic, "will");
            let codes = [code::TOPIC_INVALID, code::MALFORMED, code::PROTOCOL_ERROR];
            cx.attempt(&cx.v5("a").will(will.clone())).expect_refused(&codes);
            cx.attempt(&cx.v311("a").will(will)).expect_refused(&[2, 5]);
        }
    });
}

/// Packets of a connected client whose properties are wrong.
fn bad_packets(topic: &str) -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let none = Props::none;
    let publish = |props: Props| Publish::new(topic, "x").props(props).encode(V5);
    let subscribe = |props: Props| {
        let mut packet = Subscribe::new(1, topic, 0);
        packet.props = props;
        packet.encode(V5)
    };
    let ack = |props: Props| frame(0x40, &[&[0, 1, 0x10], &props.encode()[..]].concat());
    let both: &[u8] = &[0x81, 0x82];
    let two_ids = none().var(prop::SUBSCRIPTION_ID, 1).var(prop::SUBSCRIPTION_ID, 2);
    let too_long = none().raw(prop::SUBSCRIPTION_ID, &[0xFF, 0xFF, 0xFF, 0xFF, 1]);
    let two_formats = none().byte(prop::PAYLOAD_FORMAT, 1).byte(prop::PAYLOAD_FORMAT, 1);
    vec![
        ("format twice", publish(two_formats), &[0x82]),
        ("expiry cut", publish(none().raw(prop::MESSAGE_EXPIRY, &[1])), &[0x81]),
        ("session expiry in PUBLISH", publish(none().u32(prop::SESSION_EXPIRY, 1)), both),
        ("unknown in PUBLISH", publish(none().raw(0x04, &[1])), &[0x81]),
        ("subscription id twice", subscribe(two_ids), &[0x82]),
        ("over-long subscription id", subscribe(too_long), &[0x81]),
        ("alias in SUBSCRIBE", subscribe(none().u16(prop::TOPIC_ALIAS, 1)), both),
        ("alias in PUBACK", ack(none().u16(prop::TOPIC_ALIAS, 1)), both),
        ("properties longer than the packet", frame(0x30, &[0, 1, b't', 0x70, 1]), &[0x81]),
        ("over-long property length", frame(0x30, &[0, 1, b't', 0x80, 0x00]), &[0x81]),
    ]
}

#[test]
fn case_43_bad_properties_in_other_packets() {
    FLEET.run("case_43c", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 0);
        for (what, bytes, codes) in bad_packets(&topic) {
            eprintln!("{what}");
            let mut client = cx.connect(cx.v5("a"));
            client.send(&bytes);
            client.expect_disconnect(codes);
        }
        let mut client = cx.connect(cx.v5("a"));
        let twice = Props::none().user("k", "v").u32(prop::SESSION_EXPIRY, 1).user("k", "v");
        let twice = Props([twice.0.clone(), twice.0].concat());
        client.send(&packet::disconnect(V5, 0, &twice));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
        watcher.ping();
        watcher.expect_silence();
    });
}

#[test]
fn case_44_bad_response_topics_and_payload_formats_are_not_forwarded() {
    FLEET.run("case_44", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 2);
        let none = Props::none;
        let bad: [(Props, &[u8]); 5] = [
            (none().str(prop::RESPONSE_TOPIC, "a/#"), &[0x82, 0x90]),
            (none().str(prop::RESPONSE_TOPIC, "+/a"), &[0x82, 0x90]),
            (none().str(prop::RESPONSE_TOPIC, ""), &[0x82, 0x90]),
            (none().byte(prop::PAYLOAD_FORMAT, 2), &[0x82]),
            (none().byte(prop::PAYLOAD_FORMAT, 255), &[0x82]),
        ];
        for (props, codes) in bad {
            for qos in 0..=2 {
                let mut publish = Publish::new(&topic, "x").qos(qos).props(props.clone());
                publish.id = (qos > 0).then_some(1);
                let mut client = cx.connect(cx.v5("a"));
                client.send_publish(&publish);
                client.expect_disconnect(codes);
            }
        }
        watcher.ping();
        watcher.expect_silence();
    });
}

#[test]
fn case_44_wildcards_in_a_topic_are_not_forwarded() {
    FLEET.run("case_44b", |cx| {
        let mut watcher = cx.watcher(&cx.topic("#"), 2);
        for name in ["#", "+", "a/+/b", "a#b"] {
            for version in [V311, V5] {
                let mut client = cx.connect(cx.version(version, "a"));
                client.send_publish(&Publish::new(&cx.topic(name), "x").qos(1).id(1));
                match client.event(PATIENCE) {
                    Event::Packet(Packet::PubAck(a)) => assert_eq!(a.code, code::TOPIC_INVALID),
                    Event::Packet(Packet::Disconnect { code, .. }) => {
                        let fits = [code::TOPIC_INVALID, code::MALFORMED, code::PROTOCOL_ERROR];
                        assert!(fits.contains(&code), "{code:#04x}");
                    }
                    Event::Closed => assert_eq!(version, V311),
                    other => panic!("a topic with a wildcard got {other:?}"),
                }
            }
        }
        watcher.ping();
        watcher.expect_silence();
    });
}

#[test]
fn case_47_packets_of_a_server_from_a_client_close_the_connection() {
    FLEET.run("case_47", |cx| {
        for version in [V31, V311, V5] {
            let server_packets = [
                frame(0x20, if version == V5 { &[0, 0, 0] } else { &[0, 0] }),
                frame(0x90, if version == V5 { &[0, 1, 0, 0] } else { &[0, 1, 0] }),
                frame(0xB0, if version == V5 { &[0, 1, 0, 0] } else { &[0, 1] }),
                frame(0xD0, &[]),
            ];
            for bytes in server_packets {
                let mut client = cx.connect(cx.version(version, "a"));
                client.send(&bytes);
                client.expect_disconnect(&[code::PROTOCOL_ERROR, code::MALFORMED]);
                // And as the first packet.
                let mut client = cx.raw(version);
                client.send(&bytes);
                client.expect_closed();
            }
        }
    });
}

#[test]
fn reserved_types_and_flags_close_the_connection() {
    FLEET.run("reserved", |cx| {
        let id = [0, 1];
        let bad: [(&str, Vec<u8>, u8); 12] = [
            ("type 0", frame(0x00, &[]), V5),
            ("type 15 below 5.0", frame(0xF0, &[]), V311),
            ("PINGREQ flags", frame(0xC1, &[]), V5),
            ("PINGREQ with a body", frame(0xC0, &[1]), V5),
            ("PUBREL flags", frame(0x60, &id), V5),
            ("PUBACK flags", frame(0x42, &id), V311),
            ("SUBSCRIBE flags", frame(0x80, &[0, 1, 0, 0, 1, b'a', 0]), V5),
            ("UNSUBSCRIBE flags", frame(0xA0, &[0, 1, 0, 0, 1, b'a']), V5),
            ("DISCONNECT flags", frame(0xE1, &[]), V5),
            ("PUBLISH QoS 3", frame(0x36, &[0, 1, b't', 0, 1, 0]), V5),
            ("PUBLISH QoS 0 with DUP", frame(0x38, &[0, 1, b't', 0]), V5),
            ("a five byte length", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], V5),
        ];
        for (what, bytes, version) in bad {
            eprintln!("{what}");
            let mut client = cx.connect(cx.version(version, "a"));
            client.send(&bytes);
            client.expect_disconnect(&[code::MALFORMED]);
        }
    });
}

#[test]
fn packet_id_0_and_empty_requests_close_the_connection() {
    FLEET.run("id_0", |cx| {
        let both = [code::PROTOCOL_ERROR, code::MALFORMED];
        let bad = [
            ("PUBLISH id 0", Publish::new("t", "x").qos(1).id(0).encode(V5)),
            ("SUBSCRIBE id 0", Subscribe::new(0, "t", 0).encode(V5)),
            ("UNSUBSCRIBE id 0", frame(0xA2, &[0, 0, 0, 0, 1, b'a'])),
            ("SUBSCRIBE of nothing", frame(0x82, &[0, 1, 0])),
            ("UNSUBSCRIBE of nothing", frame(0xA2, &[0, 1, 0])),
            ("options with QoS 3", Subscribe::new(1, "t", 3).encode(V5)),
            ("retain handling 3", Subscribe::new(1, "t", 0x30).encode(V5)),
            ("reserved option bits", Subscribe::new(1, "t", 0x40).encode(V5)),
        ];
        for (what, bytes) in bad {
            eprintln!("{what}");
            let mut client = cx.connect(cx.v5("a"));
            client.send(&bytes);
            client.expect_disconnect(&both);
        }
        for options in [3, 4, 0x10, 0x80] {
            let mut client = cx.connect(cx.v311("a"));
            client.send(&Subscribe::new(1, "t", options).encode(V311));
            client.expect_closed();
        }
    });
}

#[test]
fn every_cut_of_every_packet_is_waited_for_or_refused() {
    FLEET.run("cuts", |cx| {
        let connect = Connect::new(V5, &cx.id("a")).will(Will::new("t", "w")).username("u");
        let packets = [
            Publish::new("topic", "x").qos(1).id(1).props(Props::none().user("a", "b")),
            Publish::new("topic", "x").qos(2).id(1).expiry(5),
        ];
        for whole in packets.map(|p| p.encode(V5)) {
            // The length says that the packet is whole, its inside is cut.
            for len in 2..whole.len() - 1 {
                let cut = frame(whole[0], &whole[2..len]);
                let mut client = cx.connect(cx.v5("b"));
                client.send(&cut);
                client.send(&packet::PINGREQ);
                // A shorter payload is a good PUBLISH; all else ends the connection.
                match client.event(PATIENCE) {
                    Event::Packet(Packet::Disconnect { code, .. }) => assert!(code >= 0x80),
                    Event::Packet(Packet::PubAck(_) | Packet::PubRec(_)) => {}
                    other => panic!("a PUBLISH cut to {len} bytes got {other:?}"),
                }
            }
        }
        let whole = connect.encode();
        for len in 2..whole.len() {
            let mut client = cx.raw(V5);
            client.send(&frame(0x10, &whole[2..len]));
            // Below the version's byte the server cannot know how to answer.
            match client.event(PATIENCE) {
                Event::Packet(Packet::ConnAck { code, .. }) => assert!(code >= 0x80),
                Event::Closed => assert!(len < 9, "closed without a code at {len}"),
                other => panic!("a CONNECT cut to {len} bytes got {other:?}"),
            }
        }
        // A header alone is waited for, and the connection may go away meanwhile.
        let mut client = cx.raw(V5);
        client.send(&header_only(0x10, 40));
        client.drop_connection();
    });
}
