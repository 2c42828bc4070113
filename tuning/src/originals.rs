//! What was there before the first change, kept until it is put back.
//!
//! The record is written and synced before anything is changed, and an entry that is there is
//! never replaced: whatever interrupts an `apply`, and however often it runs with whatever profile,
//! the record holds what the host had before the first of them.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::item::Form;
use crate::root::Root;

/// Where the record is.
pub const FOLDER: &str = "/var/lib/ringtide-tuning";
const RECORD: &str = "var/lib/ringtide-tuning/originals.json";
const LOCK: &str = "var/lib/ringtide-tuning/lock";
const VERSION: u32 = 1;

/// Why nothing was changed or put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TuneError {
    /// Only root may.
    NotRoot,
    /// Another `ringtide tune` is at work.
    Busy,
    /// The record of the originals cannot be read or written: which file, and why.
    Record(String),
}

impl fmt::Display for TuneError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TuneError::NotRoot => out.write_str(
                "changing the host needs root: run it with sudo; nothing was changed \
                 (`--dry-run` shows what would be)",
            ),
            TuneError::Busy => {
                out.write_str("another `ringtide tune` is at work; nothing was changed")
            }
            TuneError::Record(what) => write!(
                out,
                "{what}; nothing was changed, because it could not be put back without it"
            ),
        }
    }
}

impl std::error::Error for TuneError {}

/// What was at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Original {
    /// A value of the running kernel.
    Value { text: String, form: Form },
    /// A file.
    File { text: String, mode: u32, uid: u32, gid: u32 },
    /// No file.
    Absent,
}

/// One thing to put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it is called in what is printed.
    pub(crate) name: String,
    /// Where it is in the host's tree.
    pub(crate) path: String,
    pub(crate) original: Original,
    /// The boot that it is an original of; `None` = it stays.
    pub(crate) boot: Option<String>,
}

/// The boot that the host is in.
pub(crate) fn boot_id(root: &Root) -> String {
    root.read("proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Originals {
    version: u32,
    /// In the order in which they were changed.
    pub(crate) entries: Vec<Entry>,
    /// Folders that were made, the outer ones first.
    pub(crate) folders: Vec<String>,
}

impl Originals {
    /// The record of this host; an empty one if nothing has been changed.
    pub(crate) fn read(root: &Root) -> Result<Originals, TuneError> {
        let path = root.path(RECORD);
        let wrong = |what: String| TuneError::Record(format!("{}: {what}", path.display()));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Originals {
                    version: VERSION,
                    entries: Vec::new(),
                    folders: Vec::new(),
                });
            }
            Err(error) => return Err(wrong(error.to_string())),
        };
        let record: Originals =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        match record.version {
            VERSION => Ok(record),
            other => Err(wrong(format!("version {other}, this program knows {VERSION}"))),
        }
    }

    /// Adds what is not in the record yet. What is from an earlier boot only is no original now.
    pub(crate) fn add(&mut self, entries: Vec<Entry>, folders: Vec<String>) {
        for entry in entries {
            self.entries.retain(|known| known.path != entry.path || known.boot == entry.boot);
            if !self.entries.iter().any(|known| known.path == entry.path) {
                self.entries.push(entry);
            }
        }
        for folder in folders {
            if !self.folders.contains(&folder) {
                self.folders.push(folder);
            }
        }
    }

    /// Writes the record so that it is on the disk as a whole or not at all.
    pub(crate) fn write(&self, root: &Root) -> Result<(), TuneError> {
        let path = root.path(RECORD);
        // Strings, numbers and lists always have a JSON form.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        replace(&path, &text, 0o600).map_err(|error| {
            TuneError::Record(format!("{}: cannot be written: {error}", path.display()))
        })
    }

    /// Takes the record away: everything is as it was.
    pub(crate) fn forget(root: &Root) -> io::Result<()> {
        for path in [RECORD, LOCK] {
            match fs::remove_file(root.path(path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Holds the record against other processes until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Makes the record's folder if need be.
    pub(crate) fn take(root: &Root) -> Result<Lock, TuneError> {
        let folder = root.path(FOLDER);
        let wrong = |error: io::Error| {
            TuneError::Record(format!("{}: cannot be made: {error}", folder.display()))
        };
        let above = folder.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(above).map_err(wrong)?;
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(wrong(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(root.path(LOCK)).map_err(wrong)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(TuneError::Busy),
            Err(fs::TryLockError::Error(error)) => Err(wrong(error)),
        }
    }
}

/// What is at the path of a file. A link or a folder is not ours to replace.
///
/// # Errors
/// Why it is left alone, in words.
pub(crate) fn file_at(path: &Path) -> Result<Original, String> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Original::Absent),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return Err("is no plain file".to_owned());
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "is no text".to_owned())?;
    let mode = metadata.permissions().mode() & 0o7777;
    Ok(Original::File { text, mode, uid: metadata.uid(), gid: metadata.gid() })
}

/// Where a file is made before it takes its place.
pub(crate) fn draft(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.ringtide-tuning"))
}

/// Replaces a file in one step, synced.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let draft = draft(path);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(mode).open(&draft)?;
    file.write_all(text.as_bytes())?;
    // Whatever the umask took away.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder)?.sync_all()
}
