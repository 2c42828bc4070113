//! The driver where something runs out: completions, entries, buffers, descriptors, room in the
//! socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ringtide_driver::conformance::loopback::{connect_many, turn, until};
use ringtide_driver::conformance::strain::{self, receive_from_many, send_to_slow_readers};
use ringtide_driver::{Completion, Driver, Outgoing, Token, Wait};
use ringtide_net::{Descriptors, UringConfig};
use support::{abort, driver};

#[test]
fn four_buffers_serve_200_connections() {
    let driver = receive_from_many(driver(|config| config.receive_buffers = 4), 0);
    assert!(driver.stats().starved > 0, "four buffers were enough, the test is too easy");
}

#[test]
fn four_buffers_serve_200_connections_that_hold_them_for_a_while() {
    let driver = receive_from_many(driver(|config| config.receive_buffers = 4), 3);
    assert!(driver.stats().starved > 0);
}

#[test]
fn a_completion_queue_of_8_overflows_and_loses_nothing() {
    let small = |config: &mut UringConfig| {
        config.submission_entries = 4;
        config.completion_entries = Some(8);
    };
    let driver = receive_from_many(driver(small), 0);
    assert!(driver.stats().overflows > 0, "the queue never overflowed");
}

#[test]
fn slow_readers_get_every_byte() {
    let driver = send_to_slow_readers(driver(|_| {}));
    assert_eq!(driver.stats().overflows, 0);
}

#[test]
fn slow_readers_get_every_byte_through_a_completion_queue_of_8() {
    let driver = send_to_slow_readers(driver(|config| {
        config.submission_entries = 8;
        config.completion_entries = Some(8);
    }));
    assert!(driver.stats().overflows > 0, "the queue never overflowed");
}

#[test]
fn slow_readers_get_every_byte_through_short_submits() {
    let driver = send_to_slow_readers(driver(|config| config.submit_max = Some(3)));
    assert!(driver.stats().short_submits > 0);
}

#[test]
fn slow_readers_get_every_byte_with_counted_sends() {
    send_to_slow_readers(driver(|config| config.counted_sends = true));
}

#[test]
fn a_reset_while_sending_fails_that_connection_only() {
    let driver = strain::reset_while_sending(driver(|_| {}), abort);
    assert!(driver.stats().stalls > 0);
}

#[test]
fn one_turn_is_one_enter() {
    let (mut driver, address) = driver(|_| {});
    let (mut clients, sockets) = connect_many(&mut driver, address, 100);
    for (number, socket) in sockets.iter().enumerate() {
        driver.start_receive(Token(number as u64), *socket);
    }
    turn(&mut driver, Wait::Poll);
    for client in &mut clients {
        client.write_all(b"ping").unwrap();
    }
    let before = driver.stats().enters;
    let mut turns = 0;
    let mut echoed = 0;
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
    turn(&mut driver, Wait::Poll);
    turns += 1;
    assert_eq!(driver.stats().enters - before, turns);
    for client in &mut clients {
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
    }
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
fn a_full_table_of_direct_descriptors_refuses_and_goes_on() {
    let direct = |config: &mut UringConfig| {
        config.descriptors = Descriptors::Direct { slots_max: 3 };
    };
    let (mut driver, address) = driver(direct);
    let (clients, sockets) = connect_many(&mut driver, address, 3);
    let mut refused = TcpStream::connect(address).unwrap();
    until(&mut driver, |_, completion| {
        matches!(completion, Completion::AcceptFailed { .. }).then_some(())
    });
    assert!(!matches!(refused.read(&mut [0; 8]), Ok(1..)), "the fourth is turned away");
    driver.close(Token(0), sockets[0]);
    until(&mut driver, |_, completion| {
        matches!(completion, Completion::Closed { .. }).then_some(())
    });
    let _next = TcpStream::connect(address).unwrap();
    until(&mut driver, |_, completion| {
        matches!(completion, Completion::Accepted { .. }).then_some(())
    });
    drop(clients);
}

/// Connections live and die at random, everything in flight at once.
fn churn(adjust: impl FnOnce(&mut UringConfig)) {
    let stats = strain::churn(driver(adjust)).stats();
    assert_eq!(stats.accepted, stats.closed);
    assert!(stats.stalls > 0 && stats.closed > 300, "{stats:?}");
}

#[test]
fn every_close_is_answered_once() {
    churn(|_| {});
}

#[test]
fn every_close_is_answered_once_by_shutdown() {
    churn(|config| config.cancel_scan_max = 0);
}

#[test]
fn every_close_is_answered_once_with_direct_descriptors() {
    churn(|config| config.descriptors = Descriptors::Direct { slots_max: 200 });
}

#[test]
fn every_close_is_answered_once_through_a_completion_queue_of_8() {
    churn(|config| {
        config.submission_entries = 8;
        config.completion_entries = Some(8);
        config.receive_buffers = 2;
    });
}
