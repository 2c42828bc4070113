//! Hard cases 32 to 38: overlapping filters, subscription ids, shared subscriptions, `$` topics.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::packet::option::{NO_LOCAL, RETAIN_AS_PUBLISHED, SEND_NO_RETAINED};
use common::packet::{PUBACK, PUBREC};
use common::{Client, Connect, Cx, Event, Fleet, PATIENCE, Packet, Publish, Settings};
use common::{Subscribe, V5, V311, Will, code, eventually, prop};

static FLEET: Fleet = Fleet::new(Settings::new);

fn lasting(cx: &Cx<'_>, name: &str) -> Connect {
    cx.v5(name).resume().expiry(600)
}

/// All copies of a publisher's message that a client gets, up to a marker that follows them.
fn copies(publisher: &mut Client, client: &mut Client, topic: &str) -> Vec<Publish> {
    client.ping();
    publisher.publish(Publish::new(topic, "marker").qos(1));
    let mut copies = Vec::new();
    loop {
        let message = client.message();
        if message.text() == "marker" {
            break;
        }
        copies.push(message);
    }
    client.ping();
    while let Event::Packet(Packet::Publish(m)) = client.event(common::QUIET) {
        assert_eq!(m.text(), "marker", "a late copy");
        client.finish(&m);
    }
    copies
}

#[test]
fn case_32_overlapping_filters_deliver_at_the_highest_qos_with_all_ids() {
    FLEET.run("case_32", |cx| {
        let topic = cx.topic("a/b");
        let mut sub = cx.connect(cx.v5("sub"));
        for (filter, qos, id) in [("a/#", 1, 11), ("a/+", 2, 12), ("a/b", 0, 13), ("c", 2, 14)] {
            assert_eq!(sub.subscribe_id(&cx.topic(filter), qos, id), qos);
        }
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "x").qos(2));
        let got = copies(&mut publisher, &mut sub, &topic);
        assert_eq!(got.iter().map(|m| m.qos).max(), Some(2));
        let mut ids: Vec<u32> = got.iter().flat_map(|m| m.props.subscription_ids()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [11, 12, 13], "each id once, on one copy or on one of its own");
        assert!(got.len() == 1 || got.len() == 3, "{got:?}");
    });
}

#[test]
fn case_32_overlapping_filters_below_5_respect_the_highest_qos() {
    FLEET.run("case_32b", |cx| {
        let topic = cx.topic("a/b");
        let mut sub = cx.connect(cx.v311("sub"));
        for (filter, qos) in [("a/b", 0), ("a/#", 2), ("+/b", 1)] {
            sub.subscribe(&cx.topic(filter), qos);
        }
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "x").qos(2));
        let got = copies(&mut publisher, &mut sub, &topic);
        assert!(got.iter().any(|m| m.qos == 2), "{got:?}");
    });
}

#[test]
fn case_32_no_local_is_judged_for_each_filter() {
    FLEET.run("case_32c", |cx| {
        let topic = cx.topic("a/b");
        let mut client = cx.connect(cx.v5("a"));
        client.subscribe_id(&cx.topic("a/#"), 2 | NO_LOCAL, 1);
        client.subscribe_id(&cx.topic("a/+"), 1, 2);
        client.publish(Publish::new(&topic, "own").qos(2));
        let own = client.expect_message("own");
        assert_eq!((own.qos, own.props.subscription_ids()), (1, vec![2]));
        client.unsubscribe(&[&cx.topic("a/+")]);
        client.publish(Publish::new(&topic, "own again").qos(2));
        cx.publisher().publish(Publish::new(&topic, "foreign").qos(2));
        let foreign = client.expect_message("foreign");
        assert_eq!((foreign.qos, foreign.props.subscription_ids()), (2, vec![1]));
    });
}

#[test]
fn case_32_retain_as_published_of_any_matching_filter_counts() {
    FLEET.run("case_32d", |cx| {
        let topic = cx.topic("a/b");
        let mut client = cx.connect(cx.v5("a"));
        client.subscribe(&cx.topic("a/#"), 1);
        client.subscribe(&cx.topic("a/+"), 1 | RETAIN_AS_PUBLISHED);
        let mut publisher = cx.publisher();
        publisher.publish(Publish::new(&topic, "x").qos(1).retain());
        let got = copies(&mut publisher, &mut client, &topic);
        assert!(got.iter().any(|m| m.retain), "{got:?}");
    });
}

