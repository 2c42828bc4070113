//! `[access]`: who may connect, publish and subscribe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Who may connect, publish and subscribe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Whether clients that give no user name may connect. Passwords are not checked.
    pub allow_anonymous: bool,
    /// File of access rules; empty = none, everything is allowed. A file that is named but cannot
    /// be read keeps the broker from starting: it never means "allow".
    pub acl_file: PathBuf,
}

impl Default for Access {
    fn default() -> Self {
        Access { allow_anonymous: true, acl_file: PathBuf::new() }
    }
}

impl Access {
    /// The file of access rules, if there is to be one.
    pub fn acl_file(&self) -> Option<&std::path::Path> {
        (!self.acl_file.as_os_str().is_empty()).then_some(self.acl_file.as_path())
    }
}
