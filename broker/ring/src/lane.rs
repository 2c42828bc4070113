//! One lane: a byte ring from one thread to one other, holding records of a typed item and inline
//! bytes.
//!
//! Owns the record's layout and the two positions that say which bytes belong to whom.
//! Must not: block, wake the other side, or look into the item.
//!
//! ```text
//!   head (receiver writes)            tail (sender writes)
//!     v                                 v
//! ....[record][record][pad........]|[record][record]..........
//!       readable by the receiver         writable by the sender
//!
//! record = header (u32 bytes in all, u32 inline bytes) | item | inline bytes, 8-byte aligned
//! ```
//!
//! What one [`Sender::publish`] makes visible is a batch. The first record of each carries the
//! batch's stamp in its last 8 bytes, so that a receiver of several lanes can take their batches in
//! the order in which they were published.
//!
//! Positions are bytes counted since the lane was made; they never wrap (2^64 bytes). The sender
//! owns `tail .. head + capacity`, the receiver `head .. tail`. A record that would cross the end
//! of the buffer is preceded by padding up to the end, written by the same push: the receiver's
//! position thus reaches the tail whenever it has read everything, which barriers rely on.

use std::fmt;
use std::marker::PhantomData;

use crossbeam_utils::CachePadded;

use crate::buffer::Buffer;
use crate::sync::{Arc, AtomicU64, Ordering};

/// The smallest lane, bytes; so small only for tests of full lanes. Production uses 4 KiB and up.
pub const LANE_BYTES_MIN: usize = 256;

/// The largest lane, bytes: a record's lengths are stored in 32 bits.
pub const LANE_BYTES_MAX: usize = 1 << 30;

/// Marks padding in [`Header::inline`].
const PADDING: u32 = u32::MAX;

/// Marks the first record of a batch in [`Header::inline`]; lengths never reach this bit.
const FIRST: u32 = 1 << 31;

/// Bytes that a batch's stamp takes.
const STAMP_BYTES: usize = size_of::<u64>();

/// Stands before each record.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    /// Bytes from this header to the next.
    total: u32,
    /// Inline bytes after the item, with [`FIRST`] perhaps; or [`PADDING`].
    inline: u32,
}

impl Header {
    /// Whether the record begins a batch, and so ends with its stamp.
    fn is_first(self) -> bool {
        self.inline & FIRST != 0
    }

    fn inline_bytes(self) -> usize {
        (self.inline & !FIRST) as usize
    }
}

/// Where the parts of a record with an item of type `T` lie.
struct Place<T>(PhantomData<T>);

impl<T> Place<T> {
    /// Records begin at multiples of this.
    const ALIGN: usize = {
        assert!(align_of::<T>() <= 16, "an item's alignment is at most 16");
        if align_of::<T>() > 8 { 16 } else { 8 }
    };
    const ITEM: usize = size_of::<Header>().next_multiple_of(align_of::<T>());
    const BYTES: usize = (Self::ITEM + size_of::<T>()).next_multiple_of(8);

    /// Bytes that a batch's first record with `inline` inline bytes takes, without padding before
    /// it. The stamp lies in the last 8 of them.
    const fn total_first(inline: usize) -> usize {
        Self::total(inline.saturating_add(STAMP_BYTES))
    }

    /// Bytes that a record with `inline` inline bytes takes, without padding before it.
    const fn total(inline: usize) -> usize {
        // Lengths near usize::MAX saturate and are refused as too large, as any above half.
        let bytes = Self::BYTES.saturating_add(inline);
        if bytes > LANE_BYTES_MAX { bytes } else { bytes.next_multiple_of(Self::ALIGN) }
    }
}

/// What the two ends share.
struct Inner<T> {
    /// Written by the sender: records before it are readable.
    tail: CachePadded<AtomicU64>,
    /// Written by the receiver: bytes before it are writable again.
    head: CachePadded<AtomicU64>,
    /// Written once, when the sender goes: the end of the records it wrote, published or not.
    written: AtomicU64,
    buffer: Buffer,
    /// Owns items of type `T`, inside the buffer.
    items: PhantomData<T>,
}

// SAFETY: the lane hands each item from the sender's thread to the receiver's, once; `T: Send`
// allows that. A `&Inner` gives no access to an item other than through the two ends.
unsafe impl<T: Send> Send for Inner<T> {}
// SAFETY: as above; the positions are atomics and the buffer's protocol is kept by the two ends.
unsafe impl<T: Send> Sync for Inner<T> {}

