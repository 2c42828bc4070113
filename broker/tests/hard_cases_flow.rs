//! Hard cases 16 to 20, 31 and 39: receive maximum, packet sizes, queues, keep alive.

mod common;

use std::time::{Duration, Instant};

use common::packet::{PUBACK, PUBCOMP, PUBREC, header_only, publish_len};
use common::{Client, Cx, Event, Fleet, PATIENCE, Packet, Publish, Settings, Subscribe};
use common::{V5, V311, code, packet, prop};

static FLEET: Fleet = Fleet::new(Settings::new);

/// Small limits of the server, so that a test can pass them.
static LIMITED: Fleet = Fleet::new(|shards| {
    Settings::new(shards).config("[limits]\nreceive_maximum = 10\nmax_packet_bytes = 4096\n")
});

/// A keep alive of 2 s for everybody: only for clients that are to be silent.
static IMPATIENT: Fleet =
    Fleet::new(|shards| Settings::new(shards).config("[limits]\nkeep_alive_max_s = 2\n"));

/// For the one test that looks at the broker's memory: nobody else may use it meanwhile.
static CLAIMED: Fleet = Fleet::new(Settings::new);

#[test]
fn case_16_receive_maximum_1_lets_one_exchange_run() {
    FLEET.run("case_16", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(cx.v5("sub").receive_maximum(1));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        let sent = [("q1", 1), ("q2", 2), ("q2 refused", 2), ("q1 last", 1)];
        for (text, qos) in sent {
            publisher.publish(Publish::new(&topic, text).qos(qos));
        }
        let first = sub.raw_message();
        assert_eq!(first.text(), "q1");
        only_other_things_flow(cx, &mut sub, &mut publisher, &topic);

        sub.ack(PUBACK, first.packet_id(), 0);
        let second = sub.raw_message();
        assert_eq!(second.text(), "q2");
        // A PUBREC below 0x80 gives nothing back.
        sub.ack(PUBREC, second.packet_id(), 0);
        assert_eq!(sub.expect_pubrel(second.packet_id()), 0);
        only_other_things_flow(cx, &mut sub, &mut publisher, &topic);

        sub.ack(PUBCOMP, second.packet_id(), 0);
        let third = sub.raw_message();
        assert_eq!(third.text(), "q2 refused");
        only_other_things_flow(cx, &mut sub, &mut publisher, &topic);
        sub.ack(PUBREC, third.packet_id(), code::UNSPECIFIED);
        sub.expect_message("q1 last");
    });
}

/// While the quota is used up QoS 0, SUBACK and PINGRESP still come, and no QoS 1 or 2.
fn only_other_things_flow(cx: &Cx<'_>, sub: &mut Client, publisher: &mut Client, topic: &str) {
    publisher.publish(Publish::new(topic, "q0"));
    let message = sub.raw_message();
    assert_eq!((message.text().as_str(), message.qos), ("q0", 0));
    assert_eq!(sub.subscribe(&cx.topic("other"), 0), 0);
    sub.ping();
    sub.expect_silence();
}

#[test]
fn case_16_the_window_of_a_larger_receive_maximum_is_kept() {
    FLEET.run("case_16b", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.connect(cx.v5("sub").receive_maximum(5));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        for n in 0..40 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(1 + n % 2));
        }
        let mut open: Vec<Publish> = Vec::new();
        for n in 0..40 {
            if open.len() == 5 {
                sub.ping();
                sub.expect_silence_for(Duration::from_millis(20));
                let oldest = open.remove(0);
                sub.finish(&oldest);
            }
            let message = sub.raw_message();
            assert_eq!(message.text(), n.to_string());
            open.push(message);
        }
    });
}

#[test]
fn case_17_resent_messages_use_the_new_connections_quota() {
    FLEET.run("case_17", |cx| {
        let topic = cx.topic("t");
        let connect = |n| cx.v5("sub").resume().expiry(600).receive_maximum(n);
        let mut sub = cx.connect(connect(10));
        sub.subscribe(&topic, 2);
        let mut publisher = cx.publisher();
        for n in 0..6 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(1 + n % 2));
        }
        let first: Vec<Publish> = (0..6).map(|_| sub.raw_message()).collect();
        sub.lose_network();
        publisher.publish(Publish::new(&topic, "6").qos(1));
        let mut sub = cx.connect(connect(2));
        let mut open = vec![sub.raw_message(), sub.raw_message()];
        for n in 2..7 {
            sub.ping();
            sub.expect_silence_for(Duration::from_millis(50));
            let oldest = open.remove(0);
            sub.finish(&oldest);
            let message = sub.raw_message();
            assert_eq!(message.text(), n.to_string());
            assert_eq!(message.dup, n < 6, "{message:?}");
            if let Some(before) = first.get(n) {
                assert_eq!(message.id, before.id);
            }
            open.push(message);
        }
    });
}

