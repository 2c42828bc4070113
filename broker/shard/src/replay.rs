//! Retained messages on their way to a new subscription: page by page, as fast as the client
//! takes them. A replay belongs to the session and goes on after a resume.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ringtide_ring::{Grace, Shared};
use ringtide_session::QueueLimits;
use ringtide_topics::retained::Cursor;
use ringtide_topics::{Hit, SessionRef, TenantId};

use crate::clients::Clients;
use crate::conn::Phase;
use crate::deliver::{Fan, deliver};
use crate::message::Message;
use crate::note::{RemoteSession, RetainedPage, RetainedQuery};
use crate::replaying::Rounds;
use crate::route::{self, Routes};
use crate::session::Session;

/// Retained messages wait for a client only until this many of its queue's places are taken.
const QUEUED_MAX: usize = 64;
/// Topics seen live during a replay that are remembered; others may then come twice.
const LIVE_MAX: usize = 4096;
/// Messages that one step delivers.
const STEP_MAX: u32 = 64;

/// No Local, in the options of a subscription.
const OPTION_NO_LOCAL: u8 = 0b0100;

/// One filter's replay.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) tenant: TenantId,
    pub(crate) filter: Arc<str>,
    pub(crate) options: u8,
    pub(crate) id: u32,
    /// Shards still to be asked, the one being asked last.
    pub(crate) shards: Vec<u16>,
    /// The grace period after which the first question may be asked.
    pub(crate) grace: Option<Grace>,
    cursor: Cursor,
    asked: bool,
    /// Which of the session's replays it is, from 1.
    number: u32,
}

impl Item {
    pub(crate) fn new(
        tenant: TenantId,
        filter: Arc<str>,
        options: u8,
        id: u32,
        shards: Vec<u16>,
    ) -> Item {
        Item {
            tenant,
            filter,
            options,
            id,
            shards,
            grace: None,
            cursor: Cursor::default(),
            asked: false,
            number: 0,
        }
    }
}

/// What a page waits for before it is delivered.
///
/// The publish that set a retained message may still be on its way here, through another lane
/// than the page: it must come first, so that the client gets one copy and not two.
#[derive(Debug, Default)]
enum Settling {
    /// Nothing.
    #[default]
    Settled,
    /// Every shard that was inside a turn when the page came must end that turn.
    Turns(Grace),
    /// The lanes must be taken in once more, by this round.
    Lanes(u64),
}

/// A session's replays.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    items: VecDeque<Item>,
    page: VecDeque<Message>,
    settling: Settling,
    /// Topics of retained messages that came live, with the number of the last item there was:
    /// to it and to those before it, what a page holds of them is not new.
    live: HashMap<u64, u32>,
    /// Items that there have been.
    pushed: u32,
    number: u32,
}

/// What a replay needs next.
pub(crate) enum Step {
    /// Nothing more to do.
    Done,
    Wait(Wait),
    /// Ask this shard.
    Ask(u16, Box<RetainedQuery>),
}

/// What a replay waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A page.
    Answer,
    /// The client must read, acknowledge or come back.
    Client,
    /// The next turn.
    Turn,
    /// The other shards: a grace period, or what is in the lanes.
    Shards,
}

impl Replay {
    pub(crate) fn push(&mut self, mut item: Item) {
        self.pushed += 1;
        item.number = self.pushed;
        self.items.push_back(item);
    }

    /// Notes a retained message that was delivered live: it is newer than what a page may hold.
    pub(crate) fn saw(&mut self, topic_hash: u64) {
        if self.live.len() < LIVE_MAX || self.live.contains_key(&topic_hash) {
            self.live.insert(topic_hash, self.pushed);
        }
    }

    /// True if a topic came live since this replay began.
    fn has_seen(&self, item: &Item, topic_hash: u64) -> bool {
        self.live.get(&topic_hash).is_some_and(|last| *last >= item.number)
    }

    /// Forgets what came live before the replay that is the first now.
    fn forget_live(&mut self) {
        match self.items.front().map(|item| item.number) {
            Some(first) => self.live.retain(|_, last| *last >= first),
            None => self.live = HashMap::new(),
        }
    }

    /// Forgets the replay of a filter that was unsubscribed.
    pub(crate) fn forget(&mut self, filter: &str) {
        let current = self.items.front().is_some_and(|item| *item.filter == *filter);
        self.items.retain(|item| *item.filter != *filter);
        if current {
            self.page.clear();
            self.settling = Settling::Settled;
            self.number += 1;
            self.forget_live();
        }
    }

    /// Takes in a page.
    pub(crate) fn answer(&mut self, page: RetainedPage, shared: &Shared) {
        let Some(item) = self.items.front_mut() else { return };
        if page.replay != self.number || !item.asked {
            return;
        }
        item.asked = false;
        self.page.extend(page.messages);
        if shared.shards() > 1 && !self.page.is_empty() {
            self.settling = Settling::Turns(shared.grace());
        }
        match page.cursor {
            Some(cursor) => item.cursor = cursor,
            None => {
                item.cursor = Cursor::default();
                item.shards.pop();
            }
        }
    }

