//! What a shard takes in when its disk cannot keep up, or has no space: the store's state is looked
//! at once a turn, and what must be kept waits at its source or is refused by it. What needs no
//! record goes on, and so does what ends work: acknowledgements, ends, deliveries.
//!
//! * *Waits*: more than `store_backlog_bytes_max` waits in memory, or the space that is left is
//!   needed for a checkpoint. Publishes, subscriptions and CONNECTs that need a record wait in
//!   their connections. It passes by itself.
//! * *Refused*: there is no space. MQTT 5 clients are told so. A publish of an older client waits,
//!   because it has no code for it; its retained message of QoS 0 is not kept.
//!
//! A publish goes by the state of its own shard and of those that must keep it too.

use std::collections::VecDeque;

use ringtide_codec::{QoS, ReasonCode, Version};
use ringtide_session::Negotiated;
use ringtide_storage::record::{SessionId, WatermarkRecord};
use ringtide_storage::{RecordKind, Store, Usage};

use crate::conn::Phase;
use crate::connect::Identity;
use crate::core::{Core, Flow};
use crate::counters::Counter;
use crate::deliver::Fan;
use crate::park::{AckWanted, LanesParked, Parked, Progress};
use crate::route;

/// Of the space, in hundredths: a warning is due, and is over.
const WARN_PERCENT: u64 = 80;
const CALM_PERCENT: u64 = 75;
/// The shortest time between two checkpoints of a full store, and how much longer than the last one
/// took: all that lives is written again each time.
const RETRY_LEAST_MS: u64 = 1000;
const RETRY_FACTOR: u64 = 10;

/// Whether a store takes what must be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Intake {
    #[default]
    Open,
    /// Not now: memory, or the space that is left, is needed for what is there.
    Waits,
    /// There is no space.
    Refused,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Of this shard's own store.
    own: Intake,
    /// Some shard's store does not take everything.
    pub(crate) is_pressed: bool,
    /// Shards that wait and that refuse, and when they were looked at.
    others: (u64, u64),
    looked_ms: u64,
    /// Connections (and their generation) with a packet that waits for the disk.
    held_back: VecDeque<(u32, u32)>,
    /// The log's durable position when a checkpoint last went on.
    slice_at: u64,
    /// A checkpoint is under way since then.
    checkpoint_since_ms: Option<u64>,
    /// When a full store may begin another one.
    retry_ms: u64,
    /// What the log was told of last.
    told_full: bool,
    told_little: bool,
    told_disk: bool,
}

impl<S: Store> Core<S> {
    /// Looks at the stores' state: once a turn, so that packets need to ask for a bool only.
    pub(crate) fn look_at_store(&mut self) {
        if !self.clients.journal.on {
            return;
        }
        let own = self.own_intake();
        let mut changed = own != self.disk.own;
        if changed {
            self.set_intake(own);
        }
        // The others' counters lie in memory that they write all the time.
        if self.mesh.shards > 1 && self.disk.looked_ms != self.clients.now_ms {
            self.disk.looked_ms = self.clients.now_ms;
            let sum = |counter: Counter| -> u64 {
                (0..self.mesh.shards).map(|shard| self.mesh.counter_of(shard, counter)).sum()
            };
            let others = (sum(Counter::StoreWaits), sum(Counter::StoreFull));
            changed |= others != self.disk.others;
            self.disk.others = others;
        }
        self.disk.is_pressed = own != Intake::Open || self.disk.others != (0, 0);
        if changed {
            self.parked.append(&mut self.disk.held_back);
        }
        if self.disk.is_pressed {
            self.free_void();
        }
    }

    /// What a checkpoint has made void is freed with a record behind it: here is one that says
    /// nothing, where no other comes.
    fn free_void(&mut self) {
        if !self.store.wants_record() {
            return;
        }
        let mut body = Vec::new();
        WatermarkRecord { marks: Vec::new(), sent: Vec::new() }.encode(&mut body);
        self.record(RecordKind::Watermark, &body);
    }

    fn set_intake(&mut self, own: Intake) {
        self.disk.own = own;
        self.routes.retained.is_closed = own == Intake::Refused;
        let counters = &self.clients.counters;
        counters.set(Counter::StoreWaits, u64::from(own == Intake::Waits));
        counters.set(Counter::StoreFull, u64::from(own == Intake::Refused));
    }

