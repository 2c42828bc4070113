//! Messages with what they are for, and the entries of sessions: the records of the hot path.
//!
//! A head is
//!
//! ```text
//! version u8 | flags u8 | [session u64, packet id u16] | [origin shard u16, seq u64]
//! | destinations u32 | {shard u16, seq u64, group u64} ...
//! | entries u32 | their bytes u32 | entry ...
//! ```
//!
//! and an entry
//!
//! ```text
//! session u64 | seq u64 | flags u8 | [membership u16] | [ids u16, id u32 ...]
//! ```
//!
//! where a part in brackets is there if its flag says so. The message's bytes follow the head.

use std::borrow::Cow;

use super::reader::Reader;
use super::{Destination, Entry, MessageHead, QueueRecord, RecordError, SessionId};

/// The version that is written.
const VERSION: u8 = 1;

const RETAINED: u8 = 1;
const INBOUND: u8 = 1 << 1;
const ORIGIN: u8 = 1 << 2;
const HEAD_FLAGS: u8 = RETAINED | INBOUND | ORIGIN;

const ENTRY_QOS: u8 = 0b11;
const ENTRY_RETAIN: u8 = 1 << 2;
const ENTRY_MEMBERSHIP: u8 = 1 << 3;
const ENTRY_IDS: u8 = 1 << 4;
const ENTRY_FLAGS: u8 = ENTRY_QOS | ENTRY_RETAIN | ENTRY_MEMBERSHIP | ENTRY_IDS;

/// The fewest bytes of an entry and of a destination: how many there can be at most in what is
/// left of a body.
const ENTRY_BYTES_MIN: usize = 17;
const DESTINATION_BYTES: usize = 18;

impl<'a> Entry<'a> {
    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let ids = &self.ids[..self.ids.len().min(usize::from(u16::MAX))];
        let mut flags = self.qos & ENTRY_QOS;
        flags |= if self.retain { ENTRY_RETAIN } else { 0 };
        flags |= if self.membership > 0 { ENTRY_MEMBERSHIP } else { 0 };
        flags |= if ids.is_empty() { 0 } else { ENTRY_IDS };
        out.extend_from_slice(&self.session.0.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.push(flags);
        if self.membership > 0 {
            out.extend_from_slice(&self.membership.to_le_bytes());
        }
        if !ids.is_empty() {
            out.extend_from_slice(&(ids.len() as u16).to_le_bytes());
            for id in ids {
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
    }

    fn decode(body: &mut Reader<'_>) -> Result<Entry<'a>, RecordError> {
        let (session, seq, flags) = (SessionId(body.u64()?), body.u64()?, body.u8()?);
        let qos = flags & ENTRY_QOS;
        if flags & !ENTRY_FLAGS != 0 || qos > 2 {
            return Err(RecordError::Invalid);
        }
        let membership = if flags & ENTRY_MEMBERSHIP != 0 { body.u16()? } else { 0 };
        let mut ids = Vec::new();
        if flags & ENTRY_IDS != 0 {
            let count = usize::from(body.u16()?);
            let list = body.bytes(4 * count)?;
            ids.extend(list.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)));
        }
        let retain = flags & ENTRY_RETAIN != 0;
        Ok(Entry { session, seq, qos, retain, membership, ids: Cow::Owned(ids) })
    }
}

/// Appends an entry; the arguments are the fields of [`Entry`].
pub fn encode_entry(
    out: &mut Vec<u8>,
    session: SessionId,
    seq: u64,
    qos: u8,
    retain: bool,
    membership: u16,
    ids: &[u32],
) {
    Entry { session, seq, qos, retain, membership, ids: Cow::Borrowed(ids) }.encode(out);
}

/// Gathers entries in one buffer, without a vector for each message.
#[derive(Clone, Debug, Default)]
pub struct EntryWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl EntryWriter {
    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry<'_>) {
        entry.encode(&mut self.bytes);
        self.count += 1;
    }

    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Entries since the last `clear`.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries, encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Appends the number of entries, that of their bytes, and the bytes.
fn put_entries(entries: &[u8], count: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(entries);
}

fn encode_entries(entries: &[Entry<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        entry.encode(out);
    }
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn decode_entries<'a>(body: &mut Reader<'_>) -> Result<Vec<Entry<'a>>, RecordError> {
    let count = body.u32()? as usize;
    let mut part = Reader::part(body.block()?);
    if count > part.rest().len() / ENTRY_BYTES_MIN {
        return Err(RecordError::Invalid);
    }
    // What the part lacks is not at its end, where more bytes would help.
    let inside = |error| match error {
        RecordError::Truncated => RecordError::Invalid,
        other => other,
    };
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(Entry::decode(&mut part).map_err(inside)?);
    }
    part.end()?;
    Ok(entries)
}

