//! The rounds: load, kill, restart, and the audit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Findings;
use super::busy::Busy;
use super::dice::Dice;
use super::ledger::{Expected, Ledger};
use super::process::Process;
use super::publisher::{Publisher, Task};
use super::retainer::Retainer;
use super::subscriber::{Mood, Subscriber};
use super::toggler::Toggler;
use super::wills::Wills;

/// Publishers, under ids that spread over the shards.
const PUBLISHERS: u32 = 4;
/// Clients with a will, each round.
const TESTATORS: usize = 3;
/// The same in a flood.
const FLOOD_TESTATORS: usize = 16;

/// What to do, from the environment.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) rounds: u32,
    /// The longest time of a round until its kill, in milliseconds.
    pub(crate) round_ms: u64,
    /// One round in so many is a flood, 0 = none: more is under way between the shards than their
    /// lanes hold, and often one of them has little time.
    pub(crate) floods: u64,
    /// Shard counts: each start takes one of them.
    pub(crate) shards: Vec<u32>,
    /// What is left out, beside the publishers and plain subscribers: `wills`, `groups`,
    /// `retained`, `toggles`.
    pub(crate) without: Vec<String>,
}

pub(crate) fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let value = text.trim().parse().ok();
    Some(value.unwrap_or_else(|| panic!("{name}={text}")))
}

impl Plan {
    fn has(&self, part: &str) -> bool {
        self.without.iter().all(|own| own != part)
    }

    pub(crate) fn from_environment() -> Plan {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let clock = clock.map_or(1, |time| time.as_nanos() as u64);
        let shards = std::env::var("RINGTIDE_CRASH_SHARDS").unwrap_or_else(|_| "2".to_owned());
        let without = std::env::var("RINGTIDE_CRASH_WITHOUT").unwrap_or_default();
        let shards = shards.split(',').map(|n| n.trim().parse().expect("RINGTIDE_CRASH_SHARDS"));
        Plan {
            seed: variable("RINGTIDE_CRASH_SEED").unwrap_or(clock),
            rounds: variable("RINGTIDE_CRASH_ROUNDS").unwrap_or(6),
            round_ms: variable("RINGTIDE_CRASH_ROUND_MS").unwrap_or(400),
            floods: variable("RINGTIDE_CRASH_FLOODS").unwrap_or(3),
            shards: shards.collect(),
            without: without.split(',').map(|part| part.trim().to_owned()).collect(),
        }
    }
}

/// The broker, its clients and what they know.
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    dice: Dice,
    pub(crate) process: Process,
    pub(crate) findings: Findings,
    pub(crate) kills: u32,
    /// This round is a flood.
    floods: bool,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    ledgers: Vec<Arc<Mutex<Ledger>>>,
    retainer: Retainer,
    toggler: Toggler,
    wills: Wills,
}

impl Stage {
    pub(crate) fn new(plan: Plan, process: Process) -> Stage {
        let mut dice = Dice::new(plan.seed);
        let publishers = (0..PUBLISHERS).map(|n| Publisher::new(n, dice.split())).collect();
        let (retainer, toggler) = (Retainer::new(dice.split()), Toggler::new(dice.split()));
        let mut stage = Stage {
            plan,
            dice,
            process,
            findings: Findings::default(),
            kills: 0,
            floods: false,
            publishers,
            subscribers: Vec::new(),
            ledgers: Vec::new(),
            retainer,
            toggler,
            wills: Wills::default(),
        };
        stage.add_subscribers("all", &["crash/load/#"; 2], 2);
        stage.add_subscribers("qos2", &["crash/load/+/2"], 2);
        stage.add_subscribers("at-most-1", &["crash/load/#"], 1);
        stage.add_subscribers("one", &["crash/load/0/1"], 2);
        stage.add_subscribers("other", &["crash/load/1/2"; 2], 2);
        stage.add_subscribers("wills", &["crash/will/#"; 2], 2);
        if stage.plan.has("groups") {
            stage.add_group("group", "crash/load/#", 3);
        }
        stage
    }

