//! Shared groups: their members and the choice of one of them per message.
//!
//! Owns the membership of one group (at the group's home shard) and the rule by which a member is
//! chosen. Pure: it sends nothing, reads no clock, and takes its randomness from a seed.
//! Must not: know filters, queues or connections, nor how a snapshot travels.
//!
//! The home publishes an [`Snapshot`] per epoch to all shards. random, round_robin, local and
//! hash_* choose at the publisher's shard. sticky and least_backlog choose at the home
//! ([`Strategy::at_home`]), and so do a group with nobody online and a redelivery.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::SessionRef;

/// How many members [`Strategy::LeastBacklog`] compares for one message, at most. In a larger
/// group the compared ones move on from message to message.
pub const BACKLOG_COMPARED_MAX: usize = 128;

/// How a group chooses the member that gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Any member, each as likely.
    Random,
    /// One after another; each publishing shard keeps its own place.
    #[default]
    RoundRobin,
    /// The member that got the last message, until it goes or refuses.
    Sticky,
    /// One after another of the members on the publisher's shard; of all when it has none.
    Local,
    /// By the publisher's client id: messages of one client go to one member.
    HashClientId,
    /// By the topic: messages of one topic go to one member.
    HashTopic,
    /// The member with the shortest queue, as far as the home knows.
    LeastBacklog,
}