/// Sends QoS 2 messages without their PUBREL until the receive maximum is passed by one.
fn exceed_receive_maximum(cx: &Cx<'_>, connect: common::Connect) {
    let topic = cx.topic("t");
    let mut watcher = cx.watcher(&topic, 0);
    let mut client = cx.connect(connect);
    let maximum = client.connack_props().number(prop::RECEIVE_MAXIMUM).unwrap_or(65_535);
    let maximum = u16::try_from(maximum).expect("16 bits");
    if maximum == u16::MAX {
        eprintln!("skipped: every packet id is allowed at once");
        return;
    }
    for id in 1..=maximum {
        client.send_publish(&Publish::new(&topic, "within").qos(2).id(id));
        assert!(client.expect_pubrec(id) < 0x80);
    }
    // A repeat of one of them is not one more.
    client.send_publish(&Publish::new(&topic, "repeat").qos(2).id(1).dup());
    assert!(client.expect_pubrec(1) < 0x80);
    client.ping();
    client.send_publish(&Publish::new(&topic, "beyond").qos(2).id(maximum + 1));
    client.expect_disconnect(&[code::RECEIVE_MAXIMUM_EXCEEDED]);
    for _ in 1..=maximum {
        watcher.expect_message("within");
    }
    watcher.expect_silence();
}

#[test]
fn case_18_exceeding_the_servers_receive_maximum() {
    FLEET.run("case_18", |cx| exceed_receive_maximum(cx, cx.v5("a")));
}

#[test]
fn case_18_exceeding_a_small_receive_maximum_of_the_server() {
    LIMITED.run("case_18b", |cx| {
        let client = cx.connect(cx.v5("probe"));
        assert_eq!(client.connack_props().number(prop::RECEIVE_MAXIMUM), Some(10));
        exceed_receive_maximum(cx, cx.v5("a"));
    });
}

#[test]
fn case_18_the_servers_receive_maximum_is_no_echo() {
    FLEET.run("case_18c", |cx| {
        let announced = |n: u16| {
            let client = cx.connect(cx.v5("a").receive_maximum(n));
            client.connack_props().number(prop::RECEIVE_MAXIMUM)
        };
        assert_eq!(announced(3), announced(7));
        // And the client's value does not bind its own sending.
        let mut client = cx.connect(cx.v5("b").receive_maximum(1));
        for id in 1..=5 {
            client.send_publish(&Publish::new(&cx.topic("t"), "x").qos(2).id(id));
            assert!(client.expect_pubrec(id) < 0x80);
        }
        client.ping();
    });
}

#[test]
fn case_19_a_message_one_byte_too_large_is_done_for_that_client() {
    FLEET.run("case_19", |cx| {
        let topic = cx.topic("t");
        for with_id in [false, true] {
            let name = if with_id { "with an id" } else { "without" };
            let limit = 120;
            let connect = cx.v5(name).maximum_packet(limit).receive_maximum(1);
            let mut sub = cx.connect(connect.resume().expiry(600));
            if with_id {
                sub.subscribe_id(&topic, 2, 300)
            } else {
                sub.subscribe(&topic, 2)
            };
            let mut shell = Publish::new(&topic, "").qos(2).id(1);
            if with_id {
                shell.props = shell.props.var(prop::SUBSCRIPTION_ID, 300);
            }
            let room = limit as usize - publish_len(V5, &shell);
            let (fits, too_large) = ("f".repeat(room), "l".repeat(room + 1));
            let mut publisher = cx.publisher();
            for (text, qos) in [(&fits, 1), (&too_large, 1), (&too_large, 2), (&fits, 2)] {
                publisher.publish(Publish::new(&topic, text).qos(qos));
            }
            // Without a packet id there is room for two bytes more.
            publisher.publish(Publish::new(&topic, "0".repeat(room + 3)));
            publisher.publish(Publish::new(&topic, "end").qos(1));
            assert_eq!(sub.texts(3), [fits.as_str(), fits.as_str(), "end"], "{name}");
            sub.ping();
            // Done: not even a resume brings it.
            sub.lose_network();
            let mut sub = cx.connect(cx.v5(name).resume().expiry(600));
            assert!(sub.session_present());
            sub.ping();
            sub.expect_silence();
        }
    });
}

#[test]
fn case_19_a_retained_message_too_large_is_skipped() {
    FLEET.run("case_19b", |cx| {
        let mut publisher = cx.publisher();
        for (name, len) in [("a", 10), ("b", 500), ("c", 10)] {
            let message = Publish::new(&cx.topic(name), vec![b'x'; len]).qos(1).retain();
            publisher.publish(message);
        }
        let mut sub = cx.connect(cx.v5("sub").maximum_packet(200));
        sub.subscribe(&cx.topic("+"), 1);
        let mut topics: Vec<String> = sub.messages(2).into_iter().map(|m| m.topic).collect();
        topics.sort();
        assert_eq!(topics, [cx.topic("a"), cx.topic("c")]);
        sub.ping();
        sub.expect_silence();
    });
}

