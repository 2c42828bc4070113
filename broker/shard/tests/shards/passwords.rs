//! Passwords that are judged elsewhere: what a client may not bring about before the answer, and
//! what becomes of those that it never reaches.

use ringtide_codec::{Connect, QoS, ReasonCode, Version};
use ringtide_shard::Limits;
use ringtide_shard::access::{Access, Acl};
use ringtide_shard::counters::Counter;
use ringtide_shard::password::Answer;

use crate::harness::{World, quiet};
use crate::packets::*;

/// A shard whose passwords the test judges.
fn world(shards: u16) -> World {
    let world = World::new(shards, quiet());
    world.judges.iter().for_each(|judge| judge.by_test.set(true));
    world
}

fn named<'a>(client_id: &'a str) -> Connect<'a> {
    Connect { username: Some("alice"), password: Some(b"secret"), ..connect_as(client_id) }
}

#[test]
fn a_connect_waits_with_all_that_came_behind_it() {
    let mut world = world(1);
    let mut bytes = bytes_of(&named("a"));
    bytes.extend(subscribe(1, "x", options(QoS::AtMostOnce)));
    bytes.extend(publish("x", QoS::AtLeastOnce, 7, b"early"));
    world.accept(0, 1, &bytes);
    world.turns(5);
    let asked = world.judges[0].asked.borrow()[0].clone();
    assert_eq!((asked.username.as_str(), &*asked.password), ("alice", &b"secret"[..]));
    assert_eq!(asked.patience_ms, quiet().listener(0).connect_timeout_ms);
    assert!(world.sent(0, 1).is_empty() && !world.is_read(0, 1));
    assert_eq!(world.count(Counter::PasswordsWaiting), 1);
    assert_eq!(world.count(Counter::Sessions), 0);
    world.judges[0].answer(Answer::Right);
    world.turns(5);
    let got = read(&world.sent(0, 1));
    assert_eq!(got[0], Got::ConnAck(ReasonCode::Success));
    assert_eq!(payloads(&got), ["early"]);
    assert!(got.contains(&Got::PubAck(7, ReasonCode::Success)), "{got:?}");
    assert!(world.is_read(0, 1));
    assert_eq!(world.count(Counter::PasswordsWaiting), 0);
}

#[test]
fn refusals_say_why_in_each_version() {
    let cases: [(Version, Answer, &[u8]); 4] = [
        (Version::V3_1, Answer::Wrong, &[0x20, 2, 0, 4]),
        (Version::V3_1_1, Answer::Wrong, &[0x20, 2, 0, 4]),
        (Version::V3_1_1, Answer::Busy, &[0x20, 2, 0, 3]),
        (Version::V3_1, Answer::Busy, &[0x20, 2, 0, 3]),
    ];
    let mut world = world(1);
    for (socket, (version, answer, connack)) in (1..).zip(cases) {
        world.accept(0, socket, &bytes_of(&Connect { version, ..named("a") }));
        world.turns(3);
        world.judges[0].answer(answer);
        world.turns(3);
        assert_eq!(world.sent(0, socket), connack, "{version:?} {answer:?}");
        assert!(world.is_closed(0, socket));
    }
    for (socket, answer, code) in [
        (11, Answer::Wrong, ReasonCode::BadUserNameOrPassword),
        (12, Answer::Busy, ReasonCode::ServerBusy),
    ] {
        world.accept(0, socket, &bytes_of(&named("a")));
        world.turns(3);
        world.judges[0].answer(answer);
        world.turns(3);
        assert_eq!(read(&world.sent(0, socket)), [Got::ConnAck(code)]);
        assert!(world.is_closed(0, socket));
    }
    assert_eq!(world.count(Counter::PasswordsRefused), 3);
    assert_eq!(world.count(Counter::PasswordsBusy), 3);
    assert_eq!(world.count(Counter::PasswordsHashed), 6);
    assert_eq!(world.count(Counter::ConnectionsOpen), 0);
}

#[test]
fn a_session_is_taken_over_only_with_the_right_password() {
    let mut world = world(1);
    world.judges[0].by_test.set(false);
    let lasting = connect_lasting("a", Some(will("gone", QoS::AtMostOnce)));
    world.accept(0, 1, &lasting);
    world.accept(0, 2, &connect("watcher"));
    world.send(0, 2, &subscribe(1, "gone", options(QoS::AtMostOnce)));
    world.turns(5);
    world.sent(0, 1);
    world.sent(0, 2);
    world.judges[0].by_test.set(true);
    for socket in [3, 4] {
        let will = Some(will("gone", QoS::AtMostOnce));
        world.accept(0, socket, &bytes_of(&Connect { will, clean_start: true, ..named("a") }));
        world.turns(5);
    }
    world.judges[0].answer(Answer::Wrong);
    world.judges[0].answer(Answer::Busy);
    world.turns(5);
    assert!(world.is_closed(0, 3) && world.is_closed(0, 4) && !world.is_closed(0, 1));
    assert!(world.sent(0, 1).is_empty());
    world.turns(5);
    assert!(read(&world.sent(0, 2)).is_empty(), "nobody's will was sent");
    assert_eq!(world.count(Counter::Takeovers), 0);
    world.accept(0, 5, &bytes_of(&named("a")));
    world.turns(5);
    world.judges[0].answer(Answer::Right);
    world.turns(5);
    assert_eq!(read(&world.sent(0, 5)), [Got::ConnAck(ReasonCode::Success)]);
    assert_eq!(
        read(&world.sent(0, 1)),
        [Got::Disconnect(ReasonCode::SessionTakenOver)],
        "the session is the same: it was not taken away by Clean Start"
    );
    assert_eq!(world.count(Counter::Takeovers), 1);
}

