//! Shared groups. A group's home (the shard of its partition) owns the membership and tells every
//! shard a snapshot of it; the publisher's shard chooses the member from its snapshot. Nothing is
//! forwarded twice, so no cycle of full lanes can form.
//!
//! A SUBSCRIBE is answered when every shard knows the new member: a publish that follows the
//! SUBACK anywhere can choose it. Joins that come while a snapshot is under way share the next.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use ringtide_topics::shared::{ChoiceState, Group, Member, Snapshot, Strategy};
use ringtide_topics::{Filter, MatchScratch, SessionRef, Subscription, Table, TenantId};

use crate::clients::Clients;
use crate::counters::Counter;
use crate::custody::Custody;
use crate::deliver::Fan;
use crate::mesh_out::MeshOut;
use crate::message::Message;
use crate::note::{Change, Chosen, GroupChange, GroupSnapshot, Joined, Note, RemoteSession};
use crate::partition::PartitionMap;
use crate::share::Share;

/// Members whose queues are looked at in a second, a group or more.
const BACKLOG_LOOKS: usize = 4096;

/// A group as one shard knows it.
struct Here {
    key: u64,
    tenant: TenantId,
    filter: Arc<str>,
    snapshot: Arc<Snapshot>,
    state: ChoiceState,
}

/// A group at its home.
struct Home {
    tenant: TenantId,
    filter: Arc<str>,
    group: Group,
    /// The epoch that each shard has said it knows.
    known: Vec<u64>,
    /// The epoch of the last snapshot sent.
    sent: u64,
    /// In the list of groups to be looked at.
    changed: bool,
    /// Members whose join waits for every shard to know of it.
    joining: Vec<(u64, Joined)>,
}

/// A message whose member had gone, to be given to another.
struct Again {
    group: u64,
    /// Shard, number and generation of the member.
    exclude: (u16, SessionRef, u32),
    message: Message,
    /// In whose custody it is, if it must outlive a crash.
    custody: Option<(u16, u64)>,
    /// Another shard's place for it, where it must be durable before it goes on.
    waits_for: Option<(u16, u64)>,
    /// Until then it waits for the group to be known, in milliseconds since the epoch.
    until_ms: u64,
}

/// A message that was given another member.
pub(crate) struct GivenAgain {
    pub(crate) shard: u16,
    pub(crate) chosen: Chosen,
    pub(crate) message: Message,
    pub(crate) custody: Option<(u16, u64)>,
}

pub(crate) struct Groups {
    me: u16,
    shards: u16,
    /// Group filters, with the number in `here` in place of a session's.
    table: Table,
    scratch: MatchScratch,
    here: Vec<Option<Here>>,
    free: Vec<u32>,
    by_key: HashMap<u64, u32>,
    homes: HashMap<u64, Home>,
    changed: VecDeque<u64>,
    again: VecDeque<Again>,
    /// The first group whose members' queues are looked at next.
    backlog_at: usize,
    strategy: Strategy,
    strategies: Vec<(String, Strategy)>,
}

impl Groups {
    pub(crate) fn new(
        me: u16,
        shards: u16,
        strategy: Strategy,
        strategies: Vec<(String, Strategy)>,
    ) -> Groups {
        Groups {
            me,
            shards,
            table: Table::new(),
            scratch: MatchScratch::default(),
            here: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            homes: HashMap::new(),
            changed: VecDeque::new(),
            again: VecDeque::new(),
            backlog_at: 0,
            strategy,
            strategies,
        }
    }

    /// Takes in new strategies: every group whose own has changed is told to all shards.
    pub(crate) fn set_strategies(
        &mut self,
        strategy: Strategy,
        strategies: Vec<(String, Strategy)>,
    ) {
        self.strategy = strategy;
        self.strategies = strategies;
        let mut homes = mem::take(&mut self.homes);
        for (key, home) in &mut homes {
            home.group.set_strategy(self.strategy_of(&home.filter));
            if home.group.epoch() > home.sent && !mem::replace(&mut home.changed, true) {
                self.changed.push_back(*key);
            }
        }
        // The order of a map is not the same in every run.
        self.changed.make_contiguous().sort_unstable();
        self.homes = homes;
    }

