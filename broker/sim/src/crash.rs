//! Crashes: the whole broker is gone between two turns and comes back with what its disks have.

use std::cell::RefCell;
use std::rc::Rc;

use ringtide_shard::counters::Counter;

use crate::client::Scene;
use crate::random::Random;
use crate::recover;
use crate::verdict::Dropped;
use crate::world::World;

/// A crash is this many times likelier while a checkpoint or a batch is under way, per mille.
const AT_CHECKPOINT: u32 = 20;
const BEHIND: u32 = 1;

/// When a run crashes.
#[derive(Debug)]
pub(crate) struct Crashes {
    random: Random,
    /// Steps until the next one that comes whatever the broker does.
    next: u64,
    /// Crashes so far.
    pub(crate) count: u64,
    /// What the processes that are gone have dropped.
    pub(crate) dropped: Dropped,
}

impl Crashes {
    pub(crate) fn new(seed: u64) -> Crashes {
        let mut random = Random::stream(seed, "crashes");
        let next = random.below(1500);
        Crashes { random, next, count: 0, dropped: Dropped::default() }
    }

    fn is_due(&mut self, at_checkpoint: bool, behind: bool) -> bool {
        let due = self.next == 0
            || (at_checkpoint && self.random.chance(AT_CHECKPOINT))
            || (behind && self.random.chance(BEHIND));
        self.next = self.next.saturating_sub(1);
        if due {
            // Sometimes soon after the start.
            let soon = self.random.chance(250);
            self.next = self.random.below(if soon { 80 } else { 2500 });
        }
        due
    }
}

impl World {
    /// Lets the broker crash if it is time to.
    pub(crate) fn perhaps_crash(&mut self) {
        let at_checkpoint = self.disks.iter().any(|disk| disk.borrow().is_at_checkpoint());
        let behind = self.disks.iter().any(|disk| disk.borrow().is_behind());
        let due = self.crashes.as_mut().is_some_and(|own| own.is_due(at_checkpoint, behind));
        if due && self.scene == Scene::Work {
            self.crash();
        }
    }

    /// The broker is gone, and comes back.
    pub(crate) fn crash(&mut self) {
        let Some(mut crashes) = self.crashes.take() else { return };
        crashes.count += 1;
        crashes.dropped.queued += self.sum(Counter::DroppedQueueFull);
        crashes.dropped.slow += self.sum(Counter::DroppedSlow);
        self.seats.clear();
        self.shared = None;
        let lost: Vec<u64> = self.disks.iter().map(|disk| disk.borrow_mut().crash()).collect();
        let crash_us = self.clock.us();
        let down_us = *crashes.random.pick(&[0, 10, 1000, 500_000, 8_000_000]);
        self.clock.advance(crashes.random.below(down_us + 1));
        let back_us = self.clock.us();
        self.trace.event(
            [60, crashes.count, lost.iter().sum(), back_us],
            format_args!(
                "CRASH {} at {crash_us}: records lost {lost:?}, back at {back_us}",
                crashes.count
            ),
        );
        let old = self.scenario.shards;
        let new =
            if crashes.random.chance(250) { *crashes.random.pick(&[1, 2, 3, 8]) } else { old };
        let leave_above = Some(self.scenario.limits.waiting_memory_bytes_max);
        let dealt_out = new != old;
        let first = leave_above.filter(|_| !dealt_out);
        let mut states = recover::replay(&self.disks, first, &self.trace);
        if dealt_out {
            self.trace.event([61, new.into(), 0, 0], format_args!("{old} shards, now {new}"));
            let disks =
                recover::redistribute(states, (self.seed, old, new), self.scenario.sabotage);
            self.disks = disks.into_iter().map(|disk| Rc::new(RefCell::new(disk))).collect();
            self.scenario.shards = new;
            states = recover::replay(&self.disks, leave_above, &self.trace);
            self.unsettle_disks();
        }
        self.net.borrow_mut().crash((crash_us, back_us), new, &mut crashes.random);
        self.model.crash(crash_us);
        self.wills.crash(crash_us, back_us);
        let restored =
            ringtide_storage::State::into_aligned_parts(states).into_iter().map(Some).collect();
        let start = crashes.count;
        self.crashes = Some(crashes);
        self.make_shards(start, restored);
        self.settle();
    }
}
