//! Profiles: files that say what is wanted of a host, each with its reason.
//!
//! Two are compiled in and can be printed; a file of one's own is read with every mistake named by
//! its line. A profile wishes; what a number of connections *needs* is in [`crate::demand`].

mod parse;

use std::fmt;

/// The default profile.
pub const APPLIANCE: &str = include_str!("../profiles/appliance.toml");
/// The tuning list of the published test with two million connections (2017).
pub const SOURCE_E: &str = include_str!("../profiles/source-e.toml");

/// The compiled-in profiles by name; the first is the default.
pub const BUILT_IN: [(&str, &str); 2] = [("appliance", APPLIANCE), ("source-e", SOURCE_E)];

/// What is wanted of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name, as printed and as written into the files that are made from it.
    pub name: String,
    /// Ports on which clients connect, besides those that the broker listens on: for connection
    /// tracking.
    pub ports: Vec<u16>,
    /// Kernel settings in the profile's order.
    pub sysctl: Vec<(String, Rule)>,
    /// Descriptors of one process.
    pub nofile: Option<Rule>,
    /// Bytes that one user may lock in memory.
    pub memlock: Option<Rule>,
    /// What is wanted of the machine itself.
    pub host: Vec<HostRule>,
    /// What a connection costs.
    pub cost: Cost,
    /// Lines that ask nothing of the host, with what became of them.
    pub notes: Vec<Note>,
}

/// How a value is held against a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Exactly this.
    Is,
    /// This or more.
    AtLeast,
    /// This or less.
    AtMost,
}

/// What is wanted of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How the value is held against `value`.
    pub bound: Bound,
    /// One number, or as many as the setting has.
    pub value: Vec<u64>,
    /// What the file for the next boot says, if it is another value.
    pub at_boot: Option<Vec<u64>>,
    /// A host that has no such setting is as wanted.
    pub optional: bool,
    /// Why.
    pub why: String,
}

impl Rule {
    /// Whether a value is as wanted.
    pub fn met(&self, found: &[u64]) -> bool {
        found.len() == self.value.len() && self.target(found) == found
    }

    /// What a value becomes: itself if it is as wanted, else what the rule says.
    pub fn target(&self, found: &[u64]) -> Vec<u64> {
        let of = |(index, wanted): (usize, &u64)| match (self.bound, found.get(index)) {
            (Bound::AtLeast, Some(found)) => *found.max(wanted),
            (Bound::AtMost, Some(found)) => *found.min(wanted),
            _ => *wanted,
        };
        self.value.iter().enumerate().map(of).collect()
    }

    /// What is wanted, in words.
    pub fn wanted(&self) -> String {
        let value = numbers(&self.value);
        match self.bound {
            Bound::Is => value,
            Bound::AtLeast => format!("at least {value}"),
            Bound::AtMost => format!("at most {value}"),
        }
    }
}

/// Numbers as the kernel writes them.
pub(crate) fn numbers(values: &[u64]) -> String {
    let words: Vec<String> = values.iter().map(ToString::to_string).collect();
    words.join(" ")
}

/// Something about the machine that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostItem {
    /// Transparent huge pages.
    TransparentHugepage,
    /// The processors' frequency governor.
    Governor,
    /// The interrupts of the network cards' queues.
    Irqs,
    /// The program that moves interrupts about.
    Irqbalance,
    /// Receive packet steering, for cards with fewer queues than there are processors.
    Rps,
    /// Transmit packet steering.
    Xps,
    /// The cards' offloads.
    Offloads,
    /// Connection tracking of the clients' connections.
    Conntrack,
}

impl HostItem {
    /// The key in a profile and the words that it may have.
    const ALL: [(HostItem, &'static str, &'static [&'static str]); 8] = [
        (HostItem::TransparentHugepage, "transparent_hugepage", &["madvise", "never", "always"]),
        (HostItem::Governor, "governor", &["performance", "schedutil", "ondemand", "powersave"]),
        (HostItem::Irqs, "irqs", &["spread"]),
        (HostItem::Irqbalance, "irqbalance", &["off"]),
        (HostItem::Rps, "rps", &["spread"]),
        (HostItem::Xps, "xps", &["spread"]),
        (HostItem::Offloads, "offloads", &["on"]),
        (HostItem::Conntrack, "conntrack", &["untracked"]),
    ];
}

/// What is wanted of one [`HostItem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// Which.
    pub item: HostItem,
    /// The word that is wanted.
    pub is: String,
    /// Why.
    pub why: String,
}

/// What a connection costs, and how many come at once. From recorded measurements; a profile of
/// one's own can say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the broker's own memory per connection.
    pub user_bytes: u64,
    /// Bytes of the kernel's memory per idle connection.
    pub kernel_bytes: u64,
    /// Pages of 4096 bytes in the kernel's buffers per connection, when all have something on its
    /// way at the same time.
    pub queued_pages: u64,
    /// Seconds within which all clients come back after an outage.
    pub reconnect_s: u64,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost { user_bytes: 500, kernel_bytes: 4400, queued_pages: 2, reconnect_s: 60 }
    }
}

/// A line of a list that asks nothing of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line.
    pub line: String,
    /// What stands for it here.
    pub answer: String,
}

/// One mistake in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and, where it is known, what would be right.
    pub text: String,
}

/// A profile that cannot be used. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileError {
    /// The file's name.
    pub file: String,
    /// All mistakes that were found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { line, text }) in self.problems.iter().enumerate() {
            let end = if index + 1 < self.problems.len() { "\n" } else { "" };
            write!(out, "{}:{line}: {text}{end}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ProfileError {}

impl Profile {
    /// Reads the text of a profile; `file` names it in mistakes.
    ///
    /// # Errors
    /// Every mistake with its line.
    pub fn parse(text: &str, file: &str) -> Result<Profile, ProfileError> {
        parse::parse(text).map_err(|problems| ProfileError { file: file.to_owned(), problems })
    }

    /// What the profile wants of something, if it says.
    pub(crate) fn host(&self, item: HostItem) -> Option<&HostRule> {
        self.host.iter().find(|rule| rule.item == item)
    }

    /// The rule for a kernel setting, if there is one.
    pub(crate) fn sysctl(&self, key: &str) -> Option<&Rule> {
        self.sysctl.iter().find(|(name, _)| name == key).map(|(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests;
