//! Hard cases 21 to 23 and 25: topic aliases both ways, message expiry, what a will carries.

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::{Client, Connect, Fleet, Props, Publish, Settings, Will};
use common::{V5, code, prop, wire};

static FLEET: Fleet = Fleet::new(Settings::new);

fn alias_maximum(client: &Client) -> u16 {
    let announced = client.connack_props().number(prop::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
    u16::try_from(announced).expect("16 bits")
}

#[test]
fn case_21_alias_0_and_above_the_maximum_are_refused() {
    FLEET.run("case_21", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 0);
        let maximum = alias_maximum(&cx.connect(cx.v5("probe")));
        assert!(maximum > 0, "the server takes aliases");
        for alias in [0, maximum.checked_add(1).expect("not every alias is legal"), u16::MAX] {
            let mut client = cx.connect(cx.v5("a"));
            client.send_publish(&Publish::new(&topic, "x").alias(alias));
            client.expect_disconnect(&[code::ALIAS_INVALID]);
        }
        watcher.ping();
        watcher.expect_silence();
        let mut client = cx.connect(cx.v5("a"));
        client.publish(Publish::new(&topic, "set").alias(maximum));
        client.publish(Publish::new("", "used").alias(maximum).qos(1));
        assert_eq!(watcher.texts(2), ["set", "used"]);
    });
}

#[test]
fn case_21_an_unknown_alias_without_a_topic_is_a_protocol_error() {
    FLEET.run("case_21b", |cx| {
        for alias in [1, 2] {
            let mut client = cx.connect(cx.v5("a"));
            client.send_publish(&Publish::new(&cx.topic("t"), "x").alias(3));
            client.send_publish(&Publish::new("", "x").alias(alias));
            client.expect_disconnect(&[code::PROTOCOL_ERROR, code::ALIAS_INVALID]);
        }
        let mut client = cx.connect(cx.v5("a"));
        client.send_publish(&Publish::new("", "neither topic nor alias"));
        let codes = [code::PROTOCOL_ERROR, code::MALFORMED, code::TOPIC_INVALID];
        client.expect_disconnect(&codes);
    });
}

#[test]
fn case_21_an_alias_may_be_mapped_again() {
    FLEET.run("case_21c", |cx| {
        let mut watcher = cx.watcher(&cx.topic("#"), 1);
        let mut client = cx.connect(cx.v5("a"));
        let (a, b) = (cx.topic("a"), cx.topic("b"));
        let sent = [(a.as_str(), 1), ("", 1), (b.as_str(), 1), ("", 1), (a.as_str(), 2), ("", 2)];
        for (n, (topic, alias)) in sent.into_iter().enumerate() {
            let publish = Publish::new(topic, n.to_string()).qos(n as u8 % 3).alias(alias);
            client.publish(publish);
        }
        client.publish(Publish::new("", "still b").alias(1));
        let topics: Vec<String> = watcher.messages(7).into_iter().map(|m| m.topic).collect();
        assert_eq!(topics, [&a, &a, &b, &b, &a, &a, &b].map(String::clone));
    });
}

#[test]
fn case_21_mappings_die_with_the_connection() {
    FLEET.run("case_21d", |cx| {
        let connect = || cx.v5("a").resume().expiry(600);
        let mut client = cx.connect(connect());
        client.publish(Publish::new(&cx.topic("t"), "x").qos(1).alias(1));
        let mut client = cx.connect(connect());
        assert!(client.session_present());
        client.send_publish(&Publish::new("", "x").alias(1));
        client.expect_disconnect(&[code::PROTOCOL_ERROR, code::ALIAS_INVALID]);
    });
}

/// The client's side of outgoing aliases: resolves a topic and refuses what no client could.
struct Aliases {
    maximum: u32,
    topics: HashMap<u32, String>,
    used: usize,
}

impl Aliases {
    fn new(maximum: u32) -> Aliases {
        Aliases { maximum, topics: HashMap::new(), used: 0 }
    }

    fn resolve(&mut self, message: &Publish) -> String {
        let Some(alias) = message.props.number(prop::TOPIC_ALIAS) else {
            assert!(!message.topic.is_empty());
            return message.topic.clone();
        };
        assert!(alias >= 1 && alias <= self.maximum, "alias {alias} of {}", self.maximum);
        if message.topic.is_empty() {
            self.used += 1;
            return self.topics.get(&alias).expect("an alias that was set").clone();
        }
        self.topics.insert(alias, message.topic.clone());
        message.topic.clone()
    }
}

fn with_aliases(connect: Connect, maximum: u16) -> Connect {
    connect.prop(|p| p.u16(prop::TOPIC_ALIAS_MAXIMUM, maximum))
}

