//! What must hold however clients are spread over shards: order, fan-out, groups, retained
//! messages, takeover, hand-over, and the end of the broker. Ids are many, so that every pair of
//! shards meets.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use common::fleet::shard_counts;
use common::packet::option::SEND_NO_RETAINED;
use common::{Broker, Client, Cx, Event, Fleet, PATIENCE, Packet, Publish, Settings, Subscribe};
use common::{V5, V311, Will, code, eventually, packet};

static FLEET: Fleet = Fleet::new(Settings::new);

/// For the order between publishers, which a shard that has more to do than it can does not keep:
/// the other tests of this file bring that much.
static CALM: Fleet = Fleet::new(Settings::new);

/// Enough ids that each of 8 shards holds some with all but certainty.
const SPREAD: usize = 24;

/// Subscribers under many ids, all to the same filter.
fn spread(cx: &Cx<'_>, name: &str, filter: &str, qos: u8) -> Vec<Client> {
    let one = |n: usize| {
        let mut client = cx.connect(cx.v5(&format!("{name}{n}")));
        assert_eq!(client.subscribe(filter, qos), qos);
        client
    };
    (0..SPREAD).map(one).collect()
}

/// Publishes numbers with a window of exchanges open; every one is acknowledged at the end.
fn publish_numbers(client: &mut Client, topic: &str, qos: u8, count: usize) {
    const WINDOW: usize = 10;
    let mut opened = 0;
    let mut done = 0;
    while done < count {
        let mut batch = Vec::new();
        while opened < count && opened - done < WINDOW {
            let mut publish = Publish::new(topic, opened.to_string()).qos(qos);
            publish.id = (qos > 0).then_some(opened as u16 + 1);
            batch.extend(publish.encode(client.version));
            opened += 1;
        }
        client.send(&batch);
        let id = done as u16 + 1;
        match qos {
            0 => done = opened,
            1 => {
                assert!(client.expect_puback(id) < 0x80);
                done += 1;
            }
            _ => {
                assert!(client.expect_pubrec(id) < 0x80);
                client.ack(packet::PUBREL, id, 0);
                assert_eq!(client.expect_pubcomp(id), 0);
                done += 1;
            }
        }
    }
}

#[test]
fn order_holds_per_publisher_and_topic_for_every_qos() {
    FLEET.run("order", |cx| {
        for qos in 0..=2 {
            let count = 300;
            let filter = cx.topic(&format!("q{qos}/+"));
            let mut subscribers = spread(cx, &format!("sub{qos}-"), &filter, qos);
            subscribers.truncate(6);
            thread::scope(|scope| {
                for n in 0..4 {
                    scope.spawn(move || {
                        let mut publisher = cx.connect(cx.v5(&format!("pub{qos}-{n}")));
                        let topic = cx.topic(&format!("q{qos}/{n}"));
                        publish_numbers(&mut publisher, &topic, qos, count);
                        publisher.ping();
                    });
                }
                for client in &mut subscribers {
                    scope.spawn(move || expect_numbers_in_order(client, 4, count));
                }
            });
        }
    });
}

/// Every topic's numbers, each once and in order; only QoS 0 could be lost, and is not here.
fn expect_numbers_in_order(client: &mut Client, topics: usize, count: usize) {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..topics * count {
        let message = client.message();
        let expected = next.entry(message.topic.clone()).or_default();
        assert_eq!(message.text(), expected.to_string(), "{}", message.topic);
        *expected += 1;
    }
    assert_eq!(next.len(), topics);
}

