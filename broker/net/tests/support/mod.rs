//! Drivers for the tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ringtide_driver::conformance::loopback::Loopback;
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

/// Closes a socket so that its other end gets an error.
pub(crate) fn abort(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The usual driver and its clients, changed by `adjust`.
pub(crate) fn loopback(adjust: fn(&mut UringConfig)) -> Loopback<UringDriver> {
    Loopback::new(driver(adjust), abort)
}
