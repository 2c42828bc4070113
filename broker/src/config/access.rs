//! `[access]`: who may connect, publish and subscribe.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Who may connect, publish and subscribe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Whether clients that give no user name may connect.
    pub allow_anonymous: bool,
    /// File of users with hashed passwords; empty = none, whoever gives a user name is believed. A
    /// file that is named but cannot be read keeps the broker from starting.
    pub password_file: PathBuf,
    /// File of access rules; empty = none, everything is allowed. A file that is named but cannot
    /// be read keeps the broker from starting: it never means "allow".
    pub acl_file: PathBuf,
}

impl Default for Access {
    fn default() -> Self {
        Access { allow_anonymous: true, password_file: PathBuf::new(), acl_file: PathBuf::new() }
    }
}

impl Access {
    /// The file of users, if there is to be one.
    pub fn password_file(&self) -> Option<&Path> {
        named(&self.password_file)
    }

    /// The file of access rules, if there is to be one.
    pub fn acl_file(&self) -> Option<&Path> {
        named(&self.acl_file)
    }
}

fn named(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}