impl Strategy {
    /// All strategies, in the order of their configuration names.
    pub const ALL: [Self; 7] = [
        Self::Random,
        Self::RoundRobin,
        Self::Sticky,
        Self::Local,
        Self::HashClientId,
        Self::HashTopic,
        Self::LeastBacklog,
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::Sticky => "sticky",
            Self::Local => "local",
            Self::HashClientId => "hash_clientid",
            Self::HashTopic => "hash_topic",
            Self::LeastBacklog => "least_backlog",
        }
    }

    /// Whether the choice must be made at the group's home, because it needs state that is of one
    /// group and not of one shard.
    #[must_use]
    pub fn at_home(self) -> bool {
        matches!(self, Self::Sticky | Self::LeastBacklog)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is the name of no [`Strategy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownStrategy;

impl fmt::Display for UnknownStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown strategy; known are")?;
        Strategy::ALL.iter().try_for_each(|strategy| write!(f, " {strategy}"))
    }
}

impl std::error::Error for UnknownStrategy {}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or(UnknownStrategy)
    }
}

/// One session's membership of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The shard that is the session's home.
    pub shard: u16,
    /// The session's number there.
    pub session: SessionRef,
    /// Tells this session from an earlier one with the same number.
    pub generation: u32,
    /// Subscription options as granted: QoS in bits 0-1, retain as published in bit 3.
    pub options: u8,
    /// The subscription id; 0 for none.
    pub id: u32,
    /// Whether the session has a connection.
    pub online: bool,
    /// Messages queued for the session when it last reported.
    pub backlog: u32,
}

impl Member {
    /// What names the member among all: its shard and its number there.
    #[must_use]
    pub fn place(&self) -> (u16, SessionRef) {
        (self.shard, self.session)
    }
}

/// The membership of one group, kept at its home.
#[derive(Debug, Default)]
pub struct Group {
    strategy: Strategy,
    epoch: u64,
    members: BTreeMap<(u16, SessionRef), Member>,
    /// What [`Group::snapshot`] made last; dropped by every change.
    latest: Option<Arc<Snapshot>>,
}

impl Group {
    /// An empty group, at epoch 0.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, ..Self::default() }
    }

    /// Adds a member, or replaces what is known of it. True when it is new.
    pub fn join(&mut self, member: Member) -> bool {
        let before = self.members.insert(member.place(), member);
        if before != Some(member) {
            self.changed();
        }
        before.is_none()
    }

    /// Removes a member.
    pub fn leave(&mut self, shard: u16, session: SessionRef) -> Option<Member> {
        let member = self.members.remove(&(shard, session))?;
        self.changed();
        Some(member)
    }

    /// Notes that a member's connection came or went. False when there is no such member.
    pub fn set_online(&mut self, shard: u16, session: SessionRef, online: bool) -> bool {
        self.update(shard, session, |member| member.online = online)
    }

    /// Notes the length of a member's queue, messages. False when there is no such member.
    pub fn set_backlog(&mut self, shard: u16, session: SessionRef, backlog: u32) -> bool {
        self.update(shard, session, |member| member.backlog = backlog)
    }

    /// Changes how members are chosen.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        if self.strategy != strategy {
            self.strategy = strategy;
            self.changed();
        }
    }

    /// How members are chosen.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Counts the changes; a choice made under an older epoch may name a member that has gone.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of members, online or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What is known of a member.
    #[must_use]
    pub fn member(&self, shard: u16, session: SessionRef) -> Option<&Member> {
        self.members.get(&(shard, session))
    }

    /// The membership of this epoch; made once per epoch, O(members).
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        let snapshot = self.latest.get_or_insert_with(|| {
            let online = self.members.values().filter(|member| member.online);
            let offline = self.members.values().filter(|member| !member.online);
            Arc::new(Snapshot {
                epoch: self.epoch,
                strategy: self.strategy,
                online: online.clone().count(),
                members: online.chain(offline).copied().collect(),
            })
        });
        Arc::clone(snapshot)
    }

    fn update(&mut self, shard: u16, session: SessionRef, set: impl FnOnce(&mut Member)) -> bool {
        let Some(member) = self.members.get_mut(&(shard, session)) else { return false };
        let before = *member;
        set(member);
        if before != *member {
            self.changed();
        }
        true
    }

    fn changed(&mut self) {
        self.epoch += 1;
        self.latest = None;
    }
}

/// What choosing remembers from message to message; one per shard and group.
#[derive(Clone, Debug)]
pub struct ChoiceState {
    /// The place of the member to try next.
    cursor: usize,
    /// The member that [`Strategy::Sticky`] holds on to, with its generation.
    sticky: Option<((u16, SessionRef), u32)>,
    random: u64,
}

impl ChoiceState {
    /// A state with its own randomness. Seeds should differ between shards, so that they do not
    /// all begin with the same member.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = Self { cursor: 0, sticky: None, random: seed };
        // Half of the range, so that it cannot overflow by counting.
        state.cursor = state.next_random() as usize >> 1;
        state
    }

    /// SplitMix64: one addition and a mix, good for any seed.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.random)
    }

    fn advance(&mut self) -> usize {
        let cursor = self.cursor;
        self.cursor = self.cursor.wrapping_add(1);
        cursor
    }
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The place in `0 .. len` that a hash names; 0 when `len` is 0.
fn place_of(hash: u64, len: usize) -> usize {
    ((u128::from(mix(hash)) * len as u128) >> 64) as usize
}

/// The membership of a group at one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The epoch of the group; the home refuses choices made under an older one.
    pub epoch: u64,
    /// How to choose.
    pub strategy: Strategy,
    /// The members: those online first; each part in the order of shard and session.
    pub members: Box<[Member]>,
    /// How many of `members` are online.
    pub online: usize,
}

impl Snapshot {
    /// Chooses one of the members online for a message; `exclude` names members that refused it.
    ///
    /// `None` when no member online is left: the home then uses [`Snapshot::choose_offline`].
    pub fn choose(
        &self,
        state: &mut ChoiceState,
        local_shard: u16,
        publisher_hash: u64,
        topic_hash: u64,
        exclude: &[(u16, SessionRef)],
    ) -> Option<&Member> {
        let online = self.members.get(..self.online)?;
        if self.strategy == Strategy::Local {
            let start = state.advance();
            return walk(on_shard(online, local_shard), start, exclude)
                .or_else(|| walk(online, start, exclude));
        }
        self.choose_among(online, state, publisher_hash, topic_hash, exclude)
    }

    /// Chooses one of the members offline, whose session then queues the message; for a group
    /// with nobody online. `None` when no member is left.
    pub fn choose_offline(
        &self,
        state: &mut ChoiceState,
        publisher_hash: u64,
        topic_hash: u64,
        exclude: &[(u16, SessionRef)],
    ) -> Option<&Member> {
        let offline = self.members.get(self.online..)?;
        self.choose_among(offline, state, publisher_hash, topic_hash, exclude)
    }

    fn choose_among<'a>(
        &self,
        members: &'a [Member],
        state: &mut ChoiceState,
        publisher_hash: u64,
        topic_hash: u64,
        exclude: &[(u16, SessionRef)],
    ) -> Option<&'a Member> {
        match self.strategy {
            Strategy::Random => {
                walk(members, place_of(state.next_random(), members.len()), exclude)
            }
            Strategy::RoundRobin | Strategy::Local => walk(members, state.advance(), exclude),
            Strategy::Sticky => stick(members, state, exclude),
            Strategy::HashClientId => {
                walk(members, place_of(publisher_hash, members.len()), exclude)
            }
            Strategy::HashTopic => walk(members, place_of(topic_hash, members.len()), exclude),
            Strategy::LeastBacklog => least_backlog(members, state.advance(), exclude),
        }
    }
}

/// The members on one shard, of members in the order of their shards.
fn on_shard(members: &[Member], shard: u16) -> &[Member] {
    let from = members.partition_point(|member| member.shard < shard);
    let to = members.partition_point(|member| member.shard <= shard);
    members.get(from..to).unwrap_or(&[])
}

/// All members, beginning with the one at `start` and going round.
fn round(members: &[Member], start: usize) -> impl Iterator<Item = &Member> {
    let start = start.checked_rem(members.len()).unwrap_or(0);
    let (before, from) = members.split_at(start);
    from.iter().chain(before)
}

/// The first member from `start` on that did not refuse. At most `exclude.len()` are passed by.
fn walk<'a>(
    members: &'a [Member],
    start: usize,
    exclude: &[(u16, SessionRef)],
) -> Option<&'a Member> {
    round(members, start).find(|member| !exclude.contains(&member.place()))
}

fn stick<'a>(
    members: &'a [Member],
    state: &mut ChoiceState,
    exclude: &[(u16, SessionRef)],
) -> Option<&'a Member> {
    if let Some((place, generation)) = state.sticky
        && !exclude.contains(&place)
        && let Ok(at) = members.binary_search_by_key(&place, Member::place)
        && let Some(member) = members.get(at)
        && member.generation == generation
    {
        return Some(member);
    }
    let chosen = walk(members, place_of(state.next_random(), members.len()), exclude)?;
    state.sticky = Some((chosen.place(), chosen.generation));
    Some(chosen)
}

/// The least loaded of up to [`BACKLOG_COMPARED_MAX`] members; equal ones take turns, because the
/// first of them wins and `start` moves on.
fn least_backlog<'a>(
    members: &'a [Member],
    start: usize,
    exclude: &[(u16, SessionRef)],
) -> Option<&'a Member> {
    round(members, start)
        .filter(|member| !exclude.contains(&member.place()))
        .take(BACKLOG_COMPARED_MAX)
        .min_by_key(|member| member.backlog)
}
