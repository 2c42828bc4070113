//! The log of a shard: the truth about everything that must outlive the process.
//!
//! # How it works
//!
//! [`Log`] is a [`Store`](crate::Store). Records are gathered in memory; at the end of a turn they
//! become a *batch*, which the shard's driver writes and syncs. While one write is under way the
//! following turns gather the next batch (a turn is never divided; above 1 MiB none is added),
//! so that the cost of a sync is shared by all that came meanwhile. There is no timer.
//! Batches go into *segments*: files that a thread fills with zeros and syncs ahead of need, so
//! that a sync in steady state writes data blocks only. A segment whose records are all void
//! becomes another segment under a new number, or is deleted.
//!
//! Space is won back by *checkpoints*: the shard appends its whole live state again between
//! `begin_checkpoint` and `end_checkpoint`. With the batch that holds the last of these records all
//! records before the begin are void. Their segments are freed when that batch and a later one are
//! durable: with no further record they stay.
//!
//! A checkpoint is wanted ([`Store::wants_checkpoint`](crate::Store::wants_checkpoint)) when as
//! many bytes were appended since the last one as [`LogConfig::reserve_bytes`] and as the last one
//! had; earlier when [`LogConfig::capacity_bytes`] is near, when the disk is full, when nothing was
//! appended for some time ([`LogConfig::quiet_s`]), and after damage.
//!
//! What is appended while no segment is ready ([`Store::is_waiting`](crate::Store::is_waiting))
//! stays in memory, without limit: [`Store::waiting_bytes`](crate::Store::waiting_bytes) tells how
//! much, and who appends must stop. [`Store::is_tight`](crate::Store::is_tight) and
//! [`Store::is_full`](crate::Store::is_full) tell earlier, while there is room for all that lives
//! and two segments: the checkpoint that wins space back, and what ends work instead of making
//! some, go on. Both go by the capacity and by what the file system has left, which the log's
//! thread asks for. Logs that share a file system each count on all of it: should they come too
//! late then, a segment cannot be prepared, which tells `is_full` too, while the one in use still
//! has room.
//!
//! # The files
//!
//! A directory (mode 0700) belongs to one log. `log-<number>.seg` (mode 0600; the number in
//! decimal, at least 12 digits) is a segment; numbers grow and are never used again.
//! `*.corrupt-<unix time>` is a further name of a segment in which an opening found damage; it is
//! never removed. Everything else is ignored. All numbers in the files are little-endian; checksums
//! are CRC-32C (Castagnoli) as in RFC 3720, and cover all bytes of what they stand in but their own
//! four. Positions count records from 1.
//!
//! A segment is a header of 4096 bytes, then batches. A batch begins at a multiple of 4096 bytes
//! and is filled up to one with bytes that mean nothing, so that no write touches a page of an
//! earlier batch. What is between and behind batches means nothing.
//!
//! **Segment header** (4096 bytes)
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `RINGTIDE` |
//! | 8 | 4 | format version of the whole segment, 1 |
//! | 12 | 4 | checksum |
//! | 16 | 2 | id of the log |
//! | 18 | 2 | 0 |
//! | 20 | 4 | block size, 4096 |
//! | 24 | 8 | number of the segment; another than the file's name says: a free file |
//! | 32 | 8 | epoch: ordinal of the opening that made it |
//! | 40 | 8 | first position of the epoch |
//! | 48 | 8 | salt of the epoch, chosen at random |
//! | 56 | 8 | length of the segment |
//! | 64 | 8 | start, as known when it was made (see below) |
//! | 72 | 8 | durable position, as known when it was made |
//! | 80 | | 0 |
//!
//! Magic, version and checksum stay where they are in all versions; a higher version is refused.
//!
//! **Batch header** (96 bytes), followed by the records
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | `RTLB` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | id of the log |
//! | 8 | 4 | checksum of header and records |
//! | 12 | 4 | number of records, at least 1 |
//! | 16 | 4 | bytes of the records |
//! | 20 | 4 | 0 |
//! | 24 | 8 | salt of the epoch |
//! | 32 | 8 | epoch |
//! | 40 | 8 | first position of the epoch |
//! | 48 | 8 | number of the segment |
//! | 56 | 8 | offset of the batch in the segment |
//! | 64 | 8 | ordinal of the batch in its epoch, from 1 |
//! | 72 | 8 | position of its first record |
//! | 80 | 8 | durable: all up to here was on the medium when it was written |
//! | 88 | 8 | start: all records before this are void |
//!
//! **Record**
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 1 | kind, see [`RecordKind`] |
//! | 1 | 1 | version of this envelope, 1 |
//! | 2 | 2 | 0 |
//! | 4 | 4 | bytes of the body |
//! | 8 | 4 | checksum of the eight bytes before and the body |
//! | 12 | | body, see [`crate::record`] |
//!
//! # What counts
//!
//! A batch exists if its checksum is right and log, salt, epoch, segment and offset are those of
//! the place where it stands: a write to a wrong place, a leftover of the file's former use, and
//! bytes of a message that look like a batch (nobody outside knows the salt) are none. If the
//! segment's header is damaged, log, salt and epoch must be those of another header or of the batch
//! that stands right behind it, where no message can be.
//! 1. A batch with a record at or after the first position of a *later* epoch is void: it was cut
//!    off when that epoch began.
//! 2. Of the others in the segment with the highest number that has any, the last one says what had
//!    been durable. (So do the headers; the highest counts.)
//! 3. In the order of segments and offsets, positions must follow each other, beginning with the
//!    start. What is missing at or below the durable position is lost: it is reported
//!    ([`Damage`]), and the log goes on behind it. What is missing above it is the write that a
//!    crash interrupted: the log ends there, whatever follows.
//! 4. The start is the highest that a batch names which is not cut off by rule 3.
//!
//! The next opening begins a new epoch in a new segment at the position where the log ended.
//! Nothing is ever written to a segment that an opening found, but that its file is used again when
//! all in it is void.
//!
//! # When nothing is lost
//!
//! With [`Sync::EachBatch`]: everything that [`Store::durable`](crate::Store::durable) has told,
//! across the death of the process and power cuts at any moment; at most the batch under way is not
//! there. With [`Sync::Os`]: the same for the death of the process; after a power cut some
//! beginning of what was appended, at least the last checkpoint whose forerunner was freed. A write
//! or sync that fails ends the log: nothing becomes durable any more
//! ([`Store::failed`](crate::Store::failed)), and the process must be started anew, because the
//! page cache may now differ from the medium. An opening reads the newest segment from the medium,
//! past the page cache. A segment that cannot be *prepared* for want of space, descriptors or
//! memory is no failure (see [`Log::shortage`]); for any other reason it is.

