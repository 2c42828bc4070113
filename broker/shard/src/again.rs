//! The same publisher, the same topic, the same single reader as just before: devices repeat
//! themselves, and a batch of messages is mostly of one topic. Then the frame is compared with
//! the last topic instead of being decoded, hashed and matched again, and copied to its reader.
//! Anything else takes the whole way, and so does QoS 1 to a session that outlives its connection.

use ringtide_codec::{FixedHeader, PacketId, QoS, ReasonCode, Version};
use ringtide_storage::Store;
use ringtide_topics::TenantId;
use ringtide_topics::interest::ShardSet;

use crate::clients::{Clients, prepare};
use crate::conn::{Conn, NONE, Phase};
use crate::core::{Core, Flow};
use crate::counters::Counter;
use crate::park::AckWanted;
use crate::route::Routes;

/// Topics above this many bytes are not remembered.
const TOPIC_BYTES_MAX: usize = 256;
/// The flags of a PUBLISH of QoS 1 that is neither a duplicate nor retained.
const QOS_1: u8 = 0b0010;

/// What the last publish that was remembered came to.
#[derive(Debug)]
pub(crate) struct LastPublish {
    /// The session that published, or NONE when nothing is remembered.
    publisher: u32,
    tenant: TenantId,
    version: Version,
    /// `Routes::changes` at that time: a subscription since then makes it void.
    changes: u64,
    topic: String,
    hash: u64,
    reader: u32,
    /// Whether the reader takes QoS 1.
    once: bool,
}

impl LastPublish {
    pub(crate) fn nothing() -> LastPublish {
        LastPublish {
            publisher: NONE,
            tenant: TenantId::default(),
            version: Version::V5,
            changes: 0,
            topic: String::new(),
            hash: 0,
            reader: NONE,
            once: false,
        }
    }

    /// Remembers a publish that went to one local session with this granted QoS and nowhere else.
    pub(crate) fn remember(
        &mut self,
        routes: &Routes,
        publisher: u32,
        version: Version,
        view: &crate::message::View<'_>,
        (reader, granted): (u32, u8),
    ) {
        if view.topic.len() > TOPIC_BYTES_MAX {
            return;
        }
        self.publisher = publisher;
        self.tenant = view.header.tenant;
        self.version = version;
        self.changes = routes.changes;
        self.hash = view.header.topic_hash;
        self.reader = reader;
        self.once = granted > 0;
        self.topic.clear();
        self.topic.push_str(view.topic);
    }

    /// True if the body is a publish to the remembered topic without properties, which would
    /// stand `behind` bytes after the topic.
    fn is_in(&self, version: Version, body: &[u8], behind: usize) -> bool {
        let Some((len, rest)) = body.split_first_chunk::<2>() else { return false };
        let properties = self.topic.len() + behind;
        usize::from(u16::from_be_bytes(*len)) == self.topic.len()
            && rest.len() >= properties
            && rest.starts_with(self.topic.as_bytes())
            && (version != Version::V5 || rest.get(properties) == Some(&0))
    }
}

impl<S: Store> Core<S> {
    /// Sends a frame of QoS 0 or 1 without other flags on, if it repeats the last publish. `None`:
    /// nothing was done, it goes the whole way.
    #[inline]
    pub(crate) fn publish_again(
        &mut self,
        index: u32,
        (session, version): (u32, Version),
        header: &FixedHeader,
        frame: &[u8],
    ) -> Option<Flow> {
        let Core { last, routes, mesh, .. } = self;
        let body = &frame[usize::from(header.header_len)..];
        let behind = match header.flags {
            0 => 0,
            QOS_1 => size_of::<PacketId>(),
            _ => return None,
        };
        let same = last.publisher == session
            && last.changes == routes.changes
            && last.version == version
            && last.is_in(version, body, behind);
        if !same || !self.access.is_open() || !routes.fans.is_empty() {
            return None;
        }
        if mesh.shards > 1 {
            let mut shards = ShardSet::default();
            let Routes { interest, levels, .. } = routes;
            interest.shards_for(last.tenant, &last.topic, levels, last.hash, &mut shards);
            shards.remove(mesh.me);
            if !shards.is_empty() {
                return None;
            }
        }
        if header.flags == 0 {
            return copy(&mut self.clients, last.reader, version, frame);
        }
        let id_at = size_of::<u16>() + last.topic.len();
        self.acknowledged_again(index, (session, version), frame, body, id_at)
    }

