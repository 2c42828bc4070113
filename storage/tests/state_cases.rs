//! The replayed state, case by case: what is kept and for how long, what is discarded, what is
//! refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::borrow::Cow;
use std::collections::BTreeSet;

use common::message::{message, number_of, origin_of, topic_of};
use ringtide_storage::record::{
    CheckpointEndRecord, Destination, Entry, Exchange, ExchangeRecord, MessageHead, QueueRecord,
    RecordError, SessionId, SessionRecord, Step, VoidRecord, WatermarkRecord,
};
use ringtide_storage::state::Followed;
use ringtide_storage::{Lsn, RecordKind, State};

/// A state and the position of its last record.
struct Log {
    state: State,
    lsn: u64,
}

impl Log {
    fn new() -> Log {
        Log::of(0)
    }

    fn of(shard: u16) -> Log {
        Log { state: State::new(shard, topic_of), lsn: 0 }
    }

    fn put(&mut self, kind: RecordKind, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let mut body = Vec::new();
        encode(&mut body);
        self.lsn += 1;
        self.state.apply(Lsn(self.lsn), kind, &body).unwrap();
        self.lsn
    }

    fn session(&mut self, id: u64) {
        let record = SessionRecord { id: SessionId(id), ..SessionRecord::default() };
        self.put(RecordKind::Session, |out| record.encode(out));
    }

    fn message(&mut self, head: &MessageHead<'_>, bytes: &[u8]) -> u64 {
        self.put(RecordKind::Message, |out| {
            head.encode(out);
            out.extend_from_slice(bytes);
        })
    }

    fn step(&mut self, session: u64, step: Step) {
        let record = ExchangeRecord { session: SessionId(session), step };
        self.put(RecordKind::Exchange, |out| record.encode(out));
    }

    fn watermark(&mut self, origin: u16, seq: u64) {
        let record = WatermarkRecord { marks: vec![(origin, seq)], sent: Vec::new() };
        self.put(RecordKind::Watermark, |out| record.encode(out));
    }
}

fn entry(session: u64, seq: u64) -> Entry<'static> {
    let (session, ids) = (SessionId(session), Cow::Borrowed(&[][..]));
    Entry { session, seq, qos: 2, retain: false, membership: 0, ids }
}

fn to(shard: u16, seq: u64) -> Destination {
    Destination { shard, seq, group: 0 }
}

