//! The small records: subscriptions, exchanges, connections, ends, watermarks.

use super::reader::{Reader, put_block};
use super::{
    CheckpointEndRecord, ConnectionRecord, ExchangeRecord, RecordError, SessionEndRecord,
    SessionId, Step, SubscriptionRecord, VoidRecord, WatermarkRecord, WillRecord,
};

/// The version that is written.
const VERSION: u8 = 1;

const SENT: u8 = 1;
const RECEIVED: u8 = 2;
const COMPLETED: u8 = 3;
const DONE: u8 = 4;
const INBOUND_DONE: u8 = 5;
const INBOUND_BEGUN: u8 = 6;

const USERNAME: u8 = 1;
const WILL: u8 = 1 << 1;
const WILL_EXPIRES: u8 = 1 << 2;

/// Bytes of a shard and a place.
const PLACE_BYTES: usize = 10;

fn begin(session: SessionId, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&session.0.to_le_bytes());
}

impl SubscriptionRecord<'_> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin(self.session, out);
        match self.options {
            None => out.push(0),
            Some((options, id)) => {
                out.extend_from_slice(&[1, options]);
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
        put_block(out, self.filter.as_bytes());
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<SubscriptionRecord<'_>, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let session = SessionId(body.u64()?);
        let options = match body.u8()? {
            0 => None,
            1 => Some((body.u8()?, body.u32()?)),
            _ => return Err(RecordError::Invalid),
        };
        let filter = body.text()?;
        body.end()?;
        Ok(SubscriptionRecord { session, filter, options })
    }
}

impl ExchangeRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin(self.session, out);
        let (step, seq, packet_id) = match self.step {
            Step::Sent { seq, packet_id } => (SENT, Some(seq), Some(packet_id)),
            Step::Received { packet_id } => (RECEIVED, None, Some(packet_id)),
            Step::Completed { packet_id } => (COMPLETED, None, Some(packet_id)),
            Step::Done { seq } => (DONE, Some(seq), None),
            Step::InboundDone { packet_id } => (INBOUND_DONE, None, Some(packet_id)),
            Step::InboundBegun { packet_id } => (INBOUND_BEGUN, None, Some(packet_id)),
        };
        out.push(step);
        if let Some(seq) = seq {
            out.extend_from_slice(&seq.to_le_bytes());
        }
        if let Some(packet_id) = packet_id {
            out.extend_from_slice(&packet_id.to_le_bytes());
        }
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<ExchangeRecord, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let session = SessionId(body.u64()?);
        let step = match body.u8()? {
            SENT => Step::Sent { seq: body.u64()?, packet_id: body.u16()? },
            RECEIVED => Step::Received { packet_id: body.u16()? },
            COMPLETED => Step::Completed { packet_id: body.u16()? },
            DONE => Step::Done { seq: body.u64()? },
            INBOUND_DONE => Step::InboundDone { packet_id: body.u16()? },
            INBOUND_BEGUN => Step::InboundBegun { packet_id: body.u16()? },
            _ => return Err(RecordError::Invalid),
        };
        body.end()?;
        Ok(ExchangeRecord { session, step })
    }
}

impl ConnectionRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin(self.session, out);
        let mut flags = if self.username.is_some() { USERNAME } else { 0 };
        if let Some(will) = &self.will {
            flags |= WILL | if will.expiry_s.is_some() { WILL_EXPIRES } else { 0 };
        }
        out.push(flags);
        out.extend_from_slice(&self.expiry_s.to_le_bytes());
        out.extend_from_slice(&self.connected_ms.to_le_bytes());
        out.extend_from_slice(&self.detached_ms.to_le_bytes());
        if let Some(username) = &self.username {
            put_block(out, username.as_bytes());
        }
        if let Some(will) = &self.will {
            if let Some(expiry_s) = will.expiry_s {
                out.extend_from_slice(&expiry_s.to_le_bytes());
            }
            out.extend_from_slice(&will.delay_s.to_le_bytes());
            out.extend_from_slice(&will.due_ms.to_le_bytes());
            put_block(out, &will.message);
        }
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<ConnectionRecord, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let session = SessionId(body.u64()?);
        let flags = body.u8()?;
        let known = USERNAME | WILL | WILL_EXPIRES;
        if flags & !known != 0 || flags & (WILL | WILL_EXPIRES) == WILL_EXPIRES {
            return Err(RecordError::Invalid);
        }
        let (expiry_s, connected_ms, detached_ms) = (body.u32()?, body.u64()?, body.u64()?);
        let username = if flags & USERNAME != 0 { Some(body.text()?.to_owned()) } else { None };
        let will = if flags & WILL != 0 { Some(decode_will(&mut body, flags)?) } else { None };
        body.end()?;
        Ok(ConnectionRecord { session, username, expiry_s, connected_ms, detached_ms, will })
    }
}

fn decode_will(body: &mut Reader<'_>, flags: u8) -> Result<WillRecord, RecordError> {
    let expiry_s = if flags & WILL_EXPIRES != 0 { Some(body.u32()?) } else { None };
    let (delay_s, due_ms) = (body.u32()?, body.u64()?);
    let message = body.block()?.to_vec();
    Ok(WillRecord { message, expiry_s, delay_s, due_ms })
}

impl SessionEndRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin(self.session, out);
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<SessionEndRecord, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let session = SessionId(body.u64()?);
        body.end()?;
        Ok(SessionEndRecord { session })
    }
}

impl WatermarkRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        encode_places(&self.marks, out);
        encode_places(&self.sent, out);
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<WatermarkRecord, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let marks = decode_places(&mut body)?;
        let sent = decode_places(&mut body)?;
        body.end()?;
        Ok(WatermarkRecord { marks, sent })
    }
}

impl VoidRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        encode_places(&self.messages, out);
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<VoidRecord, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let messages = decode_places(&mut body)?;
        body.end()?;
        Ok(VoidRecord { messages })
    }
}

impl CheckpointEndRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<CheckpointEndRecord, RecordError> {
        Reader::new(body, VERSION)?.end()?;
        Ok(CheckpointEndRecord)
    }
}

fn encode_places(places: &[(u16, u64)], out: &mut Vec<u8>) {
    out.extend_from_slice(&(places.len() as u32).to_le_bytes());
    for (shard, place) in places {
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&place.to_le_bytes());
    }
}

fn decode_places(body: &mut Reader<'_>) -> Result<Vec<(u16, u64)>, RecordError> {
    let count = body.u32()? as usize;
    if count > body.rest().len() / PLACE_BYTES {
        return Err(RecordError::Truncated);
    }
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        places.push((body.u16()?, body.u64()?));
    }
    Ok(places)
}
