//! Which filter shapes a look-up must probe.
//!
//! Owns the list of shapes that have slots of their own, and the lengths of the fallback shapes
//! that stand in for the others. Must not: know keys or slots.
//!
//! Readers load two masks and the shapes they name. A shape is written before its bit, and its
//! place is written anew only after the bit was cleared and its last slot removed. A reader with
//! an old mask may thus read another shape there, and probes for what it need not find.

use super::Busy;
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, attempt};
use crate::shapes::{SHAPE_LEVELS_MAX, Shape};

/// How many shapes have slots of their own at a time.
pub const SHAPES_DIRECT_MAX: usize = if cfg!(loom) { 1 } else { 64 };

/// The shapes that readers probe.
#[derive(Default)]
pub(super) struct ShapesInUse {
    /// Which of `shapes` are in use.
    direct: AtomicU64,
    /// Bit n: fallback shapes of n literal levels are in use.
    fallbacks: AtomicU64,
    shapes: Places,
    users: Mutex<Users>,
}

struct Places([AtomicU64; SHAPES_DIRECT_MAX]);

impl Default for Places {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// How many shards use each shape: what decides when a bit is set and cleared.
pub(super) struct Users {
    direct: [u32; SHAPES_DIRECT_MAX],
    fallbacks: [u32; SHAPE_LEVELS_MAX + 1],
}

impl Default for Users {
    fn default() -> Self {
        Self { direct: [0; SHAPES_DIRECT_MAX], fallbacks: [0; SHAPE_LEVELS_MAX + 1] }
    }
}

impl ShapesInUse {
    /// Takes the right to change the counts.
    pub(super) fn attempt(&self) -> Result<MutexGuard<'_, Users>, Busy> {
        attempt(&self.users)
    }

    /// Counts one more shard for a shape and publishes it: true as itself, false as its fallback,
    /// because all places are taken.
    pub(super) fn enter(&self, users: &mut Users, shape: Shape) -> bool {
        let Some(at) = self.place_of(users, shape).or_else(|| free_place(users)) else {
            let levels = shape.fallback().levels();
            users.fallbacks[levels] += 1;
            self.fallbacks.fetch_or(1 << levels, Ordering::Release);
            return false;
        };
        users.direct[at] += 1;
        if users.direct[at] == 1 {
            self.shapes.0[at].store(shape.bits(), Ordering::Release);
            self.direct.fetch_or(1 << at, Ordering::Release);
        }
        true
    }

    /// Counts one shard less for a shape that it had entered directly or not; withdraws the shape
    /// with the last one.
    pub(super) fn leave(&self, users: &mut Users, shape: Shape, direct: bool) {
        if direct {
            let at = self.place_of(users, shape).expect("a shape entered before");
            users.direct[at] -= 1;
            if users.direct[at] == 0 {
                self.direct.fetch_and(!(1 << at), Ordering::Release);
            }
            return;
        }
        let levels = shape.fallback().levels();
        users.fallbacks[levels] -= 1;
        if users.fallbacks[levels] == 0 {
            self.fallbacks.fetch_and(!(1 << levels), Ordering::Release);
        }
    }

    /// The places in use, and the lengths of fallbacks in use.
    #[inline]
    pub(super) fn masks(&self) -> (u64, u64) {
        (self.direct.load(Ordering::Acquire), self.fallbacks.load(Ordering::Acquire))
    }

    /// Calls `probe` with every shape that the masks name.
    #[inline]
    pub(super) fn each(&self, mut direct: u64, mut fallbacks: u64, mut probe: impl FnMut(Shape)) {
        while direct != 0 {
            let at = direct.trailing_zeros() as usize;
            probe(Shape::from_bits(self.shapes.0[at].load(Ordering::Acquire)));
            direct &= direct - 1;
        }
        while fallbacks != 0 {
            let levels = fallbacks.trailing_zeros();
            probe(Shape::wildcard(((1_u64 << levels) - 1) as u32, levels as usize, true));
            fallbacks &= fallbacks - 1;
        }
    }

    fn place_of(&self, users: &Users, shape: Shape) -> Option<usize> {
        let is = |at: &usize| {
            users.direct[*at] > 0 && self.shapes.0[*at].load(Ordering::Relaxed) == shape.bits()
        };
        (0..SHAPES_DIRECT_MAX).find(is)
    }
}

fn free_place(users: &Users) -> Option<usize> {
    users.direct.iter().position(|&users| users == 0)
}
