//! Which of the messages that wait are in memory: as many bytes as the limit allows, the latest
//! first; the others are read from the log when their turn to be sent comes near, many with one
//! read where they stand close to each other. Knows no session's state.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::rc::Rc;

use bytes::Bytes;
use ringtide_driver::ReadOp;
use ringtide_storage::state::Digest;
use ringtide_storage::{Mark, Place, Store, record_at};

use crate::kept::{Kept, Memory, WeakKept};
use crate::message::Message;
use crate::slab::Slab;

/// Bytes that one read takes in at most, but for a message that is larger.
const SPAN_BYTES_MAX: u32 = 256 << 10;
/// Bytes of no use between two messages that are read over rather than left out.
const GAP_BYTES_MAX: u32 = 16 << 10;
/// Reads under way at once.
const READS_MAX: usize = 16;
/// Sessions that have not been sent what was read for them, above which no read is begun: what is
/// read must not crowd out what was.
const UNPUMPED_MAX: usize = 8;
/// Buffers kept for later reads.
const BUFFERS_KEPT: usize = 4;
/// Messages that leave memory in one turn.
const PAGE_OUT_MAX: u32 = 8192;
/// Dead entries that the list of what is in memory may hold beside twice the living.
const DEAD_MIN: usize = 1024;
/// Linux: interrupted, or out of memory or descriptors for now.
const TRANSIENT: [i32; 5] = [4, 11, 12, 23, 24];

/// For whom something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    /// A session's number and generation.
    Session(u32, u32),
    /// The checkpoint.
    Checkpoint,
}

/// A message whose record the store has been given.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) lsn: u64,
    pub(crate) mark: Mark,
    pub(crate) kept: WeakKept,
}

/// A stretch of a segment, with the messages in it that are wanted.
#[derive(Debug)]
struct Span {
    segment: u32,
    offset: u32,
    bytes: u32,
    kept: Vec<(Place, Kept)>,
    reader: Reader,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) memory: Rc<Memory>,
    /// Bytes of waiting messages that stay in memory.
    pub(crate) bytes_max: u64,
    /// What may leave memory, in the order in which it goes.
    placed: VecDeque<WeakKept>,
    /// What was read, or used by a checkpoint, and is pinned for its reader's turn.
    fresh: Vec<(Reader, Kept)>,
    /// Sessions that have not had their turn since something was read for them.
    unpumped: Vec<Reader>,
    wanted: VecDeque<Span>,
    reads: Slab<Span>,
    /// Readers of messages that are read for others, each once.
    beside: Vec<Reader>,
    is_beside: HashSet<Reader>,
    /// Readers whose messages may be there, or lost.
    news: Vec<Reader>,
    buffers: Vec<Vec<u8>>,
    /// Messages that the log did not give back, since this was asked last.
    lost: u64,
}

impl Pages {
    pub(crate) fn new(bytes_max: u64) -> Pages {
        Pages {
            memory: Rc::new(Memory::default()),
            bytes_max,
            placed: VecDeque::new(),
            fresh: Vec::new(),
            unpumped: Vec::new(),
            wanted: VecDeque::new(),
            reads: Slab::new(),
            beside: Vec::new(),
            is_beside: HashSet::new(),
            news: Vec::new(),
            buffers: Vec::new(),
            lost: 0,
        }
    }

    /// A message that waits.
    pub(crate) fn keep(&self, message: Message) -> Kept {
        Kept::new(message, &self.memory)
    }

    /// One that only the log has; its place must be told next.
    pub(crate) fn keep_away(&self, digest: &Digest) -> Kept {
        Kept::away(digest.bytes, digest.topic_hash, &self.memory)
    }

    /// The log has a message at this place.
    pub(crate) fn place(&mut self, kept: &Kept, place: Place) {
        if kept.set_place(place) && !kept.is_away() {
            self.list(kept);
        }
    }

