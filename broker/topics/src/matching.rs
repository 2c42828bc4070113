//! The hot path: from a topic to the sessions that subscribed to it.
//!
//! One probe for the exact filter, one per wildcard shape that fits the topic, and the trie for
//! what has no shape of its own. Then one pass over the subscriber lists found, merged by session.
//! Allocates nothing once the scratch has grown to the work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::filter::matches;
use crate::list::List;
use crate::shapes::{Levels, Shape, key_for_topic};
use crate::table::{EXACT, Subscription, Table};
use crate::text::same;
use crate::{SessionRef, TenantId};

/// A session that a publish goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The session.
    pub session: SessionRef,
    /// Of all its matching subscriptions: the highest QoS in bits 0-1 and, in bit 3, whether one
    /// has Retain As Published. Other bits are 0.
    pub options: u8,
    /// The subscription identifiers of the matching subscriptions that have one; two of them may
    /// have the same.
    pub ids: &'a [u32],
}

/// Memory that matching uses again and again. One per shard is enough.
#[derive(Debug, Default)]
pub struct MatchScratch {
    /// The topic's levels. Also for the interest table, so that they are hashed once.
    pub levels: Levels,
    found: Vec<u32>,
    stack: Vec<(u32, u32)>,
    runs: Vec<Run>,
    heap: BinaryHeap<Reverse<u64>>,
    ids: Vec<u32>,
}

impl MatchScratch {
    /// Empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Where a merge stands in one filter's list.
#[derive(Clone, Copy, Debug)]
struct Run {
    filter: u32,
    chunk: u32,
    at: u32,
}

/// What to deliver of the lists found.
struct Page {
    /// First session number that is wanted; `None` when there is none.
    from: Option<u32>,
    budget: usize,
    publisher: Option<SessionRef>,
    last: Option<SessionRef>,
}

impl Page {
    //= [MQTT-3.8.3-3]
    #[inline]
    fn skips(&self, subscription: &Subscription) -> bool {
        subscription.options & Subscription::NO_LOCAL != 0
            && self.publisher == Some(subscription.session)
    }

    /// Delivers a hit; false when the page was full before.
    #[inline]
    fn deliver(&mut self, one: Hit<'_>, hit: &mut impl FnMut(Hit<'_>)) -> bool {
        let room = self.budget > 0;
        if room {
            self.budget -= 1;
            self.last = Some(one.session);
            hit(one);
        }
        room
    }