/// The largest packet the server takes; what the standard allows if it announced nothing.
fn maximum_packet(client: &Client) -> u32 {
    client.connack_props().number(prop::MAXIMUM_PACKET_SIZE).unwrap_or(268_435_460)
}

#[test]
fn case_20_a_packet_too_large_is_refused_at_its_header() {
    FLEET.run("case_20", |cx| {
        let client = cx.connect(cx.v5("probe"));
        let maximum = maximum_packet(&client);
        if maximum > 268_000_000 {
            eprintln!("skipped: the server takes every packet");
            return;
        }
        for version in [V311, V5] {
            let mut client = cx.connect(cx.version(version, "a"));
            // The first length that is too much, header included; the body is never sent.
            let total = |remaining: &u32| header_only(0x30, *remaining).len() as u32 + remaining;
            let remaining = (maximum - 5..=maximum).find(|r| total(r) > maximum);
            client.send(&header_only(0x30, remaining.expect("a length that is too much")));
            client.expect_disconnect(&[code::PACKET_TOO_LARGE]);
        }
    });
}

#[test]
fn case_20_exactly_the_maximum_is_taken() {
    LIMITED.run("case_20b", |cx| {
        let topic = cx.topic("t");
        let mut sub = cx.watcher(&topic, 1);
        let mut publisher = cx.publisher();
        let maximum = maximum_packet(&publisher) as usize;
        assert_eq!(maximum, 4096);
        let shell = publish_len(V5, &Publish::new(&topic, vec![0; 3000]).qos(1).id(1)) - 3000;
        let fits = Publish::new(&topic, vec![b'x'; maximum - shell]).qos(1).id(1);
        assert_eq!(publish_len(V5, &fits), maximum);
        publisher.publish(fits.clone());
        assert_eq!(sub.message().payload, fits.payload);
        let beyond = Publish::new(&topic, vec![b'x'; maximum - shell + 1]).qos(1).id(2);
        publisher.send_publish(&beyond);
        publisher.expect_disconnect(&[code::PACKET_TOO_LARGE]);
        sub.ping();
        sub.expect_silence();
    });
}

#[test]
fn case_20_a_huge_length_before_connect_allocates_nothing() {
    CLAIMED.run("case_20c", |cx| {
        let before = cx.broker.resident_kib();
        let mut held: Vec<Client> = (0..100).map(|_| cx.raw(V5)).collect();
        for client in &mut held {
            client.send(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4, b'M', b'Q', b'T', b'T', 5]);
        }
        let mut other = cx.connect(cx.v5("bystander"));
        other.ping();
        if let (Some(before), Some(after)) = (before, cx.broker.resident_kib()) {
            // Each claims 256 MiB; a first use of buffers, on each shard, is less.
            assert!(after < before + 256 * 1024, "from {before} KiB to {after} KiB");
        }
        if maximum_packet(&other) < 268_435_455 {
            for client in &mut held {
                match client.event(PATIENCE) {
                    Event::Packet(Packet::ConnAck { code, .. }) => {
                        assert_eq!(code, code::PACKET_TOO_LARGE);
                        client.expect_closed();
                    }
                    Event::Closed => {}
                    other => panic!("a huge CONNECT got {other:?}"),
                }
            }
        }
    });
}

#[test]
fn case_31_more_retained_messages_than_windows_and_queues_all_arrive() {
    FLEET.run("case_31", |cx| {
        let count = 3000;
        let mut publisher = cx.publisher();
        let mut sent = 0;
        while sent < count {
            let batch: Vec<u8> = (sent..sent + 10)
                .flat_map(|n| {
                    let id = n as u16 + 1;
                    let topic = cx.topic(&format!("many/{n}"));
                    Publish::new(&topic, n.to_string()).qos(1).retain().id(id).encode(V5)
                })
                .collect();
            publisher.send(&batch);
            for n in sent..sent + 10 {
                assert!(publisher.expect_puback(n as u16 + 1) < 0x80);
            }
            sent += 10;
        }
        // A busy shard may take a publish in after the first one's SUBSCRIBE: it comes live then.
        for (qos, kept) in [(1, false), (0, true)] {
            let name = format!("sub{qos}");
            let mut sub = cx.connect(cx.v5(&name).receive_maximum(3));
            sub.subscribe(&cx.topic("many/#"), qos);
            let mut seen = vec![0; count];
            for _ in 0..count {
                let message = sub.message();
                assert!(message.retain || !kept);
                let n: usize = message.text().parse().expect("a number");
                assert_eq!(message.topic, cx.topic(&format!("many/{n}")));
                seen[n] += 1;
            }
            assert!(seen.iter().all(|n| *n == 1), "each once, at QoS {qos}");
            sub.ping();
            sub.expect_silence();
        }
    });
}