    fn list(&mut self, kept: &Kept) {
        if !kept.set_listed(true) {
            self.placed.push_back(kept.downgrade());
        }
    }

    /// A write has ended: what stands in it has a place from now on. Must come before the next
    /// write is taken from the store.
    pub(crate) fn settle<S: Store>(&mut self, store: &S, appended: &mut VecDeque<Appended>) {
        let durable = store.durable().0;
        while let Some(Appended { mark, kept, .. }) =
            appended.pop_front_if(|first| first.lsn <= durable)
        {
            let place = store.place(mark);
            if let Some((place, kept)) = place.zip(kept.upgrade()) {
                self.place(&kept, place);
            }
        }
        let here = self.memory.placed() - self.memory.away();
        if self.placed.len() > DEAD_MIN + 2 * here {
            self.placed.retain(|kept| !kept.is_gone());
        }
    }

    /// Ends the turn: lets go what is above the limit, but nothing that was read for somebody who
    /// has not had it yet. True if there is more to let go.
    pub(crate) fn end_turn(&mut self) -> bool {
        let mut left = PAGE_OUT_MAX;
        while left > 0 && self.memory.bytes() > self.bytes_max {
            let Some(first) = self.placed.pop_front() else { break };
            if let Some(kept) = first.upgrade() {
                kept.set_listed(false);
                kept.page_out();
            }
            left -= 1;
        }
        for (reader, kept) in mem::take(&mut self.fresh) {
            if self.unpumped.contains(&reader) {
                self.fresh.push((reader, kept));
            } else {
                kept.unpin();
                self.list(&kept);
            }
        }
        left == 0
    }

    /// Sessions, by number and generation, for which `waits` does not hold have had their turn, or
    /// are gone: what was read for them need not be kept for them any more.
    pub(crate) fn unpin_unless(&mut self, waits: impl Fn(u32, u32) -> bool) {
        self.unpumped
            .retain(|reader| matches!(reader, Reader::Session(index, of) if waits(*index, *of)));
    }

    /// Asks for messages, which stand in the order in which they will be needed. True if some of
    /// them must be waited for: [`Pages::take_news`] tells when to look again.
    pub(crate) fn want(&mut self, messages: impl Iterator<Item = Kept>, reader: Reader) -> bool {
        let mut waits = false;
        let mut beside = false;
        let mut last: Option<Span> = None;
        for kept in messages.filter(Kept::is_away) {
            waits = true;
            let Some(place) = kept.place().filter(|_| kept.ask()) else {
                beside = true;
                continue;
            };
            match &mut last {
                Some(span) if span.takes_in(place) => {
                    span.bytes = place.offset - span.offset + place.bytes;
                    span.kept.push((place, kept));
                }
                _ => self.wanted.extend(last.replace(Span::of(place, kept, reader))),
            }
        }
        self.wanted.extend(last);
        if beside {
            self.wait_beside(reader);
        }
        waits
    }

    /// What a reader wants is being read, for itself or another one.
    pub(crate) fn wait_beside(&mut self, reader: Reader) {
        if self.is_beside.insert(reader) {
            self.beside.push(reader);
        }
    }

    /// Readers for whom something has changed: each is to look at its messages, and ask again for
    /// what is still away.
    pub(crate) fn take_news(&mut self) -> Vec<Reader> {
        mem::take(&mut self.news)
    }

    /// True if a read waits to be begun.
    pub(crate) fn is_behind(&self) -> bool {
        !self.wanted.is_empty() || !self.news.is_empty()
    }

