//! A store that is brought from elsewhere: its logs are written into the data directory while a
//! mark says that they do not count, and `store.toml`, written last and in one step, makes them
//! count. A crash before that leaves no store; the next import clears away what is left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ringtide_storage::log::{LockError, lock};

use super::{
    DataDir, FIRST_GENERATION as GENERATION, FORMAT, MANIFEST, Manifest, refuse_orphans, taken,
    write_manifest,
};
use crate::exit::Failure;

/// Stands beside logs that do not count yet.
const MARK: &str = "import.unfinished";

/// A store under construction. Dropped before [`NewStore::commit`], it takes back all it made but
/// the directory itself.
#[derive(Debug)]
pub(crate) struct NewStore {
    /// The directory as it will be.
    pub(crate) dir: DataDir,
    committed: bool,
}

impl NewStore {
    /// Takes a directory that has no store, made if it is not there.
    ///
    /// # Errors
    /// When it has a store, somebody uses it, or it cannot be written.
    pub(crate) fn begin(root: &Path, shards: u16, key: u64) -> Result<NewStore, Failure> {
        let lock = lock(root).map_err(|error| match error {
            LockError::Taken => taken(root),
            LockError::Io(error) => unwritable(root, &error),
        })?;
        refuse_store(root)?;
        if !root.join(MARK).exists() {
            refuse_orphans(root)?;
        }
        let manifest = Manifest {
            format: FORMAT,
            shards,
            generation: GENERATION,
            partition_key: format!("{key:016x}"),
        };
        let dir = DataDir { root: root.to_owned(), manifest, _lock: Some(lock) };
        let new = NewStore { dir, committed: false };
        new.make().map_err(|error| unwritable(root, &error))?;
        Ok(new)
    }

    fn make(&self) -> io::Result<()> {
        let root = &self.dir.root;
        let mark = root.join(MARK);
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(mark)?;
        File::open(root)?.sync_all()?;
        let logs = self.dir.generation_dir(GENERATION);
        match fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700).create(&logs)?;
        (0..self.dir.manifest.shards)
            .try_for_each(|shard| builder.create(self.dir.log_dir(GENERATION, shard)))
    }

    /// From now on there is a store. To be called when its logs are on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn commit(mut self) -> Result<(), Failure> {
        let root = &self.dir.root;
        let written = File::open(self.dir.generation_dir(GENERATION))
            .and_then(|logs| logs.sync_all())
            .and_then(|()| write_manifest(root, &self.dir.manifest));
        written.map_err(|error| unwritable(root, &error))?;
        self.committed = true;
        forget(&self.dir.root).map_err(|error| unwritable(&self.dir.root, &error))
    }
}

impl Drop for NewStore {
    fn drop(&mut self) {
        // What cannot be removed now goes with the next import: the mark stays with it.
        if !self.committed && fs::remove_dir_all(self.dir.generation_dir(GENERATION)).is_ok() {
            let _ = forget(&self.dir.root);
        }
    }
}

/// An import never mixes with what is there.
///
/// # Errors
/// When the directory has a store, or it cannot be told.
pub(crate) fn refuse_store(root: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(root.join(MANIFEST)) {
        Ok(_) => Err(Failure::usage(format!(
            "data directory {}: it has a store already, and an import never mixes with one; name \
             another directory (--data-dir), or move that store away",
            root.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unwritable(root, &error)),
    }
}

/// Whoever began an import wants its store, not an empty one.
pub(super) fn refuse_unfinished(root: &Path) -> Result<(), Failure> {
    if !root.join(MARK).exists() {
        return Ok(());
    }
    Err(Failure::host(format!(
        "data directory {}: an import into it was cut short; run `ringtide store import` again, or \
         remove {MARK} and the logs beside it to start empty",
        root.display()
    )))
}

/// Removes the mark where there is one: beside a `store.toml` it means nothing.
pub(super) fn forget(root: &Path) -> io::Result<()> {
    match fs::remove_file(root.join(MARK)) {
        Ok(()) => File::open(root)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn unwritable(root: &Path, error: &io::Error) -> Failure {
    Failure::host(format!(
        "data directory {}: {error}; name a directory that this user may write (--data-dir)",
        root.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::tests::scratch;

    #[test]
    fn it_counts_when_it_is_committed() {
        let root = scratch("import-commits");
        let new = NewStore::begin(&root, 3, 0xabc).unwrap();
        assert!(new.dir.log_dir(GENERATION, 2).is_dir());
        let text = DataDir::open(&root, 3).unwrap_err().text;
        assert!(text.contains("another broker runs on it"), "{text}");
        new.commit().unwrap();
        assert!(!root.join(MARK).exists());
        let text = NewStore::begin(&root, 3, 1).unwrap_err().text;
        assert!(text.contains("it has a store already"), "{text}");
        let dir = DataDir::open(&root, 1).unwrap();
        assert_eq!((dir.manifest.shards, dir.partition_key()), (3, 0xabc));
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn one_that_is_given_up_leaves_nothing() {
        let root = scratch("import-given-up");
        drop(NewStore::begin(&root, 2, 1).unwrap());
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["LOCK"]);
        assert!(DataDir::open(&root, 1).is_ok());
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn one_that_was_killed_is_no_store_and_can_be_done_again() {
        let root = scratch("import-killed");
        fs::create_dir_all(root.join("logs-1/7")).unwrap();
        fs::write(root.join(MARK), "").unwrap();
        for refused in [DataDir::open(&root, 1), DataDir::read(&root)] {
            assert!(refused.unwrap_err().text.contains("was cut short"));
        }
        let new = NewStore::begin(&root, 1, 1).unwrap();
        assert!(!root.join("logs-1/7").exists());
        new.commit().unwrap();
        // Killed between the two last steps: the store counts, and the mark goes.
        fs::write(root.join(MARK), "").unwrap();
        assert!(DataDir::open(&root, 1).is_ok());
        assert!(!root.join(MARK).exists());
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn logs_without_a_store_are_left_alone() {
        let root = scratch("import-orphans");
        fs::create_dir_all(root.join("logs-4/0")).unwrap();
        assert!(NewStore::begin(&root, 1, 1).unwrap_err().text.contains("no store.toml"));
        assert!(root.join("logs-4/0").exists());
        let _ = fs::remove_dir_all(&root);
    }
}
