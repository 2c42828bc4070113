//! The driver where something runs out: completions, entries, buffers, descriptors, room in the
//! socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ringtide_driver::conformance::pattern;
use ringtide_driver::{Completion, Driver, ListenerId, Outgoing, Socket, Token, Wait};
use ringtide_net::{Descriptors, UringConfig, UringDriver};
use support::{driver, turn, until};

/// Accepts `count` connections; connection `n` gets token `n` and its client is `clients[n]`.
fn connect_many(
    driver: &mut UringDriver,
    address: std::net::SocketAddr,
    count: usize,
) -> (Vec<TcpStream>, Vec<Socket>) {
    driver.start_accept(ListenerId(0));
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let client = TcpStream::connect(address).unwrap();
        let own = client.local_addr().unwrap();
        clients.push(client);
        sockets.push(until(driver, |_, completion| match completion {
            Completion::Accepted { socket, peer, .. } => {
                assert_eq!(peer, Some(own));
                Some(socket)
            }
            _ => None,
        }));
    }
    (clients, sockets)
}

/// Every client sends `len` bytes of its own pattern from a thread of its own.
fn all_send(clients: &[TcpStream], len: usize) -> Vec<thread::JoinHandle<()>> {
    let send = |(number, client): (usize, &TcpStream)| {
        let mut client = client.try_clone().unwrap();
        thread::spawn(move || client.write_all(&pattern(len, number as u32)).unwrap())
    };
    clients.iter().enumerate().map(send).collect()
}

/// Receives until every connection has its `len` bytes, holding each buffer for `hold` turns.
fn receive_all(driver: &mut UringDriver, count: usize, len: usize, hold: usize) {
    let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut held = Vec::new();
    let mut quiet = 0;
    while got.values().map(Vec::len).sum::<usize>() < count * len {
        let completions = turn(driver, Wait::AtMost(Duration::from_millis(1)));
        quiet = if completions.is_empty() { quiet + 1 } else { 0 };
        assert!(quiet < 60_000, "nothing comes any more");
        for completion in completions {
            let Completion::Received { token, buffer } = completion else {
                panic!("unexpected {completion:?}");
            };
            got.entry(token.0).or_default().extend_from_slice(driver.bytes(buffer));
            held.push((hold, buffer));
        }
        held.retain_mut(|(turns, buffer)| {
            if *turns == 0 {
                driver.release(*buffer);
                return false;
            }
            *turns -= 1;
            true
        });
    }
    for (token, bytes) in got {
        assert!(bytes == pattern(len, token as u32), "connection {token} got other bytes");
    }
}

fn receive_from_many(adjust: impl FnOnce(&mut UringConfig), hold: usize) -> UringDriver {
    let (count, len) = (200, 20_000);
    let (mut driver, address) = driver(adjust);
    let (clients, sockets) = connect_many(&mut driver, address, count);
    for (number, socket) in sockets.iter().enumerate() {
        driver.start_receive(Token(number as u64), *socket);
    }
    let senders = all_send(&clients, len);
    receive_all(&mut driver, count, len, hold);
    for sender in senders {
        sender.join().unwrap();
    }
    driver
}

#[test]
fn four_buffers_serve_200_connections() {
    let driver = receive_from_many(|config| config.receive_buffers = 4, 0);
    assert!(driver.stats().starved > 0, "four buffers were enough, the test is too easy");
}

#[test]
fn four_buffers_serve_200_connections_that_hold_them_for_a_while() {
    let driver = receive_from_many(|config| config.receive_buffers = 4, 3);
    assert!(driver.stats().starved > 0);
}

#[test]
fn a_completion_queue_of_8_overflows_and_loses_nothing() {
    let small = |config: &mut UringConfig| {
        config.submission_entries = 4;
        config.completion_entries = Some(8);
    };
    let driver = receive_from_many(small, 0);
    assert!(driver.stats().overflows > 0, "the queue never overflowed");
}

/// Reads in small pieces, with pauses, once `begin` is set; gives all that came.
fn slow_reader(client: &TcpStream, begin: &Arc<AtomicBool>) -> thread::JoinHandle<Vec<u8>> {
    let mut client = client.try_clone().unwrap();
    let begin = Arc::clone(begin);
    thread::spawn(move || {
        while !begin.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        let mut all = Vec::new();
        let mut chunk = [0; 3_000];
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            all.extend_from_slice(&chunk[..read]);
            if all.len() % 7 == 0 {
                thread::sleep(Duration::from_micros(200));
            }
        }
        all
    })
}

