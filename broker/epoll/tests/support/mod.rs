//! Drivers for the tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringtide_driver::conformance::loopback::Loopback;
use ringtide_epoll::{EpollConfig, EpollDriver, Peers};
use ringtide_net::{ListenAddr, ListenOptions, listen};
use socket2::SockRef;

/// The usual set-up of shard 0 of one, changed by `adjust`.
pub(crate) fn driver(adjust: impl FnOnce(&mut EpollConfig)) -> (EpollDriver, SocketAddr) {
    driver_of(0, &Peers::new(1).unwrap(), adjust)
}

/// The driver of one shard of several, and where its listener 0 listens.
pub(crate) fn driver_of(
    shard: u16,
    peers: &Arc<Peers>,
    adjust: impl FnOnce(&mut EpollConfig),
) -> (EpollDriver, SocketAddr) {
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let options = ListenOptions { send_buffer_bytes: Some(32 * 1024), ..Default::default() };
    let fd = listen(&any, &options).unwrap();
    let address = SockRef::from(&fd).local_addr().unwrap().as_socket().unwrap();
    let mut config = EpollConfig::new(shard, Arc::clone(peers), vec![fd]);
    adjust(&mut config);
    (EpollDriver::new(config).unwrap(), address)
}

/// Closes a socket so that its other end gets an error.
pub(crate) fn abort(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The usual driver and its clients, changed by `adjust`.
pub(crate) fn loopback(adjust: fn(&mut EpollConfig)) -> Loopback<EpollDriver> {
    Loopback::new(driver(adjust), abort)
}
