//! Which replays of retained messages are moved on when. A replay is looked at when something has
//! happened that it may wait for, never only because it is there: many subscribers may wait.
//!
//! ```text
//!            SUBSCRIBE, resume, page, room at the client
//!                            |
//!                            v      grace period taken
//!   (waits for an answer) <- ready --------------------> settling
//!   (waits for its client)    ^                              |
//!                             +------------------------------+
//!                               the oldest has passed
//! ```

use std::collections::VecDeque;

use ringtide_storage::Store;

use crate::conn::NONE;
use crate::core::Core;
use crate::note::{Note, RemoteSession, RetainedPage, RetainedQuery};
use crate::replay::{self, Step, Wait};
use crate::share::Share;

/// Sessions whose replay is moved on before the clock is looked at.
const REPLAYS_LEAST: u32 = 2;

/// Counts how often everything that was in the lanes to this shard has been taken in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rounds {
    /// Rounds that were begun.
    pub(crate) begun: u64,
    /// Rounds that are done: equal to `begun`, or one less.
    pub(crate) done: u64,
}

/// The replays that are moved on, sessions with their generation, each in one list at most.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    /// Something has happened that they may wait for.
    pub(crate) ready: VecDeque<(u32, u32)>,
    /// They wait for the other shards, in the order in which they began to.
    pub(crate) settling: VecDeque<(u32, u32)>,
    pub(crate) rounds: Rounds,
}

impl Rounds {
    /// The first round that takes in all that is in the lanes now.
    pub(crate) fn next(self) -> u64 {
        self.begun + 1
    }

    pub(crate) fn is_done(self, round: u64) -> bool {
        self.done >= round
    }
}

impl<S: Store> Core<S> {
    /// Asks that a session's replay is moved on, if it has one and a connection.
    pub(crate) fn want_replay(&mut self, index: u32) {
        let Some(session) = self.clients.sessions.at_mut(index) else { return };
        if session.replay.is_some() && !session.replaying && session.conn != NONE {
            session.replaying = true;
            self.replays.ready.push_back((index, session.generation));
        }
    }

    /// Moves the replays on, within the turn's budget. True if one of them could go on at once.
    pub(crate) fn step_replays(&mut self, over: &dyn Fn() -> bool) -> bool {
        self.settle_replays();
        let mut share = Share::new(over, REPLAYS_LEAST);
        for _ in 0..self.replays.ready.len() {
            let Some((index, generation)) = self.replays.ready.pop_front() else { break };
            if self.is_replaying(index, generation) {
                self.step_replay(index, generation);
                if !share.go_on() {
                    break;
                }
            }
        }
        !self.replays.ready.is_empty()
    }

    /// Lets those go on whose wait for the other shards is over. The oldest grace period passes
    /// first, so nobody else need be looked at.
    fn settle_replays(&mut self) {
        while let Some(&(index, generation)) = self.replays.settling.front() {
            let Core { clients, mesh, replays, .. } = self;
            let session = clients.sessions.at_mut(index);
            let session = session.filter(|session| session.generation == generation);
            if let Some(session) = session
                && let Some(replay) = session.replay.as_mut()
                && session.conn != NONE
            {
                if replay.waits_for_shards(&mesh.shared, replays.rounds) {
                    return;
                }
                self.replays.ready.push_back((index, generation));
            } else if let Some(session) = clients.sessions.at_mut(index)
                && session.generation == generation
            {
                session.replaying = false;
            }
            self.replays.settling.pop_front();
        }
    }

    /// Takes a session off the list. False if it has ended or is away: then it goes on when it is
    /// resumed.
    fn is_replaying(&mut self, index: u32, generation: u32) -> bool {
        let session = self.clients.sessions.at_mut(index);
        let Some(session) = session.filter(|session| session.generation == generation) else {
            return false;
        };
        session.replaying = false;
        session.conn != NONE && session.replay.is_some()
    }

    /// Moves one replay on and puts it where it waits.
    fn step_replay(&mut self, index: u32, generation: u32) {
        let asker = RemoteSession { shard: self.mesh.me, session: index, generation };
        let Core { routes, clients, mesh, replays, .. } = self;
        match replay::step(routes, clients, &mesh.shared, replays.rounds, asker) {
            Step::Done => {
                if let Some(session) = clients.sessions.at_mut(index) {
                    session.replay = None;
                }
            }
            // A page, or room at the client, brings it back.
            Step::Wait(Wait::Answer | Wait::Client) => {}
            Step::Wait(Wait::Turn) => self.want_replay(index),
            Step::Wait(Wait::Shards) => {
                if let Some(session) = clients.sessions.at_mut(index) {
                    session.replaying = true;
                    self.replays.settling.push_back((index, generation));
                }
            }
            Step::Ask(shard, query) => {
                if shard == mesh.me {
                    let waiting = crate::retained::Waiting { positions: Vec::new(), query };
                    routes.retained.waiting.push_back(waiting);
                } else {
                    mesh.tell(shard, Note::RetainedQuery(query));
                }
            }
        }
    }

    /// Answers a question for retained messages.
    pub(crate) fn answer_query(&mut self, query: &RetainedQuery) {
        let page = self.routes.retained.page(query, self.clients.now_ms);
        if query.asker.shard == self.mesh.me {
            self.on_page(page);
        } else {
            self.mesh.tell(query.asker.shard, Note::RetainedPage(Box::new(page)));
        }
    }

    /// A page of retained messages has come.
    pub(crate) fn on_page(&mut self, page: RetainedPage) {
        let asker = page.asker;
        let session = self.clients.sessions.at_mut(asker.session);
        let session = session.filter(|session| session.generation == asker.generation);
        if let Some(replay) = session.and_then(|session| session.replay.as_mut()) {
            replay.answer(page, &self.mesh.shared);
            self.want_replay(asker.session);
        }
    }
}
