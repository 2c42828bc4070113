//! Delivery: one message to the sessions that match it. Hot: read it from top to bottom.
//!
//! QoS 0 to a reading client is one copy of bytes into its output: the received frame itself when
//! the client speaks the same layout, else an encoding made once per publish and layout. QoS 1
//! and 2 go through the session's outbound machine; it keeps a handle to the shared message if
//! the session outlives its connection, or if the message must wait.

use std::num::NonZeroU64;

use ringtide_codec::{PacketId, PublishOut, QoS, Version};
use ringtide_session::{AliasUse, Delivery, Offer, Outbound, QueueLimits};
use ringtide_storage::record::{Destination, SessionId, Step};
use ringtide_topics::Hit;
use smallvec::SmallVec;

use crate::clients::{Clients, prepare};
use crate::conn::{Conn, NONE, Phase};
use crate::counters::Counter;
use crate::journal::{Held, Journal};
use crate::kept::Kept;
use crate::ledger::DropReason;
use crate::message::{Message, View};
use crate::pages::Pages;
use crate::session::Stored;

/// Retain As Published, in the options of a subscription.
pub(crate) const OPTION_RAP: u8 = 0b1000;
/// Payloads above this are sent from the shared message instead of being copied per subscriber.
const COPY_MAX_BYTES: usize = 4096;

/// One message on its way to many sessions.
pub(crate) struct Fan<'a> {
    pub(crate) view: View<'a>,
    /// The frame as it was received, if clients of that version can be sent it unchanged.
    pub(crate) original: Option<(&'a [u8], Version)>,
    /// The owned message, made when the first queue or other shard needs it.
    pub(crate) message: Option<Message>,
    /// The handle by which sessions have it that are kept in the log.
    pub(crate) kept: Option<Kept>,
    /// The handle by which the others have it.
    fleeting_kept: Option<Kept>,
    /// Sent because of a new subscription: RETAIN stays set whatever the options say.
    pub(crate) replay: bool,
    /// The membership of a shared group for which it was chosen, 0 = none.
    pub(crate) membership: u16,
    /// In whose custody it came here, and its place in the order from there.
    pub(crate) custody: Option<(u16, u64)>,
    /// The shard publishes it by itself: that custody is its own, for the publication.
    pub(crate) is_own: bool,
    /// Who must take it over from here, as its record will say.
    pub(crate) destinations: SmallVec<[Destination; 2]>,
    /// It was set as the retained message of its topic here, or cleared it.
    pub(crate) retained: bool,
    /// Sessions that had it before a crash.
    pub(crate) given: Vec<u32>,
    /// It still needs a member of a group.
    pub(crate) again: bool,
    /// It is not taken into custody here: it concerns nothing that outlives a crash, or it came
    /// from another shard, which has answered for it without a record.
    pub(crate) fleeting: bool,
    frames: FrameCache,
    /// Sessions that were reached.
    pub(crate) hits: u32,
    /// The session that was reached last and its granted QoS, if it takes every message without
    /// subscription ids.
    pub(crate) only: Option<(u32, u8)>,
}

/// QoS 0 encodings made once per publish: by MQTT 5 or not, RETAIN set or not.
#[derive(Default)]
struct FrameCache {
    ranges: [Option<(usize, usize)>; 4],
}

