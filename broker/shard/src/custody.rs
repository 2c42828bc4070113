//! Who answers for a message on its way between shards. The origin keeps a message, in its log
//! and in memory, until the destination has said that its own log holds all that follows from it;
//! after a crash it is sent again, and the destination knows by its place in the order whether it
//! had it. A message whose local fan-out takes several turns, or that needs another member of a
//! group, is in the shard's own custody: the shard is its own destination.

use std::collections::{HashMap, VecDeque};

use ringtide_storage::record::Destination;
use smallvec::SmallVec;

use crate::message::Message;

/// A message that a destination has not taken over yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) seq: u64,
    /// The shared group for one of whose members it is, 0 = for all that match.
    pub(crate) group: u64,
    pub(crate) message: Message,
}

/// What came of a message before a crash, which need not and must not come of it again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// Sessions that had it.
    pub(crate) sessions: Vec<u32>,
    /// It was retained.
    pub(crate) retained: bool,
}

/// A place in the order by shard.
type Marks = Vec<(u16, u64)>;

/// What this shard owes to one other, or to itself, and has taken over from it.
#[derive(Debug, Default)]
struct Peer {
    /// The last place in the order given to a message for it.
    sent: u64,
    pending: VecDeque<Pending>,
    /// The last place taken from it.
    taken: u64,
    /// Places taken whose message is not all recorded yet, ascending.
    unfinished: VecDeque<u64>,
    /// The watermark that the log holds.
    marked: u64,
    /// Messages of QoS 2 up to this place are durable at their origin.
    committed: u64,
    /// Sessions whose sends wait for that.
    blocked: Vec<(u32, u32)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Custody {
    pub(crate) me: u16,
    peers: Vec<Peer>,
    /// Watermarks on their way to the disk: log position, origin, place.
    marks: VecDeque<(u64, u16, u64)>,
    /// Messages of QoS 2 on their way to the disk: log position, destination, place.
    commits: VecDeque<(u64, u16, u64)>,
    /// What came of messages here before a crash cut their fan-outs short.
    pub(crate) given: HashMap<(u16, u64), Given>,
    /// Messages of an earlier run, to be sent again before anything else.
    pub(crate) resend: VecDeque<(u16, Pending)>,
}

impl Custody {
    pub(crate) fn new(me: u16, shards: u16) -> Custody {
        Custody {
            me,
            peers: (0..shards).map(|_| Peer::default()).collect(),
            marks: VecDeque::new(),
            commits: VecDeque::new(),
            given: HashMap::new(),
            resend: VecDeque::new(),
        }
    }

    fn peer(&mut self, shard: u16) -> &mut Peer {
        &mut self.peers[usize::from(shard)]
    }

    /// The place that the next message to a shard will have.
    pub(crate) fn next(&self, shard: u16) -> u64 {
        self.peers[usize::from(shard)].sent + 1
    }

    /// Gives a message for a shard its place.
    pub(crate) fn give(&mut self, shard: u16, group: u64) -> Destination {
        let peer = self.peer(shard);
        peer.sent += 1;
        Destination { shard, seq: peer.sent, group }
    }

    /// Keeps a message until its destination has taken it over.
    pub(crate) fn keep(&mut self, destination: &Destination, message: &Message) {
        let Destination { shard, seq, group } = *destination;
        self.peer(shard).pending.push_back(Pending { seq, group, message: message.clone() });
    }

    /// A message of QoS 2 for another shard was recorded at this position.
    pub(crate) fn record_commit(&mut self, lsn: u64, destination: &Destination) {
        if destination.shard != self.me {
            self.commits.push_back((lsn, destination.shard, destination.seq));
        }
    }

    /// Takes a message of an origin. False if it was taken over before.
    pub(crate) fn take(&mut self, origin: u16, seq: u64) -> bool {
        let peer = self.peer(origin);
        let fresh = seq > peer.taken;
        peer.taken = peer.taken.max(seq);
        fresh
    }

    /// What follows from a message is not all recorded yet.
    pub(crate) fn begin(&mut self, origin: u16, seq: u64) {
        let own = origin == self.me;
        let peer = self.peer(origin);
        if own {
            peer.taken = peer.taken.max(seq);
        }
        let at = peer.unfinished.partition_point(|own| *own < seq);
        if peer.unfinished.get(at) != Some(&seq) {
            peer.unfinished.insert(at, seq);
        }
    }

    /// All that follows from a message is recorded.
    pub(crate) fn finish(&mut self, origin: u16, seq: u64) {
        let peer = self.peer(origin);
        if let Ok(at) = peer.unfinished.binary_search(&seq) {
            peer.unfinished.remove(at);
        }
    }

    /// True if what follows from a message is recorded in part only.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.given.is_empty() || self.peers.iter().any(|peer| !peer.unfinished.is_empty())
    }

