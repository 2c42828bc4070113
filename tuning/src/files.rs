//! The files for the next boot and for logins: what stands in them.

use std::fmt::Write;

use crate::conntrack;
use crate::item::Boot;
use crate::root::Root;
use crate::survey::Survey;

const SYSCTL: &str = "etc/sysctl.d/90-ringtide.conf";
const TMPFILES: &str = "etc/tmpfiles.d/ringtide-tuning.conf";
const LIMITS: &str = "etc/security/limits.d/ringtide.conf";
const DROP_IN: &str = "etc/systemd/system/ringtide.service.d/limits.conf";
const NR_OPEN: &str = "fs.nr_open";

/// A file as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Where it is in the host's tree.
    pub(crate) path: &'static str,
    pub(crate) text: String,
}

impl File {
    /// Whether it is there as it should be.
    pub(crate) fn is_there(&self, root: &Root) -> bool {
        std::fs::read(root.path(self.path)).is_ok_and(|bytes| bytes == self.text.as_bytes())
    }
}

/// What the highest limit of open files is taken to be: no login works with a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NrOpen {
    /// What it is to become.
    Planned,
    /// What it is.
    Live,
}

/// The files that the survey asks for.
pub(crate) fn wanted(root: &Root, survey: &Survey, nr_open: NrOpen) -> Vec<File> {
    let mut files = Vec::new();
    let mut add = |path, text: Option<String>| files.extend(text.map(|text| File { path, text }));
    let most = highest(root, survey, nr_open);
    let nofile = survey.nofile.map(|nofile| nofile.min(most));
    add(SYSCTL, sysctl(survey));
    add(TMPFILES, tmpfiles(survey));
    add(LIMITS, limits(survey, nofile));
    add(DROP_IN, drop_in(survey, nofile));
    if !survey.untracked.is_empty() {
        add(conntrack::RULES, Some(conntrack::rules(&survey.untracked)));
    }
    files
}

fn highest(root: &Root, survey: &Survey, nr_open: NrOpen) -> u64 {
    let live = root.number(&crate::catalogue::path(NR_OPEN));
    let mut knobs = survey.items.iter().flat_map(|item| &item.knobs);
    let mut planned = || knobs.find(|knob| knob.name == NR_OPEN)?.wanted.parse().ok();
    let most = match nr_open {
        NrOpen::Planned => planned().or(live),
        NrOpen::Live => live,
    };
    most.unwrap_or(u64::MAX)
}

/// Settings that files which the boot reads after ours set to something else: `FILE sets KEY to
/// VALUE`.
pub(crate) fn overridden(root: &Root, survey: &Survey) -> Vec<String> {
    let mut found = Vec::new();
    for path in read_after_ours(root) {
        let text = root.read(&path).unwrap_or_default();
        for (key, value) in text.lines().filter_map(assignment) {
            let other = |boot: &Boot| match boot {
                Boot::Sysctl { key: ours, value: wanted, .. } => *ours == key && *wanted != value,
                Boot::Write { .. } => false,
            };
            if boots(survey).any(other) {
                found.push(format!("/{path} sets {key} to {value}"));
            }
        }
    }
    found
}

/// Files are read by the order of their names, whichever folder they are in; one name counts once.
fn read_after_ours(root: &Root) -> Vec<String> {
    const FOLDERS: [&str; 5] = [
        "etc/sysctl.d",
        "run/sysctl.d",
        "usr/local/lib/sysctl.d",
        "usr/lib/sysctl.d",
        "lib/sysctl.d",
    ];
    let own = SYSCTL.rsplit('/').next().unwrap_or_default();
    let mut files: Vec<(String, &str)> = Vec::new();
    for folder in FOLDERS {
        for name in root.list(folder) {
            let known = files.iter().any(|(other, _)| *other == name);
            if name.ends_with(".conf") && name.as_str() > own && !known {
                files.push((name, folder));
            }
        }
    }
    files.sort();
    files.into_iter().map(|(name, folder)| format!("{folder}/{name}")).collect()
}

/// `key = value`, `-key=value`, with slashes or dots in the key.
fn assignment(line: &str) -> Option<(String, String)> {
    let (key, value) = line.trim().trim_start_matches('-').split_once('=')?;
    let comment = key.starts_with(['#', ';']);
    let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    (!comment).then(|| (key.trim().replace('/', "."), value))
}

fn head(survey: &Survey) -> String {
    let by = "# By `ringtide tune apply`; `ringtide tune revert` takes it back. Profile: ";
    format!("{by}{}.\n", survey.profile)
}

fn boots(survey: &Survey) -> impl Iterator<Item = &Boot> {
    survey.items.iter().flat_map(|item| &item.boot)
}

fn sysctl(survey: &Survey) -> Option<String> {
    let mut text = head(survey);
    let mut lines = 0;
    for boot in boots(survey) {
        if let Boot::Sysctl { key, value, why } = boot {
            let _ = write!(text, "\n# {why}\n{key} = {value}\n");
            lines += 1;
        }
    }
    (lines > 0).then_some(text)
}

fn tmpfiles(survey: &Survey) -> Option<String> {
    let mut text = head(survey);
    let mut lines = 0;
    for boot in boots(survey) {
        if let Boot::Write { path, value } = boot {
            let _ = writeln!(text, "w {path} - - - - {value}");
            lines += 1;
        }
    }
    (lines > 0).then_some(text)
}

/// `*` is every user but root.
fn limits(survey: &Survey, nofile: Option<u64>) -> Option<String> {
    let mut text = head(survey);
    let memlock = survey.memlock.map(|bytes| bytes.div_ceil(1024));
    for (name, value) in [("nofile", nofile), ("memlock", memlock)] {
        let Some(value) = value else { continue };
        for user in ["*", "root"] {
            for kind in ["soft", "hard"] {
                let _ = writeln!(text, "{user} {kind} {name} {value}");
            }
        }
    }
    (nofile.is_some() || memlock.is_some()).then_some(text)
}

fn drop_in(survey: &Survey, nofile: Option<u64>) -> Option<String> {
    let mut text = head(survey);
    text.push_str("[Service]\n");
    for (name, value) in [("LimitNOFILE", nofile), ("LimitMEMLOCK", survey.memlock)] {
        if let Some(value) = value {
            let _ = writeln!(text, "{name}={value}");
        }
    }
    (nofile.is_some() || survey.memlock.is_some()).then_some(text)
}