#[test]
fn case_22_outgoing_aliases_stay_within_the_clients_maximum() {
    FLEET.run("case_22", |cx| {
        for maximum in [0, 1, 3] {
            let name = format!("m{maximum}");
            let mut sub = cx.connect(with_aliases(cx.v5(&name), maximum));
            sub.subscribe(&cx.topic("+"), 1);
            let mut publisher = cx.publisher();
            let mut aliases = Aliases::new(u32::from(maximum));
            for n in 0..60u32 {
                let topic = cx.topic(&(n * n % 7).to_string());
                publisher.publish(Publish::new(&topic, n.to_string()).qos((n % 3) as u8));
                let message = sub.expect_message(&n.to_string());
                assert_eq!(aliases.resolve(&message), topic);
            }
            // And without the property there is none, on a resumed session too.
            let mut sub = cx.connect(cx.v5(&name));
            sub.subscribe(&cx.topic("+"), 1);
            publisher.publish(Publish::new(&cx.topic("1"), "plain").qos(1));
            assert!(!sub.expect_message("plain").props.has(prop::TOPIC_ALIAS));
        }
    });
}

#[test]
fn case_22_an_alias_of_a_dropped_packet_does_not_count_as_set() {
    FLEET.run("case_22b", |cx| {
        let topic = cx.topic("t");
        let connect = with_aliases(cx.v5("sub"), 10).maximum_packet(150);
        let mut sub = cx.connect(connect);
        sub.subscribe(&topic, 1);
        let mut publisher = cx.publisher();
        let mut aliases = Aliases::new(10);
        for n in 0..4 {
            for qos in [0, 1] {
                publisher.publish(Publish::new(&topic, "l".repeat(300)).qos(qos));
                publisher.publish(Publish::new(&topic, n.to_string()).qos(qos));
                let message = sub.expect_message(&n.to_string());
                assert_eq!(aliases.resolve(&message), topic);
            }
        }
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_22_a_resumed_session_sets_its_aliases_anew() {
    FLEET.run("case_22c", |cx| {
        let topic = cx.topic("t");
        let connect = || with_aliases(cx.v5("sub").resume().expiry(600), 5);
        let mut publisher = cx.publisher();
        cx.connect(connect()).subscribe(&topic, 1);
        for _ in 0..2 {
            let mut sub = cx.connect(connect());
            let mut aliases = Aliases::new(5);
            for _ in 0..3 {
                publisher.publish(Publish::new(&topic, "x").qos(1));
                let message = sub.raw_message();
                assert_eq!(aliases.resolve(&message), topic);
            }
            sub.lose_network();
            // What was in flight comes again, with an alias of the new connection or none.
            let mut sub = cx.connect(connect());
            let mut aliases = Aliases::new(5);
            for _ in 0..3 {
                let message = sub.message();
                assert!(message.dup);
                assert_eq!(aliases.resolve(&message), topic);
            }
        }
    });
}

/// The expiry on a message that was published with `given` at `since` and has come now.
fn expect_reduced(message: &Publish, given: u32, least_waited: u32, since: Instant) {
    let sent = message.props.number(prop::MESSAGE_EXPIRY).expect("an expiry");
    let waited = since.elapsed().as_secs() as u32 + 1;
    assert!(sent <= given - least_waited, "{sent} of {given} after {least_waited} s");
    assert!(sent + waited >= given, "{sent} of {given} after at most {waited} s");
}

#[test]
fn case_23_expiry_is_reduced_by_the_time_of_waiting() {
    FLEET.run("case_23", |cx| {
        let (kept, queued) = (cx.topic("kept"), cx.topic("queued"));
        let connect = || cx.v5("sub").resume().expiry(600);
        let mut sub = cx.connect(connect());
        sub.subscribe(&queued, 1);
        let mut live = cx.watcher(&queued, 1);
        sub.disconnect();
        let since = Instant::now();
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&kept, "kept").qos(1).retain().expiry(100));
        publisher.publish(Publish::new(&queued, "queued").qos(1).expiry(100));
        expect_reduced(&live.expect_message("queued"), 100, 0, since);
        std::thread::sleep(Duration::from_millis(2200));
        let mut sub = cx.connect(connect());
        expect_reduced(&sub.expect_message("queued"), 100, 2, since);
        sub.subscribe(&kept, 1);
        expect_reduced(&sub.expect_message("kept"), 100, 2, since);
    });
}

#[test]
fn case_23_expired_messages_vanish_from_store_and_queue() {
    FLEET.run("case_23b", |cx| {
        let (kept, queued) = (cx.topic("kept"), cx.topic("queued"));
        let connect = || cx.v5("sub").resume().expiry(600).receive_maximum(1);
        let mut sub = cx.connect(connect());
        sub.subscribe(&queued, 1);
        let mut publisher = cx.publisher();
        // The first takes the only slot, so the others wait in the queue of an online session.
        publisher.publish(Publish::new(&queued, "in flight").qos(1));
        let first = sub.raw_message();
        let mut offline = cx.connect(cx.v5("offline").expiry(600));
        offline.subscribe(&queued, 1);
        offline.disconnect();
        publisher.publish(Publish::new(&kept, "kept").qos(1).retain().expiry(1));
        publisher.publish(Publish::new(&queued, "expires").qos(1).expiry(1));
        publisher.publish(Publish::new(&queued, "stays").qos(1).expiry(100));
        std::thread::sleep(Duration::from_millis(2500));
        sub.finish(&first);
        sub.expect_message("stays");
        let mut offline = cx.connect(cx.v5("offline").resume().expiry(600));
        offline.expect_message("stays");
        for client in [&mut sub, &mut offline] {
            client.subscribe(&kept, 1);
            client.ping();
            client.expect_silence();
        }
    });
}

#[test]
fn case_23_an_expired_retained_message_may_be_replaced() {
    FLEET.run("case_23c", |cx| {
        let topic = cx.topic("t");
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "short").qos(1).retain().expiry(1));
        publisher.publish(Publish::new(&topic, "long").qos(1).retain().expiry(100));
        std::thread::sleep(Duration::from_millis(2500));
        let mut sub = cx.connect(cx.v311("sub"));
        sub.subscribe(&topic, 1);
        sub.expect_message("long");
    });
}

