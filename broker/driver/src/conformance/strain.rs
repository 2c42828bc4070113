//! Many connections at once over loopback: everything in flight, readers that are slow, memory that
//! runs out. Each function panics where a rule of the interface is broken and gives the driver
//! back, for what its own numbers say of the strain.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::loopback::{connect_many, turn, until};
use super::pattern;
use crate::{Completion, Driver, ListenerId, Outgoing, Socket, Token, Wait};

/// `EMFILE`.
const EMFILE: i32 = 24;
/// How long something is waited for that must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections, and the bytes that each sends.
const SENDERS: (usize, usize) = (200, 20_000);
/// Connections, and the sends to each.
const SLOW_READERS: (usize, u32) = (40, 60);
/// Connections at a time, and turns.
const LIVES: (usize, u64) = (30, 3_000);

/// Every client sends `len` bytes of its own pattern from a thread of its own.
fn all_send(clients: &[TcpStream], len: usize) -> Vec<JoinHandle<()>> {
    let send = |(number, client): (usize, &TcpStream)| {
        let mut client = client.try_clone().expect("a descriptor is left");
        let bytes = pattern(len, number as u32);
        thread::spawn(move || client.write_all(&bytes).expect("a client can write"))
    };
    clients.iter().enumerate().map(send).collect()
}

/// Receives until every connection has its `len` bytes, holding each buffer for `hold` turns.
fn receive_all(driver: &mut impl Driver, count: usize, len: usize, hold: usize) {
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

/// Two hundred clients send at once; each buffer is held for `hold` turns.
pub fn receive_from_many<D: Driver>((mut driver, address): (D, SocketAddr), hold: usize) -> D {
    let (count, len) = SENDERS;
    let (clients, sockets) = connect_many(&mut driver, address, count);
    for (number, socket) in sockets.iter().enumerate() {
        driver.start_receive(Token(number as u64), *socket);
    }
    let senders = all_send(&clients, len);
    receive_all(&mut driver, count, len, hold);
    for sender in senders {
        sender.join().expect("a sender ends");
    }
    driver
}

/// Reads in small pieces, with pauses, once `begin` is set; gives all that came.
fn slow_reader(client: &TcpStream, begin: &Arc<AtomicBool>) -> JoinHandle<Vec<u8>> {
    let mut client = client.try_clone().expect("a descriptor is left");
    let begin = Arc::clone(begin);
    thread::spawn(move || {
        while !begin.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        let mut all = Vec::new();
        let mut chunk = [0; 3_000];
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            all.extend_from_slice(&chunk[..read]);
            if all.len().is_multiple_of(7) {
                thread::sleep(Duration::from_micros(200));
            }
        }
        all
    })
}

/// Sends a head, and a part in it now and then; notes what goes out.
fn send_more(
    driver: &mut impl Driver,
    (token, socket): (Token, Socket),
    shared: &Bytes,
    left: u32,
    sent: &mut Vec<u8>,
) {
    let head = pattern(10_000 + token.0 as usize, left);
    let mut parts = Vec::new();
    if left.is_multiple_of(2) {
        sent.extend_from_slice(&head[..5]);
        sent.extend_from_slice(shared);
        sent.extend_from_slice(&head[5..]);
        parts.push((5, shared.clone()));
    } else {
        sent.extend_from_slice(&head);
    }
    driver.send(token, socket, Outgoing { head, shared: parts });
}

