//! What the logs of all shards say of each other: known only when every one has been replayed.

use super::{OriginOf, Parts, State};
use crate::Lsn;
use crate::record::SessionId;

impl State {
    /// Settles the states of shards 0, 1, ... with the last positions of their logs: which messages
    /// were taken over, and which were lost by their origin before anybody was told of them. For
    /// every shard, the entries that it must record as done with
    /// ([`State::discard_uncommitted`]).
    ///
    /// The place that an origin gives next then lies above all that the destination's log names,
    /// also of messages that are discarded here: the log still has them. A place that was used and
    /// lost with the end of the origin's log must not be given to another message, which the
    /// destination, now or after the next crash, would take for the one that it had.
    pub fn settle(
        states: &mut [State],
        last: &[Lsn],
        origin_of: OriginOf,
    ) -> Vec<Vec<(SessionId, u64)>> {
        let mut gone = vec![Vec::new(); states.len()];
        for (origin, last) in (0..states.len()).zip(last) {
            for to in (0..states.len()).filter(|to| *to != origin) {
                let sent = states[origin].sent(to as u16);
                let named = states[to].last_named(origin as u16);
                let lost = states[to].discard_uncommitted(origin as u16, *last, sent, origin_of);
                gone[to].extend(lost);
                let mark = states[to].watermark(origin as u16);
                states[origin].taken_over(to as u16, mark);
                if named > sent {
                    states[origin].sent.insert(to as u16, named);
                }
            }
        }
        gone
    }

    /// The last place of an origin that this log names.
    fn last_named(&self, origin: u16) -> u64 {
        let open = self.open.range((origin, 0, 0)..=(origin, u64::MAX, u64::MAX)).next_back();
        self.watermark(origin).max(open.map_or(0, |(_, seq, _)| *seq))
    }

    /// Takes the settled states apart. What a shard had of messages that their origin will not send
    /// again, since it has lost them, is left out: they were discarded, by this start or an
    /// earlier one.
    pub fn into_aligned_parts(states: Vec<State>) -> Vec<Parts> {
        let mut shards: Vec<Parts> = states.into_iter().map(State::into_parts).collect();
        for to in 0..shards.len() {
            let mut under_way = std::mem::take(&mut shards[to].under_way);
            under_way.retain(|one| {
                let origin = shards.get(usize::from(one.origin));
                let pending = origin.map_or(&[][..], |origin| &origin.pending);
                let key = (to as u16, one.seq);
                pending.binary_search_by_key(&key, |pending| (pending.shard, pending.seq)).is_ok()
            });
            shards[to].under_way = under_way;
        }
        shards
    }
}