impl<'a> Fan<'a> {
    pub(crate) fn new(view: View<'a>) -> Fan<'a> {
        Fan {
            view,
            original: None,
            message: None,
            kept: None,
            fleeting_kept: None,
            replay: false,
            membership: 0,
            custody: None,
            is_own: false,
            destinations: SmallVec::new(),
            retained: false,
            given: Vec::new(),
            again: false,
            fleeting: false,
            frames: FrameCache::default(),
            hits: 0,
            only: None,
        }
    }

    /// True if no encoding of this message lies in the scratch space, which may be cleared then.
    pub(crate) fn is_unencoded(&self) -> bool {
        self.frames.ranges.iter().all(Option::is_none)
    }

    pub(crate) fn message(&mut self) -> &Message {
        let view = &self.view;
        self.message.get_or_insert_with(|| Message::new(view))
    }

    /// The handle by which a session has it. What a session is given that the log does not know of
    /// is apart: the log keeps a message only for the others.
    fn handle(&mut self, pages: &Pages, is_kept: bool) -> Kept {
        let own = if is_kept { &mut self.kept } else { &mut self.fleeting_kept };
        let view = &self.view;
        let message = &mut self.message;
        let kept = own.get_or_insert_with(|| {
            pages.keep(message.get_or_insert_with(|| Message::new(view)).clone())
        });
        if self.membership != 0 {
            // When this member ends another one gets it, at once.
            kept.stay();
        }
        kept.clone()
    }

    /// Where a message must be durable, if that is another shard: of QoS 2 before it goes on, of
    /// QoS 1 or a crash takes it back.
    fn origin(&self, me: u16) -> Option<(u16, NonZeroU64)> {
        let (origin, seq) = self.custody.filter(|(origin, _)| *origin != me)?;
        NonZeroU64::new(seq).map(|seq| (origin, seq))
    }
}

/// Limits of the sessions' queues, from the shard's configuration.
#[derive(Clone, Copy)]
pub(crate) struct Queues {
    pub(crate) me: u16,
    pub(crate) limits: QueueLimits,
}

/// Delivers to one session. `frames` is scratch space that lives as long as the publish.
#[inline]
pub(crate) fn deliver(
    clients: &mut Clients,
    queues: &Queues,
    frames: &mut Vec<u8>,
    fan: &mut Fan<'_>,
    hit: Hit<'_>,
) {
    if !fan.given.is_empty() && fan.given.contains(&hit.session.0) {
        return;
    }
    fan.hits += 1;
    let granted = hit.options & 3;
    fan.only = hit.ids.is_empty().then_some((hit.session.0, granted));
    //= [MQTT-3.3.1-12]
    //= [MQTT-3.3.1-13]
    //= 3.1.1 [MQTT-3.3.1-9]
    let retain = fan.view.header.retain && (fan.replay || hit.options & OPTION_RAP != 0);
    //= [MQTT-3.8.4-8]
    //= 3.1.1 [MQTT-3.8.4-6]
    //= [MQTT-4.8.2-3]
    //= 3.1.1 [MQTT-3.3.5-1]
    let session = hit.session.0;
    let reached = if fan.view.header.qos == QoS::AtMostOnce || granted == 0 {
        deliver_qos0(clients, frames, fan, hit, retain)
    } else {
        let qos = fan.view.header.qos.min(QoS::from_bits(granted).unwrap_or(QoS::AtMostOnce));
        deliver_bare(clients, queues, fan, hit, (qos, retain))
            .unwrap_or_else(|| deliver_queued(clients, queues, fan, hit, qos, retain))
    };
    if reached && fan.view.header.retain && !fan.replay {
        note_live(clients, session, fan.view.header.topic_hash);
    }
}

/// A retained message that comes live is newer than what a replay under way may still bring.
#[cold]
fn note_live(clients: &mut Clients, session: u32, topic_hash: u64) {
    let session = clients.sessions.at_mut(session);
    if let Some(replay) = session.and_then(|session| session.replay.as_mut()) {
        replay.saw(topic_hash);
    }
}

/// False if it was dropped.
fn deliver_qos0(
    clients: &mut Clients,
    frames: &mut Vec<u8>,
    fan: &mut Fan<'_>,
    hit: Hit<'_>,
    retain: bool,
) -> bool {
    let index = clients.sessions.at(hit.session.0).map_or(NONE, |session| session.conn);
    let Some(conn) = clients.conns.at_mut(index).filter(|conn| conn.phase == Phase::Open) else {
        // Not a fault of anyone's: QoS 0 is not kept for a client that is away.
        clients.counters.add(Counter::DroppedOffline, 1);
        return false;
    };
    if conn.out.len() > clients.write_buffer_max
        || (conn.stalled
            && !conn.out.is_empty()
            && conn.out_len() + fan.view.payload.len() > clients.write_buffer_max)
    {
        clients.note_drop(hit.session.0, fan.view.header.topic_hash, DropReason::SlowConsumer);
        return false;
    }
    let expires_ms = fan.view.header.expires_ms;
    if expires_ms != 0 && expires_ms <= clients.now_ms {
        clients.note_drop(hit.session.0, fan.view.header.topic_hash, DropReason::Expired);
        return false;
    }
    prepare(conn, index, &mut clients.dirty, &mut clients.pool);
    let v5 = conn.version == Version::V5;
    let large = fan.view.payload.len() > COPY_MAX_BYTES;
    let plain = hit.ids.is_empty() && !large && conn.cold.is_none();
    if plain {
        let frame = qos0_frame(fan, frames, v5, retain, clients.now_ms);
        if frame.len() <= conn.packet_max as usize {
            conn.out.extend_from_slice(frame);
            clients.counters.add(Counter::PublishSentQos0, 1);
            return true;
        }
    } else {
        let out = Out {
            qos: QoS::AtMostOnce,
            id: None,
            dup: false,
            retain,
            ids: hit.ids,
            expires_ms: fan.view.header.expires_ms,
        };
        if large {
            fan.message();
        }
        if write_publish(conn, &fan.view, fan.message.as_ref(), &out, clients.now_ms) {
            clients.counters.add(Counter::PublishSentQos0, 1);
            return true;
        }
    }
    clients.note_drop(hit.session.0, fan.view.header.topic_hash, DropReason::TooLarge);
    false
}

/// The QoS 0 frame for a version and RETAIN flag: the original, or an encoding kept in `frames`.
fn qos0_frame<'f>(
    fan: &'f mut Fan<'_>,
    frames: &'f mut Vec<u8>,
    v5: bool,
    retain: bool,
    now_ms: u64,
) -> &'f [u8] {
    if let Some((frame, version)) = fan.original
        && (version == Version::V5) == v5
        && !retain
    {
        return frame;
    }
    let slot = usize::from(v5) | (usize::from(retain) << 1);
    let (start, end) = *fan.frames.ranges[slot].get_or_insert_with(|| {
        let start = frames.len();
        let out = PublishOut {
            version: if v5 { Version::V5 } else { Version::V3_1_1 },
            //= [MQTT-3.3.1-2]
            //= [MQTT-4.3.1-1]
            dup: false,
            qos: QoS::AtMostOnce,
            retain,
            topic: fan.view.topic,
            packet_id: None,
            message_expiry_s: remaining_s(
                fan.view.header.expires_ms,
                fan.view.header.ingress_ms,
                now_ms,
            ),
            topic_alias: None,
            subscription_ids: &[],
            forward: fan.view.properties,
            payload_len: fan.view.payload.len(),
        };
        out.write(fan.view.payload, frames);
        (start, frames.len())
    });
    &frames[start..end]
}

