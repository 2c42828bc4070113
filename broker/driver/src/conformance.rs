//! What every [`Driver`] must do, as tests that run against any of them.
//!
//! An implementation gives a [`World`]: its driver and the other ends of the connections. Each
//! `check_*` function takes a fresh world and panics if a rule of the interface is broken;
//! [`all`] lists them by name. What needs real sockets, many of them or several drivers is in the
//! modules.

pub mod files;
mod log;
pub mod loopback;
pub mod shards;
pub mod strain;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::{BufferId, Completion, Driver, ListenerId, Outgoing, Socket, Token, Wait};

/// Turns after which a check gives up waiting.
const TURNS_MAX: usize = 20_000;
/// How long one turn may sleep.
const NAP: Duration = Duration::from_millis(5);

/// A driver under test and the clients that connect to its listener 0.
pub trait World {
    /// The implementation.
    type Driver: Driver;

    /// The driver.
    fn driver(&mut self) -> &mut Self::Driver;

    /// Connects a client to listener 0 and numbers it, from 0.
    fn connect(&mut self) -> usize;

    /// Writes as much as the client's side takes without waiting; says how much.
    fn write(&mut self, client: usize, bytes: &[u8]) -> usize;

    /// Appends what has arrived at the client without waiting. False once the stream has ended.
    fn read(&mut self, client: usize, into: &mut Vec<u8>) -> bool;

    /// The client sends no more, but still reads.
    fn finish(&mut self, client: usize);

    /// The client vanishes so that the other end gets an error.
    fn reset(&mut self, client: usize);
}

/// A world with the completions that have not been looked at.
struct Stage<W: World> {
    world: W,
    seen: VecDeque<Completion>,
}

impl<W: World> Stage<W> {
    fn new(mut world: W) -> Stage<W> {
        world.driver().start_accept(ListenerId(0));
        Stage { world, seen: VecDeque::new() }
    }

    fn driver(&mut self) -> &mut W::Driver {
        self.world.driver()
    }

    fn turn(&mut self, wait: Wait) {
        let driver = self.world.driver();
        driver.submit_and_wait(wait).expect("the driver goes on");
        while let Some(completion) = driver.next() {
            self.seen.push_back(completion);
        }
    }

    /// The first completion that `pick` takes; others stay for later.
    fn wait_for<T>(&mut self, what: &str, pick: impl Fn(&Completion) -> Option<T>) -> T {
        for _ in 0..TURNS_MAX {
            let found = self.seen.iter().enumerate().find_map(|(i, c)| Some((i, pick(c)?)));
            if let Some((index, found)) = found {
                self.seen.remove(index);
                return found;
            }
            self.turn(Wait::AtMost(NAP));
        }
        panic!("no completion: {what}");
    }

    fn accept(&mut self) -> (usize, Socket) {
        let client = self.world.connect();
        let socket = self.wait_for("accepted", |c| match c {
            Completion::Accepted { listener: ListenerId(0), socket, .. } => Some(*socket),
            _ => None,
        });
        (client, socket)
    }

    /// Receives into `into` until it holds `len` bytes.
    fn collect(&mut self, token: Token, into: &mut Vec<u8>, len: usize) {
        while into.len() < len {
            let buffer = self.received(token);
            into.extend_from_slice(self.driver().bytes(buffer));
            self.driver().release(buffer);
        }
    }

    fn received(&mut self, token: Token) -> BufferId {
        self.wait_for("received", |c| match c {
            Completion::Received { token: t, buffer } if *t == token => Some(*buffer),
            _ => None,
        })
    }

    fn ended(&mut self, token: Token) -> i32 {
        self.wait_for("ended", |c| match c {
            Completion::Ended { token: t, errno } if *t == token => Some(*errno),
            _ => None,
        })
    }

    fn stopped(&mut self, token: Token) {
        self.wait_for("stopped", |c| {
            matches!(c, Completion::Stopped { token: t } if *t == token).then_some(())
        });
    }