    /// The same for QoS 1: the packet id, `id_at` bytes into the body, is the reader's own in the
    /// copy.
    fn acknowledged_again(
        &mut self,
        index: u32,
        (session, version): (u32, Version),
        frame: &[u8],
        body: &[u8],
        id_at: usize,
    ) -> Option<Flow> {
        let id = body.get(id_at..)?.first_chunk::<2>()?;
        let id = PacketId::new(u16::from_be_bytes(*id))?;
        let promised = self.clients.conns.at(index)?.promised;
        let reader = self.last.reader;
        let usual = self.last.once
            && self.promises.of(promised).maximum_qos >= QoS::AtLeastOnce
            && !self.disk.is_pressed
            && self.internal.is_empty();
        if !usual || !is_ready(&self.clients, reader, version, frame.len()) {
            return None;
        }
        let ack = AckWanted { qos: QoS::AtLeastOnce, id: Some(id) };
        if let Err(code) = self.admit(session, ack) {
            return Some(self.protocol_error(index, code));
        }
        let clients = &mut self.clients;
        let reader = clients.sessions.at_mut(reader)?;
        let own = reader.outbound.as_mut()?.begin_bare(QoS::AtLeastOnce)?;
        let conn = clients.conns.at_mut(reader.conn)?;
        prepare(conn, reader.conn, &mut clients.dirty, &mut clients.pool);
        let at = conn.out.len() + frame.len() - body.len() + id_at;
        conn.out.extend_from_slice(frame);
        conn.out[at..at + size_of::<PacketId>()].copy_from_slice(&own.get().to_be_bytes());
        clients.counters.add(Counter::PublishReceivedQos1, 1);
        clients.counters.add(Counter::PublishSentQos1, 1);
        self.acknowledge(index, ack, ReasonCode::Success, 0);
        Some(Flow::Continue)
    }
}

/// Whether a session takes a frame of QoS 1 as it is, now, and need not keep it.
fn is_ready(clients: &Clients, session: u32, version: Version, len: usize) -> bool {
    let Some(session) = clients.sessions.at(session) else { return false };
    let conn = clients.conns.at(session.conn);
    !session.is_persistent()
        && session.outbound.as_ref().is_some_and(|outbound| outbound.is_ready())
        && conn.is_some_and(|conn| takes(conn, version, len, clients.write_buffer_max))
}

/// Whether a connection takes a frame of so many bytes as it is, now.
fn takes(conn: &Conn, version: Version, len: usize, write_buffer_max: usize) -> bool {
    conn.phase == Phase::Open
        && (conn.version == Version::V5) == (version == Version::V5)
        && conn.out.len() < write_buffer_max
        && !conn.stalled
        && conn.cold.is_none()
        && len <= conn.packet_max as usize
}

/// Copies a frame to a session's connection, if that can take it as it is.
fn copy(clients: &mut Clients, session: u32, version: Version, frame: &[u8]) -> Option<Flow> {
    let index = clients.sessions.at(session)?.conn;
    let conn = clients.conns.at_mut(index)?;
    if !takes(conn, version, frame.len(), clients.write_buffer_max) {
        return None;
    }
    prepare(conn, index, &mut clients.dirty, &mut clients.pool);
    conn.out.extend_from_slice(frame);
    clients.counters.add(Counter::PublishReceivedQos0, 1);
    clients.counters.add(Counter::PublishSentQos0, 1);
    Some(Flow::Continue)
}
