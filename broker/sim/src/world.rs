//! One run: shards, clients, network and clock in one thread, stepped in an order that follows
//! from the seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringtide_driver::{Turn, TurnEnd, Wait};
use ringtide_ring::{Shared, mesh};
use ringtide_shard::counters::{Counter, Counters};
use ringtide_shard::partition::PartitionMap;
use ringtide_shard::password::{Passwords, Unchecked};
use ringtide_shard::{Limits, Parts, Settings, Shard, Stage, Steering};
use ringtide_storage::state::Parts as Restored;
use ringtide_topics::interest::InterestTable;

use crate::Plan;
use crate::client::{Client, Scene, Surroundings};
use crate::clock::SimClock;
use crate::crash::Crashes;
use crate::driver::{Ear, SimDriver};
use crate::hostile::Hostile;
use crate::model::Model;
use crate::net::{Net, Weather};
use crate::passwords::{Judge, SimPasswords};
use crate::random::Random;
use crate::sabotage::Saboteur;
use crate::scenario::{DENIED, Rules, Scenario};
use crate::store::{Disk, SimStore};
use crate::trace::Trace;
use crate::verdict::Dropped;
use crate::wills::Wills;

/// Steps in which the broker must have become quiet.
const DRAIN_STEPS_MAX: u64 = 400_000;
/// A shard that sleeps for less than this waits for something.
const IDLE_SLEEP: Duration = Duration::from_millis(1);
/// Time after which quiet counts as rest: longer than what retries.
const REST_US: u64 = 3_000;

/// What the shards are told from outside.
#[derive(Debug)]
pub(crate) struct Control {
    stage: AtomicU8,
    epoch: AtomicU64,
    limits: Mutex<Limits>,
    rules: Rules,
}

impl Control {
    fn limits(&self) -> Limits {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// New limits, and new rules: the same again, which know nothing of what the last were asked.
    fn reload(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }
}

impl Steering for Control {
    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Stopped,
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    fn settings(&self) -> Settings {
        Settings { limits: self.limits(), access: self.rules.access() }
    }
}

/// A shard and what the scheduler knows of it.
pub(crate) struct Seat {
    shard: Shard<Saboteur<SimDriver>, SimStore, SimClock>,
    ear: Rc<RefCell<Ear>>,
    done: bool,
    asleep: bool,
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) scenario: Scenario,
    pub(crate) clock: SimClock,
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) disks: Vec<Rc<RefCell<Disk>>>,
    pub(crate) crashes: Option<Crashes>,
    pub(crate) seats: Vec<Seat>,
    /// Who judges passwords, by shard; empty if nobody does.
    judges: Vec<Rc<RefCell<Judge>>>,
    pub(crate) shared: Option<Arc<Shared>>,
    counters: Arc<[Arc<Counters>]>,
    control: Arc<Control>,
    clients: Vec<Client>,
    hostile: Vec<Hostile>,
    pub(crate) model: Model,
    pub(crate) wills: Wills,
    pub(crate) scene: Scene,
    /// Nobody begins anything new before this.
    idle_until_us: u64,
    schedule: Random,
    work: Random,
    pub(crate) trace: Trace,
}

impl World {
    pub(crate) fn new(plan: &Plan, trace: Trace) -> World {
        let Plan { seed, sabotage, crashes, .. } = *plan;
        let scenario = Scenario::new(seed, crashes, sabotage);
        let weather = scenario.weather.clone();
        let random = Random::stream(seed, "network");
        let net = Net::new(scenario.shards, weather, random, trace.clone());
        let net = Rc::new(RefCell::new(net));
        let clock = SimClock::default();
        let control = Arc::new(Control {
            stage: AtomicU8::new(0),
            epoch: AtomicU64::new(1),
            limits: Mutex::new(scenario.limits.clone()),
            rules: scenario.rules,
        });
        let disk = |shard| Rc::new(RefCell::new(Disk::new(seed, shard, crashes, sabotage)));
        let mut world = World {
            seed,
            clock,
            net,
            disks: (0..scenario.shards).map(disk).collect(),
            crashes: crashes.then(|| Crashes::new(seed)),
            seats: Vec::new(),
            judges: Vec::new(),
            shared: None,
            counters: Arc::default(),
            control,
            clients: scenario.profiles.iter().cloned().map(Client::new).collect(),
            hostile: (0..scenario.hostile).map(|no| hostile(no, seed, &scenario)).collect(),
            model: Model {
                full_disks: scenario.spells,
                busy_judges: scenario.judging.is_some_and(|judging| judging.busy > 0),
                ..Model::new(trace.clone(), (scenario.rules != Rules::Open).then_some(DENIED))
            },
            wills: Wills::new(0, trace.clone()),
            scene: Scene::Work,
            idle_until_us: 0,
            schedule: Random::stream(seed, "schedule"),
            work: Random::stream(seed, "workload"),
            trace,
            scenario,
        };
        let restored = (0..world.scenario.shards).map(|_| None).collect();
        world.make_shards(0, restored);
        world
    }

