//! The file operations of a log behind a small trait, so that tests can drop, tear, fail and stop
//! at every one of them; and the real ones.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Linux error number of an operation that a file does not support.
const EINVAL: i32 = 22;

/// A file as the log needs it.
pub(super) trait SegmentFile: Send + fmt::Debug {
    /// The descriptor that a [`crate::LogWrite`] names.
    fn descriptor(&self) -> i32;
    /// Fills `bytes` from `offset` on.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// The same past the page cache, where the file system can: what nobody will read needs no
    /// memory, and no copy. Place, length and address are multiples of 4096 bytes.
    fn write_uncached(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Data, and what is needed to find it, is on the medium when this returns.
    fn sync(&self) -> io::Result<()>;
    /// What was read or written and is clean is no longer kept in memory: it is read from the
    /// medium next time.
    fn forget_cache(&self) -> io::Result<()>;
    /// The same open file once more.
    fn again(&self) -> io::Result<Box<dyn SegmentFile>>;
}

/// A directory of files, named by their names in it.
pub(super) trait Files: Send + Sync + fmt::Debug {
    /// All files with their lengths.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a file for reading and writing.
    fn open_for_writing(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// Makes a new, empty file; an error if there is one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names are on the medium when this returns.
    fn sync_names(&self) -> io::Result<()>;
    /// What the file system has.
    fn disk(&self) -> io::Result<DiskSpace>;
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskSpace {
    /// All of it that this process may use.
    pub(super) total: u64,
    /// What is left of that.
    pub(super) free: u64,
}

/// A directory of the file system.
#[derive(Debug)]
pub(super) struct Directory {
    path: Box<Path>,
}

impl Directory {
    /// The directory at `path`, which is made (0700) if it does not exist.
    pub(super) fn make(path: &Path) -> io::Result<Directory> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // The directory's own name must be on the medium before anything in it counts.
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(Directory { path: path.into() })
    }

    /// The directory at `path`, which must exist.
    pub(super) fn existing(path: &Path) -> Directory {
        Directory { path: path.into() }
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let data = entry.metadata()?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (data.is_file(), entry.file_name().into_string()) {
                names.push((name, data.len()));
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn open_for_writing(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        fs::hard_link(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn disk(&self) -> io::Result<DiskSpace> {
        let found = rustix::fs::statvfs(&*self.path)?;
        // What is set apart for root counts as used, as `df` has it.
        let used = found.f_blocks.saturating_sub(found.f_bfree);
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(DiskSpace { total: used.saturating_mul(found.f_frsize).saturating_add(free), free })
    }
}

impl SegmentFile for File {
    fn descriptor(&self) -> i32 {
        self.as_raw_fd()
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn write_uncached(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // Not every file system knows the flag, and not every one that does takes the write. It
        // is one of the open file, which nobody else has while its segment is prepared.
        let usual = fcntl_getfl(self)?;
        if fcntl_setfl(self, usual | OFlags::DIRECT).is_err() {
            return self.write(bytes, offset);
        }
        let direct = self.write_all_at(bytes, offset);
        fcntl_setfl(self, usual)?;
        match direct {
            Err(error) if error.raw_os_error() == Some(EINVAL) => self.write(bytes, offset),
            result => result,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn forget_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    fn again(&self) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(self.try_clone()?))
    }
}
