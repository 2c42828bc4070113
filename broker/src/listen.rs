//! Opens the listening sockets: for each listener one socket per shard, sharing the port.
//!
//! The kernel spreads new connections over the sockets of a port. A first socket that does not
//! share the port is bound and dropped, so that a port that another process holds (or another
//! broker of the same user, which would be let in) is noticed.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listener;
use crate::exit::Failure;

/// A listener with its sockets.
#[derive(Debug)]
pub struct Opened {
    /// The address, with the port that the system chose if it was to.
    pub address: SocketAddr,
    /// One socket per shard, listening, non-blocking.
    pub sockets: Vec<TcpListener>,
}

/// Opens one listener for `shards` shards.
///
/// # Errors
/// Says which address cannot be had, why, and what to do.
pub fn open(listener: &Listener, shards: usize) -> Result<Opened, Failure> {
    let refused = |error: io::Error| Failure::host(explain(listener, &error));
    let alone = bind(listener.bind, false).map_err(refused)?;
    let address = local(&alone).map_err(refused)?;
    drop(alone);
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    let sockets = (0..shards)
        .map(|_| {
            let socket = bind(address, true)?;
            socket.listen(backlog)?;
            socket.set_nonblocking(true)?;
            Ok(TcpListener::from(socket))
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(refused)?;
    Ok(Opened { address, sockets })
}

//= [MQTT-4.2-1]
fn bind(address: SocketAddr, share_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // "[::]" takes IPv4 clients too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn explain(listener: &Listener, error: &io::Error) -> String {
    let Listener { name, bind, .. } = listener;
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this port; stop it (`ss -ltnp` shows it) or choose another port \
             with --listen or `listeners.bind`"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose a higher one or \
             grant it"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; `ip addr` lists them",
        _ => "choose another address with --listen or `listeners.bind`",
    };
    format!("listener {name}: cannot listen on {bind}: {error}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn listener(address: &str) -> Listener {
        Listener { name: "l".into(), bind: address.parse().unwrap(), ..Listener::default() }
    }

    #[test]
    fn one_socket_per_shard_shares_the_port() {
        let opened = open(&listener("127.0.0.1:0"), 3).unwrap();
        assert_ne!(opened.address.port(), 0);
        let ports: Vec<u16> =
            opened.sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_eq!(ports, vec![opened.address.port(); 3]);
        std::net::TcpStream::connect(opened.address).unwrap();
    }

    #[test]
    fn a_port_that_is_taken_is_one_line_with_what_to_do() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        let failure = open(&listener(&address), 1).unwrap_err();
        assert_eq!(failure.exit, Exit::Host);
        assert_eq!(failure.text.lines().count(), 1);
        assert!(failure.text.contains(&address) && failure.text.contains("--listen"), "{failure}");
    }

    #[test]
    fn a_port_of_another_broker_is_taken_too() {
        let first = open(&listener("127.0.0.1:0"), 2).unwrap();
        let failure = open(&listener(&first.address.to_string()), 2).unwrap_err();
        assert!(failure.text.contains("another process has this port"), "{failure}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let failure = open(&listener("192.0.2.1:0"), 1).unwrap_err();
        assert!(failure.text.contains("no such address"), "{failure}");
    }
}
