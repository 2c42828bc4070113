//! Why a log cannot be opened.

use std::fmt;
use std::io;

use crate::record::RecordError;
use crate::{Lsn, RecordKind};

/// Why a log cannot be opened or read. Damage is no error: see [`super::Damage`].
#[derive(Debug)]
pub enum OpenError {
    /// A file operation failed.
    Io {
        /// What was tried, or on what file.
        what: String,
        /// The error.
        error: io::Error,
    },
    /// A segment was written by a newer program.
    Newer {
        /// The segment's file.
        file: String,
        /// The version it has; this build knows version 1.
        version: u32,
    },
    /// A segment belongs to another log.
    Foreign {
        /// The segment's file.
        file: String,
        /// The id of the log it belongs to.
        log: u16,
    },
    /// A record of a kind, or in an envelope of a version, that this build does not know.
    UnknownRecord {
        /// Its position.
        lsn: Lsn,
        /// Its kind, or the envelope's version.
        number: u8,
    },
    /// Whoever replays refused a record.
    Record {
        /// Its position.
        lsn: Lsn,
        /// Its kind.
        kind: RecordKind,
        /// Why.
        error: RecordError,
    },
    /// A batch whose checksum is right holds something that no version writes.
    Inconsistent {
        /// The segment's number.
        segment: u64,
        /// The batch's place in it.
        offset: u64,
    },
}

impl OpenError {
    pub(super) fn io(what: &str) -> impl Fn(io::Error) -> OpenError + use<> {
        let what = what.to_owned();
        move |error| OpenError::Io { what: what.clone(), error }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { what, error } => write!(f, "{what}: {error}"),
            OpenError::Newer { file, version } => write!(
                f,
                "{file} has format version {version}, written by a newer release; this one knows \
                 version {}",
                super::format::FORMAT_VERSION
            ),
            OpenError::Foreign { file, log } => write!(f, "{file} belongs to log {log}"),
            OpenError::UnknownRecord { lsn, number } => write!(
                f,
                "record {} has the unknown kind or envelope {number}: written by a newer release",
                lsn.0
            ),
            OpenError::Record { lsn, kind, error } => {
                write!(f, "record {} ({kind:?}) cannot be read: {error:?}", lsn.0)
            }
            OpenError::Inconsistent { segment, offset } => {
                write!(f, "segment {segment} holds an impossible batch at {offset}")
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