    /// Closes and checks that exactly one `Closed` comes and nothing else for the token.
    fn close(&mut self, token: Token, socket: Socket) {
        self.seen.retain(|c| token_of(c) != Some(token));
        self.driver().close(token, socket);
        self.wait_for("closed", |c| match c {
            Completion::Closed { token: t } if *t == token => Some(()),
            other => {
                assert_ne!(token_of(other), Some(token), "only Closed after close: {other:?}");
                None
            }
        });
        for _ in 0..5 {
            self.turn(Wait::Poll);
        }
        let late = self.seen.iter().find(|c| token_of(c) == Some(token));
        assert!(late.is_none(), "after Closed came {late:?}");
    }

    fn write_all(&mut self, client: usize, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            done += self.world.write(client, &bytes[done..]);
            self.turn(Wait::Poll);
        }
    }

    /// Reads at the client until it has `len` bytes.
    fn client_reads(&mut self, client: usize, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..TURNS_MAX {
            let open = self.world.read(client, &mut all);
            if all.len() >= len || !open {
                return all;
            }
            self.turn(Wait::AtMost(Duration::from_millis(1)));
        }
        panic!("the client got {} of {len} bytes", all.len());
    }

    /// Turns until the client sees the end of its stream.
    fn client_sees_end(&mut self, client: usize) {
        let mut all = Vec::new();
        for _ in 0..TURNS_MAX {
            if !self.world.read(client, &mut all) {
                return;
            }
            self.turn(Wait::AtMost(Duration::from_millis(1)));
        }
        panic!("the client's stream did not end");
    }
}

/// The connection that a completion concerns.
fn token_of(completion: &Completion) -> Option<Token> {
    match completion {
        Completion::Received { token, .. }
        | Completion::ReceivedExact { token, .. }
        | Completion::Ended { token, .. }
        | Completion::Stopped { token }
        | Completion::SendStalled { token }
        | Completion::Sent { token }
        | Completion::SendFailed { token, .. }
        | Completion::Closed { token } => Some(*token),
        _ => None,
    }
}

/// Bytes that differ from place to place, so that a loss or an exchange shows.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(step).collect()
}

fn plain(head: Vec<u8>) -> Outgoing {
    Outgoing { head, shared: Vec::new() }
}

const T: Token = Token(0x00ab_cdef_0123_4567);

/// A check and its name.
pub type Check<W> = (&'static str, fn(W));

/// Every check, by name.
pub fn all<W: World>() -> Vec<Check<W>> {
    vec![
        ("echo", check_echo),
        ("order", check_order),
        ("two_connections", check_two_connections),
        ("shared_parts", check_shared_parts),
        ("half_close", check_half_close),
        ("reset", check_reset),
        ("receive_once", check_receive_once),
        ("stop_and_start", check_stop_and_start),
        ("stop_when_idle", check_stop_when_idle),
        ("receive_exact", check_receive_exact),
        ("receive_exact_cut_short", check_receive_exact_cut_short),
        ("receive_exact_stopped", check_receive_exact_stopped),
        ("slow_reader", check_slow_reader),
        ("send_to_the_dead", check_send_to_the_dead),
        ("close_while_receiving", check_close_while_receiving),
        ("close_while_stalled", check_close_while_stalled),
        ("close_after_send", check_close_after_send),
        ("close_right_away", check_close_right_away),
        ("buffers_are_guarded", check_buffers_are_guarded),
        ("vectors_come_back", check_vectors_come_back),
        ("accept_stops_and_goes_on", check_accept_stops_and_goes_on),
        ("log_writes", log::check_writes::<W>),
        ("log_write_of_nothing", log::check_nothing::<W>),
        ("log_write_fails", log::check_failures::<W>),
        ("log_writes_one_at_a_time", log::check_one_at_a_time::<W>),
        ("log_writes_beside_sends", log::check_beside_sends::<W>),
        ("log_reads", log::check_reads::<W>),
        ("log_read_beside_write", log::check_read_beside_write::<W>),
    ]
}

fn check_echo<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().start_receive(T, socket);
    for round in 0..20 {
        let sent = pattern(100 * (round + 1), round as u32);
        stage.write_all(client, &sent);
        let mut got = Vec::new();
        stage.collect(T, &mut got, sent.len());
        assert_eq!(got, sent);
        stage.driver().send(T, socket, plain(got));
        assert_eq!(stage.client_reads(client, sent.len()), sent);
    }
    stage.close(T, socket);
    stage.client_sees_end(client);
}