    /// Subscribers under ids of their own.
    fn add_subscribers(&mut self, name: &str, filters: &[&str], qos: u8) {
        for (number, filter) in filters.iter().enumerate() {
            let id = format!("{name}-{number}");
            let ledger = Ledger::new(&id, filter, qos, true);
            self.add(&id, filter, qos, Arc::new(Mutex::new(ledger)));
        }
    }

    /// A shared group: its members have one ledger.
    fn add_group(&mut self, name: &str, filter: &str, members: u32) {
        let ledger = Arc::new(Mutex::new(Ledger::new(name, filter, 2, false)));
        for number in 0..members {
            let (id, shared) = (format!("{name}-{number}"), format!("$share/{name}/{filter}"));
            self.add(&id, &shared, 2, Arc::clone(&ledger));
        }
    }

    fn add(&mut self, id: &str, filter: &str, qos: u8, ledger: Arc<Mutex<Ledger>>) {
        if !self.ledgers.iter().any(|own| Arc::ptr_eq(own, &ledger)) {
            self.ledgers.push(Arc::clone(&ledger));
        }
        self.subscribers.push(Subscriber::new(id, filter, qos, ledger, self.dice.split()));
    }

    fn shards(&mut self) -> u32 {
        self.plan.shards[self.dice.below(self.plan.shards.len() as u64) as usize]
    }

    /// The clients subscribe at the broker that runs.
    pub(crate) fn set_up(&mut self) {
        let address = self.process.address.clone();
        for subscriber in &mut self.subscribers {
            subscriber.set_up(&address, &self.findings);
        }
        self.toggler.set_up(&address, &self.findings);
    }

    /// All rounds; ends at the first finding.
    pub(crate) fn run(&mut self) {
        let shards = self.shards();
        self.process.start(shards);
        self.set_up();
        for round in 1..=self.plan.rounds {
            let busy = self.begin_round();
            self.load_and_kill();
            self.kill_in_recovery();
            let shards = self.shards();
            self.process.start(shards);
            drop(busy);
            if round == self.plan.rounds || self.dice.one_in(3) {
                self.settle();
            }
            if !self.findings.all().is_empty() {
                return;
            }
        }
        // What was settled is still so after an orderly end.
        self.process.stop(Duration::from_secs(15));
        let shards = self.shards();
        self.process.start(shards);
        self.settle();
    }

    /// Whether the clients flood the broker from now on.
    pub(crate) fn set_floods(&mut self, floods: bool) {
        self.floods = floods;
        self.retainer.floods = floods;
        for publisher in &mut self.publishers {
            publisher.floods = floods;
        }
    }

    /// Chooses whether a round is a flood, and whether one shard has little time in it.
    fn begin_round(&mut self) -> Option<Busy> {
        let floods = self.plan.floods != 0 && self.dice.one_in(self.plan.floods);
        self.set_floods(floods);
        let is_starved = floods && !self.dice.one_in(4);
        let cpus = self.process.cpus();
        let cpu = cpus[self.dice.below(cpus.len() as u64) as usize];
        if floods {
            eprintln!(
                "flood{}",
                if is_starved { format!(", cpu {cpu} busy") } else { String::new() }
            );
        }
        is_starved.then(|| Busy::on(cpu))
    }

    /// Clients at work until a kill at a random moment.
    fn load_and_kill(&mut self) {
        let until_kill = self.dice.pause(self.plan.round_ms * 1000);
        let gently = self.dice.one_in(8).then(|| self.dice.pause(30_000));
        match gently {
            None => eprintln!("kill after {until_kill:?}"),
            Some(patience) => eprintln!("stop after {until_kill:?}, kill {patience:?} later"),
        }
        self.load(|process| {
            std::thread::sleep(until_kill);
            match gently {
                Some(patience) => process.stop(patience),
                None => process.kill(),
            }
        });
        self.kills += 1;
    }

