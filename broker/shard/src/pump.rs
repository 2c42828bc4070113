//! From a session's queue to its connection: what must be sent again, what waits, what the log
//! held up.

use std::num::NonZeroU64;

use ringtide_codec::{PacketId, QoS};
use ringtide_session::{Delivery, Next, Outbound, Resend};
use ringtide_storage::record::SessionId;

use crate::clients::{Clients, prepare};
use crate::conn::{Conn, NONE, Phase};
use crate::deliver::{Out, Sending, hold, must_hold, sent_counter, write_publish};
use crate::journal::{Held, Journal};
use crate::ledger::DropReason;
use crate::pages::{Pages, Reader};
use crate::session::Stored;

/// Messages that one pass moves from a session's queue to its connection.
const PUMP_MAX: usize = 256;
/// Messages, and bytes of them, that are read ahead for one session.
const AHEAD_MAX: usize = 2048;
const AHEAD_BYTES: u32 = 512 << 10;
/// So many messages before the first that is not in memory, the next are asked for.
const AHEAD_LEAST: usize = 512;

/// Moves what waits for a session to its connection, as far as quota, output and budget allow:
/// first what must be sent again, then the queue. True if more could go at once.
pub(crate) fn pump(clients: &mut Clients, index: u32) -> bool {
    look_ahead(clients, index);
    for _ in 0..PUMP_MAX {
        let Some(session) = clients.sessions.at_mut(index) else { return false };
        let conn_index = session.conn;
        let Some(conn) = clients.conns.at_mut(conn_index) else { return false };
        let writable = conn.phase == Phase::Open && !conn.stalled;
        let kept = session.kept();
        let Some(outbound) = session.outbound.as_mut().filter(|_| writable) else { return false };
        if conn.out_len() >= clients.write_buffer_max {
            // It is written at the end of this turn, then there is room again.
            return true;
        }
        if conn.out.capacity() == 0 {
            conn.out = clients.pool.pop().unwrap_or_default();
        }
        let journal = &mut clients.journal;
        let who = Who { session: index, generation: session.generation, kept };
        if let Some(next) = outbound.peek().map(|next| &next.message.message)
            && next.is_away()
        {
            let reader = Reader::Session(index, session.generation);
            match next.is_unasked() {
                true => read_ahead(outbound, &mut clients.pages, reader),
                false => clients.pages.wait_beside(reader),
            }
            return false;
        }
        let step = pump_one(conn, outbound, journal, &who, clients.now_ms);
        match step {
            Pumped::Sent(qos) => {
                prepare(conn, conn_index, &mut clients.dirty, &mut clients.pool);
                if let Some(qos) = qos {
                    clients.counters.add(sent_counter(qos), 1);
                }
            }
            Pumped::Dropped(hash, reason) => clients.note_drop(index, hash, reason),
            Pumped::Held => {}
            Pumped::Idle => {
                if outbound.queued_len() == 0 {
                    journal.earlier.forget(index);
                }
                if conn.out.is_empty() && !conn.dirty {
                    let vector = std::mem::take(&mut conn.out);
                    clients.recycle(vector);
                }
                return false;
            }
        }
    }
    true
}

/// Asks for what a session's connection will be sent before it runs out of what is in memory.
fn look_ahead(clients: &mut Clients, index: u32) {
    if clients.pages.memory.away() == 0 {
        return;
    }
    let Some(session) = clients.sessions.at_mut(index).filter(|session| session.conn != NONE)
    else {
        return;
    };
    let reader = Reader::Session(index, session.generation);
    let Some(outbound) = session.outbound.as_ref() else { return };
    let soon = outbound.waiting_behind(|_| false).nth(AHEAD_LEAST);
    if soon.is_some_and(|delivery| delivery.message.message.is_unasked()) {
        read_ahead(outbound, &mut clients.pages, reader);
    }
}

/// Asks for what will be sent next, as far as it is not in memory.
fn read_ahead(outbound: &Outbound<Stored>, pages: &mut Pages, reader: Reader) {
    let mut bytes = 0;
    let again = outbound.to_resend().map(|delivery| &delivery.message.message);
    let waiting = outbound.waiting_behind(|_| false).map(|delivery| &delivery.message.message);
    let next = again.chain(waiting).take(AHEAD_MAX).take_while(|kept| {
        let more = bytes < AHEAD_BYTES;
        bytes += kept.bytes();
        more
    });
    pages.want(next.cloned(), reader);
}

/// True if the message of a PUBLISH that waited for the log must be read first.
pub(crate) fn must_read(clients: &mut Clients, index: u32, id: PacketId) -> bool {
    let Some(session) = clients.sessions.at_mut(index) else { return false };
    let Some(outbound) = session.outbound.as_ref() else { return false };
    let Some(delivery) = outbound.delivery(id) else { return false };
    let reader = Reader::Session(index, session.generation);
    clients.pages.want(std::iter::once(delivery.message.message.clone()), reader)
}

enum Pumped {
    /// A packet was written; a PUBLISH of this QoS, or a PUBREL.
    Sent(Option<QoS>),
    Dropped(u64, DropReason),
    /// It waits for the log.
    Held,
    Idle,
}

