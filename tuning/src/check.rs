//! One finding about the host, in words that a person can act on.

use std::fmt;

/// How a [`Check`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As wanted.
    Pass,
    /// The broker runs, but not as well as it could.
    Warn,
    /// The broker must not start.
    Fail,
}

/// One finding about the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, in the host's own term: `nofile`, `io_uring_disabled`.
    pub name: &'static str,
    /// What is there.
    pub found: String,
    /// What is needed.
    pub wanted: String,
    /// Why it is needed.
    pub why: &'static str,
    /// What to do when it is not there.
    pub remedy: String,
    /// How it ended.
    pub verdict: Verdict,
}

impl Check {
    /// True if the broker must not start.
    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Fail
    }
}

/// One line: what is wrong, why it matters, what to do.
impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { name, found, wanted, why, remedy, .. } = self;
        match self.verdict {
            Verdict::Pass => write!(out, "{name}: {found}"),
            Verdict::Warn | Verdict::Fail => {
                write!(out, "{name}: found {found}, wanted {wanted}: {why}; {remedy}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_one_line_that_says_what_to_do() {
        let check = Check {
            name: "nofile",
            found: "64".into(),
            wanted: "1024".into(),
            why: "each connection needs a descriptor",
            remedy: "raise it with `ulimit -n`".into(),
            verdict: Verdict::Fail,
        };
        let line = check.to_string();
        assert!(check.failed());
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("found 64, wanted 1024"));
        assert!(line.contains("ulimit -n"));
    }

    #[test]
    fn a_passed_check_says_only_what_was_found() {
        let check = Check {
            name: "kernel",
            found: "6.18".into(),
            wanted: "6.1".into(),
            why: "",
            remedy: String::new(),
            verdict: Verdict::Pass,
        };
        assert_eq!(check.to_string(), "kernel: 6.18");
        assert!(!check.failed());
    }
}
