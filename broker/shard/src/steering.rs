//! What the program tells its shards while they run.

use crate::access::Access;
use crate::config::Limits;

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Serving.
    Running,
    /// No new connections; clients are told and closed.
    Draining,
    /// End at once.
    Stopped,
}

/// Settings that may change while a shard runs.
#[derive(Debug)]
pub struct Settings {
    /// Limits and policies; those negotiated at CONNECT hold for new connections.
    pub limits: Limits,
    /// The rules.
    pub access: Access,
}

/// Read by every shard once a turn.
pub trait Steering: Send + Sync {
    /// How far a shutdown has come.
    fn stage(&self) -> Stage;
    /// Counts the changes of the settings.
    fn epoch(&self) -> u64;
    /// The settings as they are now; read when the epoch has changed.
    fn settings(&self) -> Settings;
}
