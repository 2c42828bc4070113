//! What the logs of all shards say of each other: known only when every one has been replayed.

use super::{OriginOf, Parts, State};
use crate::Lsn;
use crate::record::SessionId;

impl State {
    /// Settles the states of shards 0, 1, ... with the last positions of their logs: which messages
    /// were taken over, and which were lost by their origin before anybody was told of them. For
    /// every shard, the entries that it must record as done with
    /// ([`State::discard_uncommitted`]).
    pub fn settle(
        states: &mut [State],
        last: &[Lsn],
        origin_of: OriginOf,
    ) -> Vec<Vec<(SessionId, u64)>> {
        let mut gone = vec![Vec::new(); states.len()];
        for (origin, last) in (0..states.len()).zip(last) {
            for to in (0..states.len()).filter(|to| *to != origin) {
                let sent = states[origin].sent(to as u16);
                let lost = states[to].discard_uncommitted(origin as u16, *last, sent, origin_of);
                gone[to].extend(lost);
                let mark = states[to].watermark(origin as u16);
                states[origin].taken_over(to as u16, mark);
            }
        }
        gone
    }

    /// Takes the settled states apart. The place that an origin gives next lies above all that the
    /// destination knows, taken over or under way: a place that was used and lost with the end of
    /// the origin's log must not be given to another message, which the destination would take for
    /// the one that it had.
    pub fn into_aligned_parts(states: Vec<State>) -> Vec<Parts> {
        let mut shards: Vec<Parts> = states.into_iter().map(State::into_parts).collect();
        for origin in 0..shards.len() {
            for to in 0..shards.len() {
                let Parts { watermarks, under_way, .. } = &shards[to];
                let marks = watermarks.iter().map(|(from, seq)| (*from, *seq));
                let all = marks.chain(under_way.iter().map(|one| (one.origin, one.seq)));
                let from_there = all.filter(|(from, _)| usize::from(*from) == origin);
                let Some(known) = from_there.map(|(_, seq)| seq).max() else { continue };
                let sent = &mut shards[origin].sent;
                match sent.iter_mut().find(|(shard, _)| usize::from(*shard) == to) {
                    Some((_, last)) => *last = known.max(*last),
                    None => sent.push((to as u16, known)),
                }
            }
        }
        shards
    }
}
