//! The log of a shard.

mod error;
pub mod faults;
mod files;
mod format;
mod gather;
mod lock;
mod open;
mod prepare;
mod recover;
mod scan;
mod store;

use std::path::PathBuf;

pub use error::OpenError;
use format::{BLOCK_BYTES, padded};
pub use lock::{DataDirLock, LockError, lock};
pub use open::{inspect, inspect_on};
pub use store::Log;

use crate::record::RecordError;
use crate::{Lsn, RecordKind};

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
    /// The most bytes that the segments may take, free ones included.
    pub capacity_bytes: u64,
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
