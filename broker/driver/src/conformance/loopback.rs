//! A driver and its clients over loopback TCP, for any driver that has real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::World;
use crate::{Completion, Driver, ListenerId, Socket, Wait};

/// How long a completion is waited for that must come. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// One turn, and what came of it.
pub fn turn(driver: &mut impl Driver, wait: Wait) -> Vec<Completion> {
    driver.submit_and_wait(wait).expect("the driver goes on");
    std::iter::from_fn(|| driver.next()).collect()
}

/// Turns until `pick` finds what it wants among the completions; it sees every one.
pub fn until<D: Driver, T>(
    driver: &mut D,
    mut pick: impl FnMut(&mut D, Completion) -> Option<T>,
) -> T {
    let end = Instant::now() + PATIENCE;
    let mut found = None;
    while Instant::now() < end {
        for completion in turn(driver, Wait::AtMost(Duration::from_millis(20))) {
            let picked = pick(driver, completion);
            found = found.or(picked);
        }
        if let Some(found) = found {
            return found;
        }
    }
    panic!("the completion did not come");
}

/// Accepts `count` connections; connection `n` gets token `n` and its client is `clients[n]`.
pub fn connect_many(
    driver: &mut impl Driver,
    address: SocketAddr,
    count: usize,
) -> (Vec<TcpStream>, Vec<Socket>) {
    driver.start_accept(ListenerId(0));
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let client = TcpStream::connect(address).expect("a client connects");
        let own = client.local_addr().expect("a client has an address");
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

/// A driver over loopback TCP.
#[derive(Debug)]
pub struct Loopback<D> {
    driver: D,
    address: SocketAddr,
    clients: Vec<Option<TcpStream>>,
    /// Closes a client so that the other end gets an error.
    abort: fn(TcpStream),
}

impl<D: Driver> Loopback<D> {
    /// A driver and where its listener 0 listens. `abort` closes a socket with a reset, which the
    /// standard library cannot.
    pub fn new((driver, address): (D, SocketAddr), abort: fn(TcpStream)) -> Loopback<D> {
        Loopback { driver, address, clients: Vec::new(), abort }
    }

    fn client(&mut self, client: usize) -> &mut TcpStream {
        self.clients[client].as_mut().expect("the client is there")
    }
}

impl<D: Driver> World for Loopback<D> {
    type Driver = D;

    fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    fn connect(&mut self) -> usize {
        let client = TcpStream::connect(self.address).expect("a client connects");
        client.set_nonblocking(true).expect("a client need not block");
        client.set_nodelay(true).expect("a client need not delay");
        self.clients.push(Some(client));
        self.clients.len() - 1
    }

    fn write(&mut self, client: usize, bytes: &[u8]) -> usize {
        match self.client(client).write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("a client cannot write: {error}"),
        }
    }

    fn read(&mut self, client: usize, into: &mut Vec<u8>) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.client(client).read(&mut chunk) {
            Ok(0) => false,
            Ok(read) => {
                into.extend_from_slice(&chunk[..read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(_) => false,
        }
    }

    fn finish(&mut self, client: usize) {
        self.client(client).shutdown(Shutdown::Write).expect("a client can end its stream");
    }

    fn reset(&mut self, client: usize) {
        let client = self.clients[client].take().expect("the client is there");
        (self.abort)(client);
    }
}
