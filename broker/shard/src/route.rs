//! Routing: one message to the sessions, shared groups, retained store and other shards that it
//! is for. Hot: read it from top to bottom. Knows no connection's protocol state.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use ringtide_codec::QoS;
use ringtide_storage::record::MessageHead;
use ringtide_topics::interest::{InterestTable, ShardSet};
use ringtide_topics::{Levels, MatchScratch, SessionRef, Table, TenantId};

use crate::clients::Clients;
use crate::custody::Custody;
use crate::deliver::{Fan, Queues, deliver};
use crate::groups::Groups;
use crate::mesh_out::MeshOut;
use crate::message::{Header, Message, View};
use crate::note::Chosen;
use crate::park::Progress;
use crate::partition::PartitionMap;
use crate::retained::RetainedStore;
use crate::session::Membership;
use crate::share::Share;

/// Sessions that one step of a fan-out serves before it looks at the budget.
const FAN_CHUNK: usize = 256;
/// Steps of a fan-out before it gives way to other work, whatever is left of the budget: writing
/// to outputs that are written anyway costs few sends, but time.
const FAN_STEPS_MAX: u32 = 8;
/// Fan-outs under way on a shard above which publishers wait.
pub(crate) const FANS_MAX: usize = 64;
/// Deliveries that cost as much as one send.
const DELIVERIES_PER_SEND: u32 = 32;

/// One shard's subscriptions and what it shares of them.
pub(crate) struct Routes {
    pub(crate) table: Table,
    pub(crate) interest: Arc<InterestTable>,
    pub(crate) partitions: Arc<PartitionMap>,
    pub(crate) groups: Groups,
    pub(crate) retained: RetainedStore,
    pub(crate) queues: Queues,
    pub(crate) custody: Custody,
    /// Publishes whose local fan-out did not end in one turn, oldest first.
    pub(crate) fans: VecDeque<FanJob>,
    pub(crate) levels: Levels,
    pub(crate) scratch: MatchScratch,
    pub(crate) frames: Vec<u8>,
    /// Sends that this turn may still bring about.
    pub(crate) budget: u32,
    /// Counts the changes of subscriptions and groups: what was remembered of a route is void
    /// after one.
    pub(crate) changes: u64,
}

impl Routes {
    /// Gives a step what it may always bring about, however much others have used.
    pub(crate) fn at_least(&mut self, sends: u32) {
        self.budget = self.budget.max(sends.max(1));
    }
}

/// A local fan-out with a cursor.
pub(crate) struct FanJob {
    message: Message,
    publisher: Option<SessionRef>,
    after: Option<SessionRef>,
    /// In whose custody it is, if it must outlive a crash.
    custody: Option<(u16, u64)>,
    /// Sessions that had it before a crash.
    given: Vec<u32>,
}

impl FanJob {
    /// A fan-out that an earlier run began, for all but those who had it.
    pub(crate) fn resumed(message: Message, custody: (u16, u64), given: Vec<u32>) -> FanJob {
        FanJob { message, publisher: None, after: None, custody: Some(custody), given }
    }
}

/// Routes a message that was published here: to local sessions and groups, and to the other
/// shards that may match. Returns true when all is done, false when a lane was full; then call
/// again later with the same `progress`.
pub(crate) fn publish(
    routes: &mut Routes,
    clients: &mut Clients,
    mesh: &mut MeshOut,
    fan: &mut Fan<'_>,
    publisher: Option<SessionRef>,
    progress: &mut Progress,
) -> bool {
    if !progress.local_done && routes.fans.len() >= FANS_MAX {
        return false;
    }
    // Probed anew at each try: a subscription made while the publish waited must not be missed.
    let shards = match mesh.shards {
        1 => ShardSet::default(),
        _ => interested(routes, mesh, &fan.view),
    };
    if !progress.local_done {
        if !progress.chosen {
            progress.chosen = true;
            routes.groups.choose(fan, clients, mesh.me, &mut progress.members);
        }
        // What will be acknowledged goes everywhere at once or waits as a whole: its record names
        // all that it is for.
        if clients.journal.on
            && fan.view.header.qos != QoS::AtMostOnce
            && !has_room(mesh, fan, &shards, &progress.members)
        {
            return false;
        }
        progress.local_done = true;
        //= [MQTT-3.3.1-8]
        //= 3.1.1 [MQTT-3.3.1-12]
        let local_home =
            fan.view.header.retain && routes.partitions.shard(fan.view.header.partition) == mesh.me;
        if local_home {
            routes.retained.set(fan, clients);
        }
        progress.reached |= local(routes, clients, fan, publisher);
        progress.reached |= !progress.members.is_empty();
    }
    let mut all_sent = true;
    // The members go last: one that finds no room is chosen again later, by this shard's own
    // custody, while the record of what has gone to a part of the shards could not be written.
    all_sent &= remote(routes, mesh, fan, &shards, progress, clients.journal.on);
    if !progress.members.is_empty() {
        all_sent &= members(routes, clients, mesh, fan, &mut progress.members);
    }
    all_sent
}