fn check_order<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().start_receive(T, socket);
    let sent = pattern(300_000, 1);
    let mut got = Vec::new();
    for chunk in sent.chunks(7_001) {
        let before = got.len();
        stage.write_all(client, chunk);
        stage.collect(T, &mut got, before + chunk.len());
    }
    assert!(got == sent, "bytes came in another order");
    stage.close(T, socket);
}

fn check_two_connections<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (one, one_socket) = stage.accept();
    let (two, two_socket) = stage.accept();
    assert_ne!(one_socket, two_socket);
    let (one_token, two_token) = (Token(1), Token(2));
    stage.driver().start_receive(one_token, one_socket);
    stage.driver().start_receive(two_token, two_socket);
    stage.write_all(one, b"from one");
    stage.write_all(two, b"from two!");
    let (mut from_one, mut from_two) = (Vec::new(), Vec::new());
    stage.collect(one_token, &mut from_one, 8);
    stage.collect(two_token, &mut from_two, 9);
    assert_eq!((from_one.as_slice(), from_two.as_slice()), (&b"from one"[..], &b"from two!"[..]));
    stage.driver().send(two_token, two_socket, plain(from_one));
    stage.driver().send(one_token, one_socket, plain(from_two));
    assert_eq!(stage.client_reads(one, 9), b"from two!");
    assert_eq!(stage.client_reads(two, 8), b"from one");
    stage.close(one_token, one_socket);
    stage.write_all(two, b"still here");
    let mut more = Vec::new();
    stage.collect(two_token, &mut more, 10);
    assert_eq!(more, b"still here");
    stage.close(two_token, two_socket);
}

fn check_shared_parts<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    let part = Bytes::from(pattern(5_000, 2));
    let parts = |positions: &[u32]| -> Vec<(u32, Bytes)> {
        positions.iter().map(|at| (*at, part.clone())).collect()
    };
    let cases = [(10, vec![0, 3, 3, 10]), (0, vec![0]), (4, vec![4]), (1, vec![0, 0, 1])];
    for (head_len, positions) in cases {
        let head = pattern(head_len, 3);
        let mut expected = Vec::new();
        let mut from = 0;
        for position in &positions {
            expected.extend_from_slice(&head[from..*position as usize]);
            expected.extend_from_slice(&part);
            from = *position as usize;
        }
        expected.extend_from_slice(&head[from..]);
        stage.driver().send(T, socket, Outgoing { head, shared: parts(&positions) });
        assert!(stage.client_reads(client, expected.len()) == expected, "{positions:?}");
        stage.turn(Wait::Poll);
        assert!(!stage.seen.iter().any(|c| token_of(c) == Some(T)), "it was not large");
    }
    stage.close(T, socket);
    assert!(part.is_unique(), "the parts are released once they are sent");
}

fn check_half_close<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().start_receive(T, socket);
    stage.write_all(client, b"last words");
    stage.world.finish(client);
    let mut got = Vec::new();
    stage.collect(T, &mut got, 10);
    assert_eq!(got, b"last words");
    assert_eq!(stage.ended(T), 0);
    stage.driver().send(T, socket, plain(b"heard".to_vec()));
    assert_eq!(stage.client_reads(client, 5), b"heard");
    stage.close(T, socket);
    stage.client_sees_end(client);
}