    /// The watermarks that have moved since they were recorded.
    pub(crate) fn moved(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let marks = self.peers.iter().enumerate().map(|(shard, peer)| (shard, peer, mark(peer)));
        marks.filter(|(_, peer, mark)| *mark > peer.marked).map(|(shard, _, m)| (shard as u16, m))
    }

    /// All watermarks, and the last places given: for a checkpoint.
    pub(crate) fn all_marks(&self) -> (Marks, Marks) {
        let number = |(shard, peer): (usize, &Peer)| (shard as u16, mark(peer), peer.sent);
        let all: Vec<_> = self.peers.iter().enumerate().map(number).collect();
        let marks = all.iter().map(|(shard, mark, _)| (*shard, *mark)).collect();
        (marks, all.iter().map(|(shard, _, sent)| (*shard, *sent)).collect())
    }

    /// A watermark was recorded at this position.
    pub(crate) fn marked(&mut self, lsn: u64, origin: u16, seq: u64) {
        self.peer(origin).marked = seq;
        self.marks.push_back((lsn, origin, seq));
    }

    /// The watermarks that have become durable: origin and place, each origin once.
    pub(crate) fn durable_marks(&mut self, durable: u64) -> SmallVec<[(u16, u64); 4]> {
        last_of_each(&mut self.marks, durable)
    }

    /// The messages of QoS 2 whose records have become durable: destination and the last place.
    pub(crate) fn durable_commits(&mut self, durable: u64) -> SmallVec<[(u16, u64); 4]> {
        last_of_each(&mut self.commits, durable)
    }

    /// True if something that other shards wait for is durable.
    pub(crate) fn has_news(&self, durable: u64) -> bool {
        let ready = |list: &VecDeque<(u64, u16, u64)>| {
            list.front().is_some_and(|(lsn, ..)| *lsn <= durable)
        };
        ready(&self.marks) || ready(&self.commits)
    }

    /// A destination has taken over all messages up to a place.
    pub(crate) fn taken_over(&mut self, shard: u16, seq: u64) {
        let peer = self.peer(shard);
        while peer.pending.pop_front_if(|pending| pending.seq <= seq).is_some() {}
    }

    /// An origin says that its messages up to a place are durable there: the sessions that waited.
    pub(crate) fn committed(&mut self, origin: u16, seq: u64) -> Vec<(u32, u32)> {
        let peer = self.peer(origin);
        peer.committed = peer.committed.max(seq);
        std::mem::take(&mut peer.blocked)
    }

    /// True if a message is durable at its origin; else the session is told of when it is.
    pub(crate) fn is_committed(&mut self, origin: (u16, u64), session: (u32, u32)) -> bool {
        let peer = self.peer(origin.0);
        if peer.committed >= origin.1 {
            return true;
        }
        peer.blocked.push(session);
        false
    }

    /// True if a message is durable at its origin.
    pub(crate) fn has_committed(&self, origin: (u16, u64)) -> bool {
        self.peers[usize::from(origin.0)].committed >= origin.1
    }

    /// What is pending: destination by destination, in order.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (u16, &Pending)> {
        let all = self.peers.iter().enumerate();
        all.flat_map(|(shard, peer)| peer.pending.iter().map(move |one| (shard as u16, one)))
    }

    /// Keeps a message of an earlier run, and puts it among those to be sent again.
    pub(crate) fn restore_pending(&mut self, shard: u16, pending: Pending) {
        let peer = self.peer(shard);
        peer.sent = peer.sent.max(pending.seq);
        peer.pending.push_back(pending.clone());
        self.resend.push_back((shard, pending));
    }

    /// Goes on where an earlier run ended: the last place given, the last one taken over.
    pub(crate) fn restore(&mut self, shard: u16, sent: u64, taken: u64) {
        let peer = self.peer(shard);
        peer.sent = peer.sent.max(sent);
        (peer.taken, peer.marked) = (taken, taken);
        // Whatever is in the destination's log was found committed, or thrown away.
        peer.committed = taken;
    }
}

fn last_of_each(
    waiting: &mut VecDeque<(u64, u16, u64)>,
    durable: u64,
) -> SmallVec<[(u16, u64); 4]> {
    let mut last = SmallVec::<[(u16, u64); 4]>::new();
    while let Some((_, shard, seq)) = waiting.pop_front_if(|(lsn, ..)| *lsn <= durable) {
        match last.iter_mut().find(|(own, _)| *own == shard) {
            Some((_, highest)) => *highest = seq.max(*highest),
            None => last.push((shard, seq)),
        }
    }
    last
}

fn mark(peer: &Peer) -> u64 {
    peer.unfinished.front().map_or(peer.taken, |first| first - 1)
}