/// Message Expiry Interval to send: what is left, rounded up so that a living message never
/// carries 0; `None` when the message does not expire.
//= [MQTT-3.3.2-6]
fn remaining_s(expires_ms: u64, ingress_ms: u64, now_ms: u64) -> Option<u32> {
    if expires_ms == 0 {
        return None;
    }
    // The clocks of two shards differ by a few milliseconds: never more than was given.
    let given_ms = expires_ms.saturating_sub(ingress_ms);
    let left_ms = expires_ms.saturating_sub(now_ms).min(given_ms);
    Some(left_ms.div_ceil(1000).min(u64::from(u32::MAX)) as u32)
}

/// The hot case of QoS 1 and 2: a client that takes the message now and whose session ends with
/// its connection, so that the message is written and not kept. `None` if it is another case;
/// false if the message was dropped. Not inlined: the loop over readers of QoS 0 stays small.
//= [MQTT-4.5.0-1]
//= 3.1.1 [MQTT-4.5.0-1]
#[inline(never)]
fn deliver_bare(
    clients: &mut Clients,
    queues: &Queues,
    fan: &Fan<'_>,
    hit: Hit<'_>,
    (qos, retain): (QoS, bool),
) -> Option<bool> {
    let header = fan.view.header;
    let session = clients.sessions.at_mut(hit.session.0)?;
    // What came to a group goes to another member when this one ends.
    let lasts = session.is_persistent() || fan.membership != 0;
    let expires = header.expires_ms != 0 && header.expires_ms <= clients.now_ms;
    if lasts || expires || fan.view.payload.len() > COPY_MAX_BYTES {
        return None;
    }
    let index = session.conn;
    let conn =
        clients.conns.at_mut(index).filter(|conn| conn.phase == Phase::Open && !conn.stalled)?;
    if conn.out_len() >= clients.write_buffer_max {
        return None;
    }
    let receive_maximum = session.receive_maximum;
    let outbound = session
        .outbound
        .get_or_insert_with(|| Box::new(Outbound::new(receive_maximum, queues.limits)));
    let id = outbound.begin_bare(qos)?;
    prepare(conn, index, &mut clients.dirty, &mut clients.pool);
    let out = first_send(id, qos, retain, hit.ids, header.expires_ms);
    if write_publish(conn, &fan.view, None, &out, clients.now_ms) {
        clients.counters.add(sent_counter(qos), 1);
        return Some(true);
    }
    outbound.give_up(id);
    clients.note_drop(hit.session.0, header.topic_hash, DropReason::TooLarge);
    Some(false)
}

