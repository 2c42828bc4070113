//! Drivers and clients for the tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringtide_driver::conformance::World;
use ringtide_driver::{Completion, Driver, Wait};
use ringtide_net::{ListenAddr, ListenOptions, Peers, UringConfig, UringDriver, listen};
use socket2::SockRef;

/// A listening socket on a free port.
pub(crate) fn listener() -> (OwnedFd, SocketAddr) {
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let options = ListenOptions { send_buffer_bytes: Some(32 * 1024), ..Default::default() };
    let fd = listen(&any, &options).unwrap();
    let address = SockRef::from(&fd).local_addr().unwrap().as_socket().unwrap();
    (fd, address)
}

/// The usual set-up of shard 0 of one, changed by `adjust`.
pub(crate) fn driver(adjust: impl FnOnce(&mut UringConfig)) -> (UringDriver, SocketAddr) {
    let peers = Peers::new(1).unwrap();
    driver_of(0, &peers, adjust)
}

/// The driver of one shard of several.
pub(crate) fn driver_of(
    shard: u16,
    peers: &Arc<Peers>,
    adjust: impl FnOnce(&mut UringConfig),
) -> (UringDriver, SocketAddr) {
    let (fd, address) = listener();
    let mut config = UringConfig::new(shard, Arc::clone(peers), vec![fd]);
    config.receive_buffers = 64;
    adjust(&mut config);
    (UringDriver::new(config, Default::default()).unwrap(), address)
}

/// One turn, and what came of it.
pub(crate) fn turn(driver: &mut UringDriver, wait: Wait) -> Vec<Completion> {
    driver.submit_and_wait(wait).unwrap();
    std::iter::from_fn(|| driver.next()).collect()
}

/// Turns until `pick` finds what it wants among the completions; it sees every one.
pub(crate) fn until<T>(
    driver: &mut UringDriver,
    mut pick: impl FnMut(&mut UringDriver, Completion) -> Option<T>,
) -> T {
    let end = Instant::now() + Duration::from_secs(60);
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

/// A driver over loopback TCP.
pub(crate) struct Loopback {
    pub(crate) driver: UringDriver,
    pub(crate) address: SocketAddr,
    pub(crate) clients: Vec<Option<TcpStream>>,
}

impl Loopback {
    pub(crate) fn new(adjust: impl FnOnce(&mut UringConfig)) -> Loopback {
        let (driver, address) = driver(adjust);
        Loopback { driver, address, clients: Vec::new() }
    }

    fn client(&mut self, client: usize) -> &mut TcpStream {
        self.clients[client].as_mut().expect("the client is there")
    }
}

impl World for Loopback {
    type Driver = UringDriver;

    fn driver(&mut self) -> &mut UringDriver {
        &mut self.driver
    }

    fn connect(&mut self) -> usize {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nonblocking(true).unwrap();
        client.set_nodelay(true).unwrap();
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
        self.client(client).shutdown(Shutdown::Write).unwrap();
    }

    fn reset(&mut self, client: usize) {
        let client = self.clients[client].take().expect("the client is there");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
