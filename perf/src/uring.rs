//! The [`Io`] over the broker's own io_uring driver.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;

use ringtide_driver::{BufferId, Completion, Driver, ListenerId, Outgoing, Socket, Token, Wait};
use ringtide_net::uring::HostWatch;
use ringtide_net::{Peers, UringConfig, UringDriver};

use crate::io::{Io, prepare};

const BUFFERS: u16 = 512;
const BUFFER_BYTES: u32 = 8192;

/// See the file's head.
pub(crate) struct UringIo {
    driver: UringDriver,
}

impl UringIo {
    /// A driver on this thread, which accepts on `listener` if there is one.
    pub(crate) fn new(listener: Option<TcpListener>) -> io::Result<Self> {
        let peers = Peers::new(1)?;
        let listeners: Vec<_> = listener.into_iter().map(Into::into).collect();
        let accepts = !listeners.is_empty();
        let mut config = UringConfig::new(0, peers, listeners);
        config.receive_buffers = BUFFERS;
        config.receive_buffer_bytes = BUFFER_BYTES;
        let mut driver = UringDriver::new(config, HostWatch::default())?;
        if accepts {
            driver.start_accept(ListenerId(0));
        }
        Ok(Self { driver })
    }
}

impl Io for UringIo {
    fn adopt(&mut self, stream: TcpStream) -> io::Result<Socket> {
        prepare(&stream)?;
        Ok(Socket(stream.into_raw_fd() as u32))
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.driver.start_receive(token, socket);
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        self.driver.bytes(buffer)
    }

    fn release(&mut self, buffer: BufferId) {
        self.driver.release(buffer);
    }

    fn send(&mut self, token: Token, socket: Socket, data: Outgoing) {
        self.driver.send(token, socket, data);
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.driver.reclaim()
    }

    fn close(&mut self, token: Token, socket: Socket) {
        self.driver.close(token, socket);
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.driver.submit_and_wait(wait)
    }

    fn next(&mut self) -> Option<Completion> {
        self.driver.next()
    }
}
