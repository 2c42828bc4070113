//! Opens connections from many loopback addresses, so that ports do not run out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects one socket after another, each from the next address.
#[derive(Debug)]
pub(crate) struct Dial {
    target: SocketAddr,
    first: u64,
    addresses: u64,
    made: u64,
}

impl Dial {
    /// From `addresses` of them, the first of which has number `first`.
    pub(crate) fn new(target: SocketAddr, first: u64, addresses: u64) -> Dial {
        Dial { target, first, addresses, made: 0 }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::ConnectionRefused`] if nobody listens.
    pub(crate) fn open(&mut self) -> io::Result<TcpStream> {
        let number = self.first + self.made % self.addresses.max(1);
        self.made += 1;
        if !self.target.is_ipv4() || (self.first == 0 && self.addresses <= 1) {
            return TcpStream::connect_timeout(&self.target, CONNECT_TIMEOUT);
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source(number), 0).into())?;
        socket.connect_timeout(&self.target.into(), CONNECT_TIMEOUT)?;
        Ok(socket.into())
    }
}

/// 127.1.0.1 and on.
fn source(number: u64) -> IpAddr {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    IpAddr::V4(Ipv4Addr::from(first + number as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_ones_one_after_another() {
        assert_eq!(source(0), IpAddr::from([127, 1, 0, 1]));
        assert_eq!(source(255), IpAddr::from([127, 1, 1, 0]));
        assert!(source((1 << 20) - 1).is_loopback());
    }
}