/// Each publisher waits for the acknowledgement of the one before it, which is on another shard.
#[test]
fn what_follows_an_acknowledgement_is_seen_after_it() {
    CALM.run("cause", |cx| {
        const ROUNDS: usize = 20;
        let topic = cx.topic("t/0");
        let mut subscribers = spread(cx, "sub", &cx.topic("t/+"), 1);
        subscribers.truncate(8);
        let mut publishers = spread(cx, "pub", &cx.topic("none"), 0);
        thread::scope(|scope| {
            for client in &mut subscribers {
                scope.spawn(move || expect_numbers_in_order(client, 1, ROUNDS * SPREAD));
            }
            for number in 0..ROUNDS * SPREAD {
                let publish = Publish::new(&topic, number.to_string()).qos(1).retain();
                assert!(publishers[number % SPREAD].publish(publish) < 0x80);
            }
        });
        let mut late = cx.connect(cx.v5("late"));
        late.subscribe(&topic, 1);
        late.expect_message(&(ROUNDS * SPREAD - 1).to_string());
    });
}

#[test]
fn a_publish_after_suback_reaches_the_subscriber() {
    FLEET.run("suback", |cx| {
        let mut publishers: Vec<Client> =
            (0..8).map(|n| cx.connect(cx.v5(&format!("pub{n}")))).collect();
        for round in 0..100 {
            let topic = cx.topic(&format!("r{round}/x"));
            let mut sub = cx.connect(cx.v5(&format!("sub{}", round % SPREAD)));
            let filter =
                if round % 2 == 0 { topic.clone() } else { cx.topic(&format!("r{round}/+")) };
            sub.subscribe(&filter, 1);
            publishers[round % 8].publish(Publish::new(&topic, "x").qos((round % 3) as u8));
            sub.expect_message("x");
            sub.unsubscribe(&[&filter]);
            publishers[round % 8].publish(Publish::new(&topic, "y").qos(1));
            sub.ping();
            sub.disconnect();
        }
    });
}

#[test]
fn a_message_fans_out_to_subscribers_on_all_shards() {
    FLEET.run("fan_out", |cx| {
        let topic = cx.topic("a/b");
        let filters = ["a/b", "a/+", "#", "+/b"].map(|f| cx.topic(f));
        let mut subscribers = Vec::new();
        for (n, filter) in filters.iter().enumerate() {
            subscribers.extend(spread(cx, &format!("f{n}-"), filter, 2));
        }
        let mut publisher = cx.publisher();
        for qos in 0..=2 {
            let text = format!("q{qos}");
            publisher.publish(Publish::new(&topic, &text).qos(qos));
            for client in &mut subscribers {
                let message = client.expect_message(&text);
                assert_eq!((message.qos, message.topic.as_str()), (qos, topic.as_str()));
            }
        }
        for client in &mut subscribers {
            client.ping();
            assert_eq!(client.event(Duration::from_millis(1)), Event::Nothing);
        }
    });
}

#[test]
fn all_clients_reach_all_clients() {
    FLEET.run("mesh", |cx| {
        let mut clients = spread(cx, "c", &cx.topic("+"), 1);
        for (n, client) in clients.iter_mut().enumerate() {
            let topic = cx.topic(&n.to_string());
            client.publish(Publish::new(&topic, n.to_string()).qos(1));
        }
        for client in &mut clients {
            let got: BTreeSet<String> = client.texts(SPREAD).into_iter().collect();
            assert_eq!(got.len(), SPREAD);
        }
    });
}

/// Receives for a group until `count` messages have come; returns each member's share.
fn group_shares(members: &mut [Client], count: usize) -> Vec<Vec<String>> {
    let mut shares = vec![Vec::new(); members.len()];
    eventually("a group's messages come", || {
        for (client, share) in members.iter_mut().zip(&mut shares) {
            while let Event::Packet(Packet::Publish(m)) = client.event(Duration::from_millis(1)) {
                client.finish(&m);
                share.push(m.text());
            }
        }
        shares.iter().map(Vec::len).sum::<usize>() >= count
    });
    shares
}

fn expect_each_once(shares: &[Vec<String>], count: usize) {
    let all: Vec<&String> = shares.iter().flatten().collect();
    let distinct: BTreeSet<&&String> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (count, count), "each message to one member");
}