impl<'a> MessageHead<'a> {
    /// Appends all of the record but the message's bytes, which are its last part.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_fields(out);
        encode_entries(&self.entries, out);
    }

    /// Like [`MessageHead::encode`] with `count` entries that an [`EntryWriter`] has gathered, in
    /// place of [`MessageHead::entries`].
    pub fn encode_with_entries(&self, entries: &[u8], count: u32, out: &mut Vec<u8>) {
        self.encode_fields(out);
        put_entries(entries, count, out);
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        let mut flags = if self.retained { RETAINED } else { 0 };
        flags |= if self.inbound.is_some() { INBOUND } else { 0 };
        flags |= if self.origin.is_some() { ORIGIN } else { 0 };
        out.extend_from_slice(&[VERSION, flags]);
        if let Some((session, packet_id)) = self.inbound {
            out.extend_from_slice(&session.0.to_le_bytes());
            out.extend_from_slice(&packet_id.to_le_bytes());
        }
        if let Some((shard, seq)) = self.origin {
            out.extend_from_slice(&shard.to_le_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
        }
        out.extend_from_slice(&(self.destinations.len() as u32).to_le_bytes());
        for destination in self.destinations.iter() {
            out.extend_from_slice(&destination.shard.to_le_bytes());
            out.extend_from_slice(&destination.seq.to_le_bytes());
            out.extend_from_slice(&destination.group.to_le_bytes());
        }
    }

    /// Takes a record apart: its head and the message's bytes.
    ///
    /// # Errors
    /// The body is not a message's. What is missing of the message's own bytes shows only there.
    pub fn decode(body: &'a [u8]) -> Result<(MessageHead<'a>, &'a [u8]), RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let flags = body.u8()?;
        if flags & !HEAD_FLAGS != 0 {
            return Err(RecordError::Invalid);
        }
        let mut head = MessageHead { retained: flags & RETAINED != 0, ..MessageHead::default() };
        if flags & INBOUND != 0 {
            head.inbound = Some((SessionId(body.u64()?), body.u16()?));
        }
        if flags & ORIGIN != 0 {
            head.origin = Some((body.u16()?, body.u64()?));
        }
        head.destinations = Cow::Owned(decode_destinations(&mut body)?);
        head.entries = decode_entries(&mut body)?;
        Ok((head, body.rest()))
    }
}

fn decode_destinations(body: &mut Reader<'_>) -> Result<Vec<Destination>, RecordError> {
    let count = body.u32()? as usize;
    if count > body.rest().len() / DESTINATION_BYTES {
        return Err(RecordError::Truncated);
    }
    let mut destinations = Vec::with_capacity(count);
    for _ in 0..count {
        let (shard, seq, group) = (body.u16()?, body.u64()?, body.u64()?);
        destinations.push(Destination { shard, seq, group });
    }
    Ok(destinations)
}

impl QueueRecord<'_> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.message.to_le_bytes());
        encode_entries(&self.entries, out);
    }

    /// Appends the record of `count` entries that an [`EntryWriter`] has gathered, for the message
    /// at this position.
    pub fn encode_with_entries(message: u64, entries: &[u8], count: u32, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&message.to_le_bytes());
        put_entries(entries, count, out);
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<QueueRecord<'_>, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let message = body.u64()?;
        let entries = decode_entries(&mut body)?;
        body.end()?;
        Ok(QueueRecord { message, entries })
    }
}