/// Whose queue is pumped.
struct Who {
    session: u32,
    generation: u32,
    kept: SessionId,
}

fn pump_one(
    conn: &mut Conn,
    outbound: &mut Outbound<Stored>,
    journal: &mut Journal,
    who: &Who,
    now_ms: u64,
) -> Pumped {
    //= [MQTT-4.4.0-1]
    //= 3.1.1 [MQTT-4.4.0-1]
    //= [MQTT-4.6.0-1]
    match outbound.resend_next() {
        Some(Resend::Publish { id, delivery, dup }) => {
            if must_hold(journal, who.session, who.kept, delivery.qos) {
                let origin = delivery.message.origin.filter(|_| delivery.qos == QoS::ExactlyOnce);
                let origin = origin.map(|(origin, seq)| (origin, seq.get()));
                let held = Held { id, dup, origin, lsn: u64::MAX };
                journal.hold(who.session, who.generation, held);
                return Pumped::Held;
            }
            let sent = write_one(conn, delivery, id, dup, now_ms);
            return pumped(sent, outbound, journal, who.kept, id);
        }
        Some(Resend::Pubrel { id }) => {
            let kind = ringtide_codec::AckKind::PubRel;
            let code = ringtide_codec::ReasonCode::Success;
            ringtide_codec::write_ack(kind, conn.version, id, code, &mut conn.out);
            return Pumped::Sent(None);
        }
        None => {}
    }
    match outbound.next(now_ms) {
        Next::Send { id, delivery } => {
            //= [MQTT-3.3.1-1]
            //= 3.1.1 [MQTT-3.3.1-1]
            let dup = journal.earlier.may_have_sent(who.session, delivery);
            if must_hold(journal, who.session, who.kept, delivery.qos) {
                let sending = Sending::of(delivery, id, dup);
                hold(journal, (who.session, who.generation), who.kept, sending);
                return Pumped::Held;
            }
            let sent = write_one(conn, delivery, id, dup, now_ms);
            pumped(sent, outbound, journal, who.kept, id)
        }
        //= [MQTT-3.3.2-5]
        Next::Expired(delivery) => {
            journal.done(who.kept, delivery.message.seq);
            let hash = delivery.message.message.topic_hash();
            Pumped::Dropped(hash, DropReason::Expired)
        }
        Next::Idle => Pumped::Idle,
    }
}

/// Sends a PUBLISH that waited for the log, if its exchange still stands.
pub(crate) fn send_held(clients: &mut Clients, index: u32, held: &Held) {
    let Some(session) = clients.sessions.at_mut(index) else { return };
    let (conn_index, kept) = (session.conn, session.kept());
    let Some(conn) = clients.conns.at_mut(conn_index) else { return };
    let Some(outbound) = session.outbound.as_mut() else { return };
    let Some(delivery) = outbound.delivery(held.id).filter(|_| conn.phase == Phase::Open) else {
        return;
    };
    prepare(conn, conn_index, &mut clients.dirty, &mut clients.pool);
    let sent = write_one(conn, delivery, held.id, held.dup, clients.now_ms);
    match pumped(sent, outbound, &mut clients.journal, kept, held.id) {
        Pumped::Sent(Some(qos)) => clients.counters.add(sent_counter(qos), 1),
        Pumped::Dropped(hash, reason) => clients.note_drop(index, hash, reason),
        Pumped::Sent(None) | Pumped::Held | Pumped::Idle => {}
    }
}

/// A PUBLISH that cannot be sent.
struct Unsent {
    reason: DropReason,
    topic_hash: u64,
    seq: u64,
}

/// Writes a PUBLISH to its connection.
fn write_one(
    conn: &mut Conn,
    delivery: &Delivery<Stored>,
    id: PacketId,
    dup: bool,
    now_ms: u64,
) -> Result<QoS, Unsent> {
    let out = Out {
        qos: delivery.qos,
        id: Some(id),
        dup,
        retain: delivery.retain,
        ids: &delivery.subscription_ids,
        expires_ms: delivery.expires_at_ms.map_or(0, NonZeroU64::get),
    };
    let Stored { message: kept, seq, .. } = &delivery.message;
    let unsent = |reason| Unsent { reason, topic_hash: kept.topic_hash(), seq: *seq };
    // It was asked for before: what is not there now never will be.
    let message = kept.message().ok_or_else(|| unsent(DropReason::Unreadable))?;
    match write_publish(conn, &message.view(), Some(&message), &out, now_ms) {
        true => Ok(out.qos),
        false => Err(unsent(DropReason::TooLarge)),
    }
}

/// What became of a PUBLISH; the exchange of one that cannot be sent is over.
//= [MQTT-3.1.2-25]
fn pumped(
    sent: Result<QoS, Unsent>,
    outbound: &mut Outbound<Stored>,
    journal: &mut Journal,
    kept: SessionId,
    id: PacketId,
) -> Pumped {
    match sent {
        Ok(qos) => Pumped::Sent(Some(qos)),
        Err(Unsent { reason, topic_hash, seq }) => {
            journal.done(kept, seq);
            outbound.give_up(id);
            Pumped::Dropped(topic_hash, reason)
        }
    }
}
