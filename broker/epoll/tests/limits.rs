//! The driver where something runs out: memory, descriptors, room in the socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ringtide_driver::conformance::loopback::{connect_many, turn, until};
use ringtide_driver::conformance::pattern;
use ringtide_driver::conformance::strain::{self, receive_from_many, send_to_slow_readers};
use ringtide_driver::{Completion, Driver, Outgoing, Token, Wait};
use ringtide_epoll::EpollConfig;
use support::{abort, driver};

fn little_memory(config: &mut EpollConfig) {
    config.receive_blocks = 2;
    config.receive_block_bytes = 4096;
}

#[test]
fn two_small_blocks_serve_200_connections() {
    let stats = receive_from_many(driver(little_memory), 0).stats();
    assert!(stats.starved > 0, "two blocks were enough, the test is too easy: {stats:?}");
}

#[test]
fn two_small_blocks_serve_200_connections_that_hold_them_for_a_while() {
    let stats = receive_from_many(driver(little_memory), 3).stats();
    assert!(stats.starved > 0, "{stats:?}");
}

#[test]
fn slow_readers_get_every_byte() {
    let stats = send_to_slow_readers(driver(|_| {})).stats();
    assert!(stats.stalls >= 40, "{stats:?}");
}

#[test]
fn a_reset_while_sending_fails_that_connection_only() {
    let driver = strain::reset_while_sending(driver(|_| {}), abort);
    assert!(driver.stats().stalls > 0);
}

const CHILD: &str = "RINGTIDE_TEST_FEW_DESCRIPTORS";

/// Runs this test once more in a process that may have few descriptors only.
#[test]
fn accepting_survives_the_end_of_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        let test = "accepting_survives_the_end_of_descriptors";
        return strain::with_few_descriptors(test, CHILD, 64);
    }
    let spare = std::fs::File::open("/dev/null").unwrap();
    let driver = strain::out_of_descriptors(driver(|_| {}), spare);
    assert!(driver.stats().accepts_failed > 0);
}

#[test]
fn every_close_is_answered_once() {
    for adjust in [|_: &mut EpollConfig| {}, little_memory] {
        let stats = strain::churn(driver(adjust)).stats();
        assert_eq!(stats.accepted, stats.closed);
        assert!(stats.stalls > 0 && stats.closed > 300, "{stats:?}");
    }
}

/// A socket that floods gets one chunk in a turn, so that those behind it are read in the same one.
#[test]
fn a_flood_on_one_socket_keeps_nobody_waiting() {
    let (mut driver, address) = driver(|_| {});
    let (mut clients, sockets) = connect_many(&mut driver, address, 3);
    let flood = pattern(200_000, 1);
    clients[0].set_nonblocking(true).unwrap();
    let mut queued = 0;
    while let Ok(more) = clients[0].write(&flood[queued..]) {
        queued += more;
        if queued == flood.len() {
            break;
        }
    }
    for client in &mut clients[1..] {
        client.write_all(b"small").unwrap();
    }
    for (number, socket) in sockets.iter().enumerate() {
        driver.start_receive(Token(number as u64), *socket);
    }
    let mut got = vec![Vec::new(); 3];
    let mut turns = 0;
    while got[1..].iter().any(Vec::is_empty) {
        turns += 1;
        for completion in turn(&mut driver, Wait::AtMost(Duration::from_millis(20))) {
            let Completion::Received { token, buffer } = completion else {
                panic!("{completion:?}")
            };
            got[token.0 as usize].extend_from_slice(driver.bytes(buffer));
            driver.release(buffer);
        }
    }
    assert_eq!(got[1..], [b"small", b"small"]);
    assert!(got[0].len() <= 8192 * turns, "{} bytes in {turns} turns", got[0].len());
    while got[0].len() < queued {
        until(&mut driver, |driver, completion| {
            let Completion::Received { buffer, .. } = completion else { panic!("{completion:?}") };
            got[0].extend_from_slice(driver.bytes(buffer));
            driver.release(buffer);
            Some(())
        });
    }
    assert!(got[0] == flood[..queued], "bytes of the flood differ");
}

/// The rounds of a busy connection: no registration, no receive that finds nothing.
#[test]
fn a_turn_is_one_wait() {
    let (mut driver, address) = driver(|_| {});
    let (mut clients, sockets) = connect_many(&mut driver, address, 100);
    for (number, socket) in sockets.iter().enumerate() {
        driver.start_receive(Token(number as u64), *socket);
    }
    turn(&mut driver, Wait::Poll);
    clients.iter_mut().for_each(|client| client.write_all(b"ping").unwrap());
    let before = driver.stats().waits;
    let (mut turns, mut echoed) = (0, 0);
    while echoed < 100 {
        let completions = turn(&mut driver, Wait::AtMost(Duration::from_secs(1)));
        turns += 1;
        for completion in completions {
            if let Completion::Received { token, buffer } = completion {
                let mut head = driver.reclaim().unwrap_or_default();
                head.extend_from_slice(driver.bytes(buffer));
                driver.release(buffer);
                let outgoing = Outgoing { head, shared: Vec::new() };
                driver.send(token, sockets[token.0 as usize], outgoing);
                echoed += 1;
            }
        }
    }
    assert_eq!(driver.stats().waits - before, turns);
    for client in &mut clients {
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
    }
    let quiet: Vec<TcpStream> = clients;
    assert!(turn(&mut driver, Wait::Poll).is_empty());
    drop(quiet);
}