    /// Chooses a member of every group that the message matches.
    pub(crate) fn choose(
        &mut self,
        fan: &Fan<'_>,
        clients: &Clients,
        me: u16,
        chosen: &mut Vec<(u16, Chosen)>,
    ) {
        if self.by_key.is_empty() {
            return;
        }
        let Groups { table, scratch, here, .. } = self;
        let header = fan.view.header;
        table.matches(header.tenant, fan.view.topic, header.topic_hash, None, scratch, |hit| {
            let Some(Some(here)) = here.get_mut(hit.session.0 as usize) else { return };
            match pick(here, me, header.publisher, header.topic_hash, &[]) {
                Some(member) => chosen.push((member.shard, of_member(here.key, &member))),
                None => clients.counters.add(Counter::DroppedNoMember, 1),
            }
        });
    }

    /// Notes that a chosen member had gone; [`Groups::take_again`] gives the message another, when
    /// it is durable at the place that it waits for: what its origin loses is taken back from those
    /// that it came from there, not from those who have it by this shard.
    pub(crate) fn choose_again(
        &mut self,
        chosen: Chosen,
        message: Message,
        custody: Option<(u16, u64)>,
        waits_for: Option<(u16, u64)>,
    ) {
        let exclude = (self.me, SessionRef(chosen.session), chosen.generation);
        self.again.push_back(Again {
            group: chosen.group,
            exclude,
            message,
            custody,
            waits_for,
            until_ms: 0,
        });
    }

    /// Notes a message of an earlier run, for any member of its group, which may not be known yet.
    pub(crate) fn choose_anew(
        &mut self,
        group: u64,
        message: Message,
        custody: (u16, u64),
        until_ms: u64,
    ) {
        let exclude = (u16::MAX, SessionRef(u32::MAX), u32::MAX);
        self.again.push_back(Again {
            group,
            exclude,
            message,
            custody: Some(custody),
            waits_for: None,
            until_ms,
        });
    }

    /// A message that needs another member, with that member; `None` without such messages.
    /// Messages of groups without members are dropped and counted.
    pub(crate) fn take_again(
        &mut self,
        clients: &Clients,
        custody_of: &mut Custody,
    ) -> Option<GivenAgain> {
        for _ in 0..self.again.len() {
            let again = self.again.pop_front()?;
            if again.waits_for.is_some_and(|origin| !custody_of.has_committed(origin)) {
                self.again.push_back(again);
                continue;
            }
            let index = self.by_key.get(&again.group);
            let here = index.and_then(|&index| self.here.get_mut(index as usize));
            let header = again.message.view().header;
            let member = here.and_then(Option::as_mut).and_then(|here| {
                // A later session may have its number: that one has not gone.
                let exclude = still_member(&here.snapshot, again.exclude);
                pick(here, self.me, header.publisher, header.topic_hash, exclude.as_slice())
            });
            match member {
                Some(member) => {
                    let chosen = of_member(again.group, &member);
                    let Again { message, custody, .. } = again;
                    return Some(GivenAgain { shard: member.shard, chosen, message, custody });
                }
                None if clients.now_ms < again.until_ms => self.again.push_back(again),
                None => {
                    clients.counters.add(Counter::DroppedNoMember, 1);
                    if let Some((origin, seq)) = again.custody {
                        custody_of.finish(origin, seq);
                    }
                }
            }
        }
        None
    }

    /// Gives a message back that found no room.
    pub(crate) fn put_again(&mut self, given: GivenAgain) {
        // The member was fine, only the lane was full: nobody is excluded the next time.
        let exclude = (u16::MAX, SessionRef(u32::MAX), u32::MAX);
        let GivenAgain { chosen, message, custody, .. } = given;
        let group = chosen.group;
        let waits_for = None;
        let again = Again { group, exclude, message, custody, waits_for, until_ms: 0 };
        self.again.push_front(again);
    }

    /// True if there is no group.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// True if a group is to be looked at.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(crate) fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Messages that need another member.
    pub(crate) fn again_len(&self) -> usize {
        self.again.len()
    }

