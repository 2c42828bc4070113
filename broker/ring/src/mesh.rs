//! The lanes that join every shard with every other, and the words by which shards see each
//! other sleep and turn.
//!
//! Owns the wiring and the two protocols over [`Shared`]: no wake-up is lost, and a grace period
//! is never too short. Must not: wake anybody (the driver does), nor know what the lanes carry.

use crossbeam_utils::CachePadded;

use crate::lane::{Receiver, Sender, lane};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, fence};

/// One shard's ends of the mesh. Vectors are indexed by the other shard; `None` at `me`.
pub struct Ports<T> {
    /// The shard whose ports these are.
    pub me: u16,
    /// The lanes to each shard.
    pub to: Vec<Option<Sender<T>>>,
    /// The lanes from each shard.
    pub from: Vec<Option<Receiver<T>>>,
    /// The words that all shards see.
    pub shared: Arc<Shared>,
}

/// Joins `shards` shards by lanes of `lane_bytes`, both ways. The ports are in the order of the
/// shards.
///
/// # Panics
/// If the size is none that [`lane`] takes.
pub fn mesh<T: Send>(shards: u16, lane_bytes: usize) -> Vec<Ports<T>> {
    let shared = Arc::new(Shared::new(shards));
    let mut ports: Vec<Ports<T>> = (0..shards)
        .map(|me| Ports { me, to: empty(shards), from: empty(shards), shared: Arc::clone(&shared) })
        .collect();
    for source in 0..usize::from(shards) {
        for target in (0..usize::from(shards)).filter(|&target| target != source) {
            let (sender, receiver) = lane(lane_bytes);
            ports[source].to[target] = Some(sender);
            ports[target].from[source] = Some(receiver);
        }
    }
    ports
}

fn empty<E>(shards: u16) -> Vec<Option<E>> {
    (0..shards).map(|_| None).collect()
}

/// One shard's words. Two lines: others read the flag at every publish, while the turn is written
/// twice per turn, so one line for both would bounce.
struct Words {
    sleeping: CachePadded<AtomicBool>,
    /// Odd while the shard is inside a turn. Written by the shard alone.
    turn: CachePadded<AtomicU64>,
}

/// What every shard knows of every other: whether it sleeps, and whether it is inside a turn.
///
/// Methods that take a shard's number panic when there is no such shard.
pub struct Shared {
    shards: Box<[Words]>,
}

impl Shared {
    /// The words of `shards` shards, all awake and between turns.
    pub fn new(shards: u16) -> Self {
        let words = |_| Words {
            sleeping: CachePadded::new(AtomicBool::new(false)),
            turn: CachePadded::new(AtomicU64::new(0)),
        };
        Self { shards: (0..shards).map(words).collect() }
    }

    /// The number of shards.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// A number that changes whenever `shard` begins or ends a turn: one that stands still for
    /// longer than the longest sleep belongs to a shard that hangs.
    pub fn turn(&self, shard: u16) -> u64 {
        self.shards[usize::from(shard)].turn.load(Ordering::Relaxed)
    }

    /// Says that `me` is about to sleep. The caller must look at its lanes once more afterwards
    /// and sleep only if all are empty; otherwise it calls [`Shared::awake`].
    pub fn going_to_sleep(&self, me: u16) {
        self.shards[usize::from(me)].sleeping.store(true, Ordering::Relaxed);
        // Orders the flag before the look at the lanes; pairs with the fence in `must_wake`, so
        // that at least one side sees the other: the sender the flag, or the sleeper the record.
        fence(Ordering::SeqCst);
    }

    /// Says that `me` is up. A wake-up that another shard has already sent comes regardless.
    pub fn awake(&self, me: u16) {
        self.shards[usize::from(me)].sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether the caller, having published to `to`, must wake it: true exactly once per sleep,
    /// whoever asks first.
    pub fn must_wake(&self, to: u16) -> bool {
        // Orders the published tail before the look at the flag; see `going_to_sleep`.
        fence(Ordering::SeqCst);
        let sleeping = &self.shards[usize::from(to)].sleeping;
        // The plain load keeps the line shared while the target is awake.
        sleeping.load(Ordering::Relaxed) && sleeping.swap(false, Ordering::Relaxed)
    }

    /// Opens a turn of `me`; does nothing inside one. All that `me` reads in it is at least as
    /// new as what was visible when any [`Grace`] that does not wait for this turn was taken.
    pub fn begin_turn(&self, me: u16) {
        let turn = &self.shards[usize::from(me)].turn;
        // Only the shard itself writes its turn: no read-modify-write is needed. Release, because
        // who sees this turn begun must also see what the turn before it published.
        turn.store(turn.load(Ordering::Relaxed) | 1, Ordering::Release);
        // Orders the odd count before the turn's reads; pairs with the fence in `grace`.
        fence(Ordering::SeqCst);
    }

    /// Ends the turn of `me`; does nothing outside one.
    pub fn end_turn(&self, me: u16) {
        let turn = &self.shards[usize::from(me)].turn;
        let now = turn.load(Ordering::Relaxed);
        // Release: whoever sees the turn ended sees all that it published.
        turn.store(now + (now & 1), Ordering::Release);
    }

    /// Takes a grace period: waits for the shards that are inside a turn now, the caller's own
    /// included. What the caller wrote before is visible to every turn that it does not wait for.
    pub fn grace(&self) -> Grace {
        // Orders the caller's writes before the look at the turns; see `begin_turn`.
        fence(Ordering::SeqCst);
        let inside = |(shard, words): (usize, &Words)| {
            let turn = words.turn.load(Ordering::Acquire);
            (turn & 1 == 1).then_some((shard as u16, turn))
        };
        Grace { inside: self.shards.iter().enumerate().filter_map(inside).collect() }
    }
}

/// A grace period under way.
#[derive(Debug)]
pub struct Grace {
    /// The shards still waited for, each with its odd turn.
    inside: Vec<(u16, u64)>,
}

impl Grace {
    /// Whether every shard that was inside a turn when this was taken has ended that turn. All
    /// that those turns published is then visible to the caller.
    pub fn passed(&mut self, shared: &Shared) -> bool {
        self.inside.retain(|&(shard, turn)| {
            shared.shards[usize::from(shard)].turn.load(Ordering::Acquire) == turn
        });
        self.inside.is_empty()
    }
}
