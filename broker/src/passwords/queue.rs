//! Who is next: one of each address in turn, the oldest of each first. A flood from one address
//! then makes others wait for one check, not for all of its own; and when there is no room left, it
//! is the flood's newest that gives way.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// What counts as one address: of version 6 a network of 64 bits, which is what one customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(Option<IpAddr>);

impl Origin {
    pub(crate) fn new(address: Option<IpAddr>) -> Origin {
        Origin(address.map(|address| match address.to_canonical() {
            IpAddr::V6(six) => {
                let network = u128::from(six) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            four @ IpAddr::V4(_) => four,
        }))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    /// None is empty.
    lines: HashMap<Origin, VecDeque<T>>,
    /// Those who have a line, in the order of their turns.
    turns: VecDeque<Origin>,
    count: usize,
    count_max: usize,
}

impl<T> FairQueue<T> {
    /// An empty one with room for `count_max`.
    pub(crate) fn new(count_max: usize) -> FairQueue<T> {
        FairQueue { lines: HashMap::new(), turns: VecDeque::new(), count: 0, count_max }
    }

    /// Adds one. If there is no room, gives back the one that goes instead: the newest in the
    /// longest line, which may be this one.
    pub(crate) fn push(&mut self, origin: Origin, one: T) -> Option<T> {
        let mut out = None;
        if self.count >= self.count_max {
            let own = self.lines.get(&origin).map_or(0, VecDeque::len);
            let longest = self.lines.iter().max_by_key(|(_, line)| line.len());
            match longest.filter(|(_, line)| line.len() > own + 1).map(|(longest, _)| *longest) {
                Some(longest) => out = self.take(longest, VecDeque::pop_back),
                None => return Some(one),
            }
        }
        let line = self.lines.entry(origin).or_default();
        if line.is_empty() {
            self.turns.push_back(origin);
        }
        line.push_back(one);
        self.count += 1;
        out
    }

    /// The next one.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let origin = self.turns.pop_front()?;
        let one = self.take(origin, VecDeque::pop_front);
        if self.lines.contains_key(&origin) {
            self.turns.push_back(origin);
        }
        one
    }

    /// Takes one out of a line; a line without any is no line any more.
    fn take(&mut self, origin: Origin, end: fn(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let line = self.lines.get_mut(&origin)?;
        let one = end(line)?;
        self.count -= 1;
        if line.is_empty() {
            self.lines.remove(&origin);
        }
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::new(text.parse().ok())
    }

    #[test]
    fn each_address_has_its_turn_and_is_served_in_order() {
        let mut queue = FairQueue::new(100);
        let (flood, a, b) = (origin("10.0.0.1"), origin("10.0.0.2"), origin("10.0.0.3"));
        for number in 0..5 {
            assert_eq!(queue.push(flood, number), None);
        }
        assert_eq!(queue.pop(), Some(0));
        for (who, number) in [(a, 10), (b, 20), (a, 11)] {
            assert_eq!(queue.push(who, number), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [1, 10, 20, 2, 11, 3, 4]);
        assert!(queue.lines.is_empty() && queue.turns.is_empty() && queue.count == 0);
        assert_eq!(queue.push(a, 1), None);
        assert_eq!(queue.pop(), Some(1));
    }

    #[test]
    fn a_flood_gives_way_and_nobody_else_does() {
        let mut queue = FairQueue::new(4);
        let (flood, a, b) = (origin("10.0.0.1"), origin("10.0.0.2"), origin("fe80::1"));
        for number in 0..4 {
            assert_eq!(queue.push(flood, number), None);
        }
        assert_eq!(queue.push(flood, 4), Some(4), "its own newest");
        assert_eq!(queue.push(a, 10), Some(3));
        assert_eq!(queue.push(b, 20), Some(2));
        assert_eq!(queue.push(a, 11), Some(11), "no line is longer than its own would be");
        assert_eq!(queue.push(flood, 5), Some(5));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [0, 10, 20, 1]);
        let mut one = FairQueue::new(1);
        assert_eq!(one.push(a, 1), None);
        assert_eq!(one.push(b, 2), Some(2));
        assert_eq!((one.pop(), one.pop()), (Some(1), None));
    }

    #[test]
    fn a_network_of_version_6_is_one_address_and_so_is_one_written_in_two_ways() {
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("::ffff:10.0.0.2"), origin("10.0.0.1"));
        assert_eq!(Origin::new(None), Origin::new(None));
    }
}
