//! What the outside tells running shards: to end, and which settings hold now.
//!
//! Shards read two atomics per turn, [`Control::stage`] and [`Control::epoch`], and nothing else
//! until one of them changes. Nothing here waits for a shard.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use ringtide_driver::Waker;
use ringtide_shard::access::Acl;
use ringtide_tls::Acceptor;

use crate::config::{Access, Config, Limits, Listener, Log, Shared};

/// How far a shutdown has come.
///
/// ```text
/// Running --SIGTERM, SIGINT--> Draining --shutdown_timeout_s--> Ending
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Serve.
    Running = 0,
    /// Accept nothing new, say goodbye, finish what is in flight, then return.
    Draining = 1,
    /// Return now.
    Ending = 2,
}

impl Stage {
    fn from_number(number: u8) -> Stage {
        match number {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Ending,
        }
    }
}

/// The settings that a running broker can change.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Limits; they hold for connections made from now on.
    pub limits: Limits,
    /// The listeners, in their order; of each only what a running one can change is changed.
    pub listeners: Vec<Listener>,
    /// Who may connect, and the files that say more.
    pub access: Access,
    /// How shared subscriptions pick a member.
    pub shared: Shared,
    /// What is logged.
    pub log: Log,
    /// Seconds between two rounds of `$SYS` topics; 0 = none.
    pub sys_interval_s: u32,
    /// Seconds that a graceful shutdown may take.
    pub shutdown_timeout_s: u32,
}

impl From<&Config> for Live {
    fn from(config: &Config) -> Live {
        Live {
            limits: config.limits.clone(),
            listeners: config.listeners.clone(),
            access: config.access.clone(),
            shared: config.shared.clone(),
            log: config.log,
            sys_interval_s: config.sys_interval_s,
            shutdown_timeout_s: config.shutdown_timeout_s,
        }
    }
}

/// Shared by the signal thread and all shards.
pub struct Control {
    stage: Arc<AtomicU8>,
    epoch: Arc<AtomicU64>,
    live: ArcSwap<Live>,
    tls: ArcSwap<Vec<Option<Acceptor>>>,
    rules: ArcSwapOption<Acl>,
    wakers: Mutex<Vec<Arc<dyn Waker>>>,
}

impl Control {
    /// Running, with these settings.
    pub fn new(live: Live) -> Control {
        Control {
            stage: Arc::new(AtomicU8::new(Stage::Running as u8)),
            epoch: Arc::new(AtomicU64::new(0)),
            live: ArcSwap::from_pointee(live),
            tls: ArcSwap::from_pointee(Vec::new()),
            rules: ArcSwapOption::empty(),
            wakers: Mutex::new(Vec::new()),
        }
    }

    /// How far a shutdown has come.
    pub fn stage(&self) -> Stage {
        Stage::from_number(self.stage.load(Ordering::Acquire))
    }

    /// The stage as a bare number (see [`Stage`]), for code that must not know this crate.
    pub fn stage_flag(&self) -> Arc<AtomicU8> {
        Arc::clone(&self.stage)
    }

    /// Counts the changes of the settings; read [`Control::live`] again when it has changed.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The epoch itself, for code that must not know this crate.
    pub fn epoch_flag(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.epoch)
    }

    /// The settings that hold now.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// What each listener's new connections make their TLS handshakes with, in the listeners'
    /// order; `None`, or no entry, for a listener without TLS.
    pub fn tls(&self) -> Arc<Vec<Option<Acceptor>>> {
        self.tls.load_full()
    }

    /// Who may publish and subscribe where; `None`: everybody everywhere.
    pub fn rules(&self) -> Option<Arc<Acl>> {
        self.rules.load_full()
    }

    /// Puts other rules in place. Shards take them with the next change of the settings, see
    /// [`Control::set_live`].
    pub fn set_rules(&self, rules: Option<Acl>) {
        self.rules.store(rules.map(Arc::new));
    }

    /// Adds a shard's waker, to be rung at every change.
    pub fn add_waker(&self, waker: Arc<dyn Waker>) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// Moves the shutdown on (never back) and wakes every shard.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.wake_all();
    }

    /// Puts new settings in force and wakes every shard.
    pub fn set_live(&self, live: Live) {
        self.live.store(Arc::new(live));
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Puts new TLS material in force and wakes every shard.
    pub fn set_tls(&self, tls: Vec<Option<Acceptor>>) {
        self.tls.store(Arc::new(tls));
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    /// Wakes every shard: each begins a turn.
    pub(crate) fn wake_all(&self) {
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(AtomicU64);

    impl Waker for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_shutdown_only_moves_on_and_wakes_the_shards() {
        let control = Control::new(Live::from(&Config::default()));
        let rung = Arc::new(Counter(AtomicU64::new(0)));
        control.add_waker(rung.clone());
        assert_eq!(control.stage(), Stage::Running);
        control.advance(Stage::Ending);
        control.advance(Stage::Draining);
        assert_eq!(control.stage(), Stage::Ending);
        assert_eq!(control.stage_flag().load(Ordering::Relaxed), 2);
        assert_eq!(rung.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn new_settings_come_with_a_new_epoch() {
        let control = Control::new(Live::from(&Config::default()));
        let mut live = Live::clone(&control.live());
        live.limits.receive_maximum = 5;
        control.set_live(live);
        assert_eq!(control.epoch(), 1);
        assert_eq!(control.live().limits.receive_maximum, 5);
    }
}
