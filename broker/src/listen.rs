//! Opens the listening sockets: for each listener one socket per shard, sharing the port. The
//! kernel spreads new connections over the sockets of a port.

use std::net::{SocketAddr, TcpListener};

use ringtide_net::listen::{ListenAddr, ListenOptions, listen_shared};

use crate::config::Listener;
use crate::exit::Failure;

/// A listener with its sockets.
#[derive(Debug)]
pub struct Opened {
    /// The address, with the port that the system chose if it was to.
    pub address: SocketAddr,
    /// One listening socket per shard.
    pub sockets: Vec<TcpListener>,
}

/// Opens one listener for `shards` shards.
///
/// # Errors
/// Says which address cannot be had, why, and what to do.
//= [MQTT-4.2-1]
pub fn open(listener: &Listener, shards: u16) -> Result<Opened, Failure> {
    let options = ListenOptions { backlog: listener.backlog, ..ListenOptions::default() };
    let refused = |error: String| Failure::host(format!("listener {}: {error}", listener.name));
    let sockets: Vec<TcpListener> =
        listen_shared(&ListenAddr::Tcp(listener.bind), &options, shards)
            .map_err(|error| refused(error.to_string()))?
            .into_iter()
            .map(TcpListener::from)
            .collect();
    let address = match sockets.first() {
        Some(socket) => socket.local_addr().map_err(|error| refused(error.to_string()))?,
        None => listener.bind,
    };
    Ok(Opened { address, sockets })
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
        assert!(failure.text.contains(&address) && failure.text.contains("ss -ltnp"), "{failure}");
    }

    #[test]
    fn a_port_of_another_broker_is_taken_too() {
        let first = open(&listener("127.0.0.1:0"), 2).unwrap();
        let failure = open(&listener(&first.address.to_string()), 2).unwrap_err();
        assert!(failure.text.contains("another process has it"), "{failure}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let failure = open(&listener("192.0.2.1:0"), 1).unwrap_err();
        assert!(failure.text.contains("no such address"), "{failure}");
    }
}