    /// Builds the shards of start number `start`, with what the one before has left.
    pub(crate) fn make_shards(&mut self, start: u64, mut restored: Vec<Option<Restored>>) {
        let (seed, sabotage) = (self.seed, self.scenario.sabotage);
        let shards = self.scenario.shards;
        self.counters = (0..shards).map(|_| Arc::new(Counters::new())).collect();
        let interest = Arc::new(InterestTable::new(16));
        let partitions = Arc::new(PartitionMap::even(seed, shards));
        self.judges = self.make_judges(start);
        let bytes = self.scenario.lane_bytes;
        for ports in mesh(shards, bytes) {
            let me = ports.me;
            self.shared = Some(Arc::clone(&ports.shared));
            let driver = SimDriver::new(me, Rc::clone(&self.net), self.scenario.receive_buffers);
            let ear = driver.ear();
            let shard = Shard::new(Parts {
                driver: Saboteur::new(driver, sabotage),
                store: SimStore(Rc::clone(&self.disks[usize::from(me)])),
                clock: self.clock.clone(),
                ports,
                interest: Arc::clone(&interest),
                partitions: Arc::clone(&partitions),
                counters: Arc::clone(&self.counters),
                steering: Arc::clone(&self.control) as Arc<dyn Steering>,
                auth_methods: Default::default(),
                passwords: self.passwords(me),
                listeners: 1,
                seed: seed ^ (u64::from(me) << 32) ^ (start << 48),
                version: "simulated",
                restored: restored[usize::from(me)].take(),
            });
            self.seats.push(Seat { shard, ear, done: false, asleep: false });
        }
    }

    fn make_judges(&self, start: u64) -> Vec<Rc<RefCell<Judge>>> {
        let Some(judging) = self.scenario.judging else { return Vec::new() };
        let judge = |shard| Judge::new(judging, self.seed, &format!("judge {shard}, {start}"));
        let judges: Vec<_> = (0..self.scenario.shards).map(judge).collect();
        if self.scene != Scene::Work {
            judges.iter().for_each(|judge| judge.borrow_mut().calm());
        }
        judges
    }

    fn passwords(&self, shard: u16) -> Box<dyn Passwords> {
        match self.judges.get(usize::from(shard)) {
            Some(judge) => Box::new(SimPasswords {
                judge: Rc::clone(judge),
                clock: self.clock.clone(),
                trace: self.trace.clone(),
            }),
            None => Box::new(Unchecked),
        }
    }

    /// When a shard is woken for an answer about a password.
    fn judged_us(&self, shard: usize) -> Option<u64> {
        self.judges.get(shard).and_then(|judge| judge.borrow().due_us())
    }

    /// The whole run: `steps` of work, then everything comes to rest and is judged.
    pub(crate) fn run(&mut self, steps: u64) {
        self.trace.event([0; 4], format_args!("{:?}", self.scenario));
        self.seat_observer();
        self.unsettle_disks();
        for _ in 0..steps {
            self.perhaps_crash();
            self.step();
            if self.trace.has_failed() {
                return;
            }
        }
        self.drain();
        if self.crashes.is_some() && self.schedule.chance(500) && !self.trace.has_failed() {
            self.crash();
            self.drain();
        }
        if !self.trace.has_failed() {
            self.judge();
        }
        if !self.trace.has_failed() {
            self.end();
        }
    }

    /// Lets the disks be bad now and then, if the run is to have that.
    pub(crate) fn unsettle_disks(&mut self) {
        if self.scenario.spells && self.scene == Scene::Work {
            for (shard, disk) in self.disks.iter().enumerate() {
                disk.borrow_mut().unsettle(self.seed, shard as u16);
            }
        }
    }