    /// A message was recorded: one turn may bring many, and each may be large.
    pub(crate) fn look_at_backlog(&mut self) {
        if self.disk.own == Intake::Open
            && self.store.waiting_bytes() > self.limits.store_backlog_bytes_max
        {
            self.set_intake(Intake::Waits);
            self.disk.is_pressed = true;
        }
    }

    fn own_intake(&self) -> Intake {
        let max = self.limits.store_backlog_bytes_max;
        // Once it is closed it opens with some room, not for one packet.
        let max = if self.disk.own == Intake::Open { max } else { max / 4 * 3 };
        if self.store.is_full() {
            Intake::Refused
        } else if self.store.is_tight() || self.store.waiting_bytes() > max {
            Intake::Waits
        } else {
            Intake::Open
        }
    }

    /// Whether a shard takes what must be kept.
    fn intake_of(&self, shard: u16) -> Intake {
        if shard == self.mesh.me {
            self.disk.own
        } else if self.mesh.counter_of(shard, Counter::StoreFull) > 0 {
            Intake::Refused
        } else if self.mesh.counter_of(shard, Counter::StoreWaits) > 0 {
            Intake::Waits
        } else {
            Intake::Open
        }
    }

    /// Withholds a publish of which nobody has anything yet, if it needs a record that is not to be
    /// written now.
    #[cold]
    pub(crate) fn withhold(
        &mut self,
        index: u32,
        session: u32,
        ack: AckWanted,
        fan: &mut Fan<'_>,
        progress: &mut Progress,
    ) -> Option<Flow> {
        let intake = self.intake_of_publish(session, ack, fan, progress);
        if intake == Intake::Open {
            return None;
        }
        let conn = self.clients.conns.at(index)?;
        let key = (index, conn.generation);
        if intake == Intake::Refused && conn.version == Version::V5 {
            self.refuse_for_space(index, session, ack);
            return Some(Flow::Continue);
        }
        // When it is tried again, other members may be there: they are chosen anew.
        let parked =
            LanesParked { message: fan.message().clone(), ack, progress: Progress::default() };
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.cold().parked = Some(Parked::Lanes(Box::new(parked)));
        }
        self.hold_back(key);
        Some(Flow::Stop)
    }

    /// What the stores that a publish needs have to say, the worst of it.
    fn intake_of_publish(
        &mut self,
        session: u32,
        ack: AckWanted,
        fan: &mut Fan<'_>,
        progress: &mut Progress,
    ) -> Intake {
        let asked = ack.qos != QoS::AtMostOnce;
        if !asked && !fan.view.header.retain {
            return Intake::Open;
        }
        let me = self.mesh.me;
        let mut worst = Intake::Open;
        let mut own = false;
        if fan.view.header.retain {
            let home = self.routes.partitions.shard(fan.view.header.partition);
            let intake = self.intake_of(home);
            let clears = fan.view.payload.is_empty();
            // What is cleared makes room, and what nobody waits for is delivered and not kept.
            if intake != Intake::Refused || (asked && !clears) {
                worst = intake;
            }
            own |= asked && !clears && home != me;
        }
        if !asked {
            return worst;
        }
        own |= self.inbound_of(session, ack).is_some();
        if !progress.chosen {
            progress.chosen = true;
            self.routes.groups.choose(fan, &self.clients, me, &mut progress.members);
        }
        for &(shard, chosen) in &progress.members {
            if shard != me && self.mesh.keeps(shard) {
                (own, worst) = (true, worst.max(self.intake_of(shard)));
            }
            own |= shard == me && self.is_kept(chosen.session);
        }
        if self.mesh.shards > 1 {
            for shard in route::interested(&mut self.routes, &self.mesh, &fan.view).iter() {
                if self.mesh.keeps(shard) {
                    (own, worst) = (true, worst.max(self.intake_of(shard)));
                }
            }
        }
        own = own || self.concerns_kept(fan);
        fan.fleeting = !own;
        if own { worst.max(self.disk.own) } else { worst }
    }

    fn is_kept(&self, session: u32) -> bool {
        let session = self.clients.sessions.at(session);
        session.is_some_and(|session| session.kept() != SessionId(0))
    }

    /// True if a message is to wait for a session here whose state outlives a crash.
    fn concerns_kept(&mut self, fan: &Fan<'_>) -> bool {
        let view = &fan.view;
        let (tenant, hash) = (view.header.tenant, view.header.topic_hash);
        let Core { routes, clients, .. } = self;
        let mut kept = false;
        routes.table.matches(tenant, view.topic, hash, None, &mut routes.scratch, |hit| {
            let session = clients.sessions.at(hit.session.0);
            kept |= hit.options & 3 > 0
                && session.is_some_and(|session| session.kept() != SessionId(0));
        });
        kept
    }

    /// Tells an MQTT 5 client that there is no space for what it publishes.
    //= [MQTT-4.3.3-9]
    fn refuse_for_space(&mut self, index: u32, session: u32, ack: AckWanted) {
        self.clients.counters.add(Counter::StoreRefused, 1);
        let session = self.clients.sessions.at_mut(session);
        let inbound = session.and_then(|session| session.inbound.as_mut());
        if let (Some(inbound), Some(id)) = (inbound, ack.id) {
            inbound.on_refused(ack.qos, id);
        }
        self.acknowledge(index, ack, ReasonCode::QuotaExceeded, 0);
    }

    /// A packet of this connection waits until the stores' state has changed.
    pub(crate) fn hold_back(&mut self, key: (u32, u32)) {
        self.clients.counters.add(Counter::StoreHeldBack, 1);
        self.disk.held_back.push_back(key);
    }

    /// Whether a subscription may be recorded. One that replaces another takes no more room.
    pub(crate) fn intake_of_filter(&self, index: u32, filter: &str) -> Intake {
        let session = self.clients.sessions.at(index).filter(|_| self.disk.is_pressed);
        let Some(session) = session.filter(|session| session.kept() != SessionId(0)) else {
            return Intake::Open;
        };
        match self.disk.own {
            Intake::Refused if self.is_subscribed(index, session, filter) => Intake::Open,
            own => own,
        }
    }

    /// Whether a client may be let in: a session that is kept already may be carried on, whose
    /// client may take what waits for it.
    pub(crate) fn intake_of_client(
        &self,
        identity: &Identity,
        negotiated: &Negotiated,
        has_will: bool,
    ) -> Intake {
        if !self.disk.is_pressed || self.disk.own == Intake::Open {
            return Intake::Open;
        }
        let Identity { client_id, tenant, .. } = identity;
        let hash = self.routes.partitions.hash(*tenant, client_id);
        let session = self.clients.find(hash, *tenant, client_id);
        let session = session.and_then(|index| self.clients.sessions.at(index));
        let known = session.is_some_and(|session| session.log_id != SessionId(0));
        let lasting = negotiated.session_expiry_s > 0 || has_will;
        match self.disk.own {
            Intake::Refused if lasting && !known => Intake::Refused,
            Intake::Waits if lasting || known => Intake::Waits,
            _ => Intake::Open,
        }
    }

    /// A CONNECT waits for the disk, as long as a CONNECT may take.
    pub(crate) fn hold_connect_back(&mut self, index: u32, identity: Identity, bytes: Vec<u8>) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        conn.phase = Phase::Opening;
        let key = (index, conn.generation);
        conn.cold().parked = Some(Parked::Connect(Box::new((identity, bytes))));
        self.hold_back(key);
    }

    /// True if something waits for space on the disk: the shard must look again before long.
    pub(crate) fn waits_for_disk(&self) -> bool {
        !self.disk.held_back.is_empty()
            || self.store.is_waiting()
            || self.disk.own != Intake::Open
            || self.clients.pages.is_behind()
    }

    /// True if a checkpoint is to be begun: because the log asks for it, or because the store is
    /// full and what has ended since the last one may have made room.
    pub(crate) fn is_checkpoint_due(&mut self) -> bool {
        let now_ms = self.clients.now_ms;
        if let Some(since_ms) = self.disk.checkpoint_since_ms.take() {
            let took_ms = now_ms.saturating_sub(since_ms);
            self.disk.retry_ms = now_ms + RETRY_LEAST_MS.max(RETRY_FACTOR * took_ms);
        }
        let due = self.store.wants_checkpoint()
            || (self.disk.own == Intake::Refused
                && (now_ms >= self.disk.retry_ms || self.store.is_last_chance())
                && self.store.may_win_space());
        if due {
            self.disk.checkpoint_since_ms = Some(now_ms);
        }
        due
    }

    /// True if a checkpoint may add to what waits to be written. Above half of the bound it shares
    /// the disk with publishes: one slice for each write that has ended.
    pub(crate) fn may_write_checkpoint(&mut self) -> bool {
        if self.store.is_waiting() {
            return false;
        }
        let durable = self.durable();
        let much = self.store.waiting_bytes() > self.limits.store_backlog_bytes_max / 2;
        if much && durable == self.disk.slice_at {
            return false;
        }
        self.disk.slice_at = durable;
        true
    }

    /// Tells the log and the counters, once a second, how the store stands.
    pub(crate) fn tell_of_store(&mut self) {
        if !self.clients.journal.on {
            return;
        }
        self.store.second_passed();
        self.free_void();
        let conns = &self.clients.conns;
        // Connections that have ended meanwhile.
        self.disk.held_back.retain(|&(index, generation)| {
            conns.at(index).is_some_and(|conn| conn.generation == generation && conn.is_parked())
        });
        let usage = self.store.usage();
        let counters = &self.clients.counters;
        counters.set(Counter::StoreBytes, usage.used_bytes);
        counters.set(Counter::StoreLiveBytes, usage.live_bytes);
        counters.set(Counter::StoreLimitBytes, usage.limit_bytes);
        let lag = self.store.appended().0.saturating_sub(self.store.durable().0);
        counters.set(Counter::StoreLagRecords, lag);
        counters.set(Counter::StoreLagBytes, self.store.waiting_bytes());
        let memory = &self.clients.pages.memory;
        counters.set(Counter::StoreWaitingBytes, memory.bytes());
        counters.set(Counter::StoreWaitingAway, memory.away() as u64);
        // All shards have the same disk.
        if self.mesh.me == 0 {
            counters.set(Counter::StoreDiskBytes, usage.disk_bytes);
            counters.set(Counter::StoreDiskUsedBytes, usage.disk_used_bytes);
            self.tell_of_disk(&usage);
        }
        self.tell_of_little_space(&usage);
        let warns = self.disk.told_little || self.disk.told_disk;
        self.clients.counters.set(Counter::StoreWarning, u64::from(warns));
        self.tell_of_full_store();
    }

    fn tell_of_disk(&mut self, usage: &Usage) {
        let percent = usage.disk_used_bytes * 100 / usage.disk_bytes.max(1);
        if crosses(&mut self.disk.told_disk, percent) {
            tracing::warn!(
                "the disk of the data directory is {percent} % full: {} of {} bytes, {} are left; \
                 free some, or move data_dir to a larger disk: when nothing is left, what must be \
                 kept is refused",
                usage.disk_used_bytes,
                usage.disk_bytes,
                usage.disk_bytes.saturating_sub(usage.disk_used_bytes)
            );
        }
    }

    fn tell_of_little_space(&mut self, usage: &Usage) {
        if usage.limit_bytes > 0 && crosses(&mut self.disk.told_little, usage.fill_percent) {
            tracing::warn!(
                shard = self.mesh.me,
                "the store has {} % of its space in use: {} bytes live, the files take {} of \
                 store.disk_bytes_max = {}, and a checkpoint needs room beside them; raise \
                 store.disk_bytes_max, or let clients fetch or drop what waits for them: at 100 % \
                 what must be kept is refused",
                usage.fill_percent,
                usage.live_bytes,
                usage.used_bytes,
                usage.limit_bytes
            );
        }
    }

    fn tell_of_full_store(&mut self) {
        let (full, shard) = (self.disk.own == Intake::Refused, self.mesh.me);
        match (self.disk.told_full, full) {
            (false, true) => tracing::error!(
                shard,
                "the store has no room: what must be kept is refused or waits until there is space \
                 on the disk, or below store.disk_bytes_max"
            ),
            (true, false) => tracing::info!(shard, "the store has room again"),
            _ => {}
        }
        self.disk.told_full = full;
    }
}

/// Notes whether a share of the space is worth a warning; true when it begins to be.
fn crosses(told: &mut bool, percent: u64) -> bool {
    let is = percent >= if *told { CALM_PERCENT } else { WARN_PERCENT };
    let begins = is && !*told;
    *told = is;
    begins
}
