//! Hard cases 1 to 8: one client id, several connections; wills; the end of sessions.

mod common;

use std::time::{Duration, Instant};

use common::{Client, Cx, Event, Fleet, PATIENCE, Packet, Props, Publish, Settings, Will};
use common::{V5, V31, V311, code, packet, prop};

static FLEET: Fleet = Fleet::new(Settings::new);

/// Publishes a marker and expects it to be the next thing the watcher gets: nothing was before.
fn expect_only_marker(cx: &Cx<'_>, watcher: &mut Client, topic: &str) {
    cx.publisher().publish(Publish::new(topic, "marker").qos(1));
    watcher.expect_message("marker");
}

#[test]
fn case_01_two_connects_race_and_one_survives() {
    FLEET.run("case_01", |cx| {
        for version in [V311, V5] {
            let id = format!("race{version}");
            let connect = || {
                let c = cx.version(version, &id).resume();
                if version == V5 { c.expiry(300) } else { c }
            };
            let topic = cx.topic(&id);
            cx.connect(connect()).subscribe(&topic, 1);
            let mut survivors = race(cx, &connect);
            assert_eq!(survivors.len(), 1, "exactly one connection survives");
            let mut survivor = survivors.remove(0);
            // What the losers leave behind must not touch the session.
            cx.publisher().publish(Publish::new(&topic, "to the survivor").qos(1));
            survivor.expect_message("to the survivor");
            survivor.lose_network();
            let back = cx.connect(connect());
            assert!(back.session_present(), "a late end of a loser deleted the session");
        }
    });
}

/// Connects many times at once under one id. Losers must have been told, then closed.
fn race(cx: &Cx<'_>, connect: &(impl Fn() -> common::Connect + Sync)) -> Vec<Client> {
    let contenders: Vec<Client> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..12).map(|_| scope.spawn(|| cx.attempt(&connect()))).collect();
        starts.into_iter().map(|s| s.join().expect("a contender")).collect()
    });
    let mut survivors = Vec::new();
    for mut client in contenders {
        match client.event(PATIENCE) {
            Event::Packet(Packet::ConnAck { code: 0, .. }) => survivors.push(client),
            // Overtaken before its CONNACK went out.
            Event::Closed => {}
            other => panic!("a contender got {other:?}"),
        }
    }
    // All have their CONNACK; whoever answers a ping now was not taken over.
    survivors.retain_mut(|client| {
        client.send(&packet::PINGREQ);
        match client.event(PATIENCE) {
            Event::Packet(Packet::PingResp) => match client.event(common::QUIET) {
                Event::Nothing => true,
                event => lost(client, event),
            },
            event => lost(client, event),
        }
    });
    survivors
}

fn lost(client: &mut Client, event: Event) -> bool {
    match event {
        Event::Packet(Packet::Disconnect { code: got, .. }) => {
            assert_eq!(got, code::TAKEN_OVER);
            client.expect_closed();
        }
        Event::Closed => assert_ne!(client.version, V5, "closed without DISCONNECT 0x8E"),
        other => panic!("a loser of the race got {other:?}"),
    }
    false
}

#[test]
fn case_01_the_old_connection_gets_taken_over() {
    FLEET.run("case_01b", |cx| {
        for version in [V31, V311, V5] {
            let id = format!("old{version}");
            let mut old = cx.connect(cx.version(version, &id));
            let mut new = cx.connect(cx.version(version, &id));
            old.expect_disconnect(&[code::TAKEN_OVER]);
            new.ping();
        }
    });
}

#[test]
fn case_02_takeover_that_ends_the_session_publishes_the_old_will_once() {
    FLEET.run("case_02", |cx| {
        let ends = [("clean start", 300, true), ("expiry 0", 0, false)];
        for (name, expiry, clean) in ends {
            let topic = cx.topic(name);
            let mut watcher = cx.watcher(&topic, 1);
            let will = Will::new(&topic, "old will").delay(60);
            let mut old = cx.connect(cx.v5(name).expiry(expiry).will(will));
            let mut next = cx.v5(name).will(Will::new(&topic, "new will"));
            next.clean = clean;
            let new = cx.connect(next);
            assert!(!new.session_present());
            old.expect_disconnect(&[code::TAKEN_OVER]);
            watcher.expect_message("old will");
            new.disconnect();
            expect_only_marker(cx, &mut watcher, &topic);
        }
    });
}

