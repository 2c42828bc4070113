//! The synchronisation types of the interest table: the standard ones and arc-swap, or loom's
//! under `--cfg loom`. Must not: hold any logic of the table.

use super::Busy;

#[cfg(not(loom))]
pub(super) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(loom)]
pub(super) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// How often a held lock is tried again before giving up: about a microsecond, as long as a write
/// to a slot takes but for growth. None under loom, which would explore every one.
const ATTEMPTS: u32 = if cfg!(loom) { 1 } else { 64 };

/// Takes a lock unless another thread keeps holding it.
pub(super) fn attempt<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, Busy> {
    for _ in 0..ATTEMPTS {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(std::sync::TryLockError::WouldBlock) => std::hint::spin_loop(),
            // Nothing is left half done where a panic is possible.
            Err(std::sync::TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
        }
    }
    Err(Busy)
}

/// A value that is replaced whole, under its readers' eyes.
#[cfg(not(loom))]
pub(super) struct Published<T>(arc_swap::ArcSwapOption<T>);

/// What a reader holds.
#[cfg(not(loom))]
pub(super) type Held<T> = arc_swap::Guard<Option<Arc<T>>>;

#[cfg(not(loom))]
impl<T> Published<T> {
    pub(super) fn load(&self) -> Held<T> {
        self.0.load()
    }

    pub(super) fn store(&self, value: Option<T>) {
        self.0.store(value.map(Arc::new));
    }
}

#[cfg(not(loom))]
impl<T> Default for Published<T> {
    fn default() -> Self {
        Self(arc_swap::ArcSwapOption::const_empty())
    }
}

/// loom knows no arc-swap: a lock held for the copy of the reference stands in for it.
#[cfg(loom)]
pub(super) struct Published<T>(Mutex<Option<Arc<T>>>);

#[cfg(loom)]
pub(super) type Held<T> = Option<Arc<T>>;

#[cfg(loom)]
impl<T> Published<T> {
    pub(super) fn load(&self) -> Held<T> {
        self.0.lock().expect("no panic inside").clone()
    }

    pub(super) fn store(&self, value: Option<T>) {
        *self.0.lock().expect("no panic inside") = value.map(Arc::new);
    }
}

#[cfg(loom)]
impl<T> Default for Published<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}