fn check_reset<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().start_receive(T, socket);
    stage.turn(Wait::Poll);
    stage.world.reset(client);
    assert_ne!(stage.ended(T), 0, "a reset is an error, not an orderly end");
    stage.close(T, socket);
}

fn check_receive_once<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().receive_once(T, socket);
    stage.write_all(client, b"one");
    let mut got = Vec::new();
    stage.collect(T, &mut got, 3);
    assert_eq!(got, b"one");
    stage.write_all(client, b"two");
    for _ in 0..10 {
        stage.turn(Wait::AtMost(Duration::from_millis(1)));
    }
    assert!(stage.seen.is_empty(), "nothing is received unasked: {:?}", stage.seen);
    stage.driver().receive_once(T, socket);
    stage.collect(T, &mut got, 6);
    stage.world.finish(client);
    stage.driver().receive_once(T, socket);
    assert_eq!(stage.ended(T), 0);
    assert_eq!(got, b"onetwo");
    stage.close(T, socket);
}

fn check_stop_and_start<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    let sent = pattern(100_000, 4);
    let mut got = Vec::new();
    for (round, chunk) in sent.chunks(10_000).enumerate() {
        stage.driver().start_receive(T, socket);
        let before = got.len();
        if round % 2 == 0 {
            stage.turn(Wait::Poll);
        }
        let half = chunk.len() / 2;
        stage.write_all(client, &chunk[..half]);
        stage.driver().stop_receive(T, socket);
        stage.stopped(T);
        // What came before Stopped counts; nothing may come after it.
        while let Some(at) = stage.seen.iter().position(|c| token_of(c) == Some(T)) {
            let Some(Completion::Received { buffer, .. }) = stage.seen.remove(at) else {
                panic!("only bytes were expected");
            };
            got.extend_from_slice(stage.driver().bytes(buffer));
            stage.driver().release(buffer);
        }
        stage.write_all(client, &chunk[half..]);
        stage.turn(Wait::AtMost(Duration::from_millis(2)));
        assert!(stage.seen.is_empty(), "stopped means stopped: {:?}", stage.seen);
        stage.driver().start_receive(T, socket);
        stage.collect(T, &mut got, before + chunk.len());
        stage.driver().stop_receive(T, socket);
        stage.stopped(T);
    }
    assert!(got == sent, "bytes were lost or exchanged around a stop");
    stage.close(T, socket);
}

fn check_stop_when_idle<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().stop_receive(T, socket);
    stage.stopped(T);
    stage.driver().start_receive(T, socket);
    stage.driver().stop_receive(T, socket);
    stage.stopped(T);
    stage.driver().start_receive(T, socket);
    stage.write_all(client, b"back");
    let mut got = Vec::new();
    stage.collect(T, &mut got, 4);
    assert_eq!(got, b"back");
    stage.close(T, socket);
}

fn exact<W: World>(stage: &mut Stage<W>) -> BytesMut {
    for _ in 0..TURNS_MAX {
        let mut seen = std::mem::take(&mut stage.seen);
        let at = seen.iter().position(|c| matches!(c, Completion::ReceivedExact { .. }));
        let found = at.and_then(|at| seen.remove(at));
        stage.seen = seen;
        if let Some(Completion::ReceivedExact { buffer, token }) = found {
            assert_eq!(token, T);
            return buffer;
        }
        stage.turn(Wait::AtMost(NAP));
    }
    panic!("the exact receive did not end");
}

fn check_receive_exact<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    let len = 1 << 20;
    let sent = pattern(len, 5);
    let mut buffer = BytesMut::with_capacity(len);
    buffer.extend_from_slice(&sent[..100]);
    stage.driver().receive_exact(T, socket, buffer, len);
    stage.write_all(client, &sent[100..]);
    stage.write_all(client, b"next");
    let buffer = exact(&mut stage);
    assert!(buffer == sent, "the frame differs");
    stage.driver().start_receive(T, socket);
    let mut next = Vec::new();
    stage.collect(T, &mut next, 4);
    assert_eq!(next, b"next", "not a byte more than asked for was taken");
    stage.close(T, socket);
}

