//! Opens the listening sockets: for each listener one socket per shard, sharing the port. The
//! kernel spreads new connections over the sockets of a port; those of a Unix socket go to
//! whichever shard takes them first.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use ringtide_net::listen::{ListenAddr, ListenOptions, SocketFile, listen_shared};

use crate::config::Listener;
use crate::exit::Failure;

/// A listener with its sockets.
#[derive(Debug)]
pub struct Opened {
    /// The address, with the port that the system chose if it was to.
    pub address: ListenAddr,
    /// One listening socket per shard.
    pub sockets: Vec<OwnedFd>,
    /// The path of a Unix socket, which goes when this is dropped.
    pub file: Option<SocketFile>,
}

/// A value of which 0 says that it is not set.
fn some(value: u32) -> Option<u32> {
    (value > 0).then_some(value)
}

/// Opens one listener for `shards` shards.
///
/// # Errors
/// Says which address cannot be had, why, and what to do.
//= [MQTT-4.2-1]
pub fn open(listener: &Listener, shards: u16) -> Result<Opened, Failure> {
    let options = ListenOptions {
        backlog: listener.backlog,
        nodelay: listener.tcp_nodelay,
        keepalive_s: some(listener.tcp_keepalive_s.into()),
        user_timeout_ms: some(listener.tcp_user_timeout_ms),
        send_buffer_bytes: some(listener.send_buffer_bytes),
        receive_buffer_bytes: some(listener.receive_buffer_bytes),
        unix_mode: listener.unix_mode,
        ..ListenOptions::default()
    };
    let refused = |error: String| Failure::host(format!("listener {}: {error}", listener.name));
    let sockets = listen_shared(&listener.bind, &options, shards)
        .map_err(|error| refused(error.to_string()))?;
    let file = SocketFile::of(&listener.bind).map_err(|error| refused(error.to_string()))?;
    let address = match (&listener.bind, sockets.first()) {
        (ListenAddr::Tcp(_), Some(socket)) => {
            let socket = socket.try_clone().map(TcpListener::from);
            let bound = socket.and_then(|socket| socket.local_addr());
            ListenAddr::Tcp(bound.map_err(|error| refused(error.to_string()))?)
        }
        (bind, _) => bind.clone(),
    };
    Ok(Opened { address, sockets, file })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::{fs, process};

    use super::*;
    use crate::exit::Exit;

    fn listener(address: &str) -> Listener {
        Listener { name: "l".into(), bind: address.parse().unwrap(), ..Listener::default() }
    }

    fn port_of(opened: &Opened) -> u16 {
        opened.address.port().unwrap()
    }

    /// A path that is this test's own.
    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ringtide-{}-{name}.sock", process::id()))
    }

    #[test]
    fn one_socket_per_shard_shares_the_port() {
        let opened = open(&listener("127.0.0.1:0"), 3).unwrap();
        let port = port_of(&opened);
        assert_ne!(port, 0);
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        let sockets = opened.sockets.into_iter().map(TcpListener::from);
        let ports: Vec<u16> = sockets.map(|own| own.local_addr().unwrap().port()).collect();
        assert_eq!(ports, [port; 3]);
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

    #[test]
    fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
        let path = path("mode");
        let own = Listener { unix_mode: 0o600, ..listener(&format!("unix:{}", path.display())) };
        let opened = open(&own, 2).unwrap();
        assert_eq!(opened.sockets.len(), 2);
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        let failure = open(&own, 2).unwrap_err();
        assert!(failure.text.contains("another process has it"), "{failure}");
        assert!(failure.text.contains("ss -lxp"), "{failure}");
        UnixStream::connect(&path).unwrap();
        drop(opened);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_what_is_another_s_stays() {
        let path = path("stale");
        let own = listener(&format!("unix:{}", path.display()));
        let mut killed = open(&own, 1).unwrap();
        std::mem::forget(killed.file.take());
        drop(killed);
        assert!(path.exists(), "as a killed broker leaves it");
        let opened = open(&own, 1).unwrap();
        // Somebody has put another one in its place.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "no socket").unwrap();
        drop(opened);
        let failure = open(&own, 1).unwrap_err();
        assert!(failure.text.contains("what is there is no socket"), "{failure}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "no socket");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let failure = open(&listener("unix:/nonexistent/mqtt.sock"), 1).unwrap_err();
        assert_eq!(failure.exit, Exit::Host);
        assert_eq!(
            failure.text,
            "listener l: cannot listen on unix:/nonexistent/mqtt.sock: there is no such \
             directory; make it, and let the broker's user write to it"
        );
    }
}
