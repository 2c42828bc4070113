//! Walks over all connections or sessions of a shard, a stretch in each turn: the drain at the end
//! of the broker, the judging of subscriptions by new rules, and the search of queues for expired
//! messages.

use std::mem;
use std::sync::Arc;

use ringtide_codec::ReasonCode;
use ringtide_storage::Store;
use ringtide_topics::Filter;

use crate::access::{Action, Verdict, Who};
use crate::conn::{Cause, NONE};
use crate::core::{Core, Flow};
use crate::ledger::DropReason;
use crate::message::Message;
use crate::park::{AckWanted, LanesParked, Parked, Progress};
use crate::session::Stored;
use crate::share::Share;
use crate::steering::Settings;

/// Seconds in which the queues of all sessions are looked at once, if they are many.
const SWEEP_SECONDS: u32 = 60;
/// Sessions whose queues are looked at in a second at least.
const SWEEP_LEAST: u32 = 256;
/// Connections or sessions that a walk visits before it looks at the clock.
const VISITS_LEAST: u32 = 16;

/// How far the walks have come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walks {
    /// The next connection to be closed because the broker goes down.
    pub(crate) drain_at: Option<u32>,
    /// The next session whose subscriptions are judged anew after a change of the rules.
    revoke_at: Option<u32>,
    /// The next session whose queue is looked at for expired messages, and how many sessions are
    /// still to be looked at in this second.
    sweep_at: u32,
    pub(crate) sweep_left: u32,
}

impl<S: Store> Core<S> {
    /// Goes on with the walks that are under way. True if one is not at its end.
    pub(crate) fn walk(&mut self, over: &dyn Fn() -> bool) -> bool {
        self.drain(over);
        self.revoke(over);
        self.sweep_queues(over);
        self.walks.drain_at.is_some() || self.walks.revoke_at.is_some() || self.walks.sweep_left > 0
    }

    /// Begins the second's stretch of the walk over all queues.
    pub(crate) fn begin_sweep(&mut self) {
        let end = self.clients.sessions.end();
        self.walks.sweep_left = end.div_ceil(SWEEP_SECONDS).max(SWEEP_LEAST).min(end);
    }

    /// Frees expired messages of queues that nothing else looks at: those of sessions that are
    /// away, or whose clients do not acknowledge.
    fn sweep_queues(&mut self, over: &dyn Fn() -> bool) {
        let mut share = Share::new(over, VISITS_LEAST);
        while self.walks.sweep_left > 0 {
            self.walks.sweep_left -= 1;
            self.sweep_queue(self.walks.sweep_at);
            self.walks.sweep_at += 1;
            if self.walks.sweep_at >= self.clients.sessions.end() {
                self.walks.sweep_at = 0;
            }
            if !share.go_on() {
                return;
            }
        }
    }

    fn sweep_queue(&mut self, index: u32) {
        let now_ms = self.clients.now_ms;
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        let Some(outbound) = session.outbound.as_mut() else { return };
        let mut expired = Vec::new();
        outbound.sweep_expired(now_ms, |delivery| {
            let Stored { message, seq, .. } = &delivery.message;
            expired.push((message.topic_hash(), *seq));
        });
        if expired.is_empty() {
            return;
        }
        session.trim();
        let kept = session.kept();
        for (hash, seq) in expired {
            self.clients.journal.done(kept, seq);
            self.clients.note_drop(index, hash, DropReason::Expired);
        }
        self.want_replay(index);
    }

    /// Closes every connection: the broker goes down.
    fn drain(&mut self, over: &dyn Fn() -> bool) {
        let Some(mut at) = self.walks.drain_at else { return };
        let mut share = Share::new(over, VISITS_LEAST);
        let end = self.clients.conns.end();
        while at < end {
            self.close(at, Cause::Told(ReasonCode::ServerShuttingDown));
            at += 1;
            if !share.go_on() {
                break;
            }
        }
        self.walks.drain_at = (at < end).then_some(at);
    }

    /// Takes in new settings.
    pub(crate) fn reload(&mut self, settings: Settings) {
        self.clients.write_buffer_max = settings.limits.write_buffer_max_bytes;
        self.clients.pages.bytes_max = settings.limits.waiting_memory_bytes_max;
        self.routes.queues = crate::build::queues(&settings.limits, self.mesh.me);
        let limits = Arc::new(settings.limits);
        self.promises.change(&limits.server);
        self.routes.retained.set_limits(limits.retained_count_max, limits.retained_bytes_max);
        let strategies = limits.shared_strategies.clone();
        self.routes.groups.set_strategies(limits.shared_strategy, strategies);
        self.limits = limits;
        self.access = settings.access;
        self.walks.revoke_at = (!self.access.is_open()).then_some(0);
        self.judge_again();
    }

    /// Asks the new rules about every packet that waits for the verdict of the old ones: that
    /// would never come.
    fn judge_again(&mut self) {
        let mut waiting: Vec<(u32, u32)> = mem::take(&mut self.tickets).into_values().collect();
        // The order of a map is not the same in every run.
        waiting.sort_unstable();
        for (index, generation) in waiting {
            let Some(parked) = self.unpark(index, generation) else { continue };
            let flow = match parked {
                Parked::Verdict { message, ack } => self.judge_publish(index, message, ack),
                Parked::Subscribe(mut job) => {
                    job.judge_again();
                    self.advance(index, job)
                }
                Parked::Lanes(parked) => self.send_parked(index, *parked),
                Parked::Connect(waits) => {
                    self.open(index, waits.0, waits.1);
                    continue;
                }
            };
            if flow == Flow::Continue {
                self.resume(index);
            }
        }
    }

    fn judge_publish(&mut self, index: u32, message: Message, ack: AckWanted) -> Flow {
        let session = self.clients.conns.at(index).map_or(NONE, |conn| conn.session);
        match self.judge(session, message.view().topic) {
            Verdict::Allow => {
                let parked = LanesParked { message, ack, progress: Progress::default() };
                self.send_parked(index, parked)
            }
            Verdict::Deny => self.unauthorized(index, ack),
            Verdict::Park(ticket) => {
                self.wait_for_verdict(index, ticket, Parked::Verdict { message, ack });
                Flow::Stop
            }
        }
    }

    /// Removes the subscriptions that the rules no longer allow: a right that was revoked must not
    /// live on in a session.
    fn revoke(&mut self, over: &dyn Fn() -> bool) {
        let Some(mut at) = self.walks.revoke_at else { return };
        let mut share = Share::new(over, VISITS_LEAST);
        let end = self.clients.sessions.end();
        while at < end {
            for filter in self.revoked_of(at) {
                self.unsubscribe(at, &filter);
            }
            at += 1;
            if !share.go_on() {
                break;
            }
        }
        self.walks.revoke_at = (at < end).then_some(at);
    }

    fn revoked_of(&self, index: u32) -> Vec<String> {
        let Some(session) = self.clients.sessions.at(index) else { return Vec::new() };
        let who = Who { client_id: &session.client_id, username: session.username.as_deref() };
        let own = session.filters.iter().map(|id| self.routes.table.filter_str(*id).1.to_string());
        let shared = session.groups.iter().flat_map(|groups| groups.iter());
        own.chain(shared.map(|membership| membership.filter.to_string()))
            .filter(|filter| {
                let parsed = Filter::parse(filter, u16::MAX);
                let plain = parsed.map_or(filter.as_str(), |parsed| parsed.filter());
                self.access.authorize_now(who, Action::Subscribe, plain) == Verdict::Deny
            })
            .collect()
    }
}
