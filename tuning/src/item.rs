//! One thing about the host: what was found, and what would make it as wanted.
//!
//! `tune check` prints the findings, `tune apply` sets the knobs: both come from the same look at
//! the host, so that what is told is what is done.

use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::check::{Check, Verdict};
use crate::cpus;
use crate::demand::Need;
use crate::profile::{Rule, numbers};
use crate::root::{Root, unread};

/// How a value is written, for telling whether two texts mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// Words apart by any white space.
    Words,
    /// The words that are possible, the one in force in brackets.
    Choice,
    /// A mask of processors.
    Mask,
    /// A list of processors.
    List,
}

impl Form {
    /// The text as it would be written.
    pub(crate) fn plain(self, text: &str) -> String {
        match self {
            Form::Words => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Form::Choice => chosen(text).to_owned(),
            Form::Mask => {
                cpus::from_mask(text).map_or_else(|| text.to_owned(), |c| cpus::to_mask(&c))
            }
            Form::List => {
                cpus::from_list(text).map_or_else(|| text.to_owned(), |c| cpus::to_list(&c))
            }
        }
    }
}

/// The word in brackets, or the whole text where there is none.
pub(crate) fn chosen(text: &str) -> &str {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text.trim(), |(word, _)| word.trim())
}

/// A value of the running kernel that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Knob {
    /// What it is called in what is printed.
    pub(crate) name: String,
    /// Where it is in the host's tree.
    pub(crate) path: String,
    /// How it is written.
    pub(crate) form: Form,
    /// It is gone after a boot, and what is at its path then may be something else: interrupts are
    /// numbered anew.
    pub(crate) passing: bool,
    /// What it should be.
    pub(crate) wanted: String,
}

impl Knob {
    /// Whether it is as wanted; unreadable is not.
    pub(crate) fn is_set(&self, root: &Root) -> bool {
        root.read(&self.path).is_ok_and(|text| self.form.plain(&text) == self.wanted)
    }
}

/// A line for the next boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// A kernel setting: sysctl.d.
    Sysctl { key: String, value: String, why: String },
    /// A value below `/sys`: tmpfiles.d. The path may have wildcards.
    Write { path: String, value: String },
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) check: Check,
    pub(crate) knobs: Vec<Knob>,
    pub(crate) boot: Vec<Boot>,
}

impl From<Check> for Item {
    fn from(check: Check) -> Item {
        Item { check, knobs: Vec::new(), boot: Vec::new() }
    }
}

/// A kernel setting, held against what the profile wishes and what a number of connections needs.
pub(crate) fn sysctl(root: &Root, key: &str, rule: Option<&Rule>, need: Option<&Need>) -> Item {
    let why = reason(rule, need);
    let wanted = wanted(rule, need);
    let path = catalogue::path(key);
    let text = match root.read(&path) {
        Ok(text) => text,
        Err(error) => {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let may = missing && rule.is_some_and(|rule| rule.optional);
            return Check::new(key, unread(&error), wanted, why).met(may, Verdict::Unknown).into();
        }
    };
    let parsed: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    let Ok(found) = parsed else {
        return Check::new(key, text, wanted, why).verdict(Verdict::Unknown).into();
    };
    let least = need.map(|need| need.value.clone()).unwrap_or_default();
    let raised = |values: Vec<u64>| -> Vec<u64> {
        let values = values.into_iter().enumerate();
        values.map(|(i, value)| value.max(least.get(i).copied().unwrap_or(0))).collect()
    };
    let target = raised(rule.map_or_else(|| found.clone(), |rule| rule.target(&found)));
    let verdict = if raised(found.clone()) != found {
        Verdict::Short
    } else if target != found {
        Verdict::Advice
    } else {
        Verdict::Ok
    };
    let at_boot = rule.and_then(|rule| rule.at_boot.clone()).map_or(target.clone(), raised);
    let boot = Boot::Sysctl {
        key: key.to_owned(),
        value: numbers(&at_boot),
        why: rule.map_or(why.clone(), |rule| rule.why.clone()),
    };
    let knob = Knob {
        name: key.to_owned(),
        path,
        form: Form::Words,
        passing: false,
        wanted: numbers(&target),
    };
    Item {
        check: Check::new(key, numbers(&found), wanted, why)
            .remedy(format!("`ringtide tune apply` sets {}", numbers(&target)))
            .verdict(verdict),
        knobs: vec![knob],
        // Also where the host has it by itself: after the first `apply` the two look the same.
        boot: vec![boot],
    }
}

fn reason(rule: Option<&Rule>, need: Option<&Need>) -> String {
    match (rule, need) {
        (Some(rule), Some(need)) => format!("{} ({})", rule.why, need.arithmetic),
        (Some(rule), None) => rule.why.clone(),
        (None, Some(need)) => need.arithmetic.clone(),
        (None, None) => String::new(),
    }
}

/// What is wanted, in words: the greater of the two.
fn wanted(rule: Option<&Rule>, need: Option<&Need>) -> String {
    let least = need.map(|need| format!("at least {}", numbers(&need.value)));
    match (rule, need, least) {
        (Some(rule), Some(need), Some(least)) => {
            let covered = rule.value.iter().zip(&need.value).all(|(rule, need)| rule >= need);
            if covered { rule.wanted() } else { least }
        }
        (Some(rule), ..) => rule.wanted(),
        (None, _, Some(least)) => least,
        (None, ..) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_mean_the_same_are_the_same() {
        assert_eq!(Form::Words.plain("4096\t131072 \t6291456"), "4096 131072 6291456");
        assert_eq!(Form::Choice.plain("always [madvise] never"), "madvise");
        assert_eq!(Form::Choice.plain("madvise\n"), "madvise");
        assert_eq!(Form::Mask.plain("0,00000003"), "00000003");
        assert_eq!(Form::List.plain("0,1,2"), "0-2");
        assert_eq!(Form::Mask.plain("none"), "none");
    }
}