#[test]
fn case_02_takeover_of_the_same_session_cancels_a_delayed_will() {
    FLEET.run("case_02b", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let will = |text| Will::new(&topic, text).delay(2);
        let mut old = cx.connect(cx.v5("a").expiry(300).will(will("old will")));
        let mut new = cx.connect(cx.v5("a").expiry(300).resume().will(will("new will")));
        assert!(new.session_present());
        old.expect_disconnect(&[code::TAKEN_OVER]);
        watcher.expect_silence_for(Duration::from_secs(4));
        new.ping();
        new.disconnect();
        expect_only_marker(cx, &mut watcher, &topic);
    });
}

#[test]
fn case_02_takeover_of_the_same_session_publishes_an_undelayed_will_of_the_old() {
    FLEET.run("case_02c", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let with = |text| cx.v5("a").expiry(300).resume().will(Will::new(&topic, text));
        let mut old = cx.connect(with("old will"));
        let new = cx.connect(with("new will"));
        old.expect_disconnect(&[code::TAKEN_OVER]);
        watcher.expect_message("old will");
        new.disconnect();
        expect_only_marker(cx, &mut watcher, &topic);
    });
}

#[test]
fn case_02_takeover_below_5_publishes_the_old_will_once() {
    FLEET.run("case_02d", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let mut old = cx.connect(cx.v311("a").will(Will::new(&topic, "old will")));
        let new = cx.connect(cx.v311("a").will(Will::new(&topic, "new will")));
        old.expect_closed();
        watcher.expect_message("old will");
        new.disconnect();
        expect_only_marker(cx, &mut watcher, &topic);
    });
}

#[test]
fn case_03_will_delay_longer_than_the_session_ends_with_the_session() {
    FLEET.run("case_03", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let at_once = Will::new(&topic, "session of 0 s").delay(600);
        cx.connect(cx.v5("none").will(at_once)).lose_network();
        watcher.expect_message("session of 0 s");

        let later = Will::new(&topic, "session of 2 s").delay(600);
        let client = cx.connect(cx.v5("short").expiry(2).will(later));
        let lost_at = Instant::now();
        client.lose_network();
        watcher.expect_message("session of 2 s");
        assert!(lost_at.elapsed() >= Duration::from_millis(1500), "before the session ended");
        let back = cx.connect(cx.v5("short").resume());
        assert!(!back.session_present(), "the will said that the session had ended");
    });
}

#[test]
fn case_03_will_delay_shorter_than_the_session_is_kept() {
    FLEET.run("case_03b", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let will = Will::new(&topic, "after 2 s").delay(2);
        let client = cx.connect(cx.v5("a").expiry(600).will(will));
        let lost_at = Instant::now();
        client.lose_network();
        watcher.expect_message("after 2 s");
        assert!(lost_at.elapsed() >= Duration::from_millis(1500), "before its delay");
        let back = cx.connect(cx.v5("a").resume().expiry(600));
        assert!(back.session_present());
        back.disconnect();
        expect_only_marker(cx, &mut watcher, &topic);
    });
}

/// What a client may say in DISCONNECT beside 0x00.
const CLIENT_DISCONNECT_CODES: [u8; 13] =
    [0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

#[test]
fn case_04_every_disconnect_code_but_0_publishes_the_will() {
    FLEET.run("case_04", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        for sent in CLIENT_DISCONNECT_CODES {
            let text = format!("will of {sent:#04x}");
            let mut client = cx.connect(cx.v5("a").will(Will::new(&topic, &text).qos(1)));
            client.disconnect_with(sent, &Props::none());
            watcher.expect_message(&text);
        }
        for version in [V31, V311, V5] {
            let client = cx.connect(cx.version(version, "a").will(Will::new(&topic, "no")));
            client.disconnect();
            expect_only_marker(cx, &mut watcher, &topic);
        }
    });
}

#[test]
fn case_05_disconnect_outside_the_table_is_malformed_and_keeps_the_will() {
    FLEET.run("case_05", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        for sent in [0xFF, 0x01, 0x7F] {
            let text = format!("will of {sent:#04x}");
            let mut client = cx.connect(cx.v5("a").will(Will::new(&topic, &text)));
            client.send(&packet::disconnect(V5, sent, &Props::none()));
            client.expect_disconnect(&[code::MALFORMED]);
            watcher.expect_message(&text);
        }
        // In the table, but a server's to say.
        for sent in [0x8B, 0x8E, 0x9F] {
            let text = format!("will of {sent:#04x}");
            let mut client = cx.connect(cx.v5("a").will(Will::new(&topic, &text)));
            client.disconnect_with(sent, &Props::none());
            watcher.expect_message(&text);
        }
        expect_only_marker(cx, &mut watcher, &topic);
    });
}