/// Sends `rounds` turns of data to slow readers and compares every byte.
fn send_to_slow_readers(adjust: impl FnOnce(&mut UringConfig)) -> UringDriver {
    let (count, rounds) = (40, 60);
    let (mut driver, address) = driver(adjust);
    let (clients, sockets) = connect_many(&mut driver, address, count);
    // Nobody reads before every connection has stalled once.
    let begin = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = clients.iter().map(|client| slow_reader(client, &begin)).collect();
    let shared = Bytes::from(pattern(30_000, 77));
    let mut sent = vec![Vec::new(); count];
    let mut busy = vec![false; count];
    let mut left = vec![rounds; count];
    while left.iter().any(|left| *left > 0) || busy.contains(&true) {
        for number in 0..count {
            if left[number] == 0 || busy[number] {
                continue;
            }
            left[number] -= 1;
            let head = pattern(10_000 + number, left[number]);
            let outgoing = if left[number] % 2 == 0 {
                sent[number].extend_from_slice(&head[..5]);
                sent[number].extend_from_slice(&shared);
                sent[number].extend_from_slice(&head[5..]);
                Outgoing { head, shared: vec![(5, shared.clone())] }
            } else {
                sent[number].extend_from_slice(&head);
                Outgoing { head, shared: Vec::new() }
            };
            driver.send(Token(number as u64), sockets[number], outgoing);
        }
        for completion in turn(&mut driver, Wait::AtMost(Duration::from_millis(1))) {
            match completion {
                Completion::SendStalled { token } => busy[token.0 as usize] = true,
                Completion::Sent { token } => busy[token.0 as usize] = false,
                other => panic!("unexpected {other:?}"),
            }
        }
        if driver.stats().stalls >= count as u64 {
            begin.store(true, Ordering::Release);
        }
    }
    for (number, socket) in sockets.iter().enumerate() {
        driver.close(Token(number as u64), *socket);
    }
    let mut open = count;
    while open > 0 {
        let completions = turn(&mut driver, Wait::AtMost(Duration::from_millis(20)));
        open -= completions.iter().filter(|c| matches!(c, Completion::Closed { .. })).count();
    }
    for (reader, sent) in readers.into_iter().zip(sent) {
        assert!(reader.join().unwrap() == sent, "a reader got other bytes");
    }
    assert!(shared.is_unique());
    driver
}

#[test]
fn slow_readers_get_every_byte() {
    let driver = send_to_slow_readers(|_| {});
    assert_eq!(driver.stats().overflows, 0);
}

#[test]
fn slow_readers_get_every_byte_through_a_completion_queue_of_8() {
    let driver = send_to_slow_readers(|config| {
        config.submission_entries = 8;
        config.completion_entries = Some(8);
    });
    assert!(driver.stats().overflows > 0, "the queue never overflowed");
}

#[test]
fn slow_readers_get_every_byte_through_short_submits() {
    let driver = send_to_slow_readers(|config| config.submit_max = Some(3));
    assert!(driver.stats().short_submits > 0);
}

#[test]
fn slow_readers_get_every_byte_with_counted_sends() {
    send_to_slow_readers(|config| config.counted_sends = true);
}

