//! The data directory: one broker's logs, and what they were written for.
//!
//! ```text
//! store.toml               format, number of shards, generation, key of the partitions' hash, from
//!                          which the seed of the topics' hashes follows
//! LOCK                     held by the broker that runs, or by a command that reads or imports
//! logs-<generation>/<n>/   the log of shard n
//! import.unfinished        the logs are those of an import that has not come to its end
//! ```
//!
//! A generation is one way to deal the clients out to shards. Another number of shards makes a
//! new generation beside the old one; `store.toml`, replaced in one step, says which one counts.
//! The generation's folder is on the disk before `store.toml` names it: one that is not there has
//! been lost, with all that it held.

mod import;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ringtide_storage::log::{DataDirLock, LockError, lock, lock_shared};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::keys;

pub(crate) use import::{NewStore, refuse_store};

/// The format of the directory that this release writes.
const FORMAT: u32 = 2;
/// The first generation of a new store.
const FIRST_GENERATION: u64 = 1;
/// From this format on the hashes in stored messages are under a seed that follows from the key.
/// Before, it was the one that is in the program.
const FORMAT_SEEDED: u32 = 2;
const MANIFEST: &str = "store.toml";
const MANIFEST_NEW: &str = "store.toml.new";

/// What `store.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The format of the directory.
    pub(crate) format: u32,
    /// Shards that the logs were written by.
    pub(crate) shards: u16,
    /// Which logs count.
    pub(crate) generation: u64,
    /// The key of the hash that deals clients out to partitions, in hexadecimal.
    pub(crate) partition_key: String,
}

/// A data directory that this process owns.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    /// What it holds.
    pub(crate) manifest: Manifest,
    /// `None` where only reading is meant and nobody has ever taken the directory.
    _lock: Option<DataDirLock>,
}

impl DataDir {
    /// Opens the directory, or makes it for this number of shards. The number that its logs were
    /// written by is in the manifest.
    ///
    /// # Errors
    /// When another broker runs on it, it cannot be used, or a newer release wrote it.
    pub(crate) fn open(root: &Path, shards: u16) -> Result<DataDir, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            let root = root.display();
            Failure::host(format!(
                "data directory {root}: {error}; name a directory that this user may write \
                 (--data-dir), or set durability = \"memory\""
            ))
        };
        let lock = lock(root).map_err(|error| match error {
            LockError::Taken => taken(root),
            LockError::Io(error) => failed(&error),
        })?;
        let manifest = match fs::read_to_string(root.join(MANIFEST)) {
            Ok(text) => with_logs(root, parse(root, &text)?)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_orphans(root)?;
                let manifest = Manifest {
                    format: FORMAT,
                    shards,
                    generation: FIRST_GENERATION,
                    partition_key: format!("{:016x}", keys::random().map_err(|e| failed(&e))?),
                };
                make_store(root, &manifest).map_err(|error| failed(&error))?;
                manifest
            }
            Err(error) => return Err(failed(&error)),
        };
        import::forget(root).map_err(|error| failed(&error))?;
        let dir = DataDir { root: root.to_owned(), manifest, _lock: Some(lock) };
        dir.remove_other_generations().map_err(|error| failed(&error))?;
        Ok(dir)
    }

    /// Opens a directory that has a store, to read it: nothing in it is changed, and as long as
    /// this lives no broker can start on it.
    ///
    /// # Errors
    /// When there is no store, a broker runs on it, it cannot be read, or a newer release wrote it.
    pub(crate) fn read(root: &Path) -> Result<DataDir, Failure> {
        let unusable = |error: &dyn std::fmt::Display| {
            let root = root.display();
            Failure::host(format!(
                "data directory {root}: {error}; name one that has a store and that this user may \
                 read (--data-dir)"
            ))
        };
        // A directory that is not there has no lock file either: it is told apart here.
        fs::read_dir(root).map_err(|error| unusable(&error))?;
        let lock = lock_shared(root).map_err(|error| match error {
            LockError::Taken => taken(root),
            LockError::Io(error) => unusable(&error),
        })?;
        let text = match fs::read_to_string(root.join(MANIFEST)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_orphans(root)?;
                return Err(unusable(&format_args!("it has no store (no {MANIFEST})")));
            }
            Err(error) => return Err(unusable(&error)),
        };
        let manifest = with_logs(root, parse(root, &text)?)?;
        Ok(DataDir { root: root.to_owned(), manifest, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The key of the partitions.
    pub(crate) fn partition_key(&self) -> u64 {
        u64::from_str_radix(&self.manifest.partition_key, 16).unwrap_or_default()
    }

    /// Gives the topics' hashes the seed that the stored messages were hashed under, see
    /// [`keys::seed_topics`]. Not done by opening: a process may open several, but has one seed.
    pub(crate) fn seed_topics(&self) {
        if self.manifest.format >= FORMAT_SEEDED {
            keys::seed_topics(self.partition_key());
        }
    }

    /// The directory of a shard's log in a generation.
    pub(crate) fn log_dir(&self, generation: u64, shard: u16) -> PathBuf {
        self.generation_dir(generation).join(shard.to_string())
    }

    fn generation_dir(&self, generation: u64) -> PathBuf {
        generation_dir(&self.root, generation)
    }

    /// Makes an empty directory for the next generation; what a crash left of one goes.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn next_generation(&self) -> io::Result<u64> {
        let generation = self.manifest.generation + 1;
        let dir = self.generation_dir(generation);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(generation)
    }

    /// From now on this generation counts, written by this number of shards.
    ///
    /// # Errors
    /// Those of the file system: then the old one still counts.
    pub(crate) fn switch_to(&mut self, generation: u64, shards: u16) -> io::Result<()> {
        File::open(self.generation_dir(generation))?.sync_all()?;
        let manifest = Manifest { generation, shards, ..self.manifest.clone() };
        write_manifest(&self.root, &manifest)?;
        self.manifest = manifest;
        self.remove_other_generations()
    }

    /// Removes the logs of generations that do not count; damaged files that were set aside stay.
    fn remove_other_generations(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.strip_prefix("logs-")) else {
                continue;
            };
            if number.parse() == Ok(self.manifest.generation) || holds_corrupt(&entry.path())? {
                continue;
            }
            fs::remove_dir_all(entry.path())?;
        }
        File::open(&self.root)?.sync_all()
    }
}

