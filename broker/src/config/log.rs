//! `[log]`: what is logged and how. Logs go to standard error.

use serde::{Deserialize, Serialize};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important lines that are still logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Only what keeps the broker from doing its work.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And the broker's own steps: start, reload, shutdown.
    #[default]
    Info,
    /// And each connection's.
    Debug,
    /// And each packet's, in debug builds.
    Trace,
}

/// What is logged and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: Format,
    /// The least important lines that are still logged.
    pub level: Level,
}