#[test]
fn case_33_a_subscription_id_from_a_client_is_a_protocol_error() {
    FLEET.run("case_33", |cx| {
        let topic = cx.topic("t");
        let mut watcher = cx.watcher(&topic, 2);
        for qos in 0..=2 {
            let mut publish = Publish::new(&topic, "x").qos(qos);
            publish.id = (qos > 0).then_some(1);
            publish.props = publish.props.var(prop::SUBSCRIPTION_ID, 5);
            let mut client = cx.connect(cx.v5("a"));
            client.send_publish(&publish);
            client.expect_disconnect(&[code::PROTOCOL_ERROR]);
        }
        watcher.ping();
        watcher.expect_silence();
        let mut client = cx.connect(cx.v5("a"));
        client.send(&Subscribe::new(1, &topic, 0).subscription_id(0).encode(V5));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    });
}

#[test]
fn case_34_no_local_on_a_shared_subscription_is_a_protocol_error() {
    FLEET.run("case_34", |cx| {
        let mut client = cx.connect(cx.v5("a"));
        let filter = format!("$share/g/{}", cx.topic("t"));
        client.send(&Subscribe::new(1, filter, 1 | NO_LOCAL).encode(V5));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    });
}

#[test]
fn case_34_no_local_goes_by_client_id_and_survives_a_reconnect() {
    FLEET.run("case_34b", |cx| {
        let topic = cx.topic("t");
        let mut client = cx.connect(lasting(cx, "a"));
        client.subscribe(&topic, 1 | NO_LOCAL);
        client.publish(Publish::new(&topic, "own").qos(1));
        client.lose_network();
        let mut client = cx.connect(lasting(cx, "a"));
        client.publish(Publish::new(&topic, "own after a resume").qos(1));
        let mut taken = cx.connect(lasting(cx, "a"));
        taken.publish(Publish::new(&topic, "own after a takeover").qos(1));
        cx.publisher().publish(Publish::new(&topic, "foreign").qos(1));
        taken.expect_message("foreign");
        // Another client with a will of the same words is foreign too.
        let will = Will::new(&topic, "will").qos(1);
        cx.connect(cx.v5("b").will(will)).lose_network();
        taken.expect_message("will");
    });
}

/// Two members of one shared group, in that order.
fn group(cx: &Cx<'_>, topic: &str, qos: u8) -> (Client, Client) {
    let filter = format!("$share/g/{topic}");
    let mut members = ["m1", "m2"].map(|name| cx.connect(lasting(cx, name)));
    for member in &mut members {
        assert_eq!(member.subscribe(&filter, qos), qos);
    }
    let [first, second] = members;
    (first, second)
}

/// What each member gets, unacknowledged, until so many messages have come to them in all.
fn gather(mut members: [&mut Client; 2], count: usize) -> [Vec<Publish>; 2] {
    let mut got = [Vec::new(), Vec::new()];
    eventually("the group's messages come", || {
        for (member, own) in members.iter_mut().zip(&mut got) {
            while let Event::Packet(packet) = member.event(Duration::from_millis(1)) {
                match packet {
                    Packet::Publish(m) => own.push(m),
                    other => panic!("a member got {other:?}"),
                }
            }
        }
        got.iter().map(Vec::len).sum::<usize>() >= count
    });
    for member in members {
        member.ping();
        member.expect_silence();
    }
    got
}

fn texts(messages: &[Publish]) -> BTreeSet<String> {
    messages.iter().map(Publish::text).collect()
}