/// True if every other shard that a message is for can be sent it now.
fn has_room(
    mesh: &mut MeshOut,
    fan: &Fan<'_>,
    shards: &ShardSet,
    members: &[(u16, Chosen)],
) -> bool {
    let me = mesh.me;
    (0..mesh.shards).filter(|shard| *shard != me).all(|shard| {
        let chosen = members.iter().filter(|(own, _)| *own == shard).count();
        let count = chosen + usize::from(shards.contains(shard));
        count == 0 || mesh.has_room(shard, &fan.view, count)
    })
}

/// Routes a message that another shard published. `seq` is its place in the order of what must be
/// taken over from there, 0 for one that need not.
pub(crate) fn arrived(
    routes: &mut Routes,
    clients: &mut Clients,
    (from, seq): (u16, u64),
    view: View<'_>,
    message: Option<Message>,
) {
    if seq != 0 && !routes.custody.take(from, seq) {
        return;
    }
    let mut fan = Fan::new(view);
    fan.message = message;
    fan.fleeting = seq == 0;
    let mut was_retained = false;
    if seq != 0 {
        fan.custody = Some((from, seq));
        let given = routes.custody.given.remove(&(from, seq)).unwrap_or_default();
        (fan.given, was_retained) = (given.sessions, given.retained);
    }
    let is_home = routes.partitions.shard(view.header.partition) == routes.queues.me;
    if view.header.retain && is_home && !was_retained {
        routes.retained.set(&mut fan, clients);
        // Also if it changed nothing: sent again after a crash it would change what came since.
        fan.retained |= seq != 0;
    }
    local(routes, clients, &mut fan, None);
    record(clients, &fan);
}

/// Records what follows here from a message that is in another's custody, or in this shard's own.
pub(crate) fn record(clients: &mut Clients, fan: &Fan<'_>) {
    if clients.journal.has_entries() || fan.retained {
        let head =
            MessageHead { retained: fan.retained, origin: fan.custody, ..MessageHead::default() };
        clients.journal.message(&head, &fan.view, fan.kept.as_ref());
    }
}

/// Takes a message into this shard's own custody, unless it is in somebody's: what is left to do
/// with it takes longer than a turn. One that the shard publishes by itself gets a place for each
/// part that is left: its own place is done with when its record is written.
fn into_custody(
    routes: &mut Routes,
    clients: &Clients,
    fan: &mut Fan<'_>,
    group: u64,
) -> Option<(u16, u64)> {
    if !clients.journal.on || fan.view.header.qos == QoS::AtMostOnce || fan.fleeting {
        return None;
    }
    let me = routes.queues.me;
    let custody = match fan.custody {
        Some(custody) if !fan.is_own => custody,
        _ => {
            let own = routes.custody.give(me, group);
            fan.destinations.push(own);
            (me, own.seq)
        }
    };
    routes.custody.begin(custody.0, custody.1);
    Some(custody)
}

/// The sessions of this shard. True if at least one matched.
fn local(
    routes: &mut Routes,
    clients: &mut Clients,
    fan: &mut Fan<'_>,
    publisher: Option<SessionRef>,
) -> bool {
    let hash = fan.view.header.topic_hash;
    if routes.fans.iter().any(|job| job.message.view().header.topic_hash == hash) {
        //= 3.1.1 [MQTT-4.6.0-5]
        // Order within a topic: this one waits behind the fan-out that is under way.
        put_off(routes, clients, fan, publisher, None);
        return true;
    }
    if let Some(after) = fan_out(routes, clients, fan, publisher, None) {
        put_off(routes, clients, fan, publisher, Some(after));
    }
    fan.hits > 0
}

