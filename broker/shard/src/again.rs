//! The same publisher, the same topic, the same single reader as just before: devices repeat
//! themselves, and a batch of messages is mostly of one topic. Then the frame is compared with
//! the last topic instead of being decoded, hashed and matched again, and copied to its reader.
//! Anything else takes the whole way.

use ringtide_codec::Version;
use ringtide_storage::Store;
use ringtide_topics::TenantId;
use ringtide_topics::interest::ShardSet;

use crate::clients::{Clients, prepare};
use crate::conn::{NONE, Phase};
use crate::core::Core;
use crate::counters::Counter;
use crate::route::Routes;

/// Topics above this many bytes are not remembered.
const TOPIC_BYTES_MAX: usize = 256;

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
        }
    }

    /// Remembers a publish of QoS 0 that went to one local session and nowhere else.
    pub(crate) fn remember(
        &mut self,
        routes: &Routes,
        publisher: u32,
        version: Version,
        view: &crate::message::View<'_>,
        reader: u32,
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
        self.topic.clear();
        self.topic.push_str(view.topic);
    }

    /// True if the body is a publish to the remembered topic without properties.
    fn is_in(&self, version: Version, body: &[u8]) -> bool {
        let Some((len, rest)) = body.split_first_chunk::<2>() else { return false };
        usize::from(u16::from_be_bytes(*len)) == self.topic.len()
            && rest.starts_with(self.topic.as_bytes())
            && (version != Version::V5 || rest.get(self.topic.len()) == Some(&0))
    }
}

impl<S: Store> Core<S> {
    /// Sends a QoS 0 frame without flags on, if it repeats the last publish. False: nothing was
    /// done, it goes the whole way.
    #[inline]
    pub(crate) fn publish_again(
        &mut self,
        session: u32,
        version: Version,
        frame: &[u8],
        body: &[u8],
    ) -> bool {
        let Core { last, routes, clients, mesh, .. } = self;
        let same = last.publisher == session
            && last.changes == routes.changes
            && last.version == version
            && last.is_in(version, body);
        if !same || !self.access.is_open() || !routes.fans.is_empty() {
            return false;
        }
        if mesh.shards > 1 {
            let mut shards = ShardSet::default();
            let Routes { interest, levels, .. } = routes;
            interest.shards_for(last.tenant, &last.topic, levels, last.hash, &mut shards);
            shards.remove(mesh.me);
            if !shards.is_empty() {
                return false;
            }
        }
        copy(clients, last.reader, version, frame)
    }
}

/// Copies a frame to a session's connection, if that can take it as it is.
fn copy(clients: &mut Clients, session: u32, version: Version, frame: &[u8]) -> bool {
    let index = clients.sessions.at(session).map_or(NONE, |session| session.conn);
    let Some(conn) = clients.conns.at_mut(index) else { return false };
    let takes = conn.phase == Phase::Open
        && (conn.version == Version::V5) == (version == Version::V5)
        && conn.out.len() < clients.write_buffer_max
        && !conn.stalled
        && conn.cold.is_none()
        && frame.len() <= conn.packet_max as usize;
    if !takes {
        return false;
    }
    prepare(conn, index, &mut clients.dirty, &mut clients.pool);
    conn.out.extend_from_slice(frame);
    clients.counters.add(Counter::PublishReceivedQos0, 1);
    clients.counters.add(Counter::PublishSentQos0, 1);
    true
}