#[test]
fn case_35_unacknowledged_qos_1_goes_to_another_member_when_the_session_ends() {
    FLEET.run("case_35", |cx| {
        let topic = cx.topic("t");
        let (mut first, mut second) = group(cx, &topic, 1);
        let mut publisher = cx.publisher();
        for n in 0..40 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(1));
        }
        let [held, mut done] = gather([&mut first, &mut second], 40);
        assert_eq!(held.len() + done.len(), 40, "each message to one member");
        for message in &done {
            second.finish(message);
        }
        first.lose_network();
        // At the latest now: its session ends.
        cx.connect(cx.v5("m1")).disconnect();
        let missing = texts(&held).difference(&texts(&done)).count();
        for _ in 0..missing {
            done.push(second.message());
        }
        assert_eq!(texts(&done).len(), 40);
        second.ping();
        second.expect_silence();
    });
}

#[test]
fn case_35_a_started_qos_2_exchange_stays_with_its_member() {
    FLEET.run("case_35b", |cx| {
        let topic = cx.topic("t");
        let (mut first, mut second) = group(cx, &topic, 2);
        let mut publisher = cx.publisher();
        for n in 0..20 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(2));
        }
        let [held, taken] = gather([&mut first, &mut second], 20);
        for message in &taken {
            second.finish(message);
        }
        assert!(!held.is_empty(), "a group that serves only one member");
        first.lose_network();
        second.ping();
        second.expect_silence();
        let mut first = cx.connect(lasting(cx, "m1"));
        for message in &held {
            assert_eq!(first.raw_message(), message.clone().dup());
        }
        first.lose_network();
        // Its session ends: what was begun is offered to nobody.
        cx.connect(cx.v5("m1")).disconnect();
        second.ping();
        second.expect_silence_for(Duration::from_secs(1));
    });
}

#[test]
fn case_35_a_member_that_refuses_gets_no_replacement() {
    FLEET.run("case_35c", |cx| {
        let topic = cx.topic("t");
        for (qos, answer) in [(1, PUBACK), (2, PUBREC)] {
            let (mut first, mut second) = group(cx, &topic, qos);
            let mut publisher = cx.publisher();
            for n in 0..20 {
                publisher.publish(Publish::new(&topic, n.to_string()).qos(qos));
            }
            let [refused, taken] = gather([&mut first, &mut second], 20);
            assert_eq!(refused.len() + taken.len(), 20);
            for message in &refused {
                first.ack(answer, message.packet_id(), code::UNSPECIFIED);
            }
            for message in &taken {
                second.finish(message);
            }
            first.ping();
            first.expect_silence();
            second.ping();
            second.expect_silence();
            for client in [&mut first, &mut second] {
                client.unsubscribe(&[&format!("$share/g/{topic}")]);
            }
        }
    });
}

#[test]
fn case_36_offline_members_are_skipped() {
    FLEET.run("case_36", |cx| {
        let topic = cx.topic("t");
        let (first, mut second) = group(cx, &topic, 1);
        first.lose_network();
        let mut publisher = cx.publisher();
        // What is published before the publisher's shard has heard of it may wait for the first.
        let (mut count, mut row, mut got) = (0, 0, BTreeSet::new());
        eventually("all messages go to the member that is there", || {
            publisher.publish(Publish::new(&topic, count.to_string()).qos(1));
            count += 1;
            row += 1;
            match second.event(Duration::from_secs(1)) {
                Event::Packet(Packet::Publish(message)) => {
                    second.finish(&message);
                    assert!(got.insert(message.text()), "twice: {message:?}");
                }
                _ => row = 0,
            }
            row == 20
        });
        let mut first = cx.connect(lasting(cx, "m1"));
        eventually("the others have waited for the first", || {
            for member in [&mut first, &mut second] {
                if let Event::Packet(Packet::Publish(message)) =
                    member.event(Duration::from_millis(1))
                {
                    member.finish(&message);
                    assert!(got.insert(message.text()), "twice: {message:?}");
                }
            }
            got.len() == count
        });
        // Back online it takes part again, once the publisher's shard has heard of it.
        let mut shares = [0, 0];
        eventually("both members take part", || {
            for n in 0..30 {
                publisher.publish(Publish::new(&topic, n.to_string()).qos(1));
            }
            let got = gather([&mut first, &mut second], 30);
            for ((member, own), share) in
                [&mut first, &mut second].into_iter().zip(&got).zip(&mut shares)
            {
                own.iter().for_each(|message| member.finish(message));
                *share += own.len();
            }
            assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 30);
            shares.iter().all(|n| *n > 0)
        });
    });
}