impl<T> Inner<T> {
    /// The offset of a position in the buffer.
    fn offset(&self, position: u64) -> usize {
        // The capacity is a power of two of at most 30 bits: the cut is the modulus.
        position as usize & (self.buffer.capacity() - 1)
    }
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        // Relaxed: both ends are gone, and the last reference count ordered their writes.
        let mut position = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        let end = tail.max(self.written.load(Ordering::Relaxed));
        while position < end {
            let offset = self.offset(position);
            // SAFETY: head .. end holds whole records, written by the sender and never read out.
            let header = unsafe { self.buffer.read::<Header>(offset) };
            if header.inline != PADDING {
                // SAFETY: as above; each record is visited once, so its item is moved out once.
                drop(unsafe { self.buffer.read::<T>(offset + Place::<T>::ITEM) });
            }
            position += u64::from(header.total);
        }
    }
}

/// Makes a lane of `capacity_bytes`: a sender for one thread, a receiver for another.
///
/// Items that nobody read are dropped when both ends are gone.
///
/// # Panics
/// If the capacity is no power of two or outside [`LANE_BYTES_MIN`] ..= [`LANE_BYTES_MAX`].
pub fn lane<T: Send>(capacity_bytes: usize) -> (Sender<T>, Receiver<T>) {
    assert!(
        capacity_bytes.is_power_of_two()
            && (LANE_BYTES_MIN..=LANE_BYTES_MAX).contains(&capacity_bytes),
        "a lane has a power of two of bytes, {LANE_BYTES_MIN} to {LANE_BYTES_MAX}",
    );
    let inner = Arc::new(Inner {
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
        written: AtomicU64::new(0),
        buffer: Buffer::new(capacity_bytes),
        items: PhantomData,
    });
    let sender =
        Sender { inner: Arc::clone(&inner), tail: 0, published: 0, head_seen: 0, stamp: 0 };
    (sender, Receiver { inner, head: 0, committed: 0, tail_seen: 0, stamp: 0 })
}

/// Gives a refused item back.
pub struct Full<T> {
    /// The item, untouched.
    pub item: T,
    /// The record is larger than half of the lane: it will not fit into an empty lane either.
    pub never: bool,
}

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Full").field("never", &self.never).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.never { "record larger than half of the lane" } else { "lane full" })
    }
}

impl<T> std::error::Error for Full<T> {}

/// The writing end of a lane.
pub struct Sender<T> {
    inner: Arc<Inner<T>>,
    /// The end of the records written.
    tail: u64,
    /// What `inner.tail` says: the end of the records that the receiver may read.
    published: u64,
    /// The last known head of the receiver; the true one is at or after it.
    head_seen: u64,
    /// Where the stamp of the batch goes that is being written, as an offset in the buffer;
    /// meaningless while there is none.
    stamp: usize,
}

impl<T: Send> Sender<T> {
    /// Writes a record of `item` and the concatenation of `parts`. The receiver sees it after
    /// [`Sender::publish`].
    ///
    /// # Errors
    /// The item comes back when the lane has no room now, or never has for so large a record.
    #[inline]
    pub fn try_push(&mut self, item: T, parts: &[&[u8]]) -> Result<(), Full<T>> {
        let inline = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if Self::record_bytes(inline) > self.inner.buffer.capacity() / 2 {
            return Err(Full { item, never: true });
        }
        let first = self.published == self.tail;
        let total = self.total(inline);
        let padding = self.padding_before(total);
        if !self.has_room(padding + total) {
            return Err(Full { item, never: false });
        }
        if padding > 0 {
            let header = Header { total: padding as u32, inline: PADDING };
            // SAFETY: `has_room` showed that tail .. tail + padding belongs to the sender; the
            // tail is a multiple of the record alignment, so a header fits and is aligned.
            unsafe { self.inner.buffer.write(self.inner.offset(self.tail), header) };
            self.tail += padding as u64;
        }
        let offset = self.inner.offset(self.tail);
        // Both lengths are at most half of LANE_BYTES_MAX: no cut.
        let mark = if first { FIRST } else { 0 };
        let header = Header { total: total as u32, inline: inline as u32 | mark };
        // SAFETY: `has_room` showed that tail .. tail + total belongs to the sender, and
        // `padding_before` that it does not cross the end; the offset is a multiple of the record
        // alignment, ITEM of the item's.
        unsafe {
            self.inner.buffer.write(offset, header);
            self.inner.buffer.write(offset + Place::<T>::ITEM, item);
        }
        let mut at = offset + Place::<T>::BYTES;
        for part in parts {
            // SAFETY: the parts' lengths sum up to `inline`, which `total` covers.
            unsafe { self.inner.buffer.write_bytes(at, part) };
            at += part.len();
        }
        if first {
            self.stamp = offset + total - STAMP_BYTES;
        }
        self.tail += total as u64;
        Ok(())
    }

