//! The bytes of one lane: a fixed, zeroed, 64-byte aligned allocation with typed reads and writes
//! at offsets. Owns the memory and nothing of its meaning.
//! Must not: decide who may touch which bytes; the lane's two positions do.
//!
//! Under loom every 8-byte word has a shadow cell, so that a read and a write that no position
//! orders are reported although the bytes themselves are plain memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};

/// A cache line; records are aligned to at most 16.
const ALIGN: usize = 64;

/// A fixed piece of memory that two threads use under a protocol of the caller's.
pub(crate) struct Buffer {
    base: NonNull<u8>,
    capacity: usize,
    #[cfg(loom)]
    words: Box<[loom::cell::UnsafeCell<()>]>,
}

// SAFETY: the buffer owns its memory and has no tie to the thread that allocated it.
unsafe impl Send for Buffer {}
// SAFETY: every access through a shared reference is by an unsafe method whose caller promises
// that no other thread touches the same bytes in a conflicting way.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Allocates `capacity` zeroed bytes; the kernel backs a page when it is first written.
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a lane has at least one byte");
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero (asserted above).
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self {
            base,
            capacity,
            #[cfg(loom)]
            words: (0..capacity.div_ceil(8)).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN).expect("a lane is far below isize::MAX bytes")
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Moves `value` to `offset`.
    ///
    /// # Safety
    /// No other thread touches `size_of::<V>()` bytes at `offset` until this thread publishes
    /// them. `offset` is a multiple of `V`'s alignment, which is at most 64.
    pub(crate) unsafe fn write<V>(&self, offset: usize, value: V) {
        let place = self.place(offset, size_of::<V>());
        self.touch_write(offset, size_of::<V>());
        // SAFETY: in bounds (`place` asserts it), aligned because the base is 64-byte aligned and
        // the offset a multiple of the alignment, and exclusive by the caller's promise.
        unsafe { place.cast::<V>().write(value) }
    }

    /// Moves a value out of `offset`.
    ///
    /// # Safety
    /// A `V` was written at `offset`, that write happened before this call, nobody writes there
    /// until this thread gives the space back, and the value is not read out a second time unless
    /// `V` is `Copy`.
    pub(crate) unsafe fn read<V>(&self, offset: usize) -> V {
        let place = self.place(offset, size_of::<V>());
        self.touch_read(offset, size_of::<V>());
        // SAFETY: in bounds, aligned and initialised by the write that the caller promises.
        unsafe { place.cast::<V>().read() }
    }

    /// Copies `source` to `offset`.
    ///
    /// # Safety
    /// No other thread touches `source.len()` bytes at `offset` until this thread publishes them.
    pub(crate) unsafe fn write_bytes(&self, offset: usize, source: &[u8]) {
        let place = self.place(offset, source.len());
        self.touch_write(offset, source.len());
        // SAFETY: in bounds and exclusive by the caller's promise; the source is another
        // allocation or a part of this one that nobody may write now, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), place, source.len()) }
    }

    /// Borrows `len` bytes at `offset`.
    ///
    /// # Safety
    /// The write of these bytes happened before this call, and nobody writes them while the
    /// reference lives.
    pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let place = self.place(offset, len);
        self.touch_read(offset, len);
        // SAFETY: in bounds; initialised, since the allocation is zeroed and only written by
        // `write_bytes` here; not written while borrowed (the caller).
        unsafe { std::slice::from_raw_parts(place, len) }
    }

    /// The address of `offset`, with `len` bytes behind it inside the allocation.
    fn place(&self, offset: usize, len: usize) -> *mut u8 {
        // Two compares per access; a corrupted length would otherwise reach outside the lane.
        assert!(offset <= self.capacity && len <= self.capacity - offset, "outside the lane");
        // SAFETY: the offset is inside the allocation, or one past it when nothing is accessed.
        unsafe { self.base.as_ptr().add(offset) }
    }

    #[cfg(not(loom))]
    #[inline(always)]
    fn touch_write(&self, _offset: usize, _len: usize) {}

    #[cfg(not(loom))]
    #[inline(always)]
    fn touch_read(&self, _offset: usize, _len: usize) {}

    #[cfg(loom)]
    fn touch_write(&self, offset: usize, len: usize) {
        for word in &self.words[offset / 8..(offset + len).div_ceil(8)] {
            word.with_mut(|_| ());
        }
    }

    #[cfg(loom)]
    fn touch_read(&self, offset: usize, len: usize) {
        for word in &self.words[offset / 8..(offset + len).div_ceil(8)] {
            word.with(|_| ());
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.capacity)) }
    }
}