#[test]
fn case_06_disconnect_raising_the_expiry_from_0_is_a_protocol_error() {
    FLEET.run("case_06", |cx| {
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let raise = Props::none().u32(prop::SESSION_EXPIRY, 600);
        for given in [None, Some(0)] {
            let will = Will::new(&topic, "will").delay(600);
            let mut connect = cx.v5("a").will(will);
            if let Some(expiry) = given {
                connect = connect.expiry(expiry);
            }
            let mut client = cx.connect(connect);
            client.subscribe(&cx.topic("kept"), 1);
            client.send(&packet::disconnect(V5, 0, &raise));
            client.expect_disconnect(&[code::PROTOCOL_ERROR]);
            watcher.expect_message("will");
            let back = cx.connect(cx.v5("a").resume());
            assert!(!back.session_present(), "the session ended at once");
        }
    });
}

#[test]
fn case_06_disconnect_may_change_an_expiry_above_0() {
    FLEET.run("case_06b", |cx| {
        let say = |seconds| Props::none().u32(prop::SESSION_EXPIRY, seconds);
        let mut client = cx.connect(cx.v5("a").expiry(1));
        client.disconnect_with(0, &say(600));
        std::thread::sleep(Duration::from_millis(2500));
        let mut client = cx.connect(cx.v5("a").resume().expiry(600));
        assert!(client.session_present(), "raised from 1 s to 600 s");
        client.disconnect_with(0, &say(0));
        let client = cx.connect(cx.v5("a").resume());
        assert!(!client.session_present(), "lowered to 0");
    });
}

// That the count goes on across a restart belongs to the durable store; sessions live in memory.
#[test]
fn case_07_session_expiry_counts_from_the_disconnection() {
    FLEET.run("case_07", |cx| {
        const EXPIRY_S: u32 = 2;
        let expiry = Duration::from_secs(EXPIRY_S.into());
        let connect = || cx.v5("a").resume().expiry(EXPIRY_S);
        // On a busy machine it may be over before this client is back: then it is tried again.
        let back = (0..20).find_map(|_| {
            let mut client = cx.connect(connect());
            std::thread::sleep(expiry + Duration::from_millis(1500));
            client.ping();
            let lost_at = Instant::now();
            client.lose_network();
            let client = cx.connect(connect());
            let in_time = lost_at.elapsed() < expiry;
            assert!(client.session_present() || !in_time, "expired while it was connected");
            in_time.then_some(client)
        });
        back.expect("a machine that is not always late").disconnect();
        // The session's end sends a will whose delay is longer.
        let topic = cx.topic("will");
        let mut watcher = cx.watcher(&topic, 1);
        let will = Will::new(&topic, "ended").delay(600);
        let lost_at = Instant::now();
        cx.connect(connect().will(will)).lose_network();
        watcher.expect_message("ended");
        assert!(lost_at.elapsed() >= expiry - Duration::from_millis(500), "ended too soon");
        let client = cx.connect(connect());
        assert!(!client.session_present(), "outlived its expiry");
    });
}

#[test]
fn case_08_session_present_exactly_when_state_exists() {
    FLEET.run("case_08", |cx| {
        let stays = || cx.v5("a").expiry(600);
        let mut present = Vec::new();
        for connect in [stays().resume(), stays().resume(), stays(), stays().resume()] {
            let client = cx.connect(connect);
            present.push(client.session_present());
            client.disconnect();
        }
        assert_eq!(present, [false, true, false, true], "5.0");

        let gone = cx.connect(cx.v5("b"));
        gone.disconnect();
        let client = cx.connect(cx.v5("b").resume());
        assert!(!client.session_present(), "a session of expiry 0 ended with its connection");

        let mut present = Vec::new();
        let v3 = || cx.v311("c");
        for connect in [v3().resume(), v3().resume(), v3(), v3().resume()] {
            let client = cx.connect(connect);
            present.push(client.session_present());
            client.disconnect();
        }
        assert_eq!(present, [false, true, false, false], "3.1.1");
    });
}

#[test]
fn case_08_session_present_0_on_a_refusal() {
    FLEET.run("case_08b", |cx| {
        cx.connect(cx.v5("a").expiry(600)).disconnect();
        let unknown = |p: Props| p.str(prop::AUTH_METHOD, "NO-SUCH-METHOD");
        let mut client = cx.attempt(&cx.v5("a").resume().expiry(600).prop(unknown));
        // The test's reader refuses a session present beside an error.
        client.expect_refused(&[code::BAD_AUTH_METHOD, code::NOT_AUTHORIZED]);
        let client = cx.connect(cx.v5("a").resume().expiry(600));
        assert!(client.session_present(), "a refused CONNECT must not harm the session");
    });
}
