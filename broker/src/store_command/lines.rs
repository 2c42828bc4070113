//! Reads an exported store line by line and judges it as a whole: nothing is taken from a file
//! that is not exactly what an export writes.

use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::format::{End, Export, FORMAT, Line, Message, Session, VERSION, WaitsFor};
use super::rules::{self, Verdict};
use crate::config::SHARDS_MAX;
use crate::exit::Failure;

/// Bytes of a line: that of the largest message, with millions of sessions that it waits for.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// Takes what was read, in order. What it is given has been judged, but for what only the end of
/// the file can tell.
pub(super) trait Target {
    fn session(&mut self, session: &Session<'_>) -> Result<(), Failure>;
    fn message(&mut self, message: &Message<'_>) -> Result<(), Failure>;
}

/// Reads all of `input`, whose name is for failures only.
///
/// # Errors
/// The first line that is wrong and why, or what the target says.
pub(super) fn read(
    input: impl BufRead,
    name: &Path,
    target: &mut dyn Target,
) -> Result<(Export, End), Failure> {
    let mut lines = Lines { input, name: name.to_owned(), number: 0, crc: 0, bytes: Vec::new() };
    let export = match lines.next()? {
        Some(bytes) => first(bytes),
        None => Err("it is empty".to_owned()),
    };
    let export = export.map_err(|wrong| lines.wrong(&wrong))?;
    let mut judge = Judge::default();
    loop {
        let crc = lines.crc;
        let Some(bytes) = lines.next()? else {
            lines.number += 1;
            return Err(lines.wrong("the closing line is missing: the file was cut off"));
        };
        let judged = parse(bytes).and_then(|line| judge.line(&line).map(|()| line));
        match judged {
            Ok(Line::Session(session)) => target.session(&session)?,
            Ok(Line::Message(message)) => target.message(&message)?,
            Ok(Line::Export(_)) => return Err(lines.wrong("a second first line")),
            Ok(Line::End(end)) => {
                judge.end(&end, crc).map_err(|wrong| lines.wrong(&wrong))?;
                if lines.next()?.is_some() {
                    return Err(lines.wrong("something follows the closing line"));
                }
                return Ok((export, end));
            }
            Err(wrong) => return Err(lines.wrong(&wrong)),
        }
    }
}

/// The lines of a file.
struct Lines<R> {
    input: R,
    name: PathBuf,
    /// Of the line that was read last, from 1 on.
    number: u64,
    /// CRC-32C of all that was read.
    crc: u32,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        self.bytes.clear();
        let read = self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.bytes);
        match read {
            Err(error) => {
                return Err(Failure::host(format!("{}: {error}", self.name.display())));
            }
            Ok(0) => return Ok(None),
            Ok(_) => self.number += 1,
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.bytes);
        if self.bytes.pop_if(|last| *last == b'\n').is_none() {
            return Err(self.wrong("the line does not end: the file was cut off"));
        }
        Ok(Some(&self.bytes))
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::usage(format!("{}:{}: {what}", self.name.display(), self.number))
    }
}

/// As much of the first line as all versions have.
#[derive(Deserialize)]
struct Probe {
    export: Kind,
}

#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u32,
}

fn first(bytes: &[u8]) -> Result<Export, String> {
    let probe = serde_json::from_slice::<Probe>(bytes).ok().map(|probe| probe.export);
    match probe {
        Some(kind) if kind.format == FORMAT && kind.version == VERSION => {}
        Some(kind) if kind.format == FORMAT && kind.version > VERSION => {
            return Err(format!(
                "version {} was written by a newer release of ringtide; this one knows {VERSION}",
                kind.version
            ));
        }
        _ => return Err("not what `ringtide store export` writes".to_owned()),
    }
    match parse(bytes)? {
        Line::Export(export) if (1..=SHARDS_MAX).contains(&export.shards) => Ok(export),
        _ => Err(format!("shards: not 1 to {SHARDS_MAX}")),
    }
}

fn parse(bytes: &[u8]) -> Result<Line<'_>, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        format!("column {}: {what}", error.column())
    })
}

/// A session that was read.
struct Known {
    tenant: u32,
    waiting: u32,
    /// Places that deliveries of QoS 2 must have.
    exact: Box<[u32]>,
    seen: Places,
}

