//! The pool of receive buffers that the kernel picks from (a provided-buffer ring).
//!
//! Owns the memory and knows which buffers the shard holds, so that a forged or stale id can
//! neither read memory that the kernel may be writing nor give a buffer back twice.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue};
use ringtide_driver::BufferId;

use crate::sys::Pages;

/// The one buffer group of a driver's ring.
pub(super) const GROUP: u16 = 0;

/// Marks a buffer that the kernel may be writing to.
const WITH_KERNEL: u32 = u32::MAX;

pub(super) struct Buffers {
    entries: Pages,
    memory: Pages,
    /// Bytes received into each buffer that the shard holds, else `WITH_KERNEL`.
    held: Box<[u32]>,
    mask: u16,
    size: u32,
    /// Where the next free buffer goes; the kernel knows of it after `publish`.
    tail: u16,
    /// Buffers that the shard holds.
    held_count: u32,
}

impl Buffers {
    /// Makes `count` (a power of two, 1..=32768) buffers of `size` bytes and registers them.
    ///
    /// # Errors
    /// Memory is short, or the kernel does not know buffer rings.
    pub(super) fn new(ring: &IoUring, count: u16, size: u32) -> io::Result<Buffers> {
        if !count.is_power_of_two() || size == 0 || size == WITH_KERNEL {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let entries = Pages::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Pages::new(usize::from(count) * size as usize)?;
        // SAFETY: `entries` is page-aligned, holds `count` entries, and lives until after the
        // ring is closed (the driver drops its ring first).
        unsafe {
            let start = entries.start() as u64;
            ring.submitter().register_buf_ring_with_flags(start, count, GROUP, 0)?;
        }
        let mut buffers = Buffers {
            entries,
            memory,
            held: vec![0; usize::from(count)].into_boxed_slice(),
            mask: count - 1,
            size,
            tail: 0,
            held_count: u32::from(count),
        };
        for index in 0..u32::from(count) {
            buffers.release(index);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Buffers that the kernel may fill.
    pub(super) fn free(&self) -> u32 {
        self.held.len() as u32 - self.held_count
    }

    /// Takes over the buffer that a completion names, with `len` bytes in it.
    #[inline]
    pub(super) fn take(&mut self, flags: u32, len: u32) -> Option<BufferId> {
        let index = cqueue::buffer_select(flags)?;
        let held = self.held.get_mut(usize::from(index))?;
        *held = len.min(self.size);
        self.held_count += 1;
        Some(BufferId { index: u32::from(index), len })
    }

    /// The bytes of a buffer that the shard holds; empty for any other.
    #[inline]
    pub(super) fn bytes(&self, buffer: BufferId) -> &[u8] {
        let index = buffer.index as usize;
        match self.held.get(index) {
            Some(&held) if held != WITH_KERNEL && buffer.len <= held => {
                // SAFETY: the buffer is inside `memory`, its first `held` bytes were written by
                // the kernel, and the kernel has no claim on it until `release`, which needs
                // `&mut self` and so ends this borrow.
                unsafe {
                    let start = self.memory.start().add(index * self.size as usize);
                    std::slice::from_raw_parts(start, buffer.len as usize)
                }
            }
            _ => &[],
        }
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        let index = buffer.index as usize;
        match self.held.get(index) {
            Some(&held) if held != WITH_KERNEL && buffer.len <= held => {
                // SAFETY: as in `bytes`; buffers do not overlap, and `&mut self` keeps every other
                // borrow of this one away.
                unsafe {
                    let start = self.memory.start().add(index * self.size as usize);
                    std::slice::from_raw_parts_mut(start, buffer.len as usize)
                }
            }
            _ => &mut [],
        }
    }

    /// Gives a buffer back; the kernel sees it after the next `publish`.
    #[inline]
    pub(super) fn release(&mut self, index: u32) {
        match self.held.get_mut(index as usize) {
            Some(held) if *held != WITH_KERNEL => *held = WITH_KERNEL,
            _ => return,
        }
        self.held_count -= 1;
        // SAFETY: `tail & mask` is below the number of entries. The kernel reads only entries
        // between its head and the published tail; this one is beyond that, because there are
        // as many entries as buffers and this buffer was not among the kernel's.
        unsafe {
            let entry = self.entries.start().cast::<BufRingEntry>();
            let entry = &mut *entry.add(usize::from(self.tail & self.mask));
            entry.set_addr(self.memory.start().add(index as usize * self.size as usize) as u64);
            entry.set_len(self.size);
            entry.set_bid(index as u16);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was released.
    #[inline]
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail is a u16 inside the first entry, written by nobody else; the kernel
        // loads it with acquire.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.start().cast());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}