/// False if it was dropped.
fn deliver_queued(
    clients: &mut Clients,
    queues: &Queues,
    fan: &mut Fan<'_>,
    hit: Hit<'_>,
    qos: QoS,
    retain: bool,
) -> bool {
    let header = fan.view.header;
    let journal = &mut clients.journal;
    let Some(session) = clients.sessions.at_mut(hit.session.0) else { return false };
    let conn_index = session.conn;
    let open =
        clients.conns.at_mut(conn_index).filter(|conn| conn.phase == Phase::Open && !conn.stalled);
    let full = open.as_ref().is_some_and(|conn| conn.out_len() >= clients.write_buffer_max);
    let conn = open.filter(|_| !full);
    let kept = session.kept();
    let seq = journal.seq(kept);
    let message = fan.handle(&clients.pages, seq != 0);
    let new = message.clone();
    let stored = Stored { message, seq, origin: fan.origin(queues.me) };
    let delivery = delivery_of(stored, (qos, retain), hit.ids, fan);
    let receive_maximum = session.receive_maximum;
    let generation = session.generation;
    let outbound = session
        .outbound
        .get_or_insert_with(|| Box::new(Outbound::new(receive_maximum, queues.limits)));
    //= [MQTT-4.5.0-1]
    //= 3.1.1 [MQTT-4.5.0-1]
    let offer = outbound.offer(delivery, clients.now_ms, conn.is_some());
    let turned_away =
        matches!(&offer, Offer::Dropped { dropped, .. } if dropped.message.seq == seq);
    if seq != 0 && !turned_away {
        journal.entry(kept, seq, qos as u8, retain, fan.membership, hit.ids);
    }
    match offer {
        Offer::Send(id) => {
            let Some(conn) = conn else { return false };
            if must_hold(journal, hit.session.0, kept, qos) {
                let origin = fan.origin(queues.me);
                let sending = Sending { id, seq, qos, dup: false, origin };
                hold(journal, (hit.session.0, generation), kept, sending);
                return true;
            }
            prepare(conn, conn_index, &mut clients.dirty, &mut clients.pool);
            let out = first_send(id, qos, retain, hit.ids, header.expires_ms);
            let message = fan.message.as_ref();
            if write_publish(conn, &fan.view, message, &out, clients.now_ms) {
                clients.counters.add(sent_counter(qos), 1);
                true
            } else {
                outbound.give_up(id);
                journal.done(kept, seq);
                clients.note_drop(hit.session.0, header.topic_hash, DropReason::TooLarge);
                false
            }
        }
        Offer::Queued => {
            if full {
                // Nothing else would move it on: the output is written in this turn.
                clients.want_pump(hit.session.0);
            }
            true
        }
        Offer::Dropped { dropped, reason } => {
            note_victims(clients, hit.session.0, &new, dropped, reason)
        }
    }
}

fn delivery_of(
    message: Stored,
    (qos, retain): (QoS, bool),
    ids: &[u32],
    fan: &Fan<'_>,
) -> Delivery<Stored> {
    Delivery {
        bytes: message.message.bytes(),
        message,
        qos,
        retain,
        subscription_ids: SmallVec::from_slice(ids),
        expires_at_ms: NonZeroU64::new(fan.view.header.expires_ms),
        membership: fan.membership,
    }
}

/// How a PUBLISH leaves for the first time.
fn first_send(id: PacketId, qos: QoS, retain: bool, ids: &[u32], expires_ms: u64) -> Out<'_> {
    //= [MQTT-4.3.2-2]
    //= [MQTT-4.3.3-2]
    //= 3.1.1 [MQTT-3.3.1-3]
    //= 3.1.1 [MQTT-4.3.2-1]
    //= 3.1.1 [MQTT-4.3.3-1]
    Out { qos, id: Some(id), dup: false, retain, ids, expires_ms }
}

/// Counts the message that gave way, and every further one that had to. True if they were older
/// than the `new` one, which is in the queue then.
fn note_victims(
    clients: &mut Clients,
    session: u32,
    new: &Kept,
    dropped: Delivery<Stored>,
    reason: ringtide_session::DropReason,
) -> bool {
    let queued = !new.is_same(&dropped.message.message);
    let mut victim = Some((dropped, reason));
    while let Some((dropped, reason)) = victim {
        let hash = dropped.message.message.topic_hash();
        clients.note_drop(session, hash, drop_reason(reason));
        let session = clients.sessions.at_mut(session);
        if let Some(session) = &session {
            // The log forgets one that it never knew without a word.
            clients.journal.done(session.kept(), dropped.message.seq);
        }
        let outbound = session.and_then(|session| session.outbound.as_mut());
        victim = outbound.and_then(|outbound| outbound.evict_next());
    }
    queued
}

