//! Retained messages on their way to a new subscription: page by page, as fast as the client
//! takes them. A replay belongs to the session and goes on after a resume.

use std::collections::VecDeque;
use std::sync::Arc;

use ringtide_ring::{Grace, Shared};
use ringtide_session::QueueLimits;
use ringtide_topics::retained::Cursor;
use ringtide_topics::{Hit, SessionRef, TenantId};

use crate::clients::Clients;
use crate::deliver::{Fan, deliver};
use crate::message::Message;
use crate::note::{RemoteSession, RetainedPage, RetainedQuery};
use crate::route::{self, Routes};
use crate::session::Session;

/// Retained messages wait for a client only until this many of its queue's places are taken.
const QUEUED_MAX: usize = 64;
/// Topics seen live during a replay that are remembered; older ones may then come twice.
const LIVE_MAX: usize = 4096;

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
    /// The lanes must be taken in once more.
    Lanes,
}

/// A session's replays.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    items: VecDeque<Item>,
    page: VecDeque<Message>,
    settling: Settling,
    /// Topics of retained messages that came live since: newer than what a page may hold.
    live: Vec<u64>,
    number: u32,
}

/// What a replay needs next.
pub(crate) enum Step {
    /// Nothing more to do.
    Done,
    /// Room at the client, an answer, or the end of a grace period.
    Wait,
    /// Ask this shard.
    Ask(u16, Box<RetainedQuery>),
}

impl Replay {
    pub(crate) fn push(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// Notes a retained message that was delivered live.
    pub(crate) fn saw(&mut self, topic_hash: u64) {
        if self.live.len() < LIVE_MAX {
            self.live.push(topic_hash);
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

    /// True if messages are at hand.
    pub(crate) fn has_page(&self) -> bool {
        !self.page.is_empty() && matches!(self.settling, Settling::Settled)
    }

    /// Moves on what the page waits for. True if it may be delivered.
    fn is_settled(&mut self, shared: &Shared) -> bool {
        match &mut self.settling {
            Settling::Settled => return true,
            Settling::Turns(grace) => {
                if grace.passed(shared) {
                    self.settling = Settling::Lanes;
                }
            }
            // A turn later: its notes have been taken.
            Settling::Lanes => {
                self.settling = Settling::Settled;
                return true;
            }
        }
        false
    }

    /// True if a grace period holds it up.
    pub(crate) fn waits_for_grace(&self) -> bool {
        if !matches!(self.settling, Settling::Settled) {
            return true;
        }
        self.page.is_empty() && self.items.front().is_some_and(|item| item.grace.is_some())
    }

    fn next(&mut self, asker: RemoteSession, shared: &Shared) -> Step {
        loop {
            let Some(item) = self.items.front_mut() else { return Step::Done };
            if item.grace.as_mut().is_some_and(|grace| !grace.passed(shared)) {
                return Step::Wait;
            }
            item.grace = None;
            let Some(&shard) = item.shards.last() else {
                self.items.pop_front();
                self.number += 1;
                continue;
            };
            if item.asked {
                return Step::Wait;
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
    asker: RemoteSession,
) -> Step {
    let index = asker.session;
    loop {
        let Some(session) = clients.sessions.at_mut(index) else { return Step::Done };
        let conn = session.conn;
        let room = has_room(session, routes.queues.limits);
        let Some(replay) = session.replay.as_mut() else { return Step::Done };
        if replay.page.is_empty() {
            return replay.next(asker, shared);
        }
        if !replay.is_settled(shared) {
            return Step::Wait;
        }
        if !room || routes.budget == 0 || !clients.is_writable(conn) {
            return Step::Wait;
        }
        deliver_one(routes, clients, index);
    }
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
    let live = replay.live.contains(&view.header.topic_hash);
    let Some(item) = replay.items.front().filter(|_| !expired && !live) else { return };
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
