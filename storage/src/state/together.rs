//! What the logs of all shards say of each other: known only when every one has been replayed.

use std::collections::BTreeSet;

use super::{OriginOf, Parts, State};
use crate::Lsn;

impl State {
    /// Settles the states of shards 0, 1, ... with the last positions of their logs: which messages
    /// were taken over, and which were lost by their origin before anybody was told of them. For
    /// every shard, the messages that its log must call void ([`VoidRecord`]), durably, before any
    /// of the logs goes on ([`State::discard_uncommitted`]).
    ///
    /// [`VoidRecord`]: crate::record::VoidRecord
    pub fn settle(states: &mut [State], last: &[Lsn], origin_of: OriginOf) -> Vec<Vec<(u16, u64)>> {
        // A crash may have come when some of the logs had been told.
        let told: BTreeSet<(u16, u64)> =
            states.iter().flat_map(|state| state.void.iter().copied()).collect();
        let mut void: Vec<BTreeSet<u64>> = Vec::new();
        for state in states.iter_mut() {
            let own = told.iter().filter(|(shard, _)| *shard == state.shard);
            void.push(state.discard(&own.map(|(_, lsn)| *lsn).collect()));
        }
        for (origin, last) in (0..states.len()).zip(last) {
            for to in (0..states.len()).filter(|to| *to != origin) {
                let sent = states[origin].sent(to as u16);
                let lost = states[to].discard_uncommitted(origin as u16, *last, sent, origin_of);
                void[to].extend(lost);
                let mark = states[to].watermark(origin as u16);
                states[origin].taken_over(to as u16, mark);
            }
        }
        let of = |(shard, own): (usize, &BTreeSet<u64>)| {
            own.iter().map(|lsn| (shard as u16, *lsn)).collect::<Vec<_>>()
        };
        let all: Vec<(u16, u64)> = void.iter().enumerate().flat_map(of).collect();
        let told = |own: &BTreeSet<u64>| if own.is_empty() { Vec::new() } else { all.clone() };
        void.iter().map(told).collect()
    }

    /// Takes the settled states apart. The place that an origin gives next lies above all that the
    /// destination's log names, taken over, under way or void: a place that was used and lost with
    /// the end of the origin's log must not be given to another message, which the destination
    /// would take for the one that it had. What a shard had of a message that is not pending at its
    /// origin any more is left out: nobody will send it again.
    pub fn into_aligned_parts(states: Vec<State>) -> Vec<Parts> {
        let known: Vec<_> = states.iter().map(|state| state.known.clone()).collect();
        let mut shards: Vec<Parts> = states.into_iter().map(State::into_parts).collect();
        for (to, known) in known.into_iter().enumerate() {
            for (origin, known) in known {
                let Some(Parts { sent, .. }) = shards.get_mut(usize::from(origin)) else {
                    continue;
                };
                match sent.iter_mut().find(|(shard, _)| usize::from(*shard) == to) {
                    Some((_, last)) => *last = known.max(*last),
                    None => sent.push((to as u16, known)),
                }
            }
        }
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