    /// Tells a group's home what happened to a member.
    pub(crate) fn tell(
        &mut self,
        partitions: &PartitionMap,
        mesh: &mut MeshOut,
        change: GroupChange,
    ) {
        let home = partitions.home(change.tenant, &change.filter);
        if home == self.me {
            self.at_home(partitions, change);
        } else {
            mesh.tell(home, Note::GroupChange(Box::new(change)));
        }
    }

    /// A change of membership has reached the group's home.
    pub(crate) fn at_home(&mut self, partitions: &PartitionMap, change: GroupChange) {
        let GroupChange { tenant, filter, member, change } = change;
        let key = partitions.hash(tenant, &filter);
        let strategy = self.strategy_of(&filter);
        let shards = usize::from(self.shards);
        let home = self.homes.entry(key).or_insert_with(|| Home {
            tenant,
            filter,
            group: Group::new(strategy),
            known: vec![0; shards],
            sent: 0,
            changed: false,
            joining: Vec::new(),
        });
        match change {
            Change::Join(join) => {
                home.group.join(member);
                let who = RemoteSession {
                    shard: member.shard,
                    session: member.session.0,
                    generation: member.generation,
                };
                home.joining.push((home.group.epoch(), Joined { who, join }));
            }
            Change::Leave => {
                home.group.leave(member.shard, member.session);
            }
            Change::Online(online) => {
                home.group.set_online(member.shard, member.session, online);
            }
            Change::Backlog(backlog) => {
                home.group.set_backlog(member.shard, member.session, backlog);
            }
        }
        if !mem::replace(&mut home.changed, true) {
            self.changed.push_back(key);
        }
    }

    fn strategy_of(&self, filter: &str) -> Strategy {
        let name = Filter::parse(filter, u16::MAX).ok().and_then(|filter| filter.share());
        let own = self.strategies.iter().find(|(group, _)| Some(group.as_str()) == name);
        own.map_or(self.strategy, |(_, strategy)| *strategy)
    }

    /// A shard knows a group's membership as of an epoch.
    pub(crate) fn known(&mut self, shard: u16, group: u64, epoch: u64) {
        if let Some(home) = self.homes.get_mut(&group) {
            let known = &mut home.known[usize::from(shard)];
            *known = (*known).max(epoch);
            if !mem::replace(&mut home.changed, true) {
                self.changed.push_back(group);
            }
        }
    }

    /// Sends the snapshots of changed groups and names the members whose join is complete.
    /// True if something was sent or learnt.
    pub(crate) fn flush(
        &mut self,
        mesh: &mut MeshOut,
        joined: &mut Vec<Joined>,
        share: &mut Share<'_>,
    ) -> bool {
        let changed = !self.changed.is_empty();
        let mut go_on = true;
        while go_on && let Some(key) = self.changed.pop_front() {
            go_on = share.go_on();
            let Some(mut home) = self.homes.remove(&key) else { continue };
            home.changed = false;
            let known = home.known.iter().copied().min().unwrap_or(0);
            if known == home.sent && home.group.epoch() > home.sent {
                self.send(key, &mut home, mesh);
            }
            let known = home.known.iter().copied().min().unwrap_or(0);
            home.joining.retain(|&(epoch, join)| {
                if epoch <= known {
                    joined.push(join);
                }
                epoch > known
            });
            if !home.group.is_empty() || known < home.group.epoch() || !home.joining.is_empty() {
                self.homes.insert(key, home);
            }
        }
        changed
    }

    fn send(&mut self, key: u64, home: &mut Home, mesh: &mut MeshOut) {
        let snapshot = home.group.snapshot();
        home.sent = snapshot.epoch;
        for shard in 0..self.shards {
            let note = GroupSnapshot {
                tenant: home.tenant,
                filter: Arc::clone(&home.filter),
                snapshot: Arc::clone(&snapshot),
            };
            if shard == self.me {
                self.learn(key, note);
                home.known[usize::from(shard)] = snapshot.epoch;
            } else {
                mesh.tell(shard, Note::GroupSnapshot(Box::new(note)));
            }
        }
    }