/// Expects the connection to end by keep alive, not before `least_ms` after `since`.
fn expect_keep_alive_end(client: &mut Client, since: Instant, least_ms: u64) {
    client.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
    let silent = since.elapsed();
    assert!(silent >= Duration::from_millis(least_ms), "closed after {silent:?}");
}

#[test]
fn case_39_silence_of_one_and_a_half_times_ends_the_connection() {
    FLEET.run("case_39", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 0);
        for version in [V311, V5] {
            let will = common::Will::new(&topic, "silent");
            let before = Instant::now();
            let mut client = cx.connect(cx.version(version, "a").keep_alive(2).will(will));
            expect_keep_alive_end(&mut client, before, 2900);
            watcher.expect_message("silent");
        }
    });
}

/// Sends each packet 900 ms after the one before; the time before the last one. `None` if a busy
/// machine let 1.4 s go by, after which the server may end the connection.
fn send_apart(client: &mut Client, since: Instant, packets: &[Vec<u8>]) -> Option<Instant> {
    let mut last = since;
    for bytes in packets {
        std::thread::sleep(Duration::from_millis(900));
        let now = Instant::now();
        client.send(bytes);
        if last.elapsed() >= Duration::from_millis(1400) {
            return None;
        }
        last = now;
    }
    Some(last)
}

#[test]
fn case_39_any_packet_restarts_the_keep_alive() {
    FLEET.run("case_39b", |cx| {
        let topic = cx.topic("t");
        let nothing = packet::Unsubscribe { id: 2, filters: vec![b"nothing".to_vec()] };
        let packets = [
            Publish::new(&topic, "x").encode(V5),
            Subscribe::new(1, &topic, 0).encode(V5),
            nothing.encode(V5),
            Publish::new(&topic, "x").qos(1).id(3).encode(V5),
            Publish::new(&topic, "x").qos(2).id(4).encode(V5),
        ];
        let (mut client, last) = (0..20)
            .find_map(|_| {
                let since = Instant::now();
                let mut client = cx.connect(cx.v5("a").keep_alive(1));
                send_apart(&mut client, since, &packets).map(|last| (client, last))
            })
            .expect("a machine that is not always late");
        assert!(client.expect_pubrec(4) < 0x80);
        // What the server sends does not count, and neither does half a packet.
        client.send(&[0x30]);
        let mut publisher = cx.publisher();
        while last.elapsed() < Duration::from_millis(1200) {
            publisher.publish(Publish::new(&topic, "from the server"));
            std::thread::sleep(Duration::from_millis(100));
        }
        expect_keep_alive_end(&mut client, last, 1400);
    });
}

#[test]
fn case_39_keep_alive_0_and_65535_do_not_end_a_connection() {
    FLEET.run("case_39c", |cx| {
        let mut clients: Vec<Client> = [0, 65_535, 43_691]
            .into_iter()
            .map(|k| cx.connect(cx.v5(&format!("k{k}")).keep_alive(k)))
            .collect();
        std::thread::sleep(Duration::from_secs(4));
        for client in &mut clients {
            client.ping();
        }
    });
}

#[test]
fn case_39_the_servers_keep_alive_wins() {
    IMPATIENT.run("case_39d", |cx| {
        for asked in [0, 600] {
            let before = Instant::now();
            let mut client = cx.connect(cx.v5("a").keep_alive(asked));
            let announced = client.connack_props().number(prop::SERVER_KEEP_ALIVE);
            assert_eq!(announced, Some(2), "asked for {asked}");
            expect_keep_alive_end(&mut client, before, 2900);
        }
        let client = cx.connect(cx.v5("b").keep_alive(1));
        assert_eq!(client.connack_props().number(prop::SERVER_KEEP_ALIVE), None);
    });
}

#[test]
fn a_full_window_holds_back_no_subscription_of_another_client() {
    FLEET.run("window", |cx| {
        let topic = cx.topic("t");
        let mut slow = cx.connect(cx.v5("slow").receive_maximum(1));
        slow.subscribe(&topic, 1);
        let mut quick = cx.watcher(&topic, 1);
        let mut publisher = cx.publisher();
        for n in 0..200 {
            publisher.publish(Publish::new(&topic, n.to_string()).qos(1));
            quick.expect_message(&n.to_string());
        }
        slow.expect_message("0");
        slow.expect_message("1");
        slow.send(&packet::PINGREQ);
        let subscribe = Subscribe::new(900, cx.topic("other"), 0);
        assert_eq!(slow.subscribe_with(&subscribe), [0]);
    });
}
