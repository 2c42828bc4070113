//! A message that waits for clients, wherever its bytes are: in memory, or only in the log.
//!
//! The sessions for which it waits share one handle, so what is read back for one is there for all.
//! This file knows no session and does no I/O; what leaves memory and when is decided in `pages`.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};

use ringtide_storage::Place;

use crate::message::Message;

/// How much of what waits is in memory, of messages that the log has, too.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Bytes of their encoded forms.
    bytes: Cell<u64>,
    /// Messages that the log has, in memory or not.
    placed: Cell<usize>,
    /// Those that are not in memory.
    away: Cell<usize>,
}

impl Memory {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(crate) fn placed(&self) -> usize {
        self.placed.get()
    }

    pub(crate) fn away(&self) -> usize {
        self.away.get()
    }
}

fn change<T: Copy>(cell: &Cell<T>, by: impl FnOnce(T) -> T) {
    cell.set(by(cell.get()));
}

/// Where the bytes are.
#[derive(Debug)]
enum Content {
    Here(Message),
    /// In the log.
    Away,
    /// The log did not give them back.
    Lost,
}

#[derive(Debug)]
struct Inner {
    content: RefCell<Content>,
    place: Cell<Option<Place>>,
    /// Who needs it in memory for now.
    pins: Cell<u32>,
    /// A read of it is under way, or about to be.
    asked: Cell<bool>,
    /// It stays in memory.
    stays: Cell<bool>,
    /// In the list of what may leave memory.
    listed: Cell<bool>,
    bytes: u32,
    topic_hash: u64,
    memory: Rc<Memory>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Rc<Inner>);

/// A handle that does not keep the message.
#[derive(Clone, Debug)]
pub(crate) struct WeakKept(Weak<Inner>);

impl WeakKept {
    pub(crate) fn upgrade(&self) -> Option<Kept> {
        self.0.upgrade().map(Kept)
    }

    /// True if nobody waits for the message any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Kept {
    pub(crate) fn new(message: Message, memory: &Rc<Memory>) -> Kept {
        let view = message.view();
        let (bytes, topic_hash) = (view.encoded_len() as u32, view.header.topic_hash);
        Kept::with(Content::Here(message), bytes, topic_hash, memory)
    }

    /// One that only the log has.
    pub(crate) fn away(bytes: u32, topic_hash: u64, memory: &Rc<Memory>) -> Kept {
        Kept::with(Content::Away, bytes, topic_hash, memory)
    }

    fn with(content: Content, bytes: u32, topic_hash: u64, memory: &Rc<Memory>) -> Kept {
        Kept(Rc::new(Inner {
            content: RefCell::new(content),
            place: Cell::new(None),
            pins: Cell::new(0),
            asked: Cell::new(false),
            stays: Cell::new(false),
            listed: Cell::new(false),
            bytes,
            topic_hash,
            memory: Rc::clone(memory),
        }))
    }

    pub(crate) fn downgrade(&self) -> WeakKept {
        WeakKept(Rc::downgrade(&self.0))
    }