    /// Delivers a hit that is a single subscription.
    #[inline]
    fn deliver_one(&mut self, one: &Subscription, hit: &mut impl FnMut(Hit<'_>)) -> bool {
        let options = one.options & Subscription::MERGED;
        let ids = if one.id == 0 { &[] } else { std::slice::from_ref(&one.id) };
        self.deliver(Hit { session: one.session, options, ids }, hit)
    }
}

impl Table {
    /// Calls `hit` once per session with a matching subscription, in ascending order of sessions.
    ///
    /// `hash` is the topic's [`topic_hash`](crate::topic_hash). Overlapping subscriptions are
    /// merged. Those of `publisher` with No Local are left out, each for itself.
    pub fn matches(
        &self,
        tenant: TenantId,
        topic: &str,
        hash: u64,
        publisher: Option<SessionRef>,
        scratch: &mut MatchScratch,
        hit: impl FnMut(Hit<'_>),
    ) {
        let budget = usize::MAX;
        let _ = self.matches_from(tenant, topic, hash, publisher, None, budget, scratch, hit);
    }

    /// As [`Table::matches`], for the sessions above `after` only and at most `budget` of them (at
    /// least one). Returns the last session hit if there are more. The table may change between
    /// calls: a session that is subscribed throughout is hit exactly once.
    #[expect(clippy::too_many_arguments, reason = "one plain call on the hot path")]
    pub fn matches_from(
        &self,
        tenant: TenantId,
        topic: &str,
        hash: u64,
        publisher: Option<SessionRef>,
        after: Option<SessionRef>,
        budget: usize,
        scratch: &mut MatchScratch,
        mut hit: impl FnMut(Hit<'_>),
    ) -> Option<SessionRef> {
        let from = after.map_or(Some(0), |after| after.0.checked_add(1));
        let mut page = Page { from, budget: budget.max(1), publisher, last: None };
        scratch.found.clear();
        let exact = self.texts.find(hash, |e| e.tag() == EXACT && e.is(tenant, topic));
        scratch.found.extend(exact);
        if self.has_wildcards() {
            self.find_wildcards(tenant, topic, scratch);
        }
        match scratch.found.as_slice() {
            [] => None,
            [filter] => deliver_list(&self.texts.get(*filter)?.value, &mut page, &mut hit),
            _ => deliver_merged(self, &mut page, scratch, &mut hit),
        }
    }

    /// Adds the wildcard filters that match to `found`.
    fn find_wildcards(&self, tenant: TenantId, topic: &str, scratch: &mut MatchScratch) {
        let MatchScratch { levels, found, stack, .. } = scratch;
        levels.fill(topic);
        let mut places = self.shapes.fitting(levels.len(), levels.begins_with_dollar());
        while places != 0 {
            let place = places.trailing_zeros() as u8;
            places &= places - 1;
            let shape = self.shapes.shape(place);
            let Some(key) = key_for_topic(tenant, levels, shape) else { continue };
            found.extend(self.texts.find(key, |entry| {
                entry.tag() == place
                    && entry.tenant() == tenant
                    && literals_agree(entry.bytes(), levels, shape)
            }));
        }
        if self.trie.len() > 0 {
            let direct = found.len();
            self.trie.candidates(tenant, levels, stack, found);
            let mut at = direct;
            while let Some(id) = found.get(at) {
                let entry = self.texts.get(*id);
                if entry.is_some_and(|e| e.tenant() == tenant && matches(e.text(), topic)) {
                    at += 1;
                } else {
                    found.swap_remove(at);
                }
            }
        }
    }
}

/// Whether the literal levels of a filter of that shape are those of a topic that fits it.
#[inline]
fn literals_agree(filter: &[u8], topic: &Levels, shape: Shape) -> bool {
    let mut left = u64::from(shape.literal());
    let (mut level, mut at) = (0, 0);
    while left != 0 {
        // Each wildcard before the run is `+/`.
        let skip = left.trailing_zeros() as usize;
        left >>= skip;
        let run = left.trailing_ones() as usize;
        left >>= run;
        level += skip;
        at += 2 * skip;
        let literal = topic.span(level, level + run);
        let end = at + literal.len();
        let agree = filter.get(at..end).is_some_and(|text| same(text, literal));
        if !agree || !matches!(filter.get(end), None | Some(b'/')) {
            return false;
        }
        level += run;
        at = end + 1;
    }
    true
}

/// One list only, which is the usual case: nothing to merge.
#[inline]
fn deliver_list(
    list: &List<Subscription>,
    page: &mut Page,
    hit: &mut impl FnMut(Hit<'_>),
) -> Option<SessionRef> {
    let (mut chunk, mut at) = match page.from? {
        0 => (0, 0),
        from => list.seek(from),
    };
    while let Some(items) = list.chunk(chunk) {
        for subscription in items.get(at..).unwrap_or_default() {
            if !page.skips(subscription) && !page.deliver_one(subscription, hit) {
                return page.last;
            }
        }
        chunk += 1;
        at = 0;
    }
    None
}

/// Several lists: a heap of their next sessions.
fn deliver_merged(
    table: &Table,
    page: &mut Page,
    scratch: &mut MatchScratch,
    hit: &mut impl FnMut(Hit<'_>),
) -> Option<SessionRef> {
    let MatchScratch { found, runs, heap, ids, .. } = scratch;
    let from = page.from?;
    runs.clear();
    heap.clear();
    for filter in found.iter().copied() {
        let (chunk, at) = table.texts.get(filter)?.value.seek(from);
        let mut run = Run { filter, chunk: chunk as u32, at: at as u32 };
        if let Some(head) = head(table, &mut run) {
            heap.push(Reverse(key(head.session, runs.len())));
            runs.push(run);
        }
    }
    while let [Reverse(first), others @ ..] = heap.as_slice() {
        // The second lowest of a heap is one of the two below its top.
        let limit = others.iter().take(2).map(|other| other.0 >> 32).min().unwrap_or(1 << 32);
        let (session, number) = ((first >> 32) as u32, *first as u32 as usize);
        let full = if u64::from(session) < limit {
            let run = runs.get_mut(number)?;
            let full = deliver_run(table, run, limit, page, hit);
            let next = head(table, run).map(|next| key(next.session, number));
            if let Some(top) = heap.peek_mut() {
                replace(top, next);
            }
            full
        } else {
            deliver_shared(table, SessionRef(session), page, (runs, heap, ids), hit)
        };
        if full {
            return page.last;
        }
    }
    None
}

/// Delivers what one run has, up to the end of its chunk, below the next session of any other.
/// Returns whether the page is full and there is more.
fn deliver_run(
    table: &Table,
    run: &mut Run,
    limit: u64,
    page: &mut Page,
    hit: &mut impl FnMut(Hit<'_>),
) -> bool {
    let list = table.texts.get(run.filter).map(|entry| &entry.value);
    let items = list.and_then(|list| list.chunk(run.chunk as usize)?.get(run.at as usize..));
    for subscription in items.unwrap_or_default() {
        if u64::from(subscription.session.0) >= limit {
            break;
        }
        if !page.skips(subscription) && !page.deliver_one(subscription, hit) {
            return true;
        }
        run.at += 1;
    }
    false
}

/// Delivers to a session that several runs have next. Returns whether the page is full.
fn deliver_shared(
    table: &Table,
    session: SessionRef,
    page: &mut Page,
    (runs, heap, ids): (&mut [Run], &mut BinaryHeap<Reverse<u64>>, &mut Vec<u32>),
    hit: &mut impl FnMut(Hit<'_>),
) -> bool {
    let (mut options, mut wanted) = (0, false);
    ids.clear();
    while let Some(top) = heap.peek_mut().filter(|top| (top.0 >> 32) as u32 == session.0) {
        let number = top.0 as u32 as usize;
        let Some(subscription) = advance(table, runs, number, top) else { continue };
        if !page.skips(&subscription) {
            wanted = true;
            options = merge(options, subscription.options);
            //= [MQTT-3.3.4-3]
            ids.extend((subscription.id != 0).then_some(subscription.id));
        }
    }
    wanted && !page.deliver(Hit { session, options, ids }, hit)
}

fn key(session: SessionRef, run: usize) -> u64 {
    u64::from(session.0) << 32 | run as u64
}

//= [MQTT-3.3.4-2]
fn merge(one: u8, other: u8) -> u8 {
    let qos = (one & Subscription::QOS).max(other & Subscription::QOS);
    qos | ((one | other) & Subscription::RETAIN_AS_PUBLISHED)
}

/// The next subscription of a run, stepping over the end of a chunk.
fn head<'a>(table: &'a Table, run: &mut Run) -> Option<&'a Subscription> {
    let list = &table.texts.get(run.filter)?.value;
    if let Some(head) = list.chunk(run.chunk as usize)?.get(run.at as usize) {
        return Some(head);
    }
    run.chunk += 1;
    run.at = 0;
    list.chunk(run.chunk as usize)?.first()
}

/// Takes the first of a run and puts the run back into the heap by its next.
fn advance(
    table: &Table,
    runs: &mut [Run],
    number: usize,
    top: PeekMut<'_, Reverse<u64>>,
) -> Option<Subscription> {
    let run = runs.get_mut(number);
    let taken = run.and_then(|run| {
        let taken = *head(table, run)?;
        run.at += 1;
        Some((taken, head(table, run).map(|next| key(next.session, number))))
    });
    replace(top, taken.and_then(|(_, next)| next));
    taken.map(|(taken, _)| taken)
}

/// Puts a run's next session in the place of the heap's top, or takes the run out.
fn replace(mut top: PeekMut<'_, Reverse<u64>>, next: Option<u64>) {
    match next {
        Some(next) => *top = Reverse(next),
        None => {
            PeekMut::pop(top);
        }
    }
}
