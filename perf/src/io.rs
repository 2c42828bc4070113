//! The generator's I/O: one narrow trait with the driver crate's own types, so that the generator
//! and the reflector run over any implementation.

use std::io;
use std::net::{TcpListener, TcpStream};

use ringtide_driver::{BufferId, Completion, Outgoing, Socket, Token, Wait};

/// The part of [`ringtide_driver::Driver`] that load generation uses, with the same rules, plus
/// taking over sockets that the standard library has made.
pub(crate) trait Io {
    /// Accepts connections from now on; they come as [`Completion::Accepted`].
    fn listen(&mut self, listener: TcpListener) -> io::Result<()>;

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