    /// The observer sees every will from the first on.
    fn seat_observer(&mut self) {
        let fails = std::mem::take(&mut self.net.borrow_mut().weather.hand_over_fails);
        self.with_client(0, |client, around| client.connect(around, true));
        let asked = |world: &World| world.clients[0].is_open();
        self.run_until(asked, "the observer's CONNACK");
        self.with_client(0, |client, around| client.subscribe_to(around, &["will/#"]));
        let granted = |world: &World| world.clients[0].waits_for(&world.net.borrow()).is_empty();
        self.run_until(granted, "the observer's SUBACK");
        self.net.borrow_mut().weather.hand_over_fails = fails;
    }

    fn run_until(&mut self, until: impl Fn(&World) -> bool, what: &str) {
        self.idle_until_us = u64::MAX;
        for _ in 0..DRAIN_STEPS_MAX {
            if until(self) || self.trace.has_failed() {
                self.idle_until_us = 0;
                return;
            }
            self.step();
        }
        self.trace.fail(format_args!("{what} never came"));
    }

    fn with_client<R>(
        &mut self,
        no: usize,
        run: impl FnOnce(&mut Client, &mut Surroundings<'_>) -> R,
    ) -> R {
        let mut around = Surroundings {
            net: &self.net,
            model: &mut self.model,
            wills: &mut self.wills,
            random: &mut self.work,
            now_us: self.clock.us(),
            shards: self.scenario.shards,
            expiry_v3_s: self.scenario.expiry_v3_s(),
            scene: self.scene,
        };
        run(&mut self.clients[no], &mut around)
    }

    /// Lets one shard or client do something; time passes when nobody can.
    fn step(&mut self) {
        let pause_us = 1 + self.schedule.below(20);
        self.clock.advance(pause_us);
        let now_us = self.settle();
        let mut ready = self.ready(now_us);
        let working = self.scene == Scene::Work && now_us >= self.idle_until_us;
        if working {
            if self.scenario.reloads && self.schedule.chance(2) {
                let limits = self.scenario.limits_at_reload(&mut self.schedule);
                self.trace.event([31, 0, 0, 0], format_args!("new limits: {limits:?}"));
                self.control.reload(limits);
            }
            if self.schedule.chance(2) {
                self.idle_until_us = now_us + self.schedule.below(20_000_000);
            }
            // The workload has its share whatever else there is to do.
            if ready.is_empty() || self.schedule.chance(250) {
                return self.workload();
            }
        }
        if ready.is_empty() {
            return self.pass_time(now_us);
        }
        let one = self.schedule.below(ready.len() as u64) as usize;
        match ready.swap_remove(one) {
            Ready::Shard(index) => self.turn(index),
            Ready::Client(no) => self.with_client(no, Client::act),
        }
    }

    pub(crate) fn settle(&mut self) -> u64 {
        let now_us = self.clock.us();
        self.trace.set_now(now_us);
        self.model.now_us = now_us;
        self.net.borrow_mut().settle(now_us);
        now_us
    }

    fn ready(&self, now_us: u64) -> Vec<Ready> {
        // Some runs let shards wake up for nothing, too.
        let wakes_early = self.scene == Scene::Work && !self.scenario.sleeps;
        let net = self.net.borrow();
        let mut ready = Vec::new();
        for (index, seat) in self.seats.iter().enumerate() {
            let ear = seat.ear.borrow();
            let judged = self.judged_us(index).is_some_and(|due_us| due_us <= now_us);
            let due = judged || due_us(&ear) <= now_us || ear.has_news(&net);
            if !seat.done && (wakes_early || due) {
                ready.push(Ready::Shard(index));
            }
        }
        for (no, client) in self.clients.iter().enumerate() {
            if client.has_work(&net, now_us, self.scene) {
                ready.push(Ready::Client(no));
            }
        }
        ready
    }

    fn workload(&mut self) {
        let hostile = self.hostile.len() as u64;
        let one = self.schedule.below(self.clients.len() as u64 + hostile) as usize;
        match self.hostile.get_mut(one.wrapping_sub(self.clients.len())) {
            Some(hostile) => {
                let mut net = self.net.borrow_mut();
                hostile.act(&mut net, self.scenario.shards, self.clock.us(), &self.trace);
            }
            None => {
                self.with_client(one, |client, around| {
                    client.act(around);
                    client.do_something(around);
                });
            }
        }
    }

    /// Nobody can do anything now: time goes on to when somebody can.
    fn pass_time(&mut self, now_us: u64) {
        let seats = self.seats.iter().filter(|seat| !seat.done);
        let next = seats
            .map(|seat| due_us(&seat.ear.borrow()))
            .chain(self.net.borrow().next_us())
            .chain((0..self.seats.len()).filter_map(|shard| self.judged_us(shard)))
            .chain(self.clients.iter().filter_map(Client::due_us))
            .chain((self.idle_until_us != u64::MAX).then_some(self.idle_until_us))
            .filter(|at_us| *at_us > now_us)
            .min();
        self.clock.advance(next.map_or(1000, |at_us| at_us - now_us));
        self.settle();
    }

    fn turn(&mut self, index: usize) {
        let looks_us = self.scenario.slow_looks_us;
        self.clock.slow_down(self.schedule.below(looks_us + 1));
        let seat = &mut self.seats[index];
        if let Some(shared) = self.shared.as_ref().filter(|_| seat.asleep) {
            shared.awake(index as u16);
        }
        seat.asleep = false;
        let end = seat.shard.turn();
        self.clock.slow_down(0);
        self.trace.event(
            [30, index as u64, self.clock.us(), 0],
            format_args!("s{index} has turned: {:?}", seat.ear.borrow().wait),
        );
        if end == TurnEnd::Done {
            seat.done = true;
            return;
        }
        let sleeps = matches!(seat.ear.borrow().wait, Wait::AtMost(_));
        if let Some(shared) = self.shared.as_ref().filter(|_| sleeps) {
            // From here on the others must wake it.
            shared.going_to_sleep(index as u16);
            seat.asleep = true;
        }
    }

    /// True if nothing happens any more, and nobody waits for anything.
    fn is_at_rest(&self) -> bool {
        let net = self.net.borrow();
        let now_us = self.clock.us();
        let idle = |seat: &Seat| {
            let ear = seat.ear.borrow();
            seat.done
                || (!ear.has_news(&net)
                    && matches!(ear.wait, Wait::AtMost(time) if time >= IDLE_SLEEP)
                    && now_us >= ear.since_us)
        };
        net.is_quiet()
            && (0..self.seats.len()).all(|shard| self.judged_us(shard).is_none())
            && self.seats.iter().all(idle)
            && self.clients.iter().all(|client| !client.has_work(&net, now_us, self.scene))
    }

    /// Runs until everything rests and clients wait for nothing; says who does not.
    fn come_to_rest(&mut self, what: &str) {
        let mut rested_us = None;
        for _ in 0..DRAIN_STEPS_MAX {
            if self.trace.has_failed() {
                return;
            }
            let now_us = self.clock.us();
            let settled = self.is_settled();
            if settled && self.is_at_rest() {
                let since_us = *rested_us.get_or_insert(now_us);
                if now_us > since_us + REST_US {
                    return;
                }
            } else if !self.is_at_rest() {
                rested_us = None;
            }
            self.step();
        }
        self.explain_unrest(what);
    }

    fn is_settled(&self) -> bool {
        let net = self.net.borrow();
        self.clients.iter().all(|client| client.waits_for(&net).is_empty())
    }

    fn explain_unrest(&self, what: &str) {
        let net = self.net.borrow();
        for client in self.clients.iter().filter(|client| !client.waits_for(&net).is_empty()) {
            let (no, waits_for) = (client.profile.no, client.waits_for(&net));
            self.trace.fail(format_args!("{what}: client {no} waits for {waits_for}"));
        }
        for (index, seat) in self.seats.iter().enumerate().filter(|(_, seat)| !seat.done) {
            let ear = seat.ear.borrow();
            let (wait, news, stalled) = (ear.wait, ear.has_news(&net), ear.stalled());
            self.trace.fail(format_args!(
                "{what}: shard {index} does not rest ({wait:?}, news {news}, {stalled} stalled)"
            ));
        }
    }

    /// The weather calms down; clients read, answer, come back and wait for the rest.
    fn drain(&mut self) {
        self.scene = Scene::Drain;
        self.idle_until_us = 0;
        let window = self.scenario.weather.window;
        self.net.borrow_mut().weather = Weather { window, ..Weather::calm() };
        self.disks.iter().for_each(|disk| disk.borrow_mut().calm());
        self.judges.iter().for_each(|judge| judge.borrow_mut().calm());
        for hostile in &mut self.hostile {
            hostile.leave(&mut self.net.borrow_mut());
        }
        for no in 0..self.clients.len() {
            self.with_client(no, |client, _| client.wake_up());
        }
        self.come_to_rest("after the work");
        for no in 0..self.clients.len() {
            self.with_client(no, |client, around| {
                let may = client.may_connect(&around.net.borrow());
                if may && client.has_session() {
                    client.connect(around, false);
                }
            });
        }
        self.come_to_rest("after all came back");
    }

    pub(crate) fn sum(&self, counter: Counter) -> u64 {
        self.counters.iter().fold(0, |sum, own| sum.wrapping_add(own.value(counter)))
    }

    fn judge(&mut self) {
        let before = self.crashes.as_ref().map_or(Dropped::default(), |own| own.dropped);
        let dropped = Dropped {
            queued: before.queued + self.sum(Counter::DroppedQueueFull),
            slow: before.slow + self.sum(Counter::DroppedSlow),
        };
        for counter in Counter::ALL {
            let (path, value) = (counter.path(), self.sum(*counter));
            self.trace.event([50, value, 0, 0], format_args!("{path}: {value}"));
        }
        for topic in self.model.retained.keys() {
            let candidates = self.model.retained_candidates(topic);
            self.trace.event([51, 0, 0, 0], format_args!("retained on {topic}: {candidates:?}"));
        }
        self.model.check_all_came(dropped);
        self.model.check_groups(dropped);
        self.wills.check(&self.net.borrow(), self.clock.us(), dropped.queued > 0);
        if self.trace.has_failed() {
            return;
        }
        self.clients[0].collected.clear();
        self.with_client(0, |client, around| client.subscribe_to(around, &["#", "$x/#"]));
        self.come_to_rest("after the observer asked for everything");
        let held = std::mem::take(&mut self.clients[0].collected);
        self.model.check_retained(&held);
    }

    /// Sessions end, connections close, the broker goes down: nothing may be left.
    fn end(&mut self) {
        self.scene = Scene::End;
        for _ in 0..20 {
            let mut left = false;
            for no in 0..self.clients.len() {
                left |= !self.with_client(no, |client, around| client.end_for_good(around));
            }
            if !left || self.trace.has_failed() {
                break;
            }
            self.come_to_rest("while sessions end");
        }
        if self.trace.has_failed() {
            return;
        }
        // Connections whose network broke end with their keep alive.
        let gone = |world: &World| world.net.borrow().open_links() == 0;
        self.run_until(gone, "the end of all connections");
        self.come_to_rest("when all have gone");
        self.check_nothing_left();
        self.control.stage.store(1, Ordering::Relaxed);
        for _ in 0..10_000 {
            if self.seats.iter().all(|seat| seat.done) {
                return;
            }
            self.step();
        }
        self.trace.fail(format_args!("a shard does not end when it is told to"));
    }

    fn check_nothing_left(&self) {
        let gauges = [
            Counter::ConnectionsOpen,
            Counter::Sessions,
            Counter::Subscriptions,
            Counter::SharedSubscriptions,
            Counter::PasswordsWaiting,
        ];
        for gauge in gauges {
            let value = self.sum(gauge) as i64;
            if value != 0 {
                self.trace.fail(format_args!("{gauge:?} is {value} when all have gone"));
            }
        }
        for (index, seat) in self.seats.iter().enumerate() {
            let ear = seat.ear.borrow();
            let (open, buffers) = (ear.open(), ear.buffers_out());
            if open + buffers > 0 {
                self.trace
                    .fail(format_args!("shard {index} keeps {open} sockets and {buffers} buffers"));
            }
        }
        let links = self.net.borrow().open_links();
        if links > 0 {
            self.trace.fail(format_args!("{links} connections are open when all have gone"));
        }
    }
}

/// One who breaks the protocol; where passwords are judged, the first tries those of others.
fn hostile(no: usize, seed: u64, scenario: &Scenario) -> Hostile {
    let victims = scenario.judging.map_or(0, |_| scenario.profiles.len());
    Hostile::new(seed, no, if no == 0 { victims } else { 0 })
}

enum Ready {
    Shard(usize),
    Client(usize),
}

/// When a sleeping shard wakes up by itself.
fn due_us(ear: &Ear) -> u64 {
    match ear.wait {
        Wait::Poll => 0,
        Wait::AtMost(time) => ear.since_us + time.as_micros() as u64,
    }
}