/// Enough that a group's members on the publishers' shards are some, where those are preferred.
const PUBLISHERS: usize = 12;

/// A group over all shards takes each message once, whoever publishes.
fn share(cx: &Cx<'_>) -> Vec<Vec<String>> {
    let filter = format!("$share/g/{}", cx.topic("+"));
    let mut members = spread(cx, "m", &filter, 1);
    let count = 480;
    for n in 0..PUBLISHERS {
        let mut publisher = cx.connect(cx.v5(&format!("pub{n}")));
        for i in 0..count / PUBLISHERS {
            let topic = cx.topic(&format!("t{}", i % 5));
            publisher.publish(Publish::new(&topic, format!("{n}-{i}")).qos(1));
        }
    }
    let shares = group_shares(&mut members, count);
    expect_each_once(&shares, count);
    for client in &mut members {
        client.ping();
        assert_eq!(client.event(Duration::from_millis(1)), Event::Nothing);
    }
    shares
}

#[test]
fn a_shared_group_over_all_shards_takes_each_message_once() {
    FLEET.run("share", |cx| {
        let shares = share(cx);
        let busy = shares.iter().filter(|s| !s.is_empty()).count();
        assert!(busy > 1, "one member of {SPREAD} got everything");
    });
}

/// One broker for each strategy and shard count.
#[test]
fn shared_groups_with_each_strategy() {
    if common::broker::target().is_some() {
        eprintln!("skipped: a foreign broker cannot be given the configuration");
        return;
    }
    let strategies = [
        "random",
        "round_robin",
        "sticky",
        "local",
        "hash_clientid",
        "hash_topic",
        "least_backlog",
    ];
    for strategy in strategies {
        for shards in shard_counts() {
            let config = format!("[shared]\nstrategy = \"{strategy}\"\n");
            let broker = Broker::start(&Settings::new(shards).config(&config));
            let shares = share(&Cx::new(strategy, &broker));
            expect_strategy(strategy, shards, &shares);
        }
    }
}

/// What a strategy promises whatever the shards.
fn expect_strategy(strategy: &str, shards: u32, shares: &[Vec<String>]) {
    let busy: Vec<usize> = shares.iter().map(Vec::len).filter(|n| *n > 0).collect();
    eprintln!("{strategy} over {shards} shards: {busy:?}");
    match strategy {
        "sticky" => assert_eq!(busy.len(), 1, "one member for all"),
        "hash_topic" => assert!((2..=5).contains(&busy.len()), "five topics"),
        "hash_clientid" => {
            assert!((2..=PUBLISHERS).contains(&busy.len()), "{busy:?}");
            let publishers = |share: &Vec<String>| {
                share.iter().filter_map(|t| t.split('-').next()).collect::<BTreeSet<_>>().len()
            };
            let sum: usize = shares.iter().map(publishers).sum();
            assert_eq!(sum, PUBLISHERS, "each publisher's messages to one member");
        }
        "round_robin" if shards == 1 => {
            assert!(busy.iter().all(|n| *n == busy[0]), "{busy:?}");
        }
        // Those on the publishers' shards, of which nobody can say how many they are.
        "local" => assert!(busy.len() > 1, "{busy:?}"),
        _ => assert!(busy.len() > SPREAD / 4, "{strategy}: {busy:?}"),
    }
}

#[test]
fn a_retained_publish_is_seen_live_or_as_retained_never_neither() {
    FLEET.run("retained", |cx| {
        for round in 0..60 {
            let topic = cx.topic(&format!("r{round}"));
            let filter = if round % 2 == 0 { topic.clone() } else { format!("{topic}/#") };
            let mut publisher = cx.connect(cx.v5(&format!("pub{}", round % SPREAD)));
            let mut sub = cx.connect(cx.v5(&format!("sub{}", round % SPREAD)));
            let publish = Publish::new(&topic, "kept").qos(1).retain().id(1).encode(V5);
            let subscribe = Subscribe::new(1, &filter, 1).encode(V5);
            thread::scope(|scope| {
                scope.spawn(|| publisher.send(&publish));
                sub.send(&subscribe);
            });
            assert!(publisher.expect_puback(1) < 0x80);
            sub.wait_for("SUBACK", |p| matches!(p, Packet::SubAck { .. }).then_some(()));
            sub.expect_message("kept");
            // Both at once would be a duplicate.
            sub.ping();
            assert_eq!(sub.event(Duration::from_millis(30)), Event::Nothing, "round {round}");
        }
    });
}

