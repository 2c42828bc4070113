//! `[store]`: how sessions and messages are kept on the disk.

use serde::{Deserialize, Serialize};

/// How sessions and messages are kept on the disk. Each shard has a log of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Bytes of one segment of a shard's log; two or more exist ahead of need.
    pub segment_bytes: u64,
    /// Bytes that a shard appends before it writes its live state anew and frees what lies before.
    pub checkpoint_bytes: u64,
    /// The most bytes that one shard's log may take; 0 = as much as the disk has.
    pub disk_bytes_max: u64,
    /// Bytes that one shard may hold in memory while the disk is behind; above it what must be
    /// kept waits.
    pub backlog_bytes_max: u64,
    /// Bytes of messages waiting for clients that one shard keeps in memory; above it the oldest
    /// are in the log alone, and read again when their client takes them.
    pub waiting_memory_bytes_max: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            segment_bytes: 64 << 20,
            checkpoint_bytes: 256 << 20,
            disk_bytes_max: 0,
            backlog_bytes_max: 16 << 20,
            waiting_memory_bytes_max: 32 << 20,
        }
    }
}
