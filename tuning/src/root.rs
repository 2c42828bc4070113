//! The host as a tree of files: `/`, or a folder that stands for another host.
//!
//! Everything that this crate reads of a host goes through here, so that the same code looks at
//! the machine it runs on and at a copy of another one's `/proc`, `/sys` and `/etc`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where programs of a host are looked for.
const PROGRAM_FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// The top of a host's tree of files. Paths within it are written without the leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// The machine that this process runs on.
    pub fn host() -> Root {
        Root::at("/")
    }

    /// A host whose files are in this folder.
    pub fn at(path: impl Into<PathBuf>) -> Root {
        Root { path: path.into() }
    }

    /// Whether it is the machine that this process runs on.
    pub fn is_host(&self) -> bool {
        self.path == Path::new("/")
    }

    /// A path of the host as this process can open it.
    pub fn path(&self, of_host: &str) -> PathBuf {
        self.path.join(of_host.trim_start_matches('/'))
    }

    /// The text of a file without white space around it.
    ///
    /// # Errors
    /// As the system says; bytes that are not UTF-8 are replaced.
    pub fn read(&self, of_host: &str) -> io::Result<String> {
        let bytes = fs::read(self.path(of_host))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The file's one number, if it is there and is one.
    pub fn number(&self, of_host: &str) -> Option<u64> {
        self.read(of_host).ok()?.parse().ok()
    }

    /// The names in a folder, sorted; none if it cannot be read.
    pub fn list(&self, of_host: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(of_host)) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Whether something is there.
    pub fn exists(&self, of_host: &str) -> bool {
        self.path(of_host).exists()
    }

    /// What a program of this host prints, if it is there and succeeds.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let found = PROGRAM_FOLDERS
            .iter()
            .map(|folder| self.path(&format!("{folder}/{program}")))
            .find(|path| path.exists())?;
        let mut command = Command::new(found);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Why something could not be read, in words.
pub(crate) fn unread(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "not there".to_owned(),
        _ => format!("unreadable ({error})"),
    }
}
