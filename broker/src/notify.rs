//! Tells the service manager how the broker is: datagrams to the socket that systemd names in
//! `NOTIFY_SOCKET` (sd_notify(3)), which a unit of `Type=notify` waits for.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Names the socket; not there when nobody waits.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Connections are accepted. Without a service manager nothing is done; one that cannot be told is
/// warned of, since it will take the start for failed.
pub(crate) fn ready() {
    tell(b"READY=1", "that the broker is ready; it may end it when its time for the start is over");
}

/// A shutdown has begun.
pub(crate) fn stopping() {
    tell(b"STOPPING=1", "that the broker ends");
}

/// Every shard goes on.
pub(crate) fn alive() {
    tell(b"WATCHDOG=1", "that the broker lives; its watchdog will end it");
}

/// Sends one message, of which `what` says for the log what it means.
fn tell(message: &[u8], what: &str) {
    let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&name, message) {
        warn!("cannot tell the service manager {what}: {SOCKET}={}: {error}", name.display());
    }
}

/// Sends to a path, or to an abstract name that `@` stands before.
fn send(name: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}
