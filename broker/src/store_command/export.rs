//! `ringtide store export`: writes everything that a store holds as lines of JSON.
//!
//! In memory is what a recovery has there, and for each message that waits a few bytes more.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ringtide_shard::message::View;
use ringtide_storage::record::WillRecord;
use ringtide_storage::state::{Parts, SessionPart, State};
use ringtide_topics::Filter;

use super::content::content_of;
use super::format::{
    End, Export, FORMAT, Hex, Line, Message, Session, Subscription, Uncompleted, VERSION, WaitsFor,
    Will,
};
use super::{print, tell_damage, warn};
use crate::datadir::DataDir;
use crate::exit::{Exit, Failure};
use crate::{banner, replay};

const OPTION_QOS: u8 = 0b11;
const OPTION_NO_LOCAL: u8 = 0b100;
const OPTION_RAP: u8 = 0b1000;

/// Exports to a file, or to the standard output if its name is `-`.
///
/// # Errors
/// When a log cannot be read, or the output cannot be written.
pub(super) fn run(dir: &DataDir, output: &Path) -> Result<Exit, Failure> {
    let replayed = replay::replay(dir)?;
    let mut exit = tell_damage(dir, &replayed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let export = Export {
        format: FORMAT.to_owned(),
        version: VERSION,
        release: banner::VERSION.to_owned(),
        written_ms: since.as_millis() as u64,
        shards: dir.manifest.shards,
        partition_key: Hex(dir.partition_key()),
    };
    let states = replay::deal_out(replayed.states, dir.partition_key(), 1);
    let parts = states.into_iter().next().map(State::into_parts).unwrap_or_default();
    let contents = Contents::new(parts);
    if contents.left_out > 0 {
        warn(&format!("{} things that no broker takes in are left out", contents.left_out));
        exit = Exit::Runtime;
    }
    let mut end = End::default();
    let mut write = |to: &mut dyn Write| {
        end = contents.write(export.clone(), to)?;
        to.flush()
    };
    if output == Path::new("-") {
        write(&mut BufWriter::new(io::stdout().lock()))
            .map_err(|error| Failure::host(format!("standard output: {error}")))?;
        return Ok(exit);
    }
    write_file(output, &mut write).map_err(|error| {
        Failure::host(format!("{}: {error}; nothing was exported", output.display()))
    })?;
    print(&format!(
        "{}: {} sessions, {} waiting messages, {} retained messages\n",
        output.display(),
        end.sessions,
        end.waiting,
        end.retained
    ));
    Ok(exit)
}

/// Writes a file that is there as a whole or not at all, for its owner alone.
fn write_file(
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let path = match fs::metadata(path) {
        // A pipe or a device is not to be replaced.
        Ok(found) if !found.is_file() => {
            return write(&mut BufWriter::new(OpenOptions::new().write(true).open(path)?));
        }
        Ok(_) => fs::canonicalize(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let mut to = BufWriter::new(file);
    let written = write(&mut to).and_then(|()| to.get_ref().sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&new, &path)) {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A message and those that it waits for.
struct Outgoing {
    bytes: Bytes,
    retained: bool,
    /// Numbers of sessions and places.
    waits_for: Vec<(u32, u32)>,
}

/// All that is written, in its order.
struct Contents {
    sessions: Vec<SessionPart>,
    messages: Vec<Outgoing>,
    /// What a broker that starts would pass over too.
    left_out: u64,
}

impl Contents {
    fn new(mut parts: Parts) -> Contents {
        let mut left_out = 0;
        let mut sessions = std::mem::take(&mut parts.sessions);
        let key = |part: &SessionPart| (part.record.tenant, part.record.client_id.clone());
        sessions.sort_by_cached_key(key);
        sessions.dedup_by(|two, one| {
            let double = key(one) == key(two);
            left_out += u64::from(double);
            double
        });
        for part in &mut sessions {
            left_out += leave_out(part);
        }
        let mut messages = Messages::default();
        for (number, part) in (1..).zip(&sessions) {
            for (place, one) in (1..).zip(&part.waiting) {
                let message = messages.of(one.message.lsn, one.message.bytes());
                message.waits_for.push((number, place));
            }
        }
        for one in &parts.retained {
            messages.of(one.message.lsn, one.message.bytes()).retained = true;
        }
        Contents { sessions, messages: messages.list, left_out }
    }

    fn write(&self, export: Export, to: &mut dyn Write) -> io::Result<End> {
        let mut out = Output { to, line: Vec::new(), crc: 0 };
        let mut end = End::default();
        out.write(&Line::Export(export))?;
        for (number, part) in (1..).zip(&self.sessions) {
            let session = session_line(number, part);
            end.sessions += 1;
            end.subscriptions += session.subscriptions.len() as u64;
            end.wills += u64::from(session.will.is_some());
            out.write(&Line::Session(session))?;
        }
        for one in &self.messages {
            let Some(content) = content_of(&one.bytes) else { continue };
            let waits_for: Vec<_> = one.waits_for.iter().filter_map(|at| self.waits(*at)).collect();
            end.messages += 1;
            end.retained += u64::from(one.retained);
            end.waiting += waits_for.len() as u64;
            out.write(&Line::Message(Message { content, retained: one.retained, waits_for }))?;
        }
        end.crc32c = out.crc;
        out.write(&Line::End(end.clone()))?;
        Ok(end)
    }

    fn waits(&self, (session, place): (u32, u32)) -> Option<WaitsFor> {
        let part = self.sessions.get(session as usize - 1)?;
        let one = part.waiting.get(place as usize - 1)?;
        Some(WaitsFor {
            session,
            place,
            qos: one.qos,
            retain: one.retain,
            membership: one.membership,
            ids: one.ids.clone(),
        })
    }
}

/// Messages in the order in which they are first named. Each shard had its own copy: equal ones
/// are one.
#[derive(Default)]
struct Messages {
    list: Vec<Outgoing>,
    by_position: HashMap<u64, usize>,
    by_content: HashMap<u64, Vec<usize>>,
}

impl Messages {
    fn of(&mut self, position: u64, bytes: &Bytes) -> &mut Outgoing {
        let index = match self.by_position.get(&position) {
            Some(index) => *index,
            None => {
                let index = self.alike(bytes);
                self.by_position.insert(position, index);
                index
            }
        };
        &mut self.list[index]
    }

    fn alike(&mut self, bytes: &Bytes) -> usize {
        let content = content_of(bytes);
        let mut hasher = DefaultHasher::new();
        if let Some(content) = &content {
            let times = (content.published_ms, content.expires_ms, content.publisher.0);
            (times, &content.topic, &content.payload.0).hash(&mut hasher);
        }
        let alike = self.by_content.entry(hasher.finish()).or_default();
        let known = alike.iter().find(|index| content_of(&self.list[**index].bytes) == content);
        if let Some(index) = known {
            return *index;
        }
        alike.push(self.list.len());
        let bytes = bytes.clone();
        self.list.push(Outgoing { bytes, retained: false, waits_for: Vec::new() });
        self.list.len() - 1
    }
}

/// Leaves out what a broker that starts passes over. How many things that are.
fn leave_out(part: &mut SessionPart) -> u64 {
    let SessionPart { record, waiting } = part;
    let things = |part: (&[_], &[_], &[_])| part.0.len() + part.1.len() + part.2.len();
    let before = things((waiting, &record.filters, &record.inbound)) + record.exchanges.len();
    waiting.retain(|one| matches!(one.qos, 1 | 2) && View::read(one.message.bytes()).is_ok());
    record.filters.retain(|one| Filter::parse(&one.filter, u16::MAX).is_ok());
    record.inbound.retain(|id| *id != 0);
    let mut sent = Vec::new();
    record.exchanges.retain(|one| {
        let of_qos_2 = |seq: u64| {
            let at = waiting.binary_search_by_key(&seq, |one| one.seq);
            at.is_ok_and(|at| waiting[at].qos == 2) && !sent.contains(&seq)
        };
        let keep = one.packet_id != 0 && one.seq.is_none_or(of_qos_2);
        sent.extend(one.seq.filter(|_| keep));
        keep
    });
    let will = record.will.take_if(|will| View::read(&will.message).is_err());
    let after = things((waiting, &record.filters, &record.inbound)) + record.exchanges.len();
    (before - after) as u64 + u64::from(will.is_some())
}

fn session_line(number: u32, part: &SessionPart) -> Session<'_> {
    let SessionPart { record, waiting } = part;
    let subscription = |one: &ringtide_storage::record::Filter| Subscription {
        filter: Cow::Owned(one.filter.clone()),
        qos: one.options & OPTION_QOS,
        no_local: one.options & OPTION_NO_LOCAL != 0,
        retain_as_published: one.options & OPTION_RAP != 0,
        id: one.id,
    };
    let place = |seq: u64| waiting.binary_search_by_key(&seq, |one| one.seq).ok();
    let uncompleted = |one: &ringtide_storage::record::Exchange| Uncompleted {
        packet_id: one.packet_id,
        place: one.seq.and_then(place).map_or(0, |index| index as u32 + 1),
    };
    Session {
        number,
        tenant: record.tenant,
        client_id: Cow::Borrowed(&record.client_id),
        username: record.username.as_deref().map(Cow::Borrowed),
        expiry_s: record.expiry_s,
        connected_ms: record.connected_ms,
        detached_ms: record.detached_ms,
        will: record.will.as_ref().and_then(will_line),
        subscriptions: record.filters.iter().map(subscription).collect(),
        unreleased: record.inbound.clone(),
        uncompleted: record.exchanges.iter().map(uncompleted).collect(),
        waiting: waiting.len() as u32,
    }
}

fn will_line(will: &WillRecord) -> Option<Will<'_>> {
    let content = content_of(&will.message)?;
    let WillRecord { expiry_s, delay_s, due_ms, .. } = *will;
    Some(Will { delay_s, due_ms, expiry_s, content })
}

/// Lines on their way out.
struct Output<'a> {
    to: &'a mut dyn Write,
    line: Vec<u8>,
    /// CRC-32C of all lines so far.
    crc: u32,
}

impl Output<'_> {
    fn write(&mut self, line: &Line<'_>) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        self.crc = crc32c::crc32c_append(self.crc, &self.line);
        self.to.write_all(&self.line)
    }
}
