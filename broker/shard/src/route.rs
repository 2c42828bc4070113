//! Routing: one message to the sessions, shared groups, retained store and other shards that it
//! is for. Hot: read it from top to bottom. Knows no connection's protocol state.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use ringtide_topics::interest::{InterestTable, ShardSet};
use ringtide_topics::{Levels, MatchScratch, SessionRef, Table, TenantId};

use crate::clients::Clients;
use crate::deliver::{Fan, Queues, deliver};
use crate::groups::Groups;
use crate::mesh_out::MeshOut;
use crate::message::{Message, View};
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
    if !progress.local_done {
        if routes.fans.len() >= FANS_MAX {
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
        routes.groups.choose(fan, clients, mesh.me, &mut progress.members);
        progress.reached |= !progress.members.is_empty();
    }
    let mut all_sent = true;
    if !progress.members.is_empty() {
        all_sent &= members(routes, clients, mesh, fan, &mut progress.members);
    }
    if mesh.shards > 1 {
        all_sent &= remote(routes, mesh, fan, progress);
    }
    all_sent
}

/// Routes a message that another shard published.
pub(crate) fn arrived(
    routes: &mut Routes,
    clients: &mut Clients,
    me: u16,
    view: View<'_>,
    message: Option<Message>,
) {
    let mut fan = Fan::new(view);
    fan.message = message;
    if view.header.retain && routes.partitions.shard(view.header.partition) == me {
        routes.retained.set(&mut fan, clients);
    }
    local(routes, clients, &mut fan, None);
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
        let message = fan.message().clone();
        routes.fans.push_back(FanJob { message, publisher, after: None });
        return true;
    }
    if let Some(after) = fan_out(routes, clients, fan, publisher, None) {
        let message = fan.message().clone();
        routes.fans.push_back(FanJob { message, publisher, after: Some(after) });
    }
    fan.hits > 0
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
        if let Some(after) = fan_out(routes, clients, &mut fan, job.publisher, job.after) {
            routes.fans.push_front(FanJob { after: Some(after), ..job });
        }
    }
    !routes.fans.is_empty()
}

/// The other shards: one record each.
fn remote(
    routes: &mut Routes,
    mesh: &mut MeshOut,
    fan: &mut Fan<'_>,
    progress: &mut Progress,
) -> bool {
    let view = fan.view;
    let mut shards = ShardSet::default();
    // Probed anew at each try: a subscription made while the publish waited must not be missed.
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
    let mut all_sent = true;
    for shard in shards.iter() {
        if progress.done.contains(shard) {
            continue;
        }
        progress.reached = true;
        if mesh.publish(shard, &view, &mut fan.message) {
            progress.done.insert(shard);
        } else {
            all_sent = false;
        }
    }
    all_sent
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
        !mesh.member(shard, chosen, &fan.view, &mut fan.message)
    });
    members.is_empty()
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
        let message = fan.message().clone();
        routes.groups.choose_again(chosen, message);
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
