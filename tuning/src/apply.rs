//! Makes the host as wanted: values of the running kernel, then files for the next boot.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::files::{self, File, NrOpen};
use crate::item::{Form, Knob};
use crate::kernel::Process;
use crate::originals::{self, Entry, Lock, Original, Originals, TuneError};
use crate::root::Root;
use crate::survey::Survey;

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only says what would be changed.
    DryRun,
    /// Changes it.
    Change,
}

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was as wanted.
    Kept,
    /// It has been changed, or would be: lines that say how.
    Changed(Vec<String>),
    /// It could not be: why.
    Refused(String),
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is.
    pub name: String,
    /// What became of it.
    pub done: Done,
}

impl Step {
    fn refused(name: &str, why: impl Into<String>) -> Step {
        Step { name: name.to_owned(), done: Done::Refused(why.into()) }
    }

    fn kept(name: &str) -> Step {
        Step { name: name.to_owned(), done: Done::Kept }
    }
}

/// Makes the host as the survey wants it, and says what became of each thing. What the kernel
/// refuses does not stop the rest.
///
/// # Errors
/// When nothing was changed at all: without privilege, or when the originals cannot be saved.
pub fn apply(root: &Root, survey: &Survey, mode: Mode) -> Result<Vec<Step>, TuneError> {
    let knobs: Vec<&Knob> = survey.items.iter().flat_map(|item| &item.knobs).collect();
    let planned = files::wanted(root, survey, NrOpen::Planned);
    let differs = knobs.iter().any(|knob| !knob.is_set(root) && readable(root, knob))
        || planned.iter().any(|file| !file.is_there(root));
    let change = mode == Mode::Change && differs;
    if change && !Process::read(root).is_privileged() {
        return Err(TuneError::NotRoot);
    }
    let lock = change.then(|| save(root, &knobs, &planned)).transpose()?;
    let (change, nr_open) = match lock {
        // What a login is allowed must not be above what the kernel has really taken.
        Some(_) => (true, NrOpen::Live),
        None => (false, NrOpen::Planned),
    };
    let mut steps: Vec<Step> = knobs.iter().map(|knob| turn(root, knob, change)).collect();
    let files = files::wanted(root, survey, nr_open);
    steps.extend(files.iter().map(|file| put(root, file, change)));
    Ok(steps)
}

fn readable(root: &Root, knob: &Knob) -> bool {
    root.read(&knob.path).is_ok()
}

/// Saves what is there, before anything is changed.
fn save(root: &Root, knobs: &[&Knob], files: &[File]) -> Result<Lock, TuneError> {
    let mut entries = Vec::new();
    for knob in knobs.iter().filter(|knob| !knob.is_set(root)) {
        // What cannot be read is not changed.
        let Ok(text) = fs::read_to_string(root.path(&knob.path)) else { continue };
        entries.push(Entry {
            name: knob.name.clone(),
            path: knob.path.clone(),
            original: Original::Value { text, form: knob.form },
            boot: knob.passing.then(|| originals::boot_id(root)),
        });
    }
    let mut folders = missing(root, originals::FOLDER);
    for file in files.iter().filter(|file| !file.is_there(root)) {
        let Ok(original) = originals::file_at(&root.path(file.path)) else { continue };
        let path = file.path.to_owned();
        entries.push(Entry { name: format!("/{path}"), path, original, boot: None });
        let folder = Path::new(file.path).parent().map(|folder| folder.to_string_lossy());
        folders.extend(missing(root, &folder.unwrap_or_default()));
    }
    let lock = Lock::take(root)?;
    let mut record = Originals::read(root)?;
    record.add(entries, folders);
    record.write(root)?;
    Ok(lock)
}

/// The folders on the way to this one that are not there, the outer ones first.
fn missing(root: &Root, folder: &str) -> Vec<String> {
    let folder = Path::new(folder.trim_start_matches('/'));
    let mut found: Vec<String> = folder
        .ancestors()
        .map(|folder| folder.to_string_lossy().into_owned())
        .filter(|folder| !folder.is_empty() && !root.exists(folder))
        .collect();
    found.reverse();
    found
}

/// Sets one value and looks at what the kernel has made of it.
fn turn(root: &Root, knob: &Knob, change: bool) -> Step {
    let found = match root.read(&knob.path) {
        Ok(text) => knob.form.plain(&text),
        Err(error) => return Step::refused(&knob.name, format!("cannot be read: {error}")),
    };
    if found == knob.wanted {
        return Step::kept(&knob.name);
    }
    let said = format!("{found} -> {}", knob.wanted);
    if change {
        if let Err(error) = write_value(&root.path(&knob.path), &format!("{}\n", knob.wanted)) {
            return Step::refused(&knob.name, format!("{said}: {}", refusal(&error)));
        }
        let now = root.read(&knob.path).map(|text| knob.form.plain(&text)).unwrap_or_default();
        if now != knob.wanted {
            return Step::refused(&knob.name, format!("{said}: the kernel keeps {now}"));
        }
    }
    Step { name: knob.name.clone(), done: Done::Changed(vec![said]) }
}

/// Writes one file.
fn put(root: &Root, file: &File, change: bool) -> Step {
    let name = format!("/{}", file.path);
    let path = root.path(file.path);
    let old = match originals::file_at(&path) {
        Ok(Original::File { text, .. }) => text,
        Ok(_) => String::new(),
        Err(why) => return Step::refused(&name, format!("left alone: {why}")),
    };
    if old == file.text {
        return Step::kept(&name);
    }
    if change {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let written =
            fs::create_dir_all(folder).and_then(|()| originals::replace(&path, &file.text, 0o644));
        if let Err(error) = written {
            return Step::refused(&name, refusal(&error));
        }
    }
    Step { name, done: Done::Changed(difference(&old, &file.text)) }
}

/// Writes a value without making a file where there is none.
pub(crate) fn write_value(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

/// Why the system refused, in words that help.
pub(crate) fn refusal(error: &io::Error) -> String {
    let hint = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::ROFS) => " (a container's /proc and /sys: set it on the host)",
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            " (the kernel lets nobody here change it)"
        }
        Some(rustix::io::Errno::IO) => " (the kernel manages it itself)",
        _ => "",
    };
    format!("{error}{hint}")
}

/// The lines that differ, as diff(1) marks them; equal ones at both ends are left out.
fn difference(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = |(a, b): &(&&str, &&str)| a == b;
    let first = old.iter().zip(&new).take_while(same).count();
    let (old, new) = (&old[first..], &new[first..]);
    let last = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let removed = old[..old.len() - last].iter().map(|line| format!("- {line}"));
    let added = new[..new.len() - last].iter().map(|line| format!("+ {line}"));
    removed.chain(added).collect()
}

/// The text that puts a value back.
pub(crate) fn restoring(text: &str, form: Form) -> String {
    match form {
        Form::Choice => form.plain(text),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