    /// Bytes that are certainly free, headers and padding included; looks at the receiver's
    /// position only when less than half of the lane is known to be free.
    pub fn free_bytes(&mut self) -> usize {
        if self.free_seen() < self.capacity_bytes() / 2 {
            self.refresh();
        }
        self.free_seen()
    }

    /// Whether a record with `bytes` inline bytes can be pushed now. Stays true until the next
    /// push or publish.
    #[inline]
    pub fn fits(&mut self, bytes: usize) -> bool {
        if Self::record_bytes(bytes) > self.capacity_bytes() / 2 {
            return false;
        }
        let total = self.total(bytes);
        let padding = self.padding_before(total);
        self.has_room(padding + total)
    }

    /// Whether `count` records with `bytes` inline bytes each can be pushed now, whatever padding
    /// they need; true also for more than the lane ever holds, once it is empty.
    pub fn fits_all(&mut self, bytes: usize, count: usize) -> bool {
        let most = 2 * count * Self::record_bytes(bytes);
        self.has_room(most.min(self.capacity_bytes()))
    }

    /// Bytes that a record with `inline` inline bytes takes at most, without the padding that may
    /// go before it (at most as much again).
    pub const fn record_bytes(inline: usize) -> usize {
        Place::<T>::total_first(inline)
    }

    /// Makes all pushed records visible to the receiver as a batch with a stamp, which is not below
    /// those of earlier batches; once per turn is enough. False when there was nothing to publish.
    #[inline]
    pub fn publish(&mut self, stamp: u64) -> bool {
        if !self.has_unpublished() {
            return false;
        }
        // SAFETY: the first record pushed since the last publish set the offset: 8 aligned bytes
        // at the end of a record that the receiver cannot see before the store below.
        unsafe { self.inner.buffer.write(self.stamp, stamp) };
        // Release: the receiver's Acquire load of the tail sees the records before it.
        self.inner.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }

    /// Whether records were pushed since the last [`Sender::publish`].
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.published != self.tail
    }

    /// The size of the lane, bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.inner.buffer.capacity()
    }

    /// The position after the last record pushed, published or not: bytes since the lane was
    /// made. The receiver's [`Receiver::position`] reaches it when it has read that record.
    pub fn pushed(&self) -> u64 {
        self.tail
    }

    /// Whether the receiver is gone: nobody will read what is pushed.
    pub fn is_closed(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// Bytes that the next record takes: the first of a batch has the stamp, too.
    #[inline]
    fn total(&self, inline: usize) -> usize {
        if self.published == self.tail {
            Place::<T>::total_first(inline)
        } else {
            Place::<T>::total(inline)
        }
    }

    /// Bytes to skip so that `total` bytes do not cross the end of the buffer.
    #[inline]
    fn padding_before(&self, total: usize) -> usize {
        let to_end = self.inner.buffer.capacity() - self.inner.offset(self.tail);
        if total <= to_end { 0 } else { to_end }
    }

    #[inline]
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.free_seen() >= bytes {
            return true;
        }
        self.refresh();
        self.free_seen() >= bytes
    }

    /// Free bytes as far as the last known head tells.
    #[inline]
    fn free_seen(&self) -> usize {
        self.inner.buffer.capacity() - (self.tail - self.head_seen) as usize
    }

    fn refresh(&mut self) {
        // Acquire: the receiver's reads of the bytes before its head are done.
        self.head_seen = self.inner.head.load(Ordering::Acquire);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // Records never published stay unseen, but their items must be dropped with the lane.
        self.inner.written.store(self.tail, Ordering::Relaxed);
    }
}

