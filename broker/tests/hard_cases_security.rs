//! Hard cases 46 and 48: enhanced authentication and the access list; the keys of hashes. These
//! brokers have a configuration of their own: the test method, and a file of rules.

mod common;

use std::time::Duration;

use common::broker::{scratch, target};
use common::packet::{PUBREL, auth};
use common::{Broker, Client, Connect, Cx, Event, Fleet, PATIENCE, Packet, Props, Publish};
use common::{Settings, V5, V311, Will, code, eventually, packet, prop};

static FLEET: Fleet = Fleet::new(settings);

/// The same with verdicts that come some turns late, as from a remote service: what asks is parked.
static LATE: Fleet =
    Fleet::new(|shards| settings(shards).env("RINGTIDE_TEST_LATE_ACCESS_TURNS", "3"));

fn settings(shards: u32) -> Settings {
    Settings::new(shards)
        .config("[access]\nacl_file = \"@DIR@/rules.acl\"\n")
        .file("rules.acl", RULES)
        .env("RINGTIDE_TEST_AUTH_METHOD", "1")
}

/// Runs a test with verdicts at once and with late ones.
fn with_both(name: &str, test: impl Fn(&Cx<'_>) + Sync) {
    FLEET.run(name, &test);
    LATE.run(name, &test);
}

const RULES: &str = "\
deny  all         publish    denied/#
deny  all         subscribe  secret/#
allow user writer publish    own/%u/#
allow all         publish    home/%c/state
deny  all         publish    own/#
deny  all         publish    home/#
default allow
";

const METHOD: &str = "TEST-ECHO";

fn with_method(connect: Connect, method: &str) -> Connect {
    connect.prop(|p| p.str(prop::AUTH_METHOD, method))
}

fn answer(method: &str, data: &str) -> Vec<u8> {
    auth_packet(code::CONTINUE_AUTHENTICATION, method, data)
}

fn auth_packet(code: u8, method: &str, data: &str) -> Vec<u8> {
    auth(code, &Props::none().str(prop::AUTH_METHOD, method).bin(prop::AUTH_DATA, data.as_bytes()))
}

/// Expects AUTH with this code, the method repeated.
#[track_caller]
fn expect_auth(client: &mut Client, wanted: u8) {
    let props = client.wait_for("AUTH", |p| match p {
        Packet::Auth { code, props } => {
            assert_eq!(*code, wanted);
            Some(props.clone())
        }
        _ => None,
    });
    assert_eq!(props.text(prop::AUTH_METHOD), Some(METHOD));
}

/// A client that has passed the exchange.
fn authenticated(cx: &Cx<'_>, name: &str) -> Client {
    let mut client = cx.attempt(&with_method(cx.v5(name), METHOD));
    expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
    client.send(&answer(METHOD, "response"));
    client.expect_connack(0);
    client
}

#[test]
fn case_46_the_method_is_repeated_in_auth_and_connack() {
    FLEET.run("case_46", |cx| {
        let mut client = authenticated(cx, "a");
        assert_eq!(client.connack_props().text(prop::AUTH_METHOD), Some(METHOD));
        client.ping();
        let mut plain = cx.connect(cx.v5("plain"));
        assert!(!plain.connack_props().has(prop::AUTH_METHOD));
        plain.ping();
    });
}

#[test]
fn case_46_a_wrong_answer_or_method_is_refused() {
    FLEET.run("case_46b", |cx| {
        let mut client = cx.attempt(&with_method(cx.v5("a"), METHOD));
        expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
        client.send(&answer(METHOD, "wrong"));
        client.expect_refused(&[code::NOT_AUTHORIZED, code::BAD_CREDENTIALS]);

        let mut client = cx.attempt(&with_method(cx.v5("a"), "UNKNOWN"));
        client.expect_refused(&[code::BAD_AUTH_METHOD]);

        let mut client = cx.attempt(&with_method(cx.v5("a"), METHOD));
        expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
        client.send(&answer("OTHER", "response"));
        client.expect_refused(&[code::PROTOCOL_ERROR, code::BAD_AUTH_METHOD]);
    });
}

#[test]
fn case_46_before_connack_only_auth_or_disconnect_is_taken() {
    FLEET.run("case_46c", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 0);
        let mut client = cx.attempt(&with_method(cx.v5("a"), METHOD));
        expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
        client.send_publish(&Publish::new(&topic, "too early"));
        match client.event(PATIENCE) {
            Event::Packet(Packet::ConnAck { code, .. }) => assert_eq!(code, code::PROTOCOL_ERROR),
            Event::Closed => {}
            other => panic!("a PUBLISH before CONNACK got {other:?}"),
        }
        client.expect_closed();
        let mut client = cx.attempt(&with_method(cx.v5("b"), METHOD));
        expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
        client.disconnect_with(0, &Props::none());
        watcher.ping();
        watcher.expect_silence();
    });
}