fn check_receive_exact_cut_short<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().receive_exact(T, socket, BytesMut::with_capacity(1000), 1000);
    stage.write_all(client, b"only this");
    stage.world.finish(client);
    assert_eq!(exact(&mut stage), b"only this"[..]);
    assert_eq!(stage.ended(T), 0);
    stage.close(T, socket);
}

fn check_receive_exact_stopped<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().receive_exact(T, socket, BytesMut::with_capacity(1000), 1000);
    stage.write_all(client, b"first part,");
    stage.turn(Wait::AtMost(NAP));
    stage.driver().stop_receive(T, socket);
    let buffer = exact(&mut stage);
    stage.stopped(T);
    let mut got = buffer.to_vec();
    stage.write_all(client, b" second part");
    stage.driver().start_receive(T, socket);
    stage.collect(T, &mut got, 23);
    assert_eq!(got, b"first part, second part");
    stage.close(T, socket);
}

/// How a send went on after the turn in which it was queued.
fn stalled<W: World>(stage: &mut Stage<W>) -> bool {
    stage.turn(Wait::Poll);
    let at = stage.seen.iter().position(|c| matches!(c, Completion::SendStalled { token: T }));
    at.and_then(|at| stage.seen.remove(at)).is_some()
}

fn check_slow_reader<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    let shared = Bytes::from(pattern(90_000, 6));
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    let mut stalls = 0;
    for round in 0..200u32 {
        let head = pattern(60_000, round);
        let cut = 1000 * (round as usize % 61).min(60);
        let with_part = round % 3 == 0;
        sent.extend_from_slice(&head[..cut]);
        if with_part {
            sent.extend_from_slice(&shared);
        }
        sent.extend_from_slice(&head[cut..]);
        let parts = if with_part { vec![(cut as u32, shared.clone())] } else { Vec::new() };
        stage.driver().send(T, socket, Outgoing { head, shared: parts });
        if !stalled(&mut stage) {
            continue;
        }
        stalls += 1;
        let mut turns = 0;
        while !stage.seen.iter().any(|c| matches!(c, Completion::Sent { token: T })) {
            // A slow reader: a little now and then, while the send waits.
            stage.world.read(client, &mut got);
            stage.turn(Wait::AtMost(Duration::from_millis(1)));
            turns += 1;
            assert!(turns < TURNS_MAX, "the send never went on");
        }
        stage.seen.clear();
    }
    while got.len() < sent.len() {
        let rest = stage.client_reads(client, sent.len() - got.len());
        assert!(!rest.is_empty(), "the stream ended {} bytes early", sent.len() - got.len());
        got.extend_from_slice(&rest);
    }
    assert!(stalls > 0, "the reader was not slow enough to be a test");
    assert!(got == sent, "the bytes differ");
    stage.close(T, socket);
    assert!(shared.is_unique(), "the parts are released once they are sent");
}

fn check_send_to_the_dead<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.world.reset(client);
    for _ in 0..TURNS_MAX {
        stage.driver().send(T, socket, plain(pattern(1000, 7)));
        stage.turn(Wait::AtMost(Duration::from_millis(1)));
        let failed = |c: &Completion| matches!(c, Completion::SendFailed { token: T, .. });
        if let Some(Completion::SendFailed { errno, .. }) = stage.seen.iter().find(|c| failed(c)) {
            assert_ne!(*errno, 0);
            stage.close(T, socket);
            return;
        }
    }
    panic!("sending to a reset connection never failed");
}