#[test]
fn case_36_messages_wait_when_every_member_is_offline() {
    FLEET.run("case_36b", |cx| {
        let topic = cx.topic("t");
        let (first, second) = group(cx, &topic, 1);
        first.lose_network();
        second.lose_network();
        let mut publisher = cx.publisher();
        for n in 0..10 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(1));
        }
        let [mut first, mut second] = ["m1", "m2"].map(|name| cx.connect(lasting(cx, name)));
        let got = gather([&mut first, &mut second], 10).concat();
        assert_eq!((got.len(), texts(&got).len()), (10, 10), "each once: {got:?}");
    });
}

#[test]
fn case_36_no_retained_messages_on_a_shared_subscribe() {
    FLEET.run("case_36c", |cx| {
        let topic = cx.topic("t");
        cx.publisher().publish(Publish::new(&topic, "kept").qos(1).retain());
        let mut client = cx.connect(cx.v5("a"));
        assert_eq!(client.subscribe(&format!("$share/g/{topic}"), 1), 1);
        client.ping();
        client.expect_silence();
        cx.publisher().publish(Publish::new(&topic, "live").qos(1));
        client.expect_message("live");
    });
}

#[test]
fn case_36_a_plain_and_a_shared_subscription_both_deliver() {
    FLEET.run("case_36d", |cx| {
        let topic = cx.topic("t");
        let mut client = cx.connect(cx.v5("a"));
        client.subscribe_id(&topic, 1, 1);
        client.subscribe_id(&format!("$share/g/{topic}"), 1, 2);
        client.subscribe_id(&format!("$share/h/{topic}"), 1, 3);
        cx.publisher().publish(Publish::new(&topic, "x").qos(1));
        let mut ids: Vec<u32> =
            client.messages(3).iter().flat_map(|m| m.props.subscription_ids()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3]);
        client.ping();
        client.expect_silence();
    });
}

#[test]
fn case_37_malformed_share_filters_are_refused() {
    FLEET.run("case_37", |cx| {
        let bad = [
            "$share//t",
            "$share/g",
            "$share/g/",
            "$share/+/t",
            "$share/#/t",
            "$share/g+/t",
            "$share/g#/t",
            "$share/",
            "$share/g/a#",
            "$share/g/#/a",
        ];
        for filter in bad {
            for version in [V311, V5] {
                let mut client = cx.connect(cx.version(version, "a"));
                client.send(&Subscribe::new(1, filter, 0).encode(version));
                match client.event(PATIENCE) {
                    Event::Packet(Packet::SubAck { codes, .. }) => {
                        let refused = if version == V5 { code::FILTER_INVALID } else { 0x80 };
                        assert_eq!(codes, [refused], "{filter}");
                        client.ping();
                    }
                    Event::Packet(Packet::Disconnect { code, .. }) => {
                        assert!([code::FILTER_INVALID, code::PROTOCOL_ERROR].contains(&code));
                    }
                    Event::Closed => assert_eq!(version, V311, "{filter}"),
                    other => panic!("SUBSCRIBE to {filter} got {other:?}"),
                }
            }
        }
    });
}

#[test]
fn case_37_unsubscribe_matches_a_shared_filter_exactly() {
    FLEET.run("case_37b", |cx| {
        let topic = cx.topic("t");
        let mut client = cx.connect(cx.v5("a"));
        let shared = format!("$share/g/{topic}");
        client.subscribe(&shared, 1);
        let none = code::NO_SUBSCRIPTION_EXISTED;
        assert_eq!(client.unsubscribe(&[&topic, &format!("$share/h/{topic}")]), [none, none]);
        cx.publisher().publish(Publish::new(&topic, "still").qos(1));
        client.expect_message("still");
        assert_eq!(client.unsubscribe(&[&shared, &shared]), [0, none]);
        cx.publisher().publish(Publish::new(&topic, "gone").qos(1));
        client.ping();
        client.expect_silence();
    });
}