/// One record, taken out of a lane.
pub struct Record<'a, T> {
    /// The item, moved out.
    pub item: T,
    /// The inline bytes, in the lane's own memory; contiguous, 8-byte aligned.
    pub bytes: &'a [u8],
}

/// The reading end of a lane.
pub struct Receiver<T> {
    inner: Arc<Inner<T>>,
    /// The position of the next record.
    head: u64,
    /// What `inner.head` says: the bytes before it were given back.
    committed: u64,
    /// The last known tail of the sender; the true one is at or after it.
    tail_seen: u64,
    /// The stamp of the batch that the last record popped belongs to.
    stamp: u64,
}

impl<T: Send> Receiver<T> {
    /// Takes the next published record. Its space is given back by [`Receiver::commit`].
    #[inline]
    pub fn pop(&mut self) -> Option<Record<'_, T>> {
        let (offset, header) = self.next()?;
        Some(self.take(offset, header))
    }

    /// As [`Receiver::pop`], but only if the record belongs to the batch with this stamp.
    #[inline]
    pub fn pop_of(&mut self, stamp: u64) -> Option<Record<'_, T>> {
        let (offset, header) = self.next()?;
        (self.stamp_at(offset, header) == stamp).then(|| self.take(offset, header))
    }

    /// The stamp of the batch that the next published record belongs to.
    #[inline]
    pub fn next_stamp(&mut self) -> Option<u64> {
        let (offset, header) = self.next()?;
        Some(self.stamp_at(offset, header))
    }

    /// The stamp of the batch that the record at the head belongs to.
    #[inline]
    fn stamp_at(&self, offset: usize, header: Header) -> u64 {
        if !header.is_first() {
            return self.stamp;
        }
        // SAFETY: the record at this offset was published (`next` found it); one that is marked as
        // the first of a batch ends with 8 aligned bytes that `publish` wrote before.
        unsafe { self.inner.buffer.read::<u64>(offset + header.total as usize - STAMP_BYTES) }
    }

    /// Takes the record that `next` found.
    #[inline]
    fn take(&mut self, offset: usize, header: Header) -> Record<'_, T> {
        self.stamp = self.stamp_at(offset, header);
        self.head += u64::from(header.total);
        // SAFETY: `next` found a published record at this offset; the head has moved past it, so
        // its item is moved out once; the sender does not write here before `commit`, which needs
        // `&mut self` and so cannot be called while the record is borrowed.
        let (item, bytes) = unsafe {
            (
                self.inner.buffer.read::<T>(offset + Place::<T>::ITEM),
                self.inner.buffer.bytes(offset + Place::<T>::BYTES, header.inline_bytes()),
            )
        };
        Record { item, bytes }
    }

    /// Gives the space of all popped records back to the sender; once per turn is enough.
    #[inline]
    pub fn commit(&mut self) {
        if self.committed == self.head {
            return;
        }
        // Release: the sender's Acquire load of the head comes after our reads.
        self.inner.head.store(self.head, Ordering::Release);
        self.committed = self.head;
    }

    /// The position after the last record popped: bytes since the lane was made.
    pub fn position(&self) -> u64 {
        self.head
    }

    /// The sender's visible tail now. When [`Receiver::position`] has reached a value read here,
    /// everything published before that reading has been popped: a barrier.
    pub fn published(&self) -> u64 {
        self.inner.tail.load(Ordering::Acquire)
    }

    /// Whether everything published has been popped.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail_seen && self.head == self.published()
    }

    /// The size of the lane, bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.inner.buffer.capacity()
    }

    /// Whether the sender is gone. What it published before is still readable.
    pub fn is_closed(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// The offset and header of the next record, with padding skipped.
    #[inline]
    fn next(&mut self) -> Option<(usize, Header)> {
        loop {
            if self.head == self.tail_seen {
                // Acquire: pairs with the Release of `publish`.
                self.tail_seen = self.inner.tail.load(Ordering::Acquire);
                if self.head == self.tail_seen {
                    return None;
                }
            }
            let offset = self.inner.offset(self.head);
            // SAFETY: head < tail, so a header was written here and published, and the sender
            // does not write here before the head is given back.
            let header = unsafe { self.inner.buffer.read::<Header>(offset) };
            if header.inline != PADDING {
                return Some((offset, header));
            }
            self.head += u64::from(header.total);
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // What was popped but not committed must not be dropped a second time with the lane.
        self.inner.head.store(self.head, Ordering::Release);
    }
}