/// Leaves the rest of a local fan-out to later turns.
fn put_off(
    routes: &mut Routes,
    clients: &Clients,
    fan: &mut Fan<'_>,
    publisher: Option<SessionRef>,
    after: Option<SessionRef>,
) {
    let custody = into_custody(routes, clients, fan, 0);
    let message = fan.message().clone();
    let given = fan.given.clone();
    routes.fans.push_back(FanJob { message, publisher, after, custody, given });
}

/// Delivers to matching sessions behind `after`, within the turn's budget.
fn fan_out(
    routes: &mut Routes,
    clients: &mut Clients,
    fan: &mut Fan<'_>,
    publisher: Option<SessionRef>,
    after: Option<SessionRef>,
) -> Option<SessionRef> {
    //= 3.1.1 [MQTT-3.3.2-3]
    //= [MQTT-4.7.3-4]
    //= 3.1.1 [MQTT-4.7.3-4]
    let Routes { table, scratch, frames, queues, budget, .. } = routes;
    frames.clear();
    let view = fan.view;
    let mut after = after;
    let mut steps = 0;
    loop {
        let (hits, sends) = (fan.hits, clients.dirty.len());
        let rest = table.matches_from(
            view.header.tenant,
            view.topic,
            view.header.topic_hash,
            publisher,
            after,
            FAN_CHUNK,
            scratch,
            |hit| deliver(clients, queues, frames, fan, hit),
        );
        // A delivery into an output that is written anyway costs little, a new send much.
        let sends = (clients.dirty.len() - sends) as u32;
        *budget = budget.saturating_sub(sends + (fan.hits - hits) / DELIVERIES_PER_SEND);
        steps += 1;
        match rest {
            Some(last) if *budget > 0 && steps < FAN_STEPS_MAX => after = Some(last),
            rest => return rest,
        }
    }
}

/// Goes on with fan-outs that did not end in one turn. True if some are left.
pub(crate) fn go_on(routes: &mut Routes, clients: &mut Clients, over: &dyn Fn() -> bool) -> bool {
    let mut share = Share::new(over, 1);
    let mut first = true;
    while routes.budget > 0 && (mem::take(&mut first) || share.go_on()) {
        let Some(job) = routes.fans.pop_front() else { return false };
        let view = job.message.view();
        let mut fan = Fan::new(view);
        fan.message = Some(job.message.clone());
        fan.custody = job.custody;
        fan.given.clone_from(&job.given);
        let rest = fan_out(routes, clients, &mut fan, job.publisher, job.after);
        record(clients, &fan);
        match (rest, job.custody) {
            (Some(after), _) => routes.fans.push_front(FanJob { after: Some(after), ..job }),
            (None, Some((origin, seq))) => routes.custody.finish(origin, seq),
            (None, None) => {}
        }
    }
    !routes.fans.is_empty()
}

/// The other shards: one record each.
fn remote(
    routes: &mut Routes,
    mesh: &mut MeshOut,
    fan: &mut Fan<'_>,
    shards: &ShardSet,
    progress: &mut Progress,
    keeps: bool,
) -> bool {
    let view = fan.view;
    let asked = view.header.qos != QoS::AtMostOnce;
    let mut all_sent = true;
    for shard in shards.iter() {
        if progress.done.contains(shard) {
            continue;
        }
        progress.reached = true;
        let home = view.header.retain && routes.partitions.shard(view.header.partition) == shard;
        let owed = keeps && asked && (home || mesh.keeps(shard));
        let seq = if owed { routes.custody.next(shard) } else { 0 };
        if mesh.publish(shard, seq, &view, &mut fan.message) {
            progress.done.insert(shard);
            if owed {
                fan.destinations.push(routes.custody.give(shard, 0));
            }
        } else {
            all_sent = false;
        }
    }
    all_sent
}

/// The other shards that a message is for.
pub(crate) fn interested(routes: &mut Routes, mesh: &MeshOut, view: &View<'_>) -> ShardSet {
    let mut shards = ShardSet::default();
    routes.interest.shards_for(
        view.header.tenant,
        view.topic,
        &mut routes.levels,
        view.header.topic_hash,
        &mut shards,
    );
    if view.header.retain {
        shards.insert(routes.partitions.shard(view.header.partition));
    }
    shards.remove(mesh.me);
    shards
}

