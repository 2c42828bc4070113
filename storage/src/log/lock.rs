//! Keeps two brokers from one data directory.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The file in the data directory that is locked.
const LOCK_NAME: &str = "LOCK";

/// A data directory that is ours as long as this lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why a data directory could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    Taken,
    /// The directory or its lock file cannot be made or opened.
    Io(io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Taken => write!(f, "another process uses the data directory"),
            LockError::Io(error) => write!(f, "the data directory cannot be locked: {error}"),
        }
    }
}

impl std::error::Error for LockError {}

/// Takes the data directory `dir`, which is made (0700) if it does not exist; its name is on the
/// medium then.
///
/// # Errors
/// If another process holds it, or on any error of the file system.
pub fn lock(dir: &Path) -> Result<DataDirLock, LockError> {
    make(dir).map_err(LockError::Io)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(dir.join(LOCK_NAME)).map_err(LockError::Io)?;
    held(file.try_lock(), file)
}

/// Makes a directory with all above it, down to their names on the medium. Parents of one that is
/// there are left alone: its user may have no right to read them.
fn make(dir: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Takes the data directory `dir` for reading, beside others that read it, and changes nothing in
/// it. `None` if it has no lock file: then no process has ever taken it.
///
/// # Errors
/// If a process holds it for writing, or on any error of the file system.
pub fn lock_shared(dir: &Path) -> Result<Option<DataDirLock>, LockError> {
    match File::open(dir.join(LOCK_NAME)) {
        Ok(file) => held(file.try_lock_shared(), file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LockError::Io(error)),
    }
}

fn held(locked: Result<(), TryLockError>, file: File) -> Result<DataDirLock, LockError> {
    match locked {
        Ok(()) => Ok(DataDirLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(LockError::Taken),
        Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
    }
}
