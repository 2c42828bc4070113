//! The generator's I/O: one narrow trait with the driver crate's own types, so that the generator
//! and the reflector run over any implementation.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringtide_driver::{BufferId, Completion, Outgoing, Socket, Token, Wait};

/// The part of [`ringtide_driver::Driver`] that load generation uses, with the same rules, plus
/// taking over sockets that the standard library has made.
pub(crate) trait Io {
    /// Takes over a connected socket.
    fn adopt(&mut self, stream: TcpStream) -> io::Result<Socket>;

    /// Starts receiving.
    fn start_receive(&mut self, token: Token, socket: Socket);

    /// The bytes of a received buffer.
    fn bytes(&self, buffer: BufferId) -> &[u8];

    /// Gives a received buffer back; to be done before the next completion is taken.
    fn release(&mut self, buffer: BufferId);

    /// Sends bytes; one send per token and turn.
    fn send(&mut self, token: Token, socket: Socket, data: Outgoing);

    /// A vector to fill again.
    fn reclaim(&mut self) -> Option<Vec<u8>>;

    /// Closes a socket.
    fn close(&mut self, token: Token, socket: Socket);

    /// Submits what is queued and waits as told.
    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()>;

    /// The next completion.
    fn next(&mut self) -> Option<Completion>;
}

/// Sets the options that a socket of the generator has.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // BBR paces with a timer for each socket, which is not what is to be measured.
    let _ = rustix::net::sockopt::set_tcp_congestion(stream, "cubic");
    Ok(())
}

/// Closes sockets, tokens counting from 0, and waits until they are closed.
///
/// # Errors
/// If the network fails altogether.
pub(crate) fn close_all<I: Io>(
    io: &mut I,
    sockets: impl Iterator<Item = Socket>,
) -> io::Result<()> {
    let mut open = 0;
    for (index, socket) in sockets.enumerate() {
        io.close(Token(index as u64), socket);
        open += 1;
    }
    let end = Instant::now() + CLOSE_MAX;
    while open > 0 && Instant::now() < end {
        io.submit_and_wait(Wait::AtMost(Duration::from_millis(10)))?;
        while let Some(completion) = io.next() {
            match completion {
                Completion::Closed { .. } => open -= 1,
                Completion::Received { buffer, .. } => io.release(buffer),
                _ => {}
            }
        }
    }
    Ok(())
}

const CLOSE_MAX: Duration = Duration::from_secs(10);