    /// Moves on what the page waits for. True if it may be delivered.
    fn is_settled(&mut self, shared: &Shared, rounds: Rounds) -> bool {
        if let Settling::Turns(grace) = &mut self.settling
            && grace.passed(shared)
        {
            self.settling = Settling::Lanes(rounds.next());
        }
        if let Settling::Lanes(round) = self.settling
            && rounds.is_done(round)
        {
            self.settling = Settling::Settled;
        }
        matches!(self.settling, Settling::Settled)
    }

    /// True if the other shards hold it up.
    pub(crate) fn waits_for_shards(&mut self, shared: &Shared, rounds: Rounds) -> bool {
        if !self.is_settled(shared, rounds) {
            return true;
        }
        let first = self.items.front_mut().filter(|_| self.page.is_empty());
        let grace = first.and_then(|item| item.grace.as_mut());
        grace.is_some_and(|grace| !grace.passed(shared))
    }

    fn next(&mut self, asker: RemoteSession, shared: &Shared) -> Step {
        loop {
            let Some(item) = self.items.front_mut() else { return Step::Done };
            if item.grace.as_mut().is_some_and(|grace| !grace.passed(shared)) {
                return Step::Wait(Wait::Shards);
            }
            item.grace = None;
            let Some(&shard) = item.shards.last() else {
                self.items.pop_front();
                self.number += 1;
                self.forget_live();
                continue;
            };
            if item.asked {
                return Step::Wait(Wait::Answer);
            }
            item.asked = true;
            let query = RetainedQuery {
                asker,
                replay: self.number,
                tenant: item.tenant,
                filter: Arc::clone(&item.filter),
                cursor: item.cursor,
            };
            return Step::Ask(shard, Box::new(query));
        }
    }
}

/// True if the session's queue takes a retained message more without dropping one.
pub(crate) fn has_room(session: &Session, limits: QueueLimits) -> bool {
    let Some(outbound) = session.outbound.as_ref() else { return true };
    let page = session.replay.as_ref().and_then(|replay| replay.page.front());
    let bytes = outbound.queued_bytes() + page.map_or(0, Message::encoded_len) as u64;
    let count = QUEUED_MAX.min(limits.count_max as usize);
    outbound.queued_len() == 0 || (outbound.queued_len() < count && bytes <= limits.bytes_max)
}

/// Moves a session's replay on.
pub(crate) fn step(
    routes: &mut Routes,
    clients: &mut Clients,
    shared: &Shared,
    rounds: Rounds,
    asker: RemoteSession,
) -> Step {
    let index = asker.session;
    for _ in 0..STEP_MAX {
        let Some(session) = clients.sessions.at_mut(index) else { return Step::Done };
        let conn = session.conn;
        let room = has_room(session, routes.queues.limits);
        let Some(replay) = session.replay.as_mut() else { return Step::Done };
        if replay.page.is_empty() {
            return replay.next(asker, shared);
        }
        if !replay.is_settled(shared, rounds) {
            return Step::Wait(Wait::Shards);
        }
        if !room || !clients.is_writable(conn) {
            let full = clients.conns.at(conn).filter(|conn| conn.phase == Phase::Open);
            // An output that is only full is written in this turn.
            let soon = room && full.is_some_and(|conn| !conn.stalled);
            return Step::Wait(if soon { Wait::Turn } else { Wait::Client });
        }
        if routes.budget == 0 {
            break;
        }
        deliver_one(routes, clients, index);
    }
    Step::Wait(Wait::Turn)
}

/// Delivers the first message of the page.
fn deliver_one(routes: &mut Routes, clients: &mut Clients, index: u32) {
    let now_ms = clients.now_ms;
    let Some(session) = clients.sessions.at_mut(index) else { return };
    let own_hash = session.hash;
    let Some(replay) = session.replay.as_mut() else { return };
    let Some(message) = replay.page.pop_front() else { return };
    let view = message.view();
    let expired = view.header.expires_ms != 0 && view.header.expires_ms <= now_ms;
    let Some(item) = replay.items.front().filter(|_| !expired) else { return };
    if replay.has_seen(item, view.header.topic_hash) {
        return;
    }
    //= [MQTT-3.8.3-3]
    if item.options & OPTION_NO_LOCAL != 0 && view.header.publisher == own_hash {
        return;
    }
    let ids = [item.id];
    let hit = Hit {
        session: SessionRef(index),
        options: item.options,
        //= [MQTT-3.3.4-3]
        ids: if item.id == 0 { &[] } else { &ids },
    };
    let mut fan = Fan::new(view);
    fan.message = Some(message.clone());
    //= 3.1.1 [MQTT-3.3.1-8]
    fan.replay = true;
    routes.frames.clear();
    routes.budget = routes.budget.saturating_sub(1);
    deliver(clients, &routes.queues, &mut routes.frames, &mut fan, hit);
    route::record(clients, &fan);
}