/// The chosen members of shared groups. True when all have it.
fn members(
    routes: &mut Routes,
    clients: &mut Clients,
    mesh: &mut MeshOut,
    fan: &mut Fan<'_>,
    members: &mut Vec<(u16, Chosen)>,
) -> bool {
    members.retain(|&(shard, chosen)| {
        if shard == mesh.me {
            to_member(routes, clients, fan, chosen);
            return false;
        }
        if to_remote_member(routes, clients, mesh, fan, shard, chosen) {
            return false;
        }
        if clients.journal.on && fan.view.header.qos != QoS::AtMostOnce {
            // Its record is written now: the rest is this shard's own business.
            again(routes, clients, fan, chosen);
            return false;
        }
        true
    });
    members.is_empty()
}

/// Sends a message to a member of a shared group on another shard. False without room for it.
pub(crate) fn to_remote_member(
    routes: &mut Routes,
    clients: &Clients,
    mesh: &mut MeshOut,
    fan: &mut Fan<'_>,
    shard: u16,
    chosen: Chosen,
) -> bool {
    let asked = fan.view.header.qos != QoS::AtMostOnce;
    let owed = clients.journal.on && asked && mesh.keeps(shard);
    let seq = if owed { routes.custody.next(shard) } else { 0 };
    let sent = mesh.member(shard, seq, chosen, &fan.view, &mut fan.message);
    if sent && owed {
        fan.destinations.push(routes.custody.give(shard, chosen.group));
    }
    sent
}

/// A message for a member of a shared group here has come from another shard.
pub(crate) fn member_arrived(
    routes: &mut Routes,
    clients: &mut Clients,
    (from, seq): (u16, u64),
    mut fan: Fan<'_>,
    chosen: Chosen,
) {
    if seq != 0 {
        if !routes.custody.take(from, seq) {
            return;
        }
        fan.custody = Some((from, seq));
    }
    // One that nobody keeps is not taken into custody here: its origin has answered for it.
    fan.fleeting = seq == 0;
    to_member(routes, clients, &mut fan, chosen);
    record(clients, &fan);
}

/// A message needs another member of its group.
fn again(routes: &mut Routes, clients: &Clients, fan: &mut Fan<'_>, chosen: Chosen) {
    let me = routes.queues.me;
    let once = fan.view.header.qos == QoS::ExactlyOnce;
    let waits_for = fan.custody.filter(|(origin, _)| once && *origin != me);
    let custody = into_custody(routes, clients, fan, chosen.group);
    let mut message = fan.message().clone();
    if custody.is_none() && fan.view.header.origin_log != me && !once {
        // Its origin has not recorded it, and what an origin has not recorded is taken back after
        // a crash from those who have it: for them it is this shard's, of any position. (Of QoS 2
        // the origin has the packet id at the message's position.)
        let header = Header { lsn: 0, origin_log: me, ..fan.view.header };
        message = Message::new(&View { header, ..fan.view });
    }
    routes.groups.choose_again(chosen, message, custody, waits_for);
    fan.again = true;
}

/// Delivers to one member of a shared group on this shard; one that has gone since is replaced.
pub(crate) fn to_member(
    routes: &mut Routes,
    clients: &mut Clients,
    fan: &mut Fan<'_>,
    chosen: Chosen,
) {
    let session = clients.sessions.at(chosen.session);
    let session = session.filter(|session| session.generation == chosen.generation);
    let groups = session.and_then(|session| session.groups.as_ref());
    let membership = groups.and_then(|all| all.iter().find(|own| own.group == chosen.group));
    let Some(tag) = membership.map(Membership::tag) else {
        again(routes, clients, fan, chosen);
        return;
    };
    let ids = [chosen.id];
    let hit = ringtide_topics::Hit {
        session: SessionRef(chosen.session),
        options: chosen.options,
        ids: if chosen.id == 0 { &[] } else { &ids },
    };
    if fan.is_unencoded() {
        routes.frames.clear();
    }
    fan.membership = tag;
    deliver(clients, &routes.queues, &mut routes.frames, fan, hit);
    fan.membership = 0;
}

/// The partition and hash of a topic, as the header carries them.
pub(crate) fn place(routes: &Routes, tenant: TenantId, topic: &str, retain: bool) -> u16 {
    // Only a retained message goes to its topic's home: others need not pay for the hash.
    if retain { routes.partitions.partition(tenant, topic) } else { 0 }
}