fn drop_reason(reason: ringtide_session::DropReason) -> DropReason {
    match reason {
        ringtide_session::DropReason::Expired => DropReason::Expired,
        ringtide_session::DropReason::QueueCount | ringtide_session::DropReason::QueueBytes => {
            DropReason::QueueFull
        }
    }
}

pub(crate) fn sent_counter(qos: QoS) -> Counter {
    match qos {
        QoS::AtMostOnce => Counter::PublishSentQos0,
        QoS::AtLeastOnce => Counter::PublishSentQos1,
        QoS::ExactlyOnce => Counter::PublishSentQos2,
    }
}

/// How one copy goes out.
pub(crate) struct Out<'a> {
    pub(crate) qos: QoS,
    pub(crate) id: Option<PacketId>,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) ids: &'a [u32],
    pub(crate) expires_ms: u64,
}

/// Encodes one copy into a connection's output. False if it is larger than the client takes.
//= [MQTT-3.1.2-24]
pub(crate) fn write_publish(
    conn: &mut Conn,
    view: &View<'_>,
    message: Option<&Message>,
    out: &Out<'_>,
    now_ms: u64,
) -> bool {
    let alias = match conn.alias_out() {
        Some(aliases) => aliases.choose(view.topic),
        None => AliasUse::None,
    };
    let (topic, topic_alias) = match alias {
        AliasUse::None => (view.topic, None),
        AliasUse::First(alias) => (view.topic, Some(alias)),
        AliasUse::Known(alias) => ("", Some(alias)),
    };
    let mut publish = PublishOut {
        version: conn.version,
        dup: out.dup,
        qos: out.qos,
        retain: out.retain,
        topic,
        packet_id: out.id,
        message_expiry_s: remaining_s(out.expires_ms, view.header.ingress_ms, now_ms),
        topic_alias,
        subscription_ids: out.ids,
        forward: view.properties,
        payload_len: view.payload.len(),
    };
    let mut fits = publish.packet_len() <= conn.packet_max as usize;
    if let (AliasUse::First(alias), Some(aliases)) = (alias, conn.alias_out()) {
        // A packet that is not sent teaches the client nothing.
        if fits { aliases.commit(alias) } else { aliases.abort(alias) }
    }
    if !fits && matches!(alias, AliasUse::First(_)) {
        // What names an alias is larger than what has none.
        publish.topic_alias = None;
        fits = publish.packet_len() <= conn.packet_max as usize;
    }
    if !fits {
        return false;
    }
    match message {
        Some(message) if view.payload.len() > COPY_MAX_BYTES => {
            publish.write_head(&mut conn.out);
            let position = conn.out.len() as u32;
            conn.cold().shared.push((position, message.payload_bytes()));
        }
        _ => publish.write(view.payload, &mut conn.out),
    }
    true
}

/// A PUBLISH that is about to leave.
pub(crate) struct Sending {
    pub(crate) id: PacketId,
    pub(crate) seq: u64,
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
    pub(crate) origin: Option<(u16, NonZeroU64)>,
}

impl Sending {
    pub(crate) fn of(delivery: &Delivery<Stored>, id: PacketId, dup: bool) -> Sending {
        let Stored { seq, origin, .. } = delivery.message;
        Sending { id, seq, qos: delivery.qos, dup, origin }
    }
}

/// True if a PUBLISH must wait for the log: its packet id belongs to the message for good, or it
/// is behind one that waits.
pub(crate) fn must_hold(journal: &Journal, session: u32, kept: SessionId, qos: QoS) -> bool {
    (qos == QoS::ExactlyOnce && kept != SessionId(0)) || journal.holds(session)
}

/// Holds a PUBLISH that goes out for the first time until the log has it.
pub(crate) fn hold(journal: &mut Journal, whose: (u32, u32), kept: SessionId, sending: Sending) {
    let Sending { id, seq, qos, dup, origin } = sending;
    if qos == QoS::ExactlyOnce && seq != 0 {
        journal.step(kept, Step::Sent { seq, packet_id: id.get() });
    }
    // QoS 1 waits only for its turn.
    let origin = origin.filter(|_| qos == QoS::ExactlyOnce);
    let origin = origin.map(|(origin, seq)| (origin, seq.get()));
    journal.hold(whose.0, whose.1, Held { id, dup, origin, lsn: u64::MAX });
}