#[test]
fn rules_are_not_told_to_those_who_do_not_know_the_password() {
    let mut world = world(1);
    world.reload(quiet(), || Access::Rules(Acl::parse("default deny").expect("rules")));
    for (socket, answer, code) in [
        (1, Answer::Wrong, ReasonCode::BadUserNameOrPassword),
        (2, Answer::Right, ReasonCode::NotAuthorized),
    ] {
        let will = Some(will("secret", QoS::AtMostOnce));
        world.accept(0, socket, &bytes_of(&Connect { will, ..named("a") }));
        world.turns(3);
        world.judges[0].answer(answer);
        world.turns(3);
        assert_eq!(read(&world.sent(0, socket)), [Got::ConnAck(code)]);
    }
}

#[test]
fn the_deadline_of_the_handshake_goes_on_counting() {
    let mut world = world(1);
    world.accept(0, 1, &bytes_of(&named("a")));
    world.turns(3);
    world.pass_ms(quiet().listener(0).connect_timeout_ms - 1000);
    world.turns(3);
    assert!(!world.is_closed(0, 1));
    world.pass_ms(2000);
    world.turns(3);
    assert!(world.is_closed(0, 1) && world.sent(0, 1).is_empty());
    // The next connection has the same number: the answer is not for it.
    world.accept(0, 2, &bytes_of(&named("b")));
    world.turns(3);
    world.judges[0].answer(Answer::Right);
    world.turns(3);
    assert!(world.sent(0, 2).is_empty());
    assert_eq!(world.count(Counter::PasswordsWaiting), 1);
    world.judges[0].answer(Answer::Right);
    world.turns(3);
    assert_eq!(read(&world.sent(0, 2)), [Got::ConnAck(ReasonCode::Success)]);
    assert_eq!(world.count(Counter::PasswordsWaiting), 0);
    assert_eq!(world.count(Counter::Sessions), 1);
}

#[test]
fn who_is_found_right_goes_to_its_home() {
    let mut world = world(2);
    let name = world.name_at(1, "far");
    let mut bytes = bytes_of(&named(&name));
    bytes.extend(publish("x", QoS::AtLeastOnce, 7, b"early"));
    world.accept(0, 1, &bytes);
    world.turns(5);
    world.judges[0].answer(Answer::Right);
    world.turns(10);
    assert_eq!(
        read(&world.sent(1, 1)),
        [Got::ConnAck(ReasonCode::Success), Got::PubAck(7, ReasonCode::NoMatchingSubscribers)]
    );
    assert!(world.judges[1].asked.borrow().is_empty(), "nobody is asked twice");
}

#[test]
fn settings_that_change_meanwhile_hold_and_a_shutdown_ends_who_waits() {
    let mut world = world(1);
    world.accept(0, 1, &bytes_of(&named("a")));
    world.accept(0, 2, &bytes_of(&named("b")));
    world.turns(3);
    let mut limits = quiet();
    limits.server.allow_v5 = false;
    world.reload(limits, || Access::Open);
    world.judges[0].answer(Answer::Right);
    world.turns(3);
    let refused = ReasonCode::UnsupportedProtocolVersion;
    assert_eq!(read(&world.sent(0, 1)), [Got::ConnAck(refused)]);
    world.drain();
    world.turns(1);
    world.judges[0].answer(Answer::Right);
    world.turns(1);
    assert!(world.is_closed(0, 2) && world.sent(0, 2).is_empty());
    assert_eq!(world.count(Counter::Sessions), 0);
}

#[test]
fn who_gives_no_name_is_not_asked_for_a_password() {
    let mut world = world(1);
    world.accept(0, 1, &connect("a"));
    world.accept(0, 2, &bytes_of(&Connect { password: Some(b"x"), ..connect_as("b") }));
    world.turns(5);
    for socket in [1, 2] {
        assert_eq!(read(&world.sent(0, socket)), [Got::ConnAck(ReasonCode::Success)]);
    }
    world.reload(Limits { allow_anonymous: false, ..quiet() }, || Access::Open);
    world.accept(0, 3, &connect("c"));
    world.turns(5);
    assert_eq!(read(&world.sent(0, 3)), [Got::ConnAck(ReasonCode::NotAuthorized)]);
    assert!(world.judges[0].asked.borrow().is_empty());
}