/// Sends a lot to readers who are slow, and compares every byte. Nobody reads before every
/// connection has stalled once.
pub fn send_to_slow_readers<D: Driver>((mut driver, address): (D, SocketAddr)) -> D {
    let (count, rounds) = SLOW_READERS;
    let (clients, sockets) = connect_many(&mut driver, address, count);
    let begin = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = clients.iter().map(|client| slow_reader(client, &begin)).collect();
    let shared = Bytes::from(pattern(30_000, 77));
    let mut sent = vec![Vec::new(); count];
    let (mut busy, mut stalled) = (vec![false; count], vec![false; count]);
    let mut left = vec![rounds; count];
    while left.iter().any(|left| *left > 0) || busy.contains(&true) {
        for number in 0..count {
            if left[number] > 0 && !busy[number] {
                left[number] -= 1;
                let to = (Token(number as u64), sockets[number]);
                send_more(&mut driver, to, &shared, left[number], &mut sent[number]);
            }
        }
        for completion in turn(&mut driver, Wait::AtMost(Duration::from_millis(1))) {
            match completion {
                Completion::SendStalled { token } => {
                    busy[token.0 as usize] = true;
                    stalled[token.0 as usize] = true;
                }
                Completion::Sent { token } => busy[token.0 as usize] = false,
                other => panic!("unexpected {other:?}"),
            }
        }
        if !stalled.contains(&false) {
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
        assert!(reader.join().expect("a reader ends") == sent, "a reader got other bytes");
    }
    assert!(shared.is_unique());
    driver
}

/// A connection is aborted while a send to it waits: that one fails, the other one works.
pub fn reset_while_sending<D: Driver>(
    (mut driver, address): (D, SocketAddr),
    abort: fn(TcpStream),
) -> D {
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
    abort(clients.remove(0));
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
    clients[0].read_exact(&mut got).expect("the other client reads");
    assert_eq!(&got, b"alive");
    driver
}

/// Runs the process out of descriptors, of which it must have few: accepting fails, what is there
/// works, and accepting goes on once there is room.
pub fn out_of_descriptors<D: Driver>((mut driver, address): (D, SocketAddr), spare: File) -> D {
    driver.start_accept(ListenerId(0));
    // Each connection takes two descriptors here, so accepting fails before connecting does.
    let (mut clients, mut sockets) = (Vec::new(), Vec::new());
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
    clients.push(TcpStream::connect(address).expect("a client connects"));
    let errno = failed.unwrap_or_else(|| {
        until(&mut driver, |_, completion| match completion {
            Completion::AcceptFailed { errno, .. } => Some(errno),
            _ => None,
        })
    });
    assert_eq!(errno, EMFILE);
    // Existing connections work, and accepting goes on once there is room.
    let first = sockets[0];
    driver.send(Token(0), first, Outgoing { head: b"still here".to_vec(), shared: Vec::new() });
    turn(&mut driver, Wait::Poll);
    let mut got = [0; 10];
    clients[0].read_exact(&mut got).expect("a client can read");
    assert_eq!(&got, b"still here");
    for (number, socket) in sockets.iter().enumerate().skip(1).take(4) {
        driver.close(Token(number as u64), *socket);
    }
    until(&mut driver, |_, completion| {
        matches!(completion, Completion::Accepted { .. }).then_some(())
    });
    driver
}

/// Runs one test of this process's program once more, by its name and with `variable` set, where
/// it may have `descriptors` only.
pub fn with_few_descriptors(test: &str, variable: &str, descriptors: u32) {
    let program = std::env::current_exe().expect("a test has a program");
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")])
        .arg(program)
        .args(["--exact", test, "--test-threads=1"])
        .env(variable, "1")
        .output()
        .expect("there is a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What [`churn`] knows of one connection.
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
fn note(lives: &mut BTreeMap<u64, Life>, driver: &mut impl Driver, completion: Completion) {
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
fn act(life: &mut Life, token: Token, driver: &mut impl Driver, dice: &mut Dice) {
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
        7 => drop(life.client.shutdown(Shutdown::Both)),
        8 | 9 => drop(life.client.write(&[1; 300])),
        _ => drop(life.client.read(&mut [0; 50_000])),
    }
}

/// Accepts one more connection, and notes what else comes meanwhile.
fn begin_life(
    driver: &mut impl Driver,
    address: SocketAddr,
    lives: &mut BTreeMap<u64, Life>,
    token: u64,
) {
    let client = TcpStream::connect(address).expect("a client connects");
    client.set_nonblocking(true).expect("a client need not block");
    let mut others = Vec::new();
    let socket = until(driver, |_, completion| match completion {
        Completion::Accepted { socket, .. } => Some(socket),
        other => {
            others.push(other);
            None
        }
    });
    for completion in others {
        note(lives, driver, completion);
    }
    let (receiving, stopping, sending, closing) = (false, false, false, false);
    lives.insert(token, Life { socket, client, receiving, stopping, sending, closing });
}

/// Connections live and die at random, everything in flight at once; all are closed at the end.
pub fn churn<D: Driver>((mut driver, address): (D, SocketAddr)) -> D {
    driver.start_accept(ListenerId(0));
    let mut dice = Dice(42);
    let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
    let (lives_max, rounds) = LIVES;
    for round in 0..rounds {
        if lives.len() < lives_max {
            begin_life(&mut driver, address, &mut lives, round);
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
    let end = Instant::now() + PATIENCE;
    while !lives.is_empty() {
        for completion in turn(&mut driver, Wait::AtMost(Duration::from_millis(5))) {
            note(&mut lives, &mut driver, completion);
        }
        assert!(Instant::now() < end, "{} connections never closed", lives.len());
    }
    driver
}
