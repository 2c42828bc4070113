//! The `Store` trait and its implementations. Knows no MQTT packet and no socket.
#![forbid(unsafe_code)]

mod delayed;
mod memory;

pub use delayed::DelayedStore;
pub use memory::MemoryStore;

/// A position in a shard's log. Positions only grow; a record is durable when the store's durable
/// position has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// What a record is about. The store does not read the bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A published message with the shards it is for.
    Message = 1,
    /// A session was created, changed or removed.
    Session = 2,
    /// A subscription was made, changed or removed.
    Subscription = 3,
    /// A retained message was set or cleared.
    Retained = 4,
    /// An inbound or outbound exchange moved on.
    Exchange = 5,
    /// A will was set or cleared.
    Will = 6,
}

/// A shard's store: an append-only sequence of records that become durable in order.
pub trait Store {
    /// Appends a record to the batch of this turn and returns its position. The parts are written
    /// one after another as one body.
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Lsn;

    /// Ends the turn: what was appended may be written as one batch.
    fn end_turn(&mut self);

    /// The highest position up to which everything is durable.
    fn durable(&self) -> Lsn;

    /// The position of the last appended record.
    fn appended(&self) -> Lsn;

    /// True if every record is durable as soon as it is appended.
    fn is_immediate(&self) -> bool;
}