fn for_entries(entries: Vec<Entry<'_>>) -> MessageHead<'_> {
    MessageHead { entries, ..MessageHead::default() }
}

#[test]
fn only_live_messages_are_held() {
    let mut log = Log::new();
    log.session(1);
    log.session(2);
    let never = message("stays", 0, (0, 0), false);
    log.message(&for_entries(vec![entry(2, 1)]), &never);
    for number in 2..50_000 {
        let bytes = message("goes", number, (0, 0), false);
        log.message(&for_entries(vec![entry(1, number)]), &bytes);
        assert_eq!(log.state.messages(), 2);
        log.step(1, Step::Done { seq: number });
    }
    assert_eq!(log.state.messages(), 1);
    let parts = log.state.into_parts();
    assert_eq!(parts.sessions[1].waiting[0].message.bytes()[..], never[..]);
    assert_eq!((parts.last_seq, parts.last_session), (49_999, SessionId(2)));
}

#[test]
fn a_message_stays_for_each_of_its_reasons() {
    let bytes = message("t", 1, (0, 0), false);
    let mut log = Log::new();
    log.session(1);
    let head = MessageHead {
        retained: true,
        inbound: Some((SessionId(1), 5)),
        origin: Some((3, 1)),
        destinations: Cow::Owned(vec![to(2, 1)]),
        entries: vec![entry(1, 1)],
    };
    log.message(&head, &bytes);
    log.watermark(3, 1);
    log.state.taken_over(2, 1);
    assert_eq!(log.state.messages(), 1);
    log.step(1, Step::Sent { seq: 1, packet_id: 9 });
    log.step(1, Step::Received { packet_id: 9 });
    assert_eq!(log.state.messages(), 1, "it is retained");
    let clears = MessageHead { retained: true, ..MessageHead::default() };
    log.message(&clears, &message("t", 2, (0, 0), true));
    assert_eq!(log.state.messages(), 0);
    let parts = log.state.into_parts();
    assert!(parts.retained.is_empty() && parts.pending.is_empty());
    let record = &parts.sessions[0].record;
    assert_eq!(record.inbound, [5]);
    assert_eq!(record.exchanges, [Exchange { packet_id: 9, seq: None }]);
    assert_eq!((parts.sent, parts.watermarks), (vec![(2, 1)], vec![(3, 1)]));
}

#[test]
fn shared_messages_share_their_bytes() {
    let mut log = Log::new();
    let bytes = message("t", 1, (0, 0), false);
    (1..=3).for_each(|id| log.session(id));
    log.message(&for_entries(vec![entry(1, 1), entry(2, 2)]), &bytes);
    let lsn = log.lsn;
    let queue = QueueRecord { message: lsn, entries: vec![entry(3, 3)] };
    log.put(RecordKind::Queue, |out| queue.encode(out));
    let parts = log.state.into_parts();
    let places: Vec<_> =
        parts.sessions.iter().map(|one| one.waiting[0].message.bytes().as_ptr()).collect();
    assert!(places.iter().all(|place| *place == places[0]));
}

#[test]
fn queue_records_find_a_message_in_custody_whose_first_sessions_have_done_with_it() {
    let mut log = Log::new();
    log.session(1);
    log.session(2);
    let head = MessageHead {
        destinations: Cow::Owned(vec![to(0, 1)]),
        entries: vec![entry(1, 1)],
        ..MessageHead::default()
    };
    let lsn = log.message(&head, &message("t", 1, (0, 0), false));
    log.step(1, Step::Done { seq: 1 });
    let queue = QueueRecord { message: lsn, entries: vec![entry(2, 2)] };
    log.put(RecordKind::Queue, |out| queue.encode(out));
    let parts = log.state.clone().into_parts();
    assert_eq!(parts.sessions[1].waiting.len(), 1);
    // Until its watermark has passed it is known who had it, also who has done with it.
    assert_eq!(parts.under_way[0].had, [(SessionId(1), 0), (SessionId(2), 0)]);
    assert_eq!(parts.pending.len(), 1);
    log.watermark(0, 1);
    assert_eq!(log.state.messages(), 1);
    let parts = log.state.clone().into_parts();
    assert!(parts.under_way.is_empty() && parts.pending.is_empty());
    // Later ones come too late.
    log.step(2, Step::Done { seq: 2 });
    log.put(RecordKind::Queue, |out| queue.encode(out));
    assert_eq!(log.state.ignored(), 1);
}

#[test]
fn a_checkpoint_names_further_sessions_for_a_message_until_its_end() {
    let mut log = Log::new();
    (1..=3).for_each(|id| log.session(id));
    let mut body = Vec::new();
    for_entries(vec![entry(1, 1)]).encode(&mut body);
    body.extend_from_slice(&message("t", 1, (0, 0), false));
    log.put(RecordKind::Checkpoint, |out| out.extend_from_slice(&body));
    let lsn = log.lsn;
    log.step(1, Step::Done { seq: 1 });
    let queue = |id| QueueRecord { message: lsn, entries: vec![entry(id, id)] };
    log.put(RecordKind::Queue, |out| queue(2).encode(out));
    log.put(RecordKind::CheckpointEnd, |out| CheckpointEndRecord.encode(out));
    assert_eq!(log.state.messages(), 1);
    assert_eq!(log.state.clone().into_parts().sessions[1].waiting.len(), 1);
    log.step(2, Step::Done { seq: 2 });
    assert_eq!(log.state.messages(), 0);
    log.put(RecordKind::Queue, |out| queue(3).encode(out));
    assert_eq!(log.state.ignored(), 1);
}

#[test]
fn a_message_that_came_twice_is_known_by_all_who_had_it() {
    let mut log = Log::new();
    (1..=3).for_each(|id| log.session(id));
    let bytes = message("t", 1, (4, 1), false);
    let head = |entries| MessageHead { origin: Some((4, 7)), entries, ..MessageHead::default() };
    log.message(&head(vec![entry(1, 1)]), &bytes);
    let onward = Destination { shard: 2, seq: 1, group: 99 };
    let again = MessageHead { destinations: Cow::Owned(vec![onward]), ..head(vec![entry(3, 2)]) };
    log.message(&again, &bytes);
    let parts = log.state.into_parts();
    assert_eq!(parts.under_way.len(), 1);
    assert_eq!(parts.under_way[0].had, [(SessionId(1), 0), (SessionId(3), 0)]);
    assert_eq!(parts.under_way[0].forwarded, [(2, 99)]);
}

#[test]
fn what_its_origin_has_lost_is_discarded() {
    let mut log = Log::new();
    log.session(1);
    for (seq, lsn) in [(1, 10), (2, 11), (3, 12)] {
        let bytes = message("t", seq, (5, lsn), false);
        let entries = vec![entry(1, seq)];
        let head = MessageHead {
            retained: true,
            origin: Some((5, seq)),
            destinations: Cow::Owned(vec![to(0, seq)]),
            entries,
            ..MessageHead::default()
        };
        log.message(&head, &bytes);
    }
    // A copy that a checkpoint wrote does not name its origin, but the message does.
    let copy = for_entries(vec![entry(1, 3)]);
    log.put(RecordKind::Checkpoint, |out| {
        copy.encode(out);
        out.extend_from_slice(&message("t", 3, (5, 12), false));
    });
    log.put(RecordKind::CheckpointEnd, |out| CheckpointEndRecord.encode(out));
    log.step(1, Step::Sent { seq: 3, packet_id: 1 });
    let mut other = log.state.clone();
    assert_eq!(other.discard_uncommitted(6, Lsn(0), 9, origin_of), BTreeSet::new());
    assert_eq!(other.discard_uncommitted(5, Lsn(12), 9, origin_of), BTreeSet::new());
    // By their places alone, too; of the copy nothing is known but where the message began.
    let by_place = log.state.clone().discard_uncommitted(5, Lsn(99), 1, origin_of);
    assert_eq!(by_place, BTreeSet::from([3, 4]));
    let lost = log.state.discard_uncommitted(5, Lsn(10), 9, origin_of);
    assert_eq!(lost, BTreeSet::from([3, 4, 5]));
    let parts = log.state.clone().into_parts();
    let waiting = &parts.sessions[0].waiting;
    assert_eq!(waiting.iter().map(|one| one.seq).collect::<Vec<_>>(), [1]);
    assert!(parts.sessions[0].record.exchanges.is_empty());
    let places = |shard| parts.under_way.iter().filter(move |one| one.origin == shard);
    assert_eq!(places(5).map(|one| one.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(parts.pending.iter().map(|one| one.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(number_of(parts.retained[0].message.bytes()), 3, "what is retained stays");
    assert_eq!(log.state.messages(), 2);
    assert_eq!(log.state.discard_uncommitted(5, Lsn(10), 9, origin_of), BTreeSet::new());
}

const GROUP: u64 = 0xabcd << 48 | 5;

/// A message for a session and, its member being gone, for another member of a group.
#[test]
fn what_others_had_is_not_taken_for_a_groups() {
    let mut log = Log::new();
    (1..=2).for_each(|id| log.session(id));
    let bytes = message("t", 1, (0, 4), false);
    let own = Destination { shard: 0, seq: 1, group: GROUP };
    let head =
        MessageHead { destinations: Cow::Owned(vec![own]), ..for_entries(vec![entry(1, 1)]) };
    log.message(&head, &bytes);
    let one = &log.state.clone().into_parts().under_way[0];
    assert_eq!((one.seq, &one.had[..], one.is_passed_on()), (1, &[][..], false));
    let member = Entry { membership: 0xabcd, ..entry(2, 2) };
    let found = MessageHead { origin: Some((0, 1)), ..for_entries(vec![member]) };
    log.message(&found, &bytes);
    let one = &log.state.into_parts().under_way[0];
    assert_eq!((&one.had[..], one.is_passed_on()), (&[(SessionId(2), 0xabcd)][..], true));
}

/// A session that was chosen as a member of a group has its own subscription's copy to come.
#[test]
fn what_a_member_had_is_not_taken_for_its_own() {
    let mut log = Log::new();
    (1..=2).for_each(|id| log.session(id));
    let member = Entry { membership: 0xabcd, ..entry(1, 1) };
    let destinations = Cow::Owned(vec![to(0, 1)]);
    let head = MessageHead { destinations, ..for_entries(vec![member, entry(2, 2)]) };
    log.message(&head, &message("t", 1, (0, 4), false));
    assert_eq!(log.state.into_parts().under_way[0].had, [(SessionId(2), 0)]);
}

/// A message of shard 1 that shard 0 took over, at place 7, before the log of shard 1 lost it.
fn taken_over_and_lost() -> (Log, State) {
    let mut log = Log::new();
    log.session(1);
    let destinations = Cow::Owned(vec![to(2, 1)]);
    let head = MessageHead { origin: Some((1, 7)), destinations, ..for_entries(vec![entry(1, 1)]) };
    log.message(&head, &message("t", 1, (1, 12), false));
    (log, State::new(1, topic_of))
}

#[test]
fn what_is_void_stays_void_and_its_place_is_not_used_again() {
    let (mut log, origin) = taken_over_and_lost();
    let mut states = [log.state.clone(), origin, State::new(2, topic_of)];
    let void = State::settle(&mut states, &[Lsn(2), Lsn(5), Lsn(0)], origin_of);
    assert_eq!(void, [vec![(0, 2)], vec![], vec![]]);
    let parts = State::into_aligned_parts(states.into());
    assert_eq!(parts[1].sent, [(0, 7)], "the next place is another one");
    // A second crash, when the origin's log has come further.
    log.put(RecordKind::Void, |out| VoidRecord { messages: void[0].clone() }.encode(out));
    let mut origin = State::new(1, topic_of);
    let head = MessageHead { destinations: Cow::Owned(vec![to(0, 8)]), ..MessageHead::default() };
    let mut body = Vec::new();
    head.encode(&mut body);
    body.extend_from_slice(&message("u", 2, (1, 40), false));
    origin.apply(Lsn(40), RecordKind::Message, &body).unwrap();
    let mut states = [log.state, origin, State::new(2, topic_of)];
    let void = State::settle(&mut states, &[Lsn(3), Lsn(40), Lsn(0)], origin_of);
    assert!(void.iter().all(Vec::is_empty), "it is told once");
    let parts = State::into_aligned_parts(states.into());
    assert_eq!((&parts[0].under_way[..], &parts[0].pending[..]), (&[][..], &[][..]));
    assert!(parts[0].sessions[0].waiting.is_empty());
    assert_eq!((parts[1].sent.as_slice(), parts[1].pending[0].seq), (&[(0, 8)][..], 8));
}

/// A crash between two logs' records of what is void, one of which is the origin's own.
#[test]
fn what_one_log_says_is_void_is_void_in_all() {
    let (log, mut origin) = taken_over_and_lost();
    let mut body = Vec::new();
    VoidRecord { messages: vec![(0, 2), (1, 13)] }.encode(&mut body);
    origin.apply(Lsn(14), RecordKind::Void, &body).unwrap();
    // It has come so far that neither position nor place say any more that the message was lost.
    body.clear();
    let head = MessageHead { destinations: Cow::Owned(vec![to(0, 9)]), ..MessageHead::default() };
    head.encode(&mut body);
    body.extend_from_slice(&message("u", 2, (1, 15), false));
    origin.apply(Lsn(15), RecordKind::Message, &body).unwrap();
    let mut states = [log.state, origin, State::new(2, topic_of)];
    let void = State::settle(&mut states, &[Lsn(2), Lsn(15), Lsn(0)], origin_of);
    assert_eq!(void, [vec![(0, 2)], vec![], vec![]], "this log has not been told");
    let parts = State::into_aligned_parts(states.into());
    assert!(parts[0].sessions[0].waiting.is_empty() && parts[0].under_way.is_empty());
}

#[test]
fn what_was_taken_over_is_not_pending_whenever_that_is_told() {
    let mut log = Log::new();
    log.state.taken_over(2, 5);
    for seq in 4..8 {
        let destinations = Cow::Owned(vec![to(2, seq), to(3, seq)]);
        let head = MessageHead { destinations, ..MessageHead::default() };
        log.message(&head, &message("t", seq, (0, 0), false));
    }
    assert_eq!((log.state.pending(), log.state.messages()), (6, 4));
    log.state.taken_over(3, 6);
    assert_eq!((log.state.pending(), log.state.messages()), (3, 2));
    assert_eq!(log.state.into_parts().sent, [(2, 7), (3, 7)]);
}

#[test]
fn records_about_nobody_are_counted_and_do_nothing() {
    let mut log = Log::new();
    log.message(&for_entries(vec![entry(1, 1), entry(2, 2)]), &message("t", 1, (0, 0), false));
    log.step(1, Step::Done { seq: 1 });
    let inbound = Some((SessionId(1), 4));
    log.message(&MessageHead { inbound, ..MessageHead::default() }, b"");
    assert_eq!(log.state.ignored(), 4);
    assert_eq!((log.state.messages(), log.state.sessions()), (0, 0));
}

#[test]
fn a_bad_record_changes_nothing() {
    let mut log = Log::new();
    log.session(1);
    let head = MessageHead {
        retained: true,
        inbound: Some((SessionId(1), 3)),
        ..for_entries(vec![entry(1, 1)])
    };
    let mut body = Vec::new();
    head.encode(&mut body);
    body.extend_from_slice(b"no message");
    let result = log.state.apply(Lsn(9), RecordKind::Message, &body);
    assert_eq!(result, Err(RecordError::Invalid));
    let kinds = [
        RecordKind::Message,
        RecordKind::Session,
        RecordKind::Subscription,
        RecordKind::Queue,
        RecordKind::Exchange,
        RecordKind::Connection,
        RecordKind::SessionEnd,
        RecordKind::Watermark,
        RecordKind::Checkpoint,
        RecordKind::CheckpointEnd,
        RecordKind::Void,
    ];
    for kind in kinds {
        assert_eq!(log.state.apply(Lsn(9), kind, &[]), Err(RecordError::Truncated));
        assert_eq!(log.state.apply(Lsn(9), kind, &[77, 1]), Err(RecordError::Version(77)));
    }
    let parts = log.state.into_parts();
    assert!(parts.sessions[0].record.inbound.is_empty() && parts.sessions[0].waiting.is_empty());
}

#[test]
fn a_message_of_very_many_sessions_is_written_in_several_records() {
    let mut log = Log::new();
    (1..=10_000).for_each(|id| log.session(id));
    let entries: Vec<_> = (1..=10_000).map(|id| entry(id, id)).collect();
    let head = MessageHead { retained: true, ..for_entries(entries) };
    log.message(&head, &message("t", 1, (0, 0), false));
    let mut again = Log::new();
    let mut copies = 0;
    log.state.write_checkpoint(&mut |kind, parts| {
        copies += usize::from(kind == RecordKind::Checkpoint);
        again.lsn += 1;
        again.state.apply(Lsn(again.lsn), kind, &parts.concat()).unwrap();
    });
    assert_eq!(copies, 3);
    let parts = again.state.into_parts();
    assert_eq!(parts.retained.len(), 1);
    assert!(parts.sessions.iter().all(|one| one.waiting.len() == 1));
}

/// Settles what both logs say, as a start does, without a change to either.
fn start(origin: &Log, to: &Log) -> [ringtide_storage::state::Parts; 2] {
    let mut states = [origin.state.clone(), to.state.clone()];
    State::settle(&mut states, &[Lsn(origin.lsn), Lsn(to.lsn)], origin_of);
    State::into_aligned_parts(states.into()).try_into().unwrap()
}

#[test]
fn the_place_of_a_message_that_its_origin_lost_is_not_given_to_another() {
    // The destination has two messages whose fan-out is not over; the origin's log ends before.
    let (mut origin, mut to_log) = (Log::of(0), Log::of(1));
    to_log.session(1);
    for seq in [1, 2] {
        let lost = message("t", seq, (0, seq), false);
        let head = MessageHead { origin: Some((0, seq)), ..for_entries(vec![entry(1, seq)]) };
        to_log.message(&head, &lost);
    }
    let [sends, takes] = start(&origin, &to_log);
    assert_eq!(takes.under_way, []);
    assert_eq!(sends.sent, [(1, 2)], "the destination's log names these places for good");
    for seq in [1, 2] {
        to_log.step(1, Step::Done { seq });
    }
    // The publisher sends another message first, and the next crash comes before it has arrived.
    let place = sends.sent[0].1 + 1;
    for filler in 0..3 {
        origin.session(filler);
    }
    let new = message("t", 3, (0, 4), false);
    let head = MessageHead { destinations: Cow::Owned(vec![to(1, place)]), ..Default::default() };
    origin.message(&head, &new);
    let [sends, takes] = start(&origin, &to_log);
    assert_eq!(sends.pending.iter().map(|one| (one.shard, one.seq)).collect::<Vec<_>>(), [(1, 3)]);
    assert_eq!(takes.under_way, [], "nobody had what is sent now");
    assert_eq!((sends.sent, takes.watermarks), (vec![(1, 3)], vec![]));
}

/// A retained message whose fan-out was under way when another one took its topic, and another
/// number of shards: what is taken over anew is retained no more.
#[test]
fn what_is_taken_over_anew_does_not_take_its_topic_back() {
    let retained = |head: MessageHead<'static>| MessageHead { retained: true, ..head };
    for own in [true, false] {
        let (mut home, mut origin) = (Log::of(0), Log::of(1));
        let old = message("t", 1, (0, 1), false);
        if own {
            let destinations = Cow::Owned(vec![to(0, 1)]);
            home.message(&retained(MessageHead { destinations, ..Default::default() }), &old);
        } else {
            let destinations = Cow::Owned(vec![to(0, 1)]);
            origin.message(&MessageHead { destinations, ..Default::default() }, &old);
            let taken = MessageHead { origin: Some((1, 1)), ..Default::default() };
            home.message(&retained(taken), &old);
        }
        home.message(&retained(MessageHead::default()), &message("t", 2, (0, 9), false));
        let states = vec![home.state, origin.state];
        let new = State::redistribute(states, 1, |_, _| 0, &mut |due| Followed {
            entries: Vec::new(),
            retained: due.shard == 0,
        });
        let parts = new.into_iter().next().unwrap().into_parts();
        let held: Vec<u64> =
            parts.retained.iter().map(|one| number_of(one.message.bytes())).collect();
        assert_eq!(held, [2], "own place: {own}");
    }
}