/// Properties that a server must pass on as they are, in their order.
fn forwarded_props() -> Props {
    Props::none()
        .byte(prop::PAYLOAD_FORMAT, 1)
        .str(prop::CONTENT_TYPE, "text/plain")
        .user("k1", "first")
        .str(prop::RESPONSE_TOPIC, "answers/here")
        .user("k2", "second")
        .bin(prop::CORRELATION_DATA, &[0, 1, 2, 255])
        .user("k1", "third, of the first name")
        .user("", "")
}

fn user_properties(props: &Props) -> Vec<wire::Value> {
    let user = props.0.iter().filter(|(id, _)| *id == prop::USER_PROPERTY);
    user.map(|(_, value)| value.clone()).collect()
}

fn expect_forwarded(got: &Props) {
    let sent = forwarded_props();
    assert_eq!(user_properties(got), user_properties(&sent));
    for (id, value) in sent.0.iter().filter(|(id, _)| *id != prop::USER_PROPERTY) {
        assert_eq!(got.find(*id), Some(value), "property {id:#04x}");
    }
    assert_eq!(got.0.len(), sent.0.len(), "nothing added: {got:?}");
}

#[test]
fn case_25_a_wills_expiry_starts_at_its_publication() {
    FLEET.run("case_25", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 1);
        let (delay_s, expiry_s) = (3, 600);
        let mut will = Will::new(&topic, "will").qos(1).delay(delay_s);
        will.props = will.props.u32(prop::MESSAGE_EXPIRY, expiry_s);
        let client = cx.connect(cx.v5("a").expiry(600).will(will));
        let lost_at = Instant::now();
        client.lose_network();
        let message = watcher.expect_message("will");
        let sent = message.props.number(prop::MESSAGE_EXPIRY).expect("an expiry");
        // From its publication, which was not before the delay was over.
        let waited = lost_at.elapsed().saturating_sub(Duration::from_secs(delay_s.into()));
        let least = expiry_s - waited.as_secs() as u32 - 1;
        assert!((least..=expiry_s).contains(&sent), "{sent} after {waited:?}");
        assert!(!message.props.has(prop::WILL_DELAY));
    });
}

#[test]
fn case_25_a_will_keeps_its_properties_in_order() {
    FLEET.run("case_25b", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 1);
        let mut will = Will::new(&topic, "will").qos(1).retain();
        will.props = forwarded_props().u32(prop::WILL_DELAY, 0);
        cx.connect(cx.v5("a").will(will)).lose_network();
        expect_forwarded(&watcher.expect_message("will").props);
        let mut late = cx.watcher(&topic, 1);
        expect_forwarded(&late.expect_message("will").props);
    });
}

#[test]
fn publish_properties_are_passed_on_in_order() {
    FLEET.run("props", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 2);
        let mut old = cx.connect(cx.v311("old"));
        old.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        for qos in 0..=2 {
            let publish = Publish::new(&topic, "x").qos(qos).props(forwarded_props());
            publisher.publish(publish.alias(1));
            expect_forwarded(&watcher.expect_message("x").props);
            old.expect_message("x");
        }
        publisher.publish(Publish::new(&topic, "kept").retain().props(forwarded_props()));
        publisher.publish(Publish::new(&topic, "live").qos(1));
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&topic, 1);
        expect_forwarded(&late.expect_message("kept").props);
        assert_eq!(late.version, V5);
    });
}