/// A set of places, from 1 on.
#[derive(Default)]
struct Places {
    words: Vec<u64>,
    count: u32,
}

impl Places {
    /// Whether the place was not there yet.
    fn insert(&mut self, place: u32) -> bool {
        let (word, bit) = (place as usize / 64, 1 << (place % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(is_new);
        is_new
    }
}

/// Judges lines by those before them.
#[derive(Default)]
struct Judge {
    sessions: Vec<Known>,
    /// Tenant and client id.
    last: (u32, String),
    /// Tenants and topics.
    retained: HashSet<(u32, String)>,
    counted: End,
}

impl Judge {
    fn line(&mut self, line: &Line<'_>) -> Verdict {
        match line {
            Line::Session(session) => self.session(session),
            Line::Message(message) => self.message(message),
            Line::Export(_) | Line::End(_) => Ok(()),
        }
    }

    fn session(&mut self, session: &Session<'_>) -> Verdict {
        if self.counted.messages > 0 {
            return Err("a session behind a message".to_owned());
        }
        let number = self.sessions.len() as u32 + 1;
        if session.number != number {
            return Err(format!("session number {}, expected {number}", session.number));
        }
        let key = (session.tenant, session.client_id.clone().into_owned());
        if number > 1 && self.last >= key {
            return Err("not in the order of tenant and client id, or there twice".to_owned());
        }
        rules::session(session)?;
        self.last = key;
        self.counted.sessions += 1;
        self.counted.subscriptions += session.subscriptions.len() as u64;
        self.counted.wills += u64::from(session.will.is_some());
        self.sessions.push(Known {
            tenant: session.tenant,
            waiting: session.waiting,
            exact: rules::exact_places(&session.uncompleted).into(),
            seen: Places::default(),
        });
        Ok(())
    }

    fn message(&mut self, message: &Message<'_>) -> Verdict {
        let content = &message.content;
        rules::content(content)?;
        if !message.retained && message.waits_for.is_empty() {
            return Err("a message that nothing is kept for".to_owned());
        }
        if message.retained {
            if content.payload.0.is_empty() || !content.retain {
                return Err("retained, with an empty payload or without RETAIN".to_owned());
            }
            if !self.retained.insert((content.tenant, content.topic.clone().into_owned())) {
                return Err(format!("topic `{}` has two retained messages", content.topic));
            }
        }
        for one in &message.waits_for {
            rules::waits_for(one)?;
            self.place(one, content.tenant)?;
        }
        self.counted.messages += 1;
        self.counted.retained += u64::from(message.retained);
        self.counted.waiting += message.waits_for.len() as u64;
        Ok(())
    }

    fn place(&mut self, one: &WaitsFor, tenant: u32) -> Verdict {
        let WaitsFor { session: number, place, .. } = *one;
        let index = (number as usize).checked_sub(1);
        let session = index.and_then(|index| self.sessions.get_mut(index));
        let Some(session) = session else { return Err(format!("there is no session {number}")) };
        if session.tenant != tenant {
            return Err(format!("session {number} is of another tenant"));
        }
        if !(1..=session.waiting).contains(&place) {
            let waiting = session.waiting;
            return Err(format!("session {number}: place {place} of {waiting} that wait"));
        }
        if one.qos != 2 && session.exact.binary_search(&place).is_ok() {
            return Err(format!("session {number}: place {place} was sent, but not as QoS 2"));
        }
        if !session.seen.insert(place) {
            return Err(format!("session {number}: place {place} twice"));
        }
        Ok(())
    }

    fn end(&self, end: &End, crc: u32) -> Verdict {
        if end.crc32c != crc {
            return Err(format!(
                "the checksum is {}, that of the lines above {crc}: they were changed",
                end.crc32c
            ));
        }
        let counted = End { crc32c: crc, ..self.counted.clone() };
        if *end != counted {
            return Err(format!("the counts are not those of the lines above: {counted:?}"));
        }
        let missing = self.sessions.iter().position(|one| one.seen.count != one.waiting);
        match missing {
            Some(index) => {
                Err(format!("session {}: messages that wait for it are missing", index + 1))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