    /// The message, if it is in memory.
    pub(crate) fn message(&self) -> Option<Ref<'_, Message>> {
        Ref::filter_map(self.0.content.borrow(), |content| match content {
            Content::Here(message) => Some(message),
            Content::Away | Content::Lost => None,
        })
        .ok()
    }

    /// True if it must be read before it can be sent.
    pub(crate) fn is_away(&self) -> bool {
        matches!(*self.0.content.borrow(), Content::Away)
    }

    pub(crate) fn topic_hash(&self) -> u64 {
        self.0.topic_hash
    }

    /// Bytes of the encoded form, its parts one behind the other.
    pub(crate) fn bytes(&self) -> u32 {
        self.0.bytes
    }

    /// True if it has more holders than this one.
    pub(crate) fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// True if both are handles to one message.
    pub(crate) fn is_same(&self, other: &Kept) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The same for all handles to it, and for no other message as long as there is one.
    pub(crate) fn address(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }

    /// Where the log has it, if it does and that may be relied on.
    pub(crate) fn place(&self) -> Option<Place> {
        self.0.place.get()
    }

    /// The log has it there, durably. True if that was not known before and it may leave memory.
    pub(crate) fn set_place(&self, place: Place) -> bool {
        let is_lost = matches!(*self.0.content.borrow(), Content::Lost);
        if is_lost || self.0.stays.get() || self.0.place.replace(Some(place)).is_some() {
            return false;
        }
        let memory = &self.0.memory;
        change(&memory.placed, |placed| placed + 1);
        if self.message().is_some() {
            change(&memory.bytes, |bytes| bytes + u64::from(self.0.bytes));
        } else {
            change(&memory.away, |away| away + 1);
        }
        true
    }

    /// It stays in memory from now on: whoever has it may need it at once. Does nothing while it is
    /// away.
    pub(crate) fn stay(&self) {
        if self.message().is_none() || self.0.stays.replace(true) {
            return;
        }
        self.forget_place();
    }

    fn forget_place(&self) {
        if self.0.place.take().is_none() {
            return;
        }
        let memory = &self.0.memory;
        change(&memory.placed, |placed| placed - 1);
        if self.message().is_some() {
            change(&memory.bytes, |bytes| bytes - u64::from(self.0.bytes));
        } else {
            change(&memory.away, |away| away - 1);
        }
    }

    /// Notes whether it is in the list of what may leave memory; whether it was.
    pub(crate) fn set_listed(&self, listed: bool) -> bool {
        self.0.listed.replace(listed)
    }

    pub(crate) fn pin(&self) {
        change(&self.0.pins, |pins| pins + 1);
    }

    pub(crate) fn unpin(&self) {
        change(&self.0.pins, |pins: u32| pins.saturating_sub(1));
    }

    /// Lets the bytes go, if the log has them and nobody needs them now. True if they went.
    pub(crate) fn page_out(&self) -> bool {
        let is_free = self.0.pins.get() == 0 && self.place().is_some();
        if !is_free || self.message().is_none() {
            return false;
        }
        *self.0.content.borrow_mut() = Content::Away;
        let memory = &self.0.memory;
        change(&memory.bytes, |bytes| bytes - u64::from(self.0.bytes));
        change(&memory.away, |away| away + 1);
        true
    }

    /// True if it is neither in memory nor being read.
    pub(crate) fn is_unasked(&self) -> bool {
        self.is_away() && !self.0.asked.get()
    }

    /// Notes that it is to be read. False if it need not be, or is already.
    pub(crate) fn ask(&self) -> bool {
        self.is_away() && !self.0.asked.replace(true)
    }

    /// A read of it is over without its bytes: it may be asked for again.
    pub(crate) fn unask(&self) {
        self.0.asked.set(false);
    }

    /// It was read.
    pub(crate) fn page_in(&self, message: Message) {
        self.unask();
        if !self.is_away() {
            return;
        }
        *self.0.content.borrow_mut() = Content::Here(message);
        let memory = &self.0.memory;
        change(&memory.bytes, |bytes| bytes + u64::from(self.0.bytes));
        change(&memory.away, |away| away - 1);
    }

    /// It cannot be read any more.
    pub(crate) fn lose(&self) {
        self.unask();
        if self.is_away() {
            self.forget_place();
            *self.0.content.borrow_mut() = Content::Lost;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.place.get().is_none() {
            return;
        }
        change(&self.memory.placed, |placed| placed - 1);
        match self.content.get_mut() {
            Content::Here(_) => change(&self.memory.bytes, |all| all - u64::from(self.bytes)),
            Content::Away => change(&self.memory.away, |away| away - 1),
            Content::Lost => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ringtide_codec::QoS;
    use ringtide_session::Delivery;
    use ringtide_topics::TenantId;

    use super::*;
    use crate::message::{Header, View};
    use crate::session::Stored;

    fn message(payload: &[u8]) -> Message {
        let header = Header {
            flags: 0,
            qos: QoS::AtLeastOnce,
            retain: false,
            hops: 0,
            tenant: TenantId(0),
            origin_node: 0,
            origin_log: 0,
            partition: 0,
            lsn: 0,
            publisher: 0,
            ingress_ms: 0,
            expires_ms: 0,
            topic_hash: 7,
        };
        Message::new(&View { header, topic: "t", properties: &[], payload })
    }

    const PLACE: Place = Place { segment: 1, offset: 4096, bytes: 200 };

    fn seen(memory: &Memory) -> (u64, usize, usize) {
        (memory.bytes(), memory.placed(), memory.away())
    }

    /// What is left in memory of a message that waits in the log: its handle with the two counts
    /// of its references, and an entry in the queue of each session.
    #[test]
    fn sizes_of_a_message_that_is_away() {
        assert_eq!(size_of::<Inner>() + 2 * size_of::<usize>(), 112);
        assert_eq!(size_of::<Delivery<Stored>>(), 72);
    }

    #[test]
    fn it_leaves_memory_only_when_the_log_has_it() {
        let memory = Rc::new(Memory::default());
        let kept = Kept::new(message(b"payload"), &memory);
        assert!(!kept.page_out(), "the log has it not yet");
        assert_eq!(seen(&memory), (0, 0, 0));
        assert!(kept.set_place(PLACE));
        let bytes = u64::from(kept.bytes());
        assert_eq!(seen(&memory), (bytes, 1, 0));
        kept.pin();
        assert!(!kept.page_out(), "somebody needs it");
        kept.unpin();
        assert!(kept.page_out());
        assert!(kept.is_away() && kept.message().is_none());
        assert_eq!(seen(&memory), (0, 1, 1));
        assert!(kept.ask());
        assert!(!kept.ask(), "a read of it is under way");
        kept.page_in(message(b"payload"));
        assert_eq!(kept.message().unwrap().view().payload, b"payload");
        assert_eq!(seen(&memory), (bytes, 1, 0));
        drop(kept);
        assert_eq!(seen(&memory), (0, 0, 0));
    }

    #[test]
    fn a_new_place_does_not_bring_it_back() {
        let memory = Rc::new(Memory::default());
        let kept = Kept::new(message(b"x"), &memory);
        kept.set_place(PLACE);
        assert!(kept.page_out());
        let moved = Place { segment: 2, ..PLACE };
        assert!(!kept.set_place(moved), "it was known before");
        assert_eq!(kept.place(), Some(moved));
        assert!(kept.is_away());
        drop(kept);
        assert_eq!(seen(&memory), (0, 0, 0));
    }

    #[test]
    fn what_stays_and_what_is_lost_is_not_counted() {
        let memory = Rc::new(Memory::default());
        let stays = Kept::new(message(b"x"), &memory);
        stays.set_place(PLACE);
        stays.stay();
        assert!(!stays.page_out());
        assert!(!stays.set_place(PLACE));
        let lost = Kept::new(message(b"x"), &memory);
        lost.set_place(PLACE);
        assert!(lost.page_out());
        lost.lose();
        assert!(!lost.is_away() && lost.message().is_none());
        assert_eq!(seen(&memory), (0, 0, 0));
        drop((stays, lost));
        assert_eq!(seen(&memory), (0, 0, 0));
    }
}
