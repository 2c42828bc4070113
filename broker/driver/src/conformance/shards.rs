//! Several drivers of one process: wakes and hand-overs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use super::loopback::{turn, until};
use crate::{Completion, Driver, ListenerId, Outgoing, Socket, Token, Wait, Waker};

/// Sockets that are handed over.
const HAND_OVERS: u64 = 30;
/// Wakes there and back.
const WAKES: usize = 200;
const T: Token = Token(5);

fn is_woken<D: Driver>(_: &mut D, completion: Completion) -> Option<()> {
    matches!(completion, Completion::Woken).then_some(())
}

/// A thread wakes a driver that sleeps, and does so again when it sleeps again.
pub fn thread_wakes<W: Waker + 'static>(driver: &mut impl Driver, waker: &Arc<W>) {
    for _ in 0..20 {
        let waker = Arc::clone(waker);
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            waker.wake();
            waker.wake();
        });
        until(driver, is_woken);
        thread.join().expect("the thread ends");
        // The second wake may or may not have met the first; a later one must count again.
        turn(driver, Wait::AtMost(Duration::from_millis(5)));
    }
}

/// Shards 0 and 1, made by `make`, wake each other in turn.
pub fn wake_each_other<D: Driver>(make: impl Fn(u16) -> D + Clone + Send + 'static) {
    let there = make.clone();
    // Shard 1 answers every wake with a wake.
    let thread = thread::spawn(move || {
        let mut driver = there(1);
        for _ in 0..WAKES {
            until(&mut driver, |driver, completion| {
                matches!(completion, Completion::Woken).then(|| driver.wake(0))
            });
        }
        turn(&mut driver, Wait::Poll);
    });
    let mut driver = make(0);
    for _ in 0..WAKES {
        driver.wake(1);
        until(&mut driver, is_woken);
    }
    thread.join().expect("shard 1 ends");
    // A driver that has ended cannot be woken, and that harms nobody.
    driver.wake(1);
    assert!(turn(&mut driver, Wait::Poll).is_empty());
}

/// Shard 1: takes each socket over, reads what comes next, answers and closes.
fn home(driver: &mut impl Driver, take: &Receiver<Option<Socket>>) {
    for round in 0..HAND_OVERS {
        let socket = match take.recv().expect("shard 0 is there") {
            Some(socket) => socket,
            None => until(driver, |_, completion| match completion {
                Completion::Arrived { tag, socket } => {
                    assert_eq!(tag, 1000 + round);
                    Some(socket)
                }
                _ => None,
            }),
        };
        driver.start_receive(T, socket);
        let mut got = Vec::new();
        until(driver, |driver, completion| {
            if let Completion::Received { buffer, .. } = completion {
                got.extend_from_slice(driver.bytes(buffer));
                driver.release(buffer);
            }
            (got.len() >= 6).then_some(())
        });
        assert_eq!(got, b"second");
        driver.send(T, socket, Outgoing { head: b"home".to_vec(), shared: Vec::new() });
        driver.close(T, socket);
        until(driver, |_, completion| {
            matches!(completion, Completion::Closed { .. }).then_some(())
        });
    }
}

/// Shard 0: accepts, reads the first chunk, and hands over with the next bytes on their way.
fn begin(driver: &mut impl Driver, address: SocketAddr, give: &Sender<Option<Socket>>) {
    driver.start_accept(ListenerId(0));
    for round in 0..HAND_OVERS {
        let mut client = TcpStream::connect(address).expect("a client connects");
        client.write_all(b"first").expect("a client can write");
        let socket = until(driver, |_, completion| match completion {
            Completion::Accepted { socket, .. } => Some(socket),
            _ => None,
        });
        driver.receive_once(T, socket);
        until(driver, |driver, completion| {
            let Completion::Received { buffer, .. } = completion else { return None };
            assert_eq!(driver.bytes(buffer), b"first");
            driver.release(buffer);
            Some(())
        });
        client.write_all(b"second").expect("a client can write");
        give.send(driver.hand_over(socket, 1, 1000 + round)).expect("shard 1 is there");
        turn(driver, Wait::Poll);
        // Shard 0 must not keep the connection open either.
        let reader = thread::spawn(move || {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("a client can read");
            answer
        });
        while !reader.is_finished() {
            turn(driver, Wait::AtMost(Duration::from_millis(1)));
        }
        assert_eq!(reader.join().expect("the reader ends"), b"home");
    }
}

/// Sockets go from shard 0 to shard 1, both made by `make`.
pub fn hand_over<D: Driver>(make: impl Fn(u16) -> (D, SocketAddr) + Clone + Send + 'static) {
    let (give, take) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let there = make.clone();
    let shard = thread::spawn(move || {
        let (mut driver, _) = there(1);
        ready.send(()).expect("shard 0 waits");
        home(&mut driver, &take);
    });
    is_ready.recv().expect("shard 1 is there");
    let (mut driver, address) = make(0);
    begin(&mut driver, address, &give);
    shard.join().expect("shard 1 ends");
}

/// A socket that is handed to a shard that is not there is closed, and that is told.
pub fn hand_over_to_nobody<D: Driver>((mut driver, address): (D, SocketAddr), to: u16) {
    driver.start_accept(ListenerId(0));
    let mut client = TcpStream::connect(address).expect("a client connects");
    let socket = until(&mut driver, |_, completion| match completion {
        Completion::Accepted { socket, .. } => Some(socket),
        _ => None,
    });
    assert_eq!(driver.hand_over(socket, to, 9), None);
    until(&mut driver, |_, completion| match completion {
        Completion::HandOverFailed { tag, errno } => {
            assert_eq!(tag, 9);
            assert_ne!(errno, 0);
            Some(())
        }
        _ => None,
    });
    turn(&mut driver, Wait::Poll);
    assert_eq!(client.read(&mut [0; 8]).expect("a client can read"), 0);
}