    /// Takes in a snapshot from a group's home.
    pub(crate) fn learn(&mut self, key: u64, note: GroupSnapshot) {
        let GroupSnapshot { tenant, filter, snapshot } = note;
        let parsed = Filter::parse(&filter, u16::MAX).map_or("", |parsed| parsed.filter());
        match self.by_key.get(&key).copied() {
            Some(index) if snapshot.members.is_empty() => {
                self.table.unsubscribe(tenant, parsed, SessionRef(index));
                self.by_key.remove(&key);
                self.here[index as usize] = None;
                self.free.push(index);
            }
            Some(index) => {
                let state = self.choice_state(key, snapshot.strategy);
                if let Some(here) = &mut self.here[index as usize] {
                    if here.snapshot.strategy != snapshot.strategy {
                        here.state = state;
                    }
                    here.snapshot = snapshot;
                }
            }
            None if snapshot.members.is_empty() => {}
            None => {
                let index = self.free.pop().unwrap_or(self.here.len() as u32);
                if index as usize == self.here.len() {
                    self.here.push(None);
                }
                let state = self.choice_state(key, snapshot.strategy);
                let subscription = Subscription { session: SessionRef(index), options: 2, id: 0 };
                self.table.subscribe(tenant, parsed, subscription);
                self.by_key.insert(key, index);
                self.here[index as usize] = Some(Here { key, tenant, filter, snapshot, state });
            }
        }
    }

    /// Sticky must choose alike on every shard; the others must not start alike.
    fn choice_state(&self, key: u64, strategy: Strategy) -> ChoiceState {
        let spread = if strategy == Strategy::Sticky { 0 } else { self.me };
        ChoiceState::new(key ^ (u64::from(spread) << 40))
    }

    /// The queue lengths of this shard's members of groups that choose by them, where they have
    /// changed.
    pub(crate) fn backlogs(&mut self, clients: &Clients) -> Vec<GroupChange> {
        let mut changes = Vec::new();
        let mut looks = 0;
        let first = mem::take(&mut self.backlog_at);
        for (at, here) in self.here.iter().enumerate().skip(first) {
            let by_backlog = |here: &&Here| here.snapshot.strategy == Strategy::LeastBacklog;
            let Some(here) = here.as_ref().filter(by_backlog) else { continue };
            if looks >= BACKLOG_LOOKS {
                self.backlog_at = at;
                break;
            }
            looks += here.snapshot.members.len();
            let mine = here.snapshot.members.iter().filter(|member| member.shard == self.me);
            for member in mine {
                let session = clients.sessions.at(member.session.0);
                let queue = session.and_then(|session| session.outbound.as_ref());
                let backlog = queue.map_or(0, |queue| queue.queued_len() + queue.inflight_len());
                if backlog as u32 != member.backlog {
                    changes.push(GroupChange {
                        tenant: here.tenant,
                        filter: Arc::clone(&here.filter),
                        member: *member,
                        change: Change::Backlog(backlog as u32),
                    });
                }
            }
        }
        changes
    }
}

fn pick(
    here: &mut Here,
    me: u16,
    publisher: u64,
    topic_hash: u64,
    exclude: &[(u16, SessionRef)],
) -> Option<Member> {
    let Here { snapshot, state, .. } = here;
    snapshot
        .choose(state, me, publisher, topic_hash, exclude)
        .or_else(|| snapshot.choose_offline(state, publisher, topic_hash, exclude))
        .copied()
}

/// The place of a member that a group's snapshot still has.
fn still_member(
    snapshot: &Snapshot,
    (shard, session, generation): (u16, SessionRef, u32),
) -> Option<(u16, SessionRef)> {
    let place = (shard, session);
    let mut members = snapshot.members.iter();
    members.any(|one| one.place() == place && one.generation == generation).then_some(place)
}

fn of_member(group: u64, member: &Member) -> Chosen {
    Chosen {
        group,
        session: member.session.0,
        generation: member.generation,
        options: member.options,
        id: member.id,
    }
}
