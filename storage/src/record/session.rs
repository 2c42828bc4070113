//! A session as a whole: an rkyv archive of a frozen struct behind its version and length.
//!
//! A struct of this file never changes once a release has written it: a new version gets a new
//! struct, and what is read of an old one is turned into the present [`SessionRecord`].

use rkyv::rancor::{Error, Failure};
use rkyv::{Archive, Deserialize, Serialize};

use super::reader::{Reader, put_block};
use super::{Exchange, Filter, RecordError, SessionId, SessionRecord, WillRecord};

/// The version that is written.
const VERSION: u8 = 1;

/// A session as version 1 archives it; the fields mean what those of [`SessionRecord`] do.
#[derive(Archive, Serialize, Deserialize)]
struct SessionV1 {
    id: u64,
    tenant: u32,
    expiry_s: u32,
    connected_ms: u64,
    detached_ms: u64,
    client_id: String,
    username: Option<String>,
    will: Option<WillV1>,
    filters: Vec<FilterV1>,
    inbound: Vec<u16>,
    exchanges: Vec<ExchangeV1>,
}

#[derive(Archive, Serialize, Deserialize)]
struct WillV1 {
    message: Vec<u8>,
    expiry_s: Option<u32>,
    delay_s: u32,
    due_ms: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct FilterV1 {
    filter: String,
    options: u8,
    id: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct ExchangeV1 {
    packet_id: u16,
    seq: Option<u64>,
}

impl From<&SessionRecord> for SessionV1 {
    fn from(record: &SessionRecord) -> SessionV1 {
        let will = record.will.as_ref().map(|will| WillV1 {
            message: will.message.clone(),
            expiry_s: will.expiry_s,
            delay_s: will.delay_s,
            due_ms: will.due_ms,
        });
        let filter = |one: &Filter| FilterV1 {
            filter: one.filter.clone(),
            options: one.options,
            id: one.id,
        };
        let exchange = |one: &Exchange| ExchangeV1 { packet_id: one.packet_id, seq: one.seq };
        SessionV1 {
            id: record.id.0,
            tenant: record.tenant,
            expiry_s: record.expiry_s,
            connected_ms: record.connected_ms,
            detached_ms: record.detached_ms,
            client_id: record.client_id.clone(),
            username: record.username.clone(),
            will,
            filters: record.filters.iter().map(filter).collect(),
            inbound: record.inbound.clone(),
            exchanges: record.exchanges.iter().map(exchange).collect(),
        }
    }
}

impl From<SessionV1> for SessionRecord {
    fn from(v1: SessionV1) -> SessionRecord {
        let will = v1.will.map(|will| WillRecord {
            message: will.message,
            expiry_s: will.expiry_s,
            delay_s: will.delay_s,
            due_ms: will.due_ms,
        });
        let filter =
            |one: FilterV1| Filter { filter: one.filter, options: one.options, id: one.id };
        let exchange = |one: ExchangeV1| Exchange { packet_id: one.packet_id, seq: one.seq };
        SessionRecord {
            id: SessionId(v1.id),
            tenant: v1.tenant,
            client_id: v1.client_id,
            username: v1.username,
            expiry_s: v1.expiry_s,
            connected_ms: v1.connected_ms,
            detached_ms: v1.detached_ms,
            will,
            filters: v1.filters.into_iter().map(filter).collect(),
            inbound: v1.inbound,
            exchanges: v1.exchanges.into_iter().map(exchange).collect(),
        }
    }
}

impl SessionRecord {
    /// Appends the record.
    ///
    /// # Panics
    /// Never for a session that a broker can hold: only an archive above 2 GiB cannot be written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let archive = rkyv::to_bytes::<Error>(&SessionV1::from(self));
        #[expect(clippy::expect_used, reason = "a session is bounded by the limits of the broker")]
        let archive = archive.expect("a session below 2 GiB");
        out.push(VERSION);
        put_block(out, &archive);
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// The body is not such a record.
    pub fn decode(body: &[u8]) -> Result<SessionRecord, RecordError> {
        let mut body = Reader::new(body, VERSION)?;
        let archive = body.block()?;
        body.end()?;
        let v1 = rkyv::from_bytes::<SessionV1, Failure>(archive);
        v1.map(SessionRecord::from).map_err(|_| RecordError::Invalid)
    }
}
