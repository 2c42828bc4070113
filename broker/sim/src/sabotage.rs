//! Drivers that harm what the shard sends, so that the auditor can be seen to notice. Never part
//! of a run that judges the broker.

use std::io;

use bytes::BytesMut;
use ringtide_codec::{PacketType, fixed_header};
use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, ReadOp, Socket, Token, Wait,
};

/// What is done to the shard's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// PUBLISH packets that are sent again after a resume vanish.
    DropRedelivery,
    /// Every fifth PUBREL vanishes.
    DropPubrel,
    /// Every twentieth QoS 1 or 2 PUBLISH vanishes.
    DropPublish,
    /// Every twentieth PUBLISH goes out twice.
    DoublePublish,
    /// Every fifth SUBACK vanishes.
    DropSuback,
    /// A crash takes one durable record along.
    LoseRecord,
    /// A crash takes the last durable records along.
    DropLastDurable,
    /// The store says of everything at once that it is durable.
    EarlyDurable,
}

impl Sabotage {
    /// All that do harm.
    pub const ALL: [Sabotage; 5] = [
        Sabotage::DropRedelivery,
        Sabotage::DropPubrel,
        Sabotage::DropPublish,
        Sabotage::DoublePublish,
        Sabotage::DropSuback,
    ];

    /// All that do harm to what must outlive a crash.
    pub const OF_STORE: [Sabotage; 3] =
        [Sabotage::LoseRecord, Sabotage::DropLastDurable, Sabotage::EarlyDurable];
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Saboteur<D> {
    driver: D,
    sabotage: Sabotage,
    seen: u64,
}

impl<D: Driver> Saboteur<D> {
    /// A driver with this harm done to its output.
    pub fn new(driver: D, sabotage: Sabotage) -> Saboteur<D> {
        Saboteur { driver, sabotage, seen: 0 }
    }

    fn every(&mut self, times: u64) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(times)
    }

    /// How often a packet goes out.
    fn copies(&mut self, packet_type: PacketType, flags: u8) -> usize {
        let queued = packet_type == PacketType::Publish && flags & 0b110 != 0;
        match self.sabotage {
            Sabotage::None => 1,
            Sabotage::DropRedelivery => usize::from(!(queued && flags & 0b1000 != 0)),
            Sabotage::DropPubrel if packet_type == PacketType::PubRel => {
                usize::from(!self.every(5))
            }
            Sabotage::DropPublish if queued => usize::from(!self.every(20)),
            Sabotage::DoublePublish if packet_type == PacketType::Publish => {
                1 + usize::from(self.every(20))
            }
            Sabotage::DropSuback if packet_type == PacketType::SubAck => {
                usize::from(!self.every(5))
            }
            _ => 1,
        }
    }

    fn harm(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = bytes;
        while let Ok(Some(header)) = fixed_header(rest, u32::MAX) {
            let (frame, after) = rest.split_at(header.total_len().min(rest.len()));
            for _ in 0..self.copies(header.packet_type, header.flags) {
                out.extend_from_slice(frame);
            }
            rest = after;
        }
        out.extend_from_slice(rest);
        out
    }
}

impl<D: Driver> Driver for Saboteur<D> {
    fn start_accept(&mut self, listener: ListenerId) {
        self.driver.start_accept(listener);
    }

    fn stop_accept(&mut self, listener: ListenerId) {
        self.driver.stop_accept(listener);
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.driver.start_receive(token, socket);
    }

    fn receive_once(&mut self, token: Token, socket: Socket) {
        self.driver.receive_once(token, socket);
    }

    fn stop_receive(&mut self, token: Token, socket: Socket) {
        self.driver.stop_receive(token, socket);
    }

    fn receive_exact(&mut self, token: Token, socket: Socket, buffer: BytesMut, until: usize) {
        self.driver.receive_exact(token, socket, buffer, until);
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        self.driver.bytes(buffer)
    }

    fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.driver.bytes_mut(buffer)
    }

    fn release(&mut self, buffer: BufferId) {
        self.driver.release(buffer);
    }

    fn send(&mut self, token: Token, socket: Socket, data: Outgoing) {
        let data = match self.sabotage {
            Sabotage::None => data,
            _ => {
                let head = self.harm(&crate::driver::flatten(&data));
                Outgoing { head, shared: Vec::new() }
            }
        };
        self.driver.send(token, socket, data);
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.driver.reclaim()
    }

    fn close(&mut self, token: Token, socket: Socket) {
        self.driver.close(token, socket);
    }

    fn hand_over(&mut self, socket: Socket, to: u16, tag: u64) -> Option<Socket> {
        self.driver.hand_over(socket, to, tag)
    }

    fn wake(&mut self, to: u16) {
        self.driver.wake(to);
    }

    fn write_log(&mut self, write: LogOp) {
        self.driver.write_log(write);
    }

    fn read_log(&mut self, read: ReadOp) {
        self.driver.read_log(read);
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.driver.submit_and_wait(wait)
    }

    fn next(&mut self) -> Option<Completion> {
        self.driver.next()
    }
}