#[test]
fn case_46_auth_without_a_method_is_a_protocol_error() {
    FLEET.run("case_46d", |cx| {
        for code in [code::CONTINUE_AUTHENTICATION, code::RE_AUTHENTICATE] {
            let mut client = cx.connect(cx.v5("a"));
            client.send(&auth_packet(code, METHOD, "x"));
            client.expect_disconnect(&[code::PROTOCOL_ERROR]);
        }
        // The property itself is missing.
        let mut client = authenticated(cx, "b");
        client.send(&auth(code::RE_AUTHENTICATE, &Props::none()));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    });
}

#[test]
fn case_46_messages_flow_during_re_authentication() {
    FLEET.run("case_46e", |cx| {
        let topic = cx.topic("t");
        let mut client = authenticated(cx, "a");
        client.subscribe(&topic, 1);
        for _ in 0..2 {
            client.send(&auth_packet(code::RE_AUTHENTICATE, METHOD, ""));
            expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
            cx.publisher().publish(Publish::new(&topic, "to it").qos(1));
            client.expect_message("to it");
            client.publish(Publish::new(&topic, "from it").qos(2));
            client.expect_message("from it");
            client.send(&answer(METHOD, "response"));
            expect_auth(&mut client, code::SUCCESS);
        }
        client.ping();
    });
}

#[test]
fn case_46_failed_re_authentication_closes() {
    FLEET.run("case_46f", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 0);
        let connect = with_method(cx.v5("a"), METHOD).will(Will::new(&topic, "will"));
        let mut client = cx.attempt(&connect);
        expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
        client.send(&answer(METHOD, "response"));
        client.expect_connack(0);
        client.send(&auth_packet(code::RE_AUTHENTICATE, METHOD, ""));
        expect_auth(&mut client, code::CONTINUE_AUTHENTICATION);
        client.send(&answer(METHOD, "wrong"));
        client.expect_disconnect(&[code::NOT_AUTHORIZED, code::BAD_CREDENTIALS]);
        watcher.expect_message("will");

        let mut client = authenticated(cx, "b");
        client.send(&auth_packet(code::RE_AUTHENTICATE, "OTHER", ""));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    });
}

#[test]
fn case_48_an_unauthorized_publish_in_5_gets_0x87_and_the_client_stays() {
    with_both("case_48", |cx| {
        let topic = format!("denied/{}", cx.topic("t"));
        let mut watcher = cx.watcher(&topic, 2);
        let mut client = cx.connect(cx.v5("a").receive_maximum(1));
        client.publish(Publish::new(&topic, "x").retain());
        for _ in 0..3 {
            let q1 = Publish::new(&topic, "x").qos(1).id(1).retain();
            assert_eq!(client.publish(q1), code::NOT_AUTHORIZED);
            let q2 = Publish::new(&topic, "x").qos(2).id(1).retain();
            assert_eq!(client.publish(q2), code::NOT_AUTHORIZED);
        }
        // The refused QoS 2 id is free.
        client.ack(PUBREL, 1, 0);
        assert_eq!(client.expect_pubcomp(1), code::ID_NOT_FOUND);
        watcher.ping();
        watcher.expect_silence();
        let mut late = cx.watcher(&topic, 2);
        late.ping();
        late.expect_silence();
    });
}

#[test]
fn case_48_an_unauthorized_publish_in_3_1_1_is_acknowledged_or_closed() {
    with_both("case_48b", |cx| {
        let topic = format!("denied/{}", cx.topic("t"));
        let mut watcher = cx.watcher(&topic, 2);
        for qos in 0..=2 {
            let mut client = cx.connect(cx.v311("a"));
            let mut publish = Publish::new(&topic, "x").qos(qos).retain();
            publish.id = (qos > 0).then_some(9);
            client.send_publish(&publish);
            client.send(&packet::PINGREQ);
            match (qos, client.event(PATIENCE)) {
                (_, Event::Closed) | (0, Event::Packet(Packet::PingResp)) => {}
                (1, Event::Packet(Packet::PubAck(a))) => assert_eq!(a.id, 9),
                (2, Event::Packet(Packet::PubRec(a))) => {
                    assert_eq!(a.id, 9);
                    client.ack(PUBREL, 9, 0);
                    client.expect_pubcomp(9);
                }
                (qos, other) => panic!("QoS {qos} got {other:?}"),
            }
        }
        watcher.ping();
        watcher.expect_silence();
        let mut late = cx.watcher(&topic, 2);
        late.ping();
        late.expect_silence();
    });
}

#[test]
fn case_48_an_unauthorized_will_is_not_published() {
    with_both("case_48c", |cx| {
        let topic = format!("denied/{}", cx.topic("t"));
        let mut watcher = cx.watcher(&topic, 2);
        let mut client = cx.attempt(&cx.v5("a").will(Will::new(&topic, "will").retain()));
        // Refused at once, or dropped when it is due.
        match client.packet() {
            Packet::ConnAck { code: 0, .. } => client.lose_network(),
            Packet::ConnAck { code, .. } => assert_eq!(code, code::NOT_AUTHORIZED),
            other => panic!("CONNECT got {other:?}"),
        }
        watcher.ping();
        watcher.expect_silence();
        let mut late = cx.watcher(&topic, 2);
        late.ping();
        late.expect_silence();
    });
}