#[test]
fn malformed_filters_are_refused_one_by_one() {
    FLEET.run("filters", |cx| {
        let good = cx.topic("t");
        let filters = ["a/#/b", "a#", "+a", "a+/b", "#/a", "/a/b#"];
        for version in [V311, V5] {
            let mut client = cx.connect(cx.version(version, "a"));
            let mut subscribe = Subscribe::new(9, &good, 1);
            for filter in filters {
                subscribe = subscribe.and(filter, 1);
            }
            subscribe = subscribe.and(cx.topic("+/x/#"), 2);
            let codes = client.subscribe_with(&subscribe);
            let refused = if version == V5 { code::FILTER_INVALID } else { 0x80 };
            let mut expected = vec![1];
            expected.extend([refused; 6]);
            expected.push(2);
            assert_eq!(codes, expected);
            cx.publisher().publish(Publish::new(&good, "x").qos(1));
            client.expect_message("x");
        }
    });
}

#[test]
fn case_38_wildcards_at_the_start_never_match_dollar_topics() {
    FLEET.run("case_38", |cx| {
        let root = format!("$own{}", cx.topic(""));
        let (live, kept) = (format!("{root}live"), format!("{root}kept"));
        let mut publisher = cx.publisher();
        let stored = publisher.publish(Publish::new(&kept, "kept").qos(1).retain());
        assert!(stored < 0x80, "a client's own $ topic: {stored:#04x}");
        let mut exact = cx.watcher(&format!("{root}+"), 1);
        assert!(exact.expect_message("kept").retain);
        let mut leaks = Vec::new();
        for filter in ["#", "+/#", "+/+/+", "+/+/live"] {
            let mut client = cx.connect(cx.v5(&format!("w{}", filter.len())));
            client.subscribe(filter, 1);
            leaks.push((filter, client));
        }
        publisher.publish(Publish::new(&live, "live").qos(1));
        exact.expect_message("live");
        let will = Will::new(&live, "will").qos(1).retain();
        cx.connect(cx.v5("dies").will(will)).lose_network();
        exact.expect_message("will");
        for (filter, client) in &mut leaks {
            client.ping();
            while let Event::Packet(packet) = client.event(common::QUIET) {
                match packet {
                    // Other tests of this file publish too.
                    Packet::Publish(m) => {
                        assert!(!m.topic.starts_with('$'), "{filter} leaks {}", m.topic);
                        client.finish(&m);
                    }
                    other => panic!("{filter} got {other:?}"),
                }
            }
        }
        for topic in [live, kept] {
            publisher.publish(Publish::new(&topic, "").qos(1).retain());
        }
    });
}

#[test]
fn case_38_sys_topics_come_to_their_subscribers_only() {
    FLEET.run("case_38b", |cx| {
        let mut sys = cx.connect(cx.v5("sys"));
        assert_eq!(sys.subscribe("$SYS/#", 0), 0);
        let message = sys.message();
        assert!(message.topic.starts_with("$SYS/"), "{message:?}");
        let mut all = cx.connect(cx.v5("all"));
        all.subscribe("+/broker/#", SEND_NO_RETAINED);
        let mut one = cx.connect(cx.v5("one"));
        one.subscribe(&message.topic, 0);
        let again = one.message();
        assert_eq!(again.topic, message.topic);
        all.ping();
        all.expect_silence();
    });
}

#[test]
fn a_client_may_not_publish_into_sys() {
    FLEET.run("sys_pub", |cx| {
        let topic = format!("$SYS/{}", cx.topic("t"));
        let mut watcher = cx.watcher("$SYS/#", 0);
        let mut client = cx.connect(cx.v5("a"));
        client.send_publish(&Publish::new(&topic, "forged").qos(1).id(1));
        match client.packet() {
            Packet::PubAck(ack) => {
                assert!([code::NOT_AUTHORIZED, code::TOPIC_INVALID].contains(&ack.code));
            }
            Packet::Disconnect { code, .. } => {
                assert!([code::NOT_AUTHORIZED, code::TOPIC_INVALID].contains(&code));
            }
            other => panic!("publishing into $SYS got {other:?}"),
        }
        watcher.ping();
        while let Event::Packet(Packet::Publish(m)) = watcher.event(common::QUIET) {
            assert_ne!(m.topic, topic);
        }
    });
}