    /// Begins the reads that may be.
    pub(crate) fn begin_reads<S: Store>(&mut self, store: &mut S, mut begin: impl FnMut(ReadOp)) {
        while self.reads.len() < READS_MAX
            && self.unpumped.len() < UNPUMPED_MAX
            && let Some(span) = self.wanted.pop_front()
        {
            match store.begin_read(span.segment) {
                Ok(file) => {
                    let mut bytes = self.buffers.pop().unwrap_or_default();
                    bytes.resize(span.bytes as usize, 0);
                    let offset = u64::from(span.offset);
                    let tag = u64::from(self.reads.insert(span));
                    begin(ReadOp { tag, file, offset, bytes });
                }
                Err(errno) if TRANSIENT.contains(&errno) => {
                    self.wanted.push_front(span);
                    break;
                }
                Err(errno) => self.take_in(&span, &[], errno),
            }
        }
    }

    /// A read has ended.
    pub(crate) fn end_read<S: Store>(
        &mut self,
        store: &mut S,
        tag: u64,
        bytes: Vec<u8>,
        errno: i32,
    ) {
        let Some(span) = u32::try_from(tag).ok().and_then(|tag| self.reads.remove(tag)) else {
            return;
        };
        store.end_read(span.segment);
        self.take_in(&span, &bytes, errno);
        if self.buffers.len() < BUFFERS_KEPT && bytes.capacity() <= SPAN_BYTES_MAX as usize {
            self.buffers.push(bytes);
        }
    }

    /// Messages that the log did not give back since this was asked last.
    pub(crate) fn take_lost(&mut self) -> u64 {
        mem::take(&mut self.lost)
    }

    fn take_in(&mut self, span: &Span, bytes: &[u8], errno: i32) {
        self.news.push(span.reader);
        self.news.append(&mut self.beside);
        self.is_beside.clear();
        if span.reader != Reader::Checkpoint && !self.unpumped.contains(&span.reader) {
            self.unpumped.push(span.reader);
        }
        let mut unreadable = 0;
        for (place, kept) in &span.kept {
            let read = record_at(bytes, u64::from(span.offset), *place);
            let message = read.and_then(|(_, body)| message_of(body, kept.bytes()));
            match message {
                // A checkpoint has written it again, and its old place may hold anything.
                _ if kept.place() != Some(*place) => kept.unask(),
                // Nobody waits for it any more, and its place may be gone.
                _ if !kept.is_shared() => kept.unask(),
                Some(message) => {
                    kept.page_in(message);
                    kept.pin();
                    self.fresh.push((span.reader, kept.clone()));
                }
                None if TRANSIENT.contains(&errno) => kept.unask(),
                None => {
                    kept.lose();
                    unreadable += 1;
                }
            }
        }
        if unreadable > 0 {
            self.lost += unreadable;
            let Span { segment, offset, bytes, .. } = span;
            tracing::error!(
                segment,
                offset,
                bytes,
                errno,
                "{unreadable} messages that wait for clients cannot be read from the log any more: \
                 the disk is damaged; `ringtide store check` says where"
            );
        }
    }

    /// A checkpoint has done with a message that it had pinned.
    pub(crate) fn unpin(&mut self, kept: Kept) {
        self.fresh.push((Reader::Checkpoint, kept));
    }
}

impl Span {
    fn of(place: Place, kept: Kept, reader: Reader) -> Span {
        let Place { segment, offset, bytes } = place;
        Span { segment, offset, bytes, kept: vec![(place, kept)], reader }
    }

    /// True if a message stands so close behind that one read may take it in.
    fn takes_in(&self, place: Place) -> bool {
        let end = u64::from(self.offset) + u64::from(self.bytes);
        let (from, bytes) = (u64::from(place.offset), u64::from(place.bytes));
        place.segment == self.segment
            && from >= end
            && from - end <= u64::from(GAP_BYTES_MAX)
            && from - u64::from(self.offset) + bytes <= u64::from(SPAN_BYTES_MAX)
    }
}

/// The message at the end of a record's body.
fn message_of(body: &[u8], bytes: u32) -> Option<Message> {
    let at = body.len().checked_sub(bytes as usize)?;
    Message::from_encoded(Bytes::copy_from_slice(&body[at..])).ok()
}
