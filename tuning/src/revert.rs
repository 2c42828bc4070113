//! Puts back what was there before the first change.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::apply::{Done, Step, refusal, restoring, write_value};
use crate::kernel::Process;
use crate::originals::{self, Entry, Lock, Original, Originals, TuneError};
use crate::root::Root;

/// Puts back what every `apply` since the last `revert` has changed, the last change first. What
/// cannot be put back stays in the record for another try. No step at all: there is no record.
///
/// # Errors
/// When nothing was put back at all: without privilege, or when the record cannot be read.
pub fn revert(root: &Root) -> Result<Vec<Step>, TuneError> {
    if Originals::read(root)?.entries.is_empty() {
        return Ok(Vec::new());
    }
    if !Process::read(root).is_privileged() {
        return Err(TuneError::NotRoot);
    }
    let lock = Lock::take(root)?;
    let mut record = Originals::read(root)?;
    let mut steps = Vec::new();
    let mut left = Vec::new();
    for entry in record.entries.iter().rev() {
        let done = match restore(root, entry) {
            Ok(None) => Done::Kept,
            Ok(Some(said)) => Done::Changed(vec![said]),
            Err(why) => {
                left.push(entry.clone());
                Done::Refused(why)
            }
        };
        steps.push(Step { name: entry.name.clone(), done });
    }
    if left.is_empty() {
        if let Err(error) = Originals::forget(root) {
            let why = format!("cannot be removed: {error}");
            steps.push(Step { name: originals::FOLDER.into(), done: Done::Refused(why) });
        }
    } else {
        left.reverse();
        record.entries = left;
        record.write(root)?;
    }
    drop(lock);
    for folder in record.folders.iter().rev() {
        // One that somebody else has put something into stays.
        let _ = fs::remove_dir(root.path(folder));
    }
    // The record's own folder goes even if it was there: nothing else belongs there.
    let _ = fs::remove_dir(root.path(originals::FOLDER));
    Ok(steps)
}

/// Puts one thing back. `None`: it was as it had been, or went with an earlier boot.
fn restore(root: &Root, entry: &Entry) -> Result<Option<String>, String> {
    if entry.boot.as_ref().is_some_and(|boot| *boot != originals::boot_id(root)) {
        return Ok(None);
    }
    let path = root.path(&entry.path);
    match &entry.original {
        Original::Value { text, form } => {
            let now = match root.read(&entry.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Ok(Some("is gone, nothing to put back".to_owned()));
                }
                Err(error) => return Err(refusal(&error)),
                Ok(now) => form.plain(&now),
            };
            let original = form.plain(text);
            if now == original {
                return Ok(None);
            }
            write_value(&path, &restoring(text, *form)).map_err(|error| refusal(&error))?;
            let after = root.read(&entry.path).map(|text| form.plain(&text)).unwrap_or_default();
            match after == original {
                true => Ok(Some(format!("{now} -> {original}"))),
                false => Err(format!("{now} -> {original}: the kernel keeps {after}")),
            }
        }
        Original::File { text, mode, uid, gid } => {
            remove(&originals::draft(&path)).map_err(|error| refusal(&error))?;
            if originals::file_at(&path).is_ok_and(|now| now == entry.original) {
                return Ok(None);
            }
            let put = || {
                originals::replace(&path, text, *mode)?;
                chown(&path, Some(*uid), Some(*gid))?;
                // Giving a file away takes its set-user-id bits.
                fs::set_permissions(&path, Permissions::from_mode(*mode))
            };
            put().map_err(|error| refusal(&error))?;
            Ok(Some("has its old content again".to_owned()))
        }
        Original::Absent => {
            remove(&originals::draft(&path)).map_err(|error| refusal(&error))?;
            match remove(&path) {
                Ok(true) => Ok(Some("removed: it was not there before".to_owned())),
                Ok(false) => Ok(None),
                Err(error) => Err(refusal(&error)),
            }
        }
    }
}

/// Whether there was something to remove.
fn remove(path: &std::path::Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
