//! The `Store` trait, its records and its implementations. Knows no MQTT packet and no socket.
#![forbid(unsafe_code)]

mod delayed;
pub mod log;
mod memory;
pub mod record;
pub mod state;

use std::fmt;

pub use delayed::DelayedStore;
pub use log::{Log, LogConfig, encode_record, record_at};
pub use memory::MemoryStore;
pub use state::State;

/// Linux: no such file.
const ENOENT: i32 = 2;

/// A position in a shard's log: the ordinal of a record, from 1. Positions only grow; a record is
/// durable when the store's durable position has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// What a record is about. The bodies are in [`record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A message with what it is for: [`record::MessageHead`].
    Message = 1,
    /// A session as a whole, without what waits for it: [`record::SessionRecord`].
    Session = 2,
    /// A subscription was made, changed or removed: [`record::SubscriptionRecord`].
    Subscription = 3,
    /// Further sessions for which a stored message waits: [`record::QueueRecord`].
    Queue = 4,
    /// An exchange moved on: [`record::ExchangeRecord`].
    Exchange = 5,
    /// A session was connected or disconnected, or its will changed:
    /// [`record::ConnectionRecord`].
    Connection = 6,
    /// A session ended: [`record::SessionEndRecord`].
    SessionEnd = 7,
    /// How far the messages of other shards have been taken over: [`record::WatermarkRecord`].
    Watermark = 8,
    /// A message as a checkpoint writes it, with a session that it waits for or a shard that must
    /// take it over; further sessions may follow in [`RecordKind::Queue`] records until
    /// [`RecordKind::CheckpointEnd`]. Same body as [`RecordKind::Message`].
    Checkpoint = 9,
    /// The checkpoint has named all that its messages wait for:
    /// [`record::CheckpointEndRecord`].
    CheckpointEnd = 10,
    /// What follows here and in other logs from messages that their origin has lost is void:
    /// [`record::VoidRecord`].
    Void = 11,
}

/// A write for the shard's driver, and what must follow it before its records are durable.
#[derive(Debug)]
pub struct LogWrite {
    /// The segment's descriptor, open until the result has come through [`Store::written`].
    pub file: i32,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What. Comes back with [`Store::written`].
    pub bytes: Vec<u8>,
    /// Whether these bytes must be on the device when the result comes, as after fdatasync. Those
    /// of other writes need not be.
    pub sync: bool,
}

/// Where the record that was appended last stands in the batch that it will be written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The batch, by its ordinal since the store was opened.
    pub batch: u64,
    /// Bytes of the batch before the record.
    pub offset: u32,
    /// Bytes of the record with its envelope.
    pub bytes: u32,
}

/// Where a durable record stands, to be read again ([`record_at`]). Valid until the space is freed
/// that a checkpoint has made void: what the checkpoint has written again has a new place by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The segment's number.
    pub segment: u32,
    /// Where the record begins in it, in bytes.
    pub offset: u32,
    /// Bytes of the record with its envelope.
    pub bytes: u32,
}

/// Why a store can keep nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFailure {
    /// What was tried, and on what file.
    pub what: String,
    /// Linux error number.
    pub errno: i32,
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = std::io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {error}", self.what)
    }
}

/// How much space a store takes, in bytes of its own files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the files in use, without those kept ready to be used again.
    pub used_bytes: u64,
    /// Bytes that the last checkpoint took: what had to be kept then.
    pub live_bytes: u64,
    /// Hundredths of the space that are taken by what the last checkpoint wrote and by the room
    /// that the next one needs: at 100 the store is full.
    pub fill_percent: u64,
    /// The most that they may take; 0 = as much as the file system has.
    pub limit_bytes: u64,
    /// Bytes of the whole file system that everybody's files take, as seen last; 0 = not known.
    pub disk_used_bytes: u64,
    /// Bytes of the whole file system; 0 = not known.
    pub disk_bytes: u64,
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

    /// True if what is appended outlives the process: a store that keeps nothing spares the shard
    /// the work of telling it.
    fn keeps(&self) -> bool {
        false
    }

    /// A write for the driver, if there is something to write and no write is under way. Its
    /// result must come back through [`Store::written`].
    fn take_write(&mut self) -> Option<LogWrite> {
        None
    }

    /// The result of the last [`Store::take_write`]: 0, or a Linux error number. Bytes come back
    /// to be used again.
    fn written(&mut self, bytes: Vec<u8>, errno: i32) {
        let _ = (bytes, errno);
    }

    /// Where the record that was appended last stands; `None` if the store's records cannot be read
    /// again while it runs.
    fn mark(&self) -> Option<Mark> {
        None
    }

    /// The place of a record, as long as its batch is the one that became durable last: to be asked
    /// for between [`Store::written`] and the next [`Store::take_write`].
    fn place(&self, mark: Mark) -> Option<Place> {
        let _ = mark;
        None
    }

    /// A descriptor to read records of a segment from. It stays open until [`Store::end_read`] has
    /// been called as often.
    ///
    /// # Errors
    /// A Linux error number: the segment is not there any more, or cannot be opened.
    fn begin_read(&mut self, segment: u32) -> Result<i32, i32> {
        let _ = segment;
        Err(ENOENT)
    }

    /// A read of a segment is over.
    fn end_read(&mut self, segment: u32) {
        let _ = segment;
    }

    /// True if batches wait for something other than a write under way (a fresh segment): the
    /// shard must not sleep long.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Bytes of memory that wait to be written, the write under way not counted.
    fn waiting_bytes(&self) -> u64 {
        0
    }

    /// True if the store cannot get the space it will soon need: new work that must be kept is to
    /// be refused. False again when there is space.
    fn is_full(&self) -> bool {
        false
    }

    /// True if the space that is left is needed for a checkpoint that is due or under way: new work
    /// that must be kept is to wait until that is complete.
    fn is_tight(&self) -> bool {
        false
    }

    /// True if a checkpoint has room and may show that there is space again, although
    /// [`Store::wants_checkpoint`] does not ask for one: it costs a write of all that lives, so a
    /// full store's owner begins one now and then.
    fn may_win_space(&self) -> bool {
        false
    }

    /// True if such a checkpoint should begin now: acknowledgements are written even when the
    /// store is full, and it may find no room any more once they have taken what is left.
    fn is_last_chance(&self) -> bool {
        false
    }

    /// True if one more record, whatever it says, would let the store free space.
    fn wants_record(&self) -> bool {
        false
    }

    /// The space that is taken, and how much there is.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Why nothing becomes durable any more, if so.
    fn failed(&self) -> Option<&StoreFailure> {
        None
    }

    /// True if so much was appended since the last checkpoint that a new one is worth its cost.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// A second has passed: a store to which nothing is appended for some time may tidy up.
    fn second_passed(&mut self) {}

    /// A checkpoint begins with the next record.
    fn begin_checkpoint(&mut self) {}

    /// The checkpoint is complete: once the last record is durable, what lies before its begin may
    /// be freed.
    fn end_checkpoint(&mut self) {}
}