fn check_close_while_receiving<W: World>(world: W) {
    let mut stage = Stage::new(world);
    for round in 0..20 {
        let (client, socket) = stage.accept();
        match round % 3 {
            0 => stage.driver().start_receive(T, socket),
            1 => stage.driver().receive_once(T, socket),
            _ => stage.driver().receive_exact(T, socket, BytesMut::with_capacity(99), 99),
        }
        if round % 2 == 0 {
            stage.turn(Wait::Poll);
        }
        if round % 5 == 0 {
            stage.world.write(client, b"too late");
        }
        stage.close(T, socket);
        stage.client_sees_end(client);
    }
}

fn check_close_while_stalled<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    let shared = Bytes::from(pattern(100_000, 8));
    for _ in 0..TURNS_MAX {
        let parts = vec![(0, shared.clone())];
        stage.driver().send(T, socket, Outgoing { head: pattern(10, 9), shared: parts });
        if stalled(&mut stage) {
            stage.driver().start_receive(T, socket);
            stage.turn(Wait::Poll);
            stage.close(T, socket);
            assert!(shared.is_unique(), "a cancelled send's parts are released");
            stage.client_sees_end(client);
            return;
        }
    }
    panic!("the socket never filled up");
}

fn check_close_after_send<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    stage.driver().start_receive(T, socket);
    stage.turn(Wait::Poll);
    let farewell = pattern(2_000, 10);
    stage.driver().send(T, socket, plain(farewell.clone()));
    stage.close(T, socket);
    assert_eq!(stage.client_reads(client, 2_000), farewell, "queued before close, so sent");
    stage.client_sees_end(client);
}

fn check_close_right_away<W: World>(world: W) {
    let mut stage = Stage::new(world);
    for _ in 0..10 {
        let (client, socket) = stage.accept();
        stage.close(T, socket);
        stage.client_sees_end(client);
    }
}

fn check_buffers_are_guarded<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let nowhere = BufferId { index: u32::MAX, len: 10 };
    assert!(stage.driver().bytes(nowhere).is_empty());
    stage.driver().release(nowhere);
    let (client, socket) = stage.accept();
    stage.driver().start_receive(T, socket);
    stage.write_all(client, b"abc");
    let buffer = stage.received(T);
    let too_long = BufferId { len: u32::MAX, ..buffer };
    assert!(stage.driver().bytes(too_long).is_empty(), "no more than was received");
    let copy = stage.driver().bytes(buffer).to_vec();
    assert_eq!(copy, b"abc"[..copy.len()]);
    stage.driver().release(buffer);
    stage.driver().release(buffer);
    assert!(stage.driver().bytes(buffer).is_empty(), "released buffers are out of reach");
    stage.close(T, socket);
}

fn check_vectors_come_back<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (client, socket) = stage.accept();
    for _ in 0..10 {
        let mut head = stage.driver().reclaim().unwrap_or_default();
        assert!(head.is_empty());
        head.extend_from_slice(b"again and again");
        stage.driver().send(T, socket, plain(head));
        assert_eq!(stage.client_reads(client, 15), b"again and again");
    }
    stage.turn(Wait::Poll);
    let spare = stage.driver().reclaim().expect("a sent vector comes back");
    assert!(spare.is_empty() && spare.capacity() >= 15);
    stage.close(T, socket);
}

fn check_accept_stops_and_goes_on<W: World>(world: W) {
    let mut stage = Stage::new(world);
    let (_, first) = stage.accept();
    stage.driver().stop_accept(ListenerId(0));
    stage.turn(Wait::Poll);
    stage.turn(Wait::Poll);
    stage.world.connect();
    for _ in 0..5 {
        stage.turn(Wait::AtMost(Duration::from_millis(1)));
    }
    let accepted = |c: &Completion| matches!(c, Completion::Accepted { .. });
    assert!(!stage.seen.iter().any(accepted), "accepting has stopped");
    stage.driver().start_accept(ListenerId(0));
    let second = stage.wait_for("the waiting client", |c| match c {
        Completion::Accepted { socket, .. } => Some(*socket),
        _ => None,
    });
    assert_ne!(first, second);
    stage.close(Token(1), first);
    stage.close(Token(2), second);
}