#[test]
fn a_retained_publish_after_suback_is_live_and_comes_once() {
    FLEET.run("live", |cx| {
        let mut publishers = spread(cx, "pub", &cx.topic("none"), 0);
        for round in 0..120 {
            let topic = cx.topic(&format!("r{round}"));
            let filter = if round % 2 == 0 { topic.clone() } else { format!("{topic}/#") };
            let mut sub = cx.connect(cx.v5(&format!("sub{}", round % SPREAD)));
            sub.subscribe(&filter, 1);
            let publisher = &mut publishers[round % SPREAD];
            publisher.publish(Publish::new(&topic, "kept").qos(1).retain());
            let message = sub.expect_message("kept");
            assert!(!message.retain, "round {round}: published after SUBACK, sent as retained");
            sub.ping();
            assert_eq!(sub.event(Duration::from_millis(10)), Event::Nothing, "round {round}");
            sub.disconnect();
        }
    });
}

#[test]
fn the_last_retained_message_of_a_race_is_the_one_all_see_last() {
    FLEET.run("last", |cx| {
        let topic = cx.topic("t");
        let mut watchers = spread(cx, "w", &topic, 1);
        watchers.truncate(8);
        thread::scope(|scope| {
            for n in 0..6 {
                let topic = &topic;
                scope.spawn(move || {
                    let mut publisher = cx.connect(cx.v5(&format!("pub{n}")));
                    for i in 0..30 {
                        let text = format!("{n}-{i}");
                        publisher.publish(Publish::new(topic, text).qos(1).retain());
                    }
                });
            }
        });
        // First, so that the shards are done with all of it.
        for client in &mut watchers {
            assert_eq!(client.texts(180).iter().collect::<BTreeSet<_>>().len(), 180);
        }
        let kept: BTreeSet<String> = (0..6)
            .map(|n| {
                let mut late = cx.connect(cx.v5(&format!("late{n}")));
                late.subscribe(&topic, 1);
                let message = late.message();
                assert!(message.retain);
                message.text()
            })
            .collect();
        assert_eq!(kept.len(), 1, "one retained message: {kept:?}");
        let kept = kept.first().expect("one");
        assert!(kept.ends_with("-29"), "the last of its publisher: {kept}");
    });
}

#[test]
fn takeover_from_whatever_shard_accepted_keeps_the_session() {
    FLEET.run("takeover", |cx| {
        let topic = cx.topic("t");
        let connect = || cx.v5("a").resume().expiry(600);
        let mut publisher = cx.publisher();
        let mut old = cx.connect(connect());
        old.subscribe(&topic, 2);
        for n in 0..30 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(1 + n % 2));
            if n % 3 == 0 {
                // Left unacknowledged: the next connection gets it again.
                old.raw_message();
            }
            let mut new = cx.connect(connect());
            assert!(new.session_present());
            old.expect_disconnect(&[code::TAKEN_OVER]);
            new.expect_message(&n.to_string());
            // The acknowledgement has been read before the next takeover.
            new.ping();
            old = new;
        }
        old.ping();
        old.expect_silence();
    });
}

