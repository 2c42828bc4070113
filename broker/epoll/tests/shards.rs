//! Several drivers in one process: wakes, hand-overs, a listener that they share.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use ringtide_driver::conformance::files::Scratch;
use ringtide_driver::conformance::loopback::{connect_many, turn, until};
use ringtide_driver::conformance::shards;
use ringtide_driver::{Completion, Driver, ListenerId, Outgoing, Token, Wait, Waker};
use ringtide_epoll::{EpollConfig, EpollDriver, Peers};
use support::driver_of;

#[test]
fn a_thread_wakes_a_sleeping_driver() {
    let peers = Peers::new(1).unwrap();
    let (mut driver, _) = driver_of(0, &peers, |_| {});
    shards::thread_wakes(&mut driver, &peers.waker(0).unwrap());
}

#[test]
fn a_wake_before_the_driver_exists_is_not_lost() {
    let peers = Peers::new(1).unwrap();
    peers.waker(0).unwrap().wake();
    let (mut driver, _) = driver_of(0, &peers, |_| {});
    until(&mut driver, |_, completion| matches!(completion, Completion::Woken).then_some(()));
}

#[test]
fn drivers_wake_each_other() {
    let peers = Peers::new(2).unwrap();
    shards::wake_each_other(move |shard| driver_of(shard, &peers, |_| {}).0);
}

#[test]
fn sockets_are_handed_over() {
    let peers = Peers::new(2).unwrap();
    shards::hand_over(move |shard| driver_of(shard, &peers, |_| {}));
}

#[test]
fn a_hand_over_to_nobody_fails_and_closes() {
    let peers = Peers::new(2).unwrap();
    for nobody in [1, 2] {
        shards::hand_over_to_nobody(driver_of(0, &peers, |_| {}), nobody);
    }
    let (ended, _) = driver_of(1, &peers, |_| {});
    drop(ended);
    shards::hand_over_to_nobody(driver_of(0, &peers, |_| {}), 1);
}

#[test]
fn what_is_on_its_way_to_a_driver_that_ends_is_closed() {
    let peers = Peers::new(2).unwrap();
    let (there, _) = driver_of(1, &peers, |_| {});
    let (mut here, address) = driver_of(0, &peers, |_| {});
    let (mut clients, sockets) = connect_many(&mut here, address, 1);
    assert_eq!(here.hand_over(sockets[0], 1, 7), None);
    assert!(turn(&mut here, Wait::Poll).is_empty());
    drop(there);
    assert_eq!(clients[0].read(&mut [0; 8]).unwrap(), 0);
}

/// Waits shorter than epoll can count are kept all the same, and end early for what comes.
#[test]
fn a_wait_of_microseconds_ends_for_a_wake() {
    let peers = Peers::new(1).unwrap();
    let (mut driver, _) = driver_of(0, &peers, |_| {});
    assert!(turn(&mut driver, Wait::AtMost(Duration::from_micros(100))).is_empty());
    peers.waker(0).unwrap().wake();
    let woken = turn(&mut driver, Wait::AtMost(Duration::from_micros(999)));
    assert!(matches!(woken[..], [Completion::Woken]), "{woken:?}");
}

/// A Unix socket has no port that several sockets could share: all shards watch one.
#[test]
fn one_unix_socket_serves_several_drivers() {
    let scratch = Scratch::new();
    let path = scratch.path.with_extension("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let peers = Peers::new(2).unwrap();
    let driver = |shard| {
        let listener = listener.try_clone().unwrap();
        let config = EpollConfig::new(shard, Arc::clone(&peers), vec![listener.into()]);
        let mut driver = EpollDriver::new(config).unwrap();
        driver.start_accept(ListenerId(0));
        driver
    };
    let mut drivers = [driver(0), driver(1)];
    for round in 0..20 {
        let mut client = UnixStream::connect(&path).unwrap();
        let mut answered = 0;
        while answered == 0 {
            for driver in &mut drivers {
                for completion in turn(driver, Wait::AtMost(Duration::from_millis(1))) {
                    let Completion::Accepted { socket, peer, .. } = completion else { continue };
                    assert_eq!(peer, None, "a Unix socket has no address");
                    let head = b"hello".to_vec();
                    driver.send(Token(round), socket, Outgoing { head, shared: Vec::new() });
                    driver.close(Token(round), socket);
                    answered += 1;
                }
            }
        }
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"hello");
        assert_eq!(answered, 1, "one driver has the connection");
    }
    std::fs::remove_file(path).unwrap();
}