#[test]
fn case_48_rules_with_placeholders_follow_user_and_client() {
    with_both("case_48d", |cx| {
        let user = format!("own/writer/{}", cx.topic("t"));
        let client = format!("home/{}/state", cx.id("device"));
        let mut device = cx.connect(cx.v5("device").username("writer").password("any"));
        let mut other = cx.connect(cx.v5("other").username("reader").password("any"));
        for topic in [&user, &client] {
            let mut watcher = cx.watcher(topic, 1);
            assert!(device.publish(Publish::new(topic, "mine").qos(1)) < 0x80);
            let refused = other.publish(Publish::new(topic, "theirs").qos(1));
            assert_eq!(refused, code::NOT_AUTHORIZED);
            watcher.expect_message("mine");
            watcher.ping();
            watcher.expect_silence();
        }
    });
}

#[test]
fn case_48_an_unauthorized_subscribe_is_refused_for_each_filter() {
    with_both("case_48e", |cx| {
        let secret = format!("secret/{}", cx.topic("t"));
        for (version, refused) in [(V5, code::NOT_AUTHORIZED), (V311, 0x80)] {
            let mut client = cx.connect(cx.version(version, "a"));
            assert_eq!(client.subscribe(&secret, 1), refused);
            assert_eq!(client.subscribe(&cx.topic("open"), 1), 1);
            // Publishing there is free: it must reach nobody who was refused.
            cx.publisher().publish(Publish::new(&secret, "x").qos(1).retain());
            client.ping();
            client.expect_silence();
        }
        cx.publisher().publish(Publish::new(&secret, "").qos(1).retain());
    });
}

#[test]
fn a_parked_publish_holds_back_only_its_publisher_and_keeps_the_order() {
    LATE.run("parked", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 2);
        let mut publisher = cx.connect(cx.v5("a"));
        let mut bytes = Vec::new();
        for id in 1..=60u16 {
            let mut publish = Publish::new(&topic, id.to_string()).qos((id % 3) as u8);
            publish.id = (id % 3 > 0).then_some(id);
            bytes.extend(publish.encode(V5));
        }
        publisher.send(&bytes);
        let expected: Vec<String> = (1..=60).map(|n: u16| n.to_string()).collect();
        assert_eq!(watcher.texts(60), expected);
        for id in (1..=60).filter(|id| id % 3 == 1) {
            assert!(publisher.expect_puback(id) < 0x80);
        }
        for id in (1..=60).filter(|id| id % 3 == 2) {
            assert!(publisher.expect_pubrec(id) < 0x80);
        }
        // A client that leaves while its publish is parked takes nobody with it.
        let mut leaves = cx.connect(cx.v5("b"));
        leaves.send(&bytes);
        leaves.drop_connection();
        cx.connect(cx.v5("c")).ping();
    });
}

/// Which member of a group gets each of many topics, where the hash of the topic says it.
fn dealt_by_hash(broker: &Broker) -> Vec<usize> {
    const TOPICS: usize = 40;
    let connect = |name: &str| Client::connect(&broker.address, &Connect::new(V5, name));
    let mut members = ["a", "b", "c", "d", "e", "f"].map(connect);
    for member in &mut members {
        assert_eq!(member.subscribe("$share/g/hashed/+", 1), 1);
    }
    let mut publisher = connect("publisher");
    for topic in 0..TOPICS {
        let publish = Publish::new(&format!("hashed/{topic}"), topic.to_string()).qos(1);
        assert_eq!(publisher.publish(publish), 0);
    }
    let mut dealt = vec![None; TOPICS];
    eventually("every message comes", || {
        for (number, member) in members.iter_mut().enumerate() {
            while let Event::Packet(Packet::Publish(m)) = member.event(Duration::from_millis(1)) {
                let topic: usize = m.text().parse().expect("a number");
                assert_eq!(dealt[topic].replace(number), None, "twice: {m:?}");
            }
        }
        dealt.iter().all(Option::is_some)
    });
    dealt.into_iter().flatten().collect()
}

#[test]
fn topic_hashes_follow_the_data_directory_and_cannot_be_guessed() {
    if target().is_some() {
        eprintln!("skipped: a foreign broker cannot be given the configuration");
        return;
    }
    let hashed = "[shared]\nstrategy = \"hash_topic\"\n";
    let settings = Settings::new(1).on_disk().config(hashed);
    let (one, two) = (scratch(), scratch());
    let kept = |dir| dealt_by_hash(&Broker::start(&settings.clone().data_dir(dir)));
    let first = kept(&one);
    assert_eq!(first, kept(&one), "the hashes in what is kept must be found again");
    assert_ne!(first, kept(&two), "another data directory has another key");
    let memory = settings.clone().env("RINGTIDE_DURABILITY", "memory");
    let lost = || dealt_by_hash(&Broker::start(&memory));
    assert_ne!(lost(), lost(), "where nothing is kept every start has its own");
}