#[test]
fn hand_over_keeps_every_byte_that_came_with_connect() {
    FLEET.run("hand_over", |cx| {
        for n in 0..SPREAD {
            for version in [V311, V5] {
                let topic = cx.topic(&format!("t{n}-{version}"));
                let mut bytes = cx.version(version, &format!("c{n}")).encode();
                bytes.extend(Subscribe::new(1, &topic, 1).encode(version));
                let mut expected = Vec::new();
                for i in 0..40u16 {
                    let text = format!("{i}-{}", "x".repeat(usize::from(i) * 40));
                    let publish = Publish::new(&topic, &text).qos(1).id(i + 2);
                    bytes.extend(publish.encode(version));
                    expected.push(text);
                }
                let mut client = cx.raw(version);
                client.send(&bytes);
                client.expect_connack(0);
                assert_eq!(client.texts(40), expected);
                for i in 0..40 {
                    assert!(client.expect_puback(i + 2) < 0x80);
                }
                client.disconnect();
            }
        }
    });
}

#[test]
fn hand_over_of_a_connection_that_is_gone_at_once_harms_nobody() {
    FLEET.run("gone", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        for n in 0..SPREAD {
            let will = Will::new(&topic, &n.to_string()).qos(1);
            let mut client = cx.raw(V5);
            client.send(&cx.v5(&format!("c{n}")).will(will).encode());
            client.expect_connack(0);
            client.drop_connection();
            // And one that does not even wait for its CONNACK.
            let mut client = cx.raw(V5);
            client.send(&cx.v5(&format!("d{n}")).encode());
            client.drop_connection();
        }
        let wills: BTreeSet<String> = watcher.texts(SPREAD).into_iter().collect();
        assert_eq!(wills.len(), SPREAD);
    });
}

#[test]
fn a_session_queues_while_its_client_is_away_whoever_publishes() {
    FLEET.run("offline", |cx| {
        let filter = cx.topic("+");
        for n in 0..6 {
            let connect = || cx.v5(&format!("sub{n}")).resume().expiry(600);
            let mut sub = cx.connect(connect());
            sub.subscribe(&filter, 2 | SEND_NO_RETAINED);
            sub.disconnect();
        }
        for p in 0..6 {
            let mut publisher = cx.connect(cx.v5(&format!("pub{p}")));
            publish_numbers(&mut publisher, &cx.topic(&p.to_string()), 1 + p % 2, 20);
        }
        for n in 0..6 {
            let connect = cx.v5(&format!("sub{n}")).resume().expiry(600);
            expect_numbers_in_order(&mut cx.connect(connect), 6, 20);
        }
    });
}

#[test]
fn stop_says_0x8b_to_clients_of_5_and_ends_with_success() {
    if common::broker::target().is_some() {
        eprintln!("skipped: a foreign broker is not ours to stop");
        return;
    }
    for shards in shard_counts() {
        let mut broker = Broker::start(&Settings::new(shards));
        let cx = Cx::new("stop", &broker);
        let mut clients: Vec<Client> =
            (0..SPREAD).map(|n| cx.connect(cx.v5(&format!("c{n}")))).collect();
        clients.extend((0..SPREAD).map(|n| cx.connect(cx.v311(&format!("o{n}")))));
        let mut raw = cx.raw(V5);
        broker.signal("TERM");
        for client in &mut clients {
            client.expect_disconnect(&[code::SHUTTING_DOWN]);
        }
        assert_eq!(raw.event(PATIENCE), Event::Closed);
        let status = broker.wait();
        assert!(status.success(), "{status}: {}", broker.log_text());
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    if common::broker::target().is_some() {
        eprintln!("skipped: a foreign broker is not ours to stop");
        return;
    }
    for shards in shard_counts() {
        let mut broker = Broker::start(&Settings::new(shards));
        let cx = Cx::new("stop2", &broker);
        // Clients that never read: a stop may wait for them, the second signal does not.
        let _clients: Vec<Client> = (0..4).map(|n| cx.connect(cx.v5(&format!("c{n}")))).collect();
        broker.signal("TERM");
        broker.signal("TERM");
        broker.wait();
    }
}