#[test]
fn a_reset_while_sending_fails_that_connection_only() {
    let (mut driver, address) = driver(|_| {});
    let (mut clients, sockets) = connect_many(&mut driver, address, 2);
    let (victim, other) = (Token(0), Token(1));
    // Fill the victim's socket until a send waits for room.
    loop {
        let head = pattern(50_000, 1);
        driver.send(victim, sockets[0], Outgoing { head, shared: Vec::new() });
        let stalled = |c: &Completion| matches!(c, Completion::SendStalled { .. });
        if turn(&mut driver, Wait::Poll).iter().any(stalled) {
            break;
        }
    }
    let dead = clients.remove(0);
    socket2::SockRef::from(&dead).set_linger(Some(Duration::ZERO)).unwrap();
    drop(dead);
    let errno = until(&mut driver, |_, completion| match completion {
        Completion::SendFailed { token, errno } => {
            assert_eq!(token, victim);
            Some(errno)
        }
        _ => None,
    });
    assert_ne!(errno, 0);
    driver.send(other, sockets[1], Outgoing { head: b"alive".to_vec(), shared: Vec::new() });
    driver.close(victim, sockets[0]);
    until(&mut driver, |_, completion| {
        matches!(completion, Completion::Closed { token } if token == victim).then_some(())
    });
    let mut got = [0; 5];
    clients[0].read_exact(&mut got).unwrap();
    assert_eq!(&got, b"alive");
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
    if std::env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    let test = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(test)
        .args(["--exact", "accepting_survives_the_end_of_descriptors", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn without_descriptors() {
    let spare = std::fs::File::open("/dev/null").unwrap();
    let (mut driver, address) = driver(|_| {});
    driver.start_accept(ListenerId(0));
    // Each connection takes two descriptors here, so accepting fails before connecting does.
    let mut clients = Vec::new();
    let mut sockets = Vec::new();
    let mut failed = None;
    while failed.is_none() {
        let Ok(client) = TcpStream::connect(address) else { break };
        clients.push(client);
        for completion in turn(&mut driver, Wait::AtMost(Duration::from_millis(20))) {
            match completion {
                Completion::Accepted { socket, .. } => sockets.push(socket),
                Completion::AcceptFailed { errno, .. } => failed = Some(errno),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    // Whoever took the last descriptor, and whether or not accepting failed before a client was
    // there to accept: one more client is let in, and waits.
    drop(spare);
    clients.push(TcpStream::connect(address).unwrap());
    let errno = failed.unwrap_or_else(|| {
        until(&mut driver, |_, completion| match completion {
            Completion::AcceptFailed { errno, .. } => Some(errno),
            _ => None,
        })
    });
    assert_eq!(errno, 24, "EMFILE");
    // Existing connections work, and accepting goes on once there is room.
    let first = sockets[0];
    driver.send(Token(0), first, Outgoing { head: b"still here".to_vec(), shared: Vec::new() });
    turn(&mut driver, Wait::Poll);
    let mut got = [0; 10];
    clients[0].read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still here");
    for (number, socket) in sockets.iter().enumerate().skip(1).take(4) {
        driver.close(Token(number as u64), *socket);
    }
    until(&mut driver, |_, completion| {
        matches!(completion, Completion::Accepted { .. }).then_some(())
    });
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

/// What the churn test knows of one connection.
struct Life {
    socket: Socket,
    client: TcpStream,
    receiving: bool,
    stopping: bool,
    sending: bool,
    closing: bool,
}

/// Small, fast and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// The connection that a completion other than `Closed` is for.
fn open(lives: &mut BTreeMap<u64, Life>, token: Token) -> &mut Life {
    let life = lives.get_mut(&token.0).expect("nothing comes after Closed");
    assert!(!life.closing, "only Closed comes after close");
    life
}

/// Checks one completion against what may still come for its connection.
fn note(lives: &mut BTreeMap<u64, Life>, driver: &mut UringDriver, completion: Completion) {
    match completion {
        Completion::Received { token, buffer } => {
            assert!(open(lives, token).receiving);
            driver.release(buffer);
        }
        Completion::ReceivedExact { token, buffer } => {
            assert!(buffer.len() <= 500);
            open(lives, token).receiving = false;
        }
        Completion::Ended { token, .. } => open(lives, token).receiving = false,
        Completion::Stopped { token } => {
            let life = open(lives, token);
            assert!(life.stopping);
            (life.stopping, life.receiving) = (false, false);
        }
        Completion::SendStalled { token } => open(lives, token).sending = true,
        Completion::Sent { token } => open(lives, token).sending = false,
        Completion::SendFailed { token, .. } => {
            // It stays unfit for sending.
            open(lives, token).sending = true;
        }
        Completion::Closed { token } => {
            let life = lives.remove(&token.0).expect("Closed comes once");
            assert!(life.closing);
        }
        other => panic!("unexpected {other:?}"),
    }
}

/// Does something to a connection that its state allows.
fn act(life: &mut Life, token: Token, driver: &mut UringDriver, dice: &mut Dice) {
    let socket = life.socket;
    match dice.roll(12) {
        0 => {
            life.closing = true;
            driver.close(token, socket);
        }
        1 | 2 if !life.sending => {
            let head = vec![7; 1 + dice.roll(100_000) as usize];
            driver.send(token, socket, Outgoing { head, shared: Vec::new() });
        }
        3 | 4 if !life.receiving && !life.stopping => {
            life.receiving = true;
            driver.start_receive(token, socket);
        }
        5 if !life.receiving && !life.stopping => {
            life.receiving = true;
            let buffer = BytesMut::with_capacity(500);
            driver.receive_exact(token, socket, buffer, 500);
        }
        6 if !life.stopping => {
            life.stopping = true;
            driver.stop_receive(token, socket);
        }
        7 => drop(life.client.shutdown(std::net::Shutdown::Both)),
        8 | 9 => drop(life.client.write(&[1; 300])),
        _ => drop(life.client.read(&mut [0; 50_000])),
    }
}

/// Connections live and die at random, everything in flight at once.
fn churn(adjust: impl FnOnce(&mut UringConfig)) {
    let (mut driver, address) = driver(adjust);
    driver.start_accept(ListenerId(0));
    let mut dice = Dice(42);
    let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
    for round in 0..3_000u64 {
        if lives.len() < 30 {
            let client = TcpStream::connect(address).unwrap();
            client.set_nonblocking(true).unwrap();
            let mut others = Vec::new();
            let socket = until(&mut driver, |_, completion| match completion {
                Completion::Accepted { socket, .. } => Some(socket),
                other => {
                    others.push(other);
                    None
                }
            });
            for completion in others {
                note(&mut lives, &mut driver, completion);
            }
            let fresh = (false, false, false, false);
            let (receiving, stopping, sending, closing) = fresh;
            let life = Life { socket, client, receiving, stopping, sending, closing };
            lives.insert(round, life);
        }
        for (token, life) in &mut lives {
            if !life.closing && dice.roll(3) == 0 {
                act(life, Token(*token), &mut driver, &mut dice);
            }
        }
        for completion in turn(&mut driver, Wait::Poll) {
            note(&mut lives, &mut driver, completion);
        }
    }
    for (token, life) in &mut lives {
        if !std::mem::replace(&mut life.closing, true) {
            driver.close(Token(*token), life.socket);
        }
    }
    let end = Instant::now() + Duration::from_secs(60);
    while !lives.is_empty() {
        for completion in turn(&mut driver, Wait::AtMost(Duration::from_millis(5))) {
            note(&mut lives, &mut driver, completion);
        }
        assert!(Instant::now() < end, "{} connections never closed", lives.len());
    }
    let stats = driver.stats();
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
