//! One finding about the host, in words that a person can act on.

use std::fmt;

use serde::Serialize;

/// How a [`Check`] ended, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// It cannot be read here.
    Unknown,
    /// The broker runs, but not as well as it could.
    Advice,
    /// What is asked of the host does not fit it.
    Short,
}

impl Verdict {
    /// The word that is printed.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Advice => "advice",
            Verdict::Short => "short",
        }
    }
}

/// One finding about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in the host's own term: `nofile`, `net.core.somaxconn`.
    pub name: String,
    /// What is there.
    pub found: String,
    /// What is needed; empty = nothing in particular.
    pub wanted: String,
    /// Why it is needed; with the arithmetic where there is one.
    pub why: String,
    /// What to do when it is not there; empty = `ringtide tune apply` does it.
    pub remedy: String,
    /// How it ended.
    pub verdict: Verdict,
    /// The broker cannot run without it: it refuses to start if this falls short.
    pub fatal: bool,
}

impl Check {
    /// A finding that is as wanted.
    pub fn new(
        name: impl Into<String>,
        found: impl Into<String>,
        wanted: impl Into<String>,
        why: impl Into<String>,
    ) -> Check {
        Check {
            name: name.into(),
            found: found.into(),
            wanted: wanted.into(),
            why: why.into(),
            remedy: String::new(),
            verdict: Verdict::Ok,
            fatal: false,
        }
    }

    /// The same with another verdict.
    pub fn verdict(self, verdict: Verdict) -> Check {
        Check { verdict, ..self }
    }

    /// The same, [`Verdict::Ok`] if `met`, else `otherwise`.
    pub fn met(self, met: bool, otherwise: Verdict) -> Check {
        self.verdict(if met { Verdict::Ok } else { otherwise })
    }

    /// The same with what to do.
    pub fn remedy(self, remedy: impl Into<String>) -> Check {
        Check { remedy: remedy.into(), ..self }
    }

    /// The same, without which the broker cannot run.
    pub fn fatal(self) -> Check {
        Check { fatal: true, ..self }
    }

    /// True if the broker must not start.
    pub fn failed(&self) -> bool {
        self.fatal && self.verdict == Verdict::Short
    }
}

/// One line: what was found, what is wanted, why, and what to do if it is not as wanted.
impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { name, found, wanted, why, remedy, verdict, .. } = self;
        write!(out, "{name}: found {found}")?;
        if !wanted.is_empty() {
            write!(out, ", wanted {wanted}")?;
        }
        if !why.is_empty() {
            write!(out, ": {why}")?;
        }
        if *verdict != Verdict::Ok && !remedy.is_empty() {
            write!(out, "; {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nofile() -> Check {
        Check::new("nofile", "64", "1024", "each connection needs a descriptor")
            .remedy("raise it with `ulimit -n`")
    }

    #[test]
    fn what_falls_short_is_one_line_that_says_what_to_do() {
        let check = nofile().met(false, Verdict::Short).fatal();
        let line = check.to_string();
        assert!(check.failed());
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("found 64, wanted 1024: each connection needs"), "{line}");
        assert!(line.ends_with("; raise it with `ulimit -n`"), "{line}");
    }

    #[test]
    fn what_is_as_wanted_needs_no_remedy() {
        let check = nofile().met(true, Verdict::Short).fatal();
        assert!(!check.failed() && !check.to_string().contains("ulimit"));
        assert_eq!(Check::new("smt", "on", "", "").to_string(), "smt: found on");
    }

    #[test]
    fn verdicts_are_ordered_from_good_to_bad() {
        let order = [Verdict::Ok, Verdict::Unknown, Verdict::Advice, Verdict::Short];
        assert!(order.is_sorted());
        assert_eq!(order.map(Verdict::name), ["ok", "unknown", "advice", "short"]);
    }
}