    /// Clients at work while `end` brings the broker to its end.
    pub(crate) fn load<T>(&mut self, end: impl FnOnce(&mut Process) -> T) -> T {
        let address = self.process.address.clone();
        let dice = &mut self.dice;
        let testators = match self.plan.has("wills") {
            true if self.floods => FLOOD_TESTATORS,
            true => TESTATORS,
            false => 0,
        };
        let testators: Vec<_> = (0..testators).map(|_| self.wills.testator(dice)).collect();
        let (findings, wills) = (&self.findings, &self.wills);
        std::thread::scope(|scope| {
            let address = address.as_str();
            for publisher in &mut self.publishers {
                scope.spawn(|| publisher.work(address, Task::Load, findings));
            }
            for subscriber in &mut self.subscribers {
                let moods = match self.floods {
                    true => [Mood::Online, Mood::Flapping, Mood::Offline, Mood::Offline],
                    false => [Mood::Online, Mood::Online, Mood::Flapping, Mood::Offline],
                };
                let mood = moods[dice.below(4) as usize];
                scope.spawn(move || subscriber.work(address, mood, findings));
            }
            for testator in testators {
                scope.spawn(|| testator.work(address, wills, findings));
            }
            if self.plan.has("retained") {
                scope.spawn(|| self.retainer.work(address, Task::Load, findings));
            }
            if self.plan.has("toggles") {
                scope.spawn(|| self.toggler.work(address, findings));
            }
            end(&mut self.process)
        })
    }

    /// Sometimes the restart is killed, too, and the next one.
    fn kill_in_recovery(&mut self) {
        while self.dice.one_in(3) {
            let shards = self.shards();
            self.process.spawn(shards);
            let until_kill = self.dice.pause(if self.floods { 500_000 } else { 100_000 });
            eprintln!("kill {until_kill:?} after the start");
            std::thread::sleep(until_kill);
            self.process.kill();
            self.kills += 1;
        }
    }

    /// Lets every exchange come to its end and looks at everything.
    pub(crate) fn settle(&mut self) {
        eprintln!("settle");
        let address = self.process.address.clone();
        let (address, findings) = (address.as_str(), &self.findings);
        self.retainer.audit(address, findings);
        self.toggler.audit(address, findings);
        std::thread::scope(|scope| {
            scope.spawn(|| self.retainer.work(address, Task::Settle, findings));
            for publisher in &mut self.publishers {
                scope.spawn(|| publisher.work(address, Task::Settle, findings));
            }
        });
        if self.publishers.iter().any(|publisher| !publisher.is_settled()) {
            return findings.add("not every publish was acknowledged".to_owned());
        }
        let sent = self.publishers.iter().flat_map(|publisher| publisher.sent.clone());
        let single = self.wills.due.lock().expect("no thread panicked with it").clone();
        let expected = Expected { up_to: sent.collect(), single };
        std::thread::scope(|scope| {
            for subscriber in &mut self.subscribers {
                scope.spawn(|| subscriber.drain(address, &expected, findings));
            }
        });
        for ledger in &self.ledgers {
            let faults = ledger.lock().expect("no thread panicked with it").take_faults();
            faults.into_iter().for_each(|fault| findings.add(fault));
        }
    }

    /// What the clients have seen, in words.
    pub(crate) fn summary(&self) -> String {
        let sent: u64 = self.publishers.iter().flat_map(|one| one.sent.values()).sum();
        let received = self.ledgers.iter().map(|ledger| {
            let ledger = ledger.lock().expect("no thread panicked with it");
            format!("{} {}", ledger.who(), ledger.len())
        });
        let received: Vec<String> = received.collect();
        let (kills, retries) = (self.kills, self.findings.retries());
        let received = received.join(", ");
        format!("{kills} kills, {sent} publishes acknowledged, {retries} retries, {received}")
    }
}