fn generation_dir(root: &Path, generation: u64) -> PathBuf {
    root.join(format!("logs-{generation}"))
}

/// Makes an empty store.
fn make_store(root: &Path, manifest: &Manifest) -> io::Result<()> {
    let dir = generation_dir(root, manifest.generation);
    // A start that was cut short may have made it.
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    File::open(root)?.sync_all()?;
    write_manifest(root, manifest)
}

/// The manifest, if the logs that it names are there: without them the store would begin empty.
fn with_logs(root: &Path, manifest: Manifest) -> Result<Manifest, Failure> {
    let generation = manifest.generation;
    match fs::metadata(generation_dir(root, generation)) {
        Err(error) => Err(Failure::host(format!(
            "data directory {}: {MANIFEST} names the logs in logs-{generation}: {error}; restore \
             that folder, or move {MANIFEST} away to start empty",
            root.display()
        ))),
        Ok(_) => Ok(manifest),
    }
}

/// True if files of a generation were set aside as damaged.
fn holds_corrupt(dir: &Path) -> io::Result<bool> {
    for shard in fs::read_dir(dir)? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(shard.path())? {
            if file?.file_name().to_string_lossy().contains(".corrupt-") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn parse(root: &Path, text: &str) -> Result<Manifest, Failure> {
    let path = root.join(MANIFEST);
    let format = text.parse::<toml::Table>().ok();
    let format = format.and_then(|table| table.get("format")?.as_integer());
    if format.is_some_and(|format| format > i64::from(FORMAT)) {
        return Err(Failure::host(format!(
            "{}: format {} was written by a newer release of ringtide; this one knows {FORMAT}",
            path.display(),
            format.unwrap_or_default()
        )));
    }
    toml::from_str(text).map_err(|error| {
        Failure::host(format!("{}: {}; restore it from a backup", path.display(), error.message()))
    })
}

fn taken(root: &Path) -> Failure {
    Failure::host(format!(
        "data directory {}: another broker runs on it, or a `ringtide store` command; stop that \
         one or name another directory (--data-dir)",
        root.display()
    ))
}

/// Logs without a manifest are somebody's messages: they are not started over.
fn refuse_orphans(root: &Path) -> Result<(), Failure> {
    import::refuse_unfinished(root)?;
    let Ok(entries) = fs::read_dir(root) else { return Ok(()) };
    // A start that was cut short before it wrote its manifest has left an empty folder.
    let holds_logs = |entry: &fs::DirEntry| {
        entry.file_name().to_string_lossy().starts_with("logs-")
            && fs::read_dir(entry.path()).map_or(true, |mut logs| logs.next().is_some())
    };
    if entries.flatten().any(|entry| holds_logs(&entry)) {
        return Err(Failure::host(format!(
            "data directory {}: it holds logs but no {MANIFEST}; restore that file, or move the \
             logs away to start empty",
            root.display()
        )));
    }
    Ok(())
}

fn write_manifest(root: &Path, manifest: &Manifest) -> io::Result<()> {
    let text = toml::to_string(manifest).map_err(io::Error::other)?;
    let path = root.join(MANIFEST_NEW);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&path, root.join(MANIFEST))?;
    File::open(root)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ringtide-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn it_is_made_once_and_found_again() {
        let root = scratch("datadir-again");
        let first = DataDir::open(&root, 3).unwrap();
        let (manifest, key) = (first.manifest.clone(), first.partition_key());
        assert_eq!((manifest.shards, manifest.generation), (3, 1));
        let taken = DataDir::open(&root, 3).unwrap_err();
        assert!(taken.text.contains("another broker"), "{taken}");
        drop(first);
        let again = DataDir::open(&root, 5).unwrap();
        assert_eq!((&again.manifest, again.partition_key()), (&manifest, key));
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn a_generation_counts_when_the_manifest_says_so() {
        let root = scratch("datadir-generation");
        let mut dir = DataDir::open(&root, 2).unwrap();
        let next = dir.next_generation().unwrap();
        fs::create_dir(dir.log_dir(next, 0)).unwrap();
        dir.switch_to(next, 4).unwrap();
        drop(dir);
        let dir = DataDir::open(&root, 4).unwrap();
        assert_eq!((dir.manifest.generation, dir.manifest.shards), (2, 4));
        assert!(dir.log_dir(2, 0).is_dir());
        let abandoned = dir.next_generation().unwrap();
        drop(dir);
        let dir = DataDir::open(&root, 4).unwrap();
        assert!(!dir.generation_dir(abandoned).exists(), "what a crash left is gone");
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn a_store_whose_logs_are_gone_does_not_begin_empty() {
        let root = scratch("datadir-gone");
        drop(DataDir::open(&root, 2).unwrap());
        // Nothing is acknowledged before: after a power cut it is there with the manifest.
        assert!(root.join("logs-1").is_dir());
        fs::rename(root.join("logs-1"), root.join("logs-2")).unwrap();
        for refused in [DataDir::open(&root, 2), DataDir::read(&root)] {
            let text = refused.unwrap_err().text;
            assert!(text.contains("names the logs in logs-1: No such file"), "{text}");
        }
        assert!(root.join("logs-2").is_dir(), "what does not count may be all that is left");
        fs::rename(root.join("logs-2"), root.join("logs-1")).unwrap();
        assert!(DataDir::open(&root, 2).is_ok());
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn a_first_start_that_was_cut_short_is_done_again() {
        let root = scratch("datadir-cut-short");
        fs::create_dir_all(root.join("logs-1")).unwrap();
        fs::write(root.join(MANIFEST_NEW), "form").unwrap();
        assert_eq!(DataDir::open(&root, 2).unwrap().manifest.shards, 2);
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn a_reader_changes_nothing_and_keeps_brokers_out() {
        let root = scratch("datadir-reader");
        let text = DataDir::read(&root).unwrap_err().text;
        assert!(text.contains("No such file") && !root.exists(), "{text}");
        fs::create_dir(&root).unwrap();
        let text = DataDir::read(&root).unwrap_err().text;
        assert!(text.contains("it has no store") && !root.join("LOCK").exists(), "{text}");
        let writer = DataDir::open(&root, 2).unwrap();
        assert!(DataDir::read(&root).unwrap_err().text.contains("another broker runs on it"));
        let abandoned = writer.next_generation().unwrap();
        drop(writer);
        let (one, two) = (DataDir::read(&root).unwrap(), DataDir::read(&root).unwrap());
        assert_eq!(one.manifest, two.manifest);
        assert!(one.generation_dir(abandoned).exists(), "it is not a reader's to remove");
        assert!(DataDir::open(&root, 2).unwrap_err().text.contains("`ringtide store`"));
        drop((one, two));
        assert!(DataDir::open(&root, 2).is_ok());
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn what_it_does_not_know_it_refuses() {
        let root = scratch("datadir-refuses");
        fs::create_dir_all(root.join("logs-1/0")).unwrap();
        assert!(DataDir::open(&root, 1).unwrap_err().text.contains("no store.toml"));
        fs::write(root.join(MANIFEST), "format = 3\nnew_key = 1\n").unwrap();
        assert!(DataDir::open(&root, 1).unwrap_err().text.contains("newer release"));
        fs::write(root.join(MANIFEST), "format = 1\nshards = \"x\"\n").unwrap();
        assert!(DataDir::open(&root, 1).unwrap_err().text.contains("restore it"));
        let _ = fs::remove_dir_all(&root);
    }
}
