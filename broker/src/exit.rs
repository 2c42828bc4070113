//! How the program ends: exit codes, and failures as one line that says what to do.

use std::fmt;
use std::process::ExitCode;

/// The program's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Ended as asked.
    Done = 0,
    /// Something failed while the broker ran, a shutdown was cut short, a store is damaged, a host
    /// could be better.
    Runtime = 1,
    /// Arguments or configuration are wrong.
    Usage = 2,
    /// The host lacks something: a free port, descriptors, memory, a kernel feature.
    Host = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why the program ends, in words for the person who started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong and what to do.
    pub text: String,
}

impl Failure {
    /// Arguments or configuration are wrong.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, text: text.into() }
    }

    /// The host lacks something.
    pub fn host(text: impl Into<String>) -> Failure {
        Failure { exit: Exit::Host, text: text.into() }
    }

    /// Something failed while the broker ran.
    pub fn runtime(text: impl Into<String>) -> Failure {
        Failure { exit: Exit::Runtime, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