mod error;
pub mod faults;
mod files;
mod format;
mod gather;
mod lock;
mod open;
mod prepare;
mod read;
mod recover;
mod scan;
mod store;

use std::path::PathBuf;

pub use error::OpenError;
use format::{BLOCK_BYTES, padded};
pub use lock::{DataDirLock, LockError, lock, lock_shared};
pub use open::{inspect, inspect_on};
pub use read::{encode_record, record_at};
pub use store::Log;

use crate::record::RecordError;
use crate::{Lsn, Place, RecordKind};

/// When a batch counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// When it was written and synced (fdatasync): it outlives a power cut.
    #[default]
    EachBatch,
    /// When it was written: it outlives the process, not a power cut.
    Os,
}

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The shard's directory, made (0700) if it does not exist.
    pub dir: PathBuf,
    /// Id of the log; a directory that holds another log's segments is refused.
    pub log: u16,
    /// Bytes of a segment; rounded up to a multiple of 4096, at least 8192.
    pub segment_bytes: u64,
    /// When a batch counts as durable.
    pub sync: Sync,
    /// Bytes that are appended before a checkpoint is wanted.
    pub reserve_bytes: u64,
    /// The most bytes that the segments may take, free ones included. Should be three times what
    /// lives and four segments: a checkpoint is written while the last one and what came since
    /// are still there.
    pub capacity_bytes: u64,
    /// Seconds ([`Store::second_passed`](crate::Store::second_passed)) without a record after which
    /// the log tidies up: it wants a checkpoint if a segment, and half of what the last one wrote,
    /// was appended since, and its free segments are deleted.
    pub quiet_s: u32,
}

impl LogConfig {
    /// Log `log` in `dir` with the default sizes: segments of 64 MiB, a checkpoint after 256 MiB,
    /// as much space as there is, every batch synced.
    pub fn new(dir: impl Into<PathBuf>, log: u16) -> LogConfig {
        LogConfig {
            dir: dir.into(),
            log,
            segment_bytes: 64 << 20,
            sync: Sync::EachBatch,
            reserve_bytes: 256 << 20,
            capacity_bytes: u64::MAX,
            quiet_s: 30,
        }
    }

    fn round(&mut self) {
        let limit = u64::MAX - BLOCK_BYTES;
        self.segment_bytes = padded(self.segment_bytes.clamp(2 * BLOCK_BYTES, limit));
    }

    /// What a checkpoint frees when little else lives: so many are soon needed again.
    fn spares_max(&self) -> usize {
        let spares = self.reserve_bytes / self.segment_bytes.max(1);
        usize::try_from(spares).unwrap_or(usize::MAX).clamp(1, 64)
    }
}

/// Takes the records that count, in order. What it refuses ends the opening.
pub type Replay<'a> = dyn FnMut(Lsn, RecordKind, &[u8]) -> Result<(), RecordError> + 'a;

/// As [`Replay`], with the place of each record if it can be read again.
pub type PlacedReplay<'a> =
    dyn FnMut(Lsn, RecordKind, &[u8], Option<Place>) -> Result<(), RecordError> + 'a;

/// How far an opening has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records that were replayed so far.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Bytes of the segment files that were gone through, records or not.
    pub read_bytes: u64,
    /// Bytes of all segment files; those that hold nothing come last.
    pub file_bytes: u64,
}

/// Is told how far an opening has come.
pub type Watch<'a> = dyn FnMut(Progress) + 'a;

/// What an opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Records that were replayed.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The begin of the last complete checkpoint, or 1: records below are void.
    pub start: Lsn,
    /// The last position that counts.
    pub last: Lsn,
    /// Segments that hold batches, void ones included.
    pub segments: usize,
    /// Bytes of all segment files, free ones included.
    pub file_bytes: u64,
    /// Intact batches behind a gap in the tail, which a crash left and nobody relied on.
    pub cut_batches: u64,
    /// What is lost although it had been durable.
    pub damaged: Option<Damage>,
}

/// Records that had been durable and cannot be read any more, or files that show damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Positions that are lost, first and last of each stretch. Empty if all damage lies where
    /// nothing counts.
    pub lost: Vec<(Lsn, Lsn)>,
    /// Blocks of 4096 bytes that the medium did not give.
    pub unreadable_blocks: u64,
    /// The files. An opening gives each a second name, `<name>.corrupt-<unix time in s>`, that is
    /// never removed.
    pub segments: Vec<String>,
}
