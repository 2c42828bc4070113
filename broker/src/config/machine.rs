//! Keys at the top of the file that choose how the broker uses the machine.

use serde::{Deserialize, Serialize};

/// What hosts a shard's thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// A glommio executor per shard, pinned.
    #[default]
    Glommio,
    /// A plain thread per shard, pinned.
    Threads,
}

impl Host {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Host::Glommio => "glommio",
            Host::Threads => "threads",
        }
    }
}

/// What does the shards' network I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// io_uring where the host has it and allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or no start.
    #[serde(alias = "io_uring")]
    Uring,
    /// epoll, on plain threads.
    Epoll,
}

impl Driver {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Auto => "auto",
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        }
    }
}

/// How sockets are held by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptors {
    /// Ordinary descriptors, one of the process's `nofile` per connection.
    #[default]
    Plain,
    /// Slots of the ring, which take none of the process's descriptors.
    Direct,
}

impl Descriptors {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Descriptors::Plain => "plain",
            Descriptors::Direct => "direct",
        }
    }
}

/// What an acknowledgement to a client promises, from less to more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The message is in the broker's memory; it is lost when the broker stops.
    Memory,
    /// The message has been handed to the operating system; it is lost when the machine stops.
    Os,
    /// The message is on the disk.
    #[default]
    Sync,
}

impl Durability {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Os => "os",
            Durability::Sync => "sync",
        }
    }

    /// What it means for the clients' messages, for the banner.
    pub fn meaning(self) -> &'static str {
        match self {
            Durability::Memory => {
                "sessions, queued and retained messages live in memory only \
                 and are lost when the broker stops"
            }
            Durability::Os => "acknowledged messages survive a crash of the broker",
            Durability::Sync => "acknowledged messages survive a crash of the machine",
        }
    }
}
