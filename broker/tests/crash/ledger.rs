//! What a subscriber, or a group of them, has received, and what it must have.

use std::collections::BTreeMap;

/// Numbers that must have come, by topic: all from 1 to the last, or those of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) up_to: BTreeMap<String, u64>,
    pub(crate) single: Vec<(String, u64)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    who: String,
    filter: String,
    /// QoS of the subscription: what comes with less than 2 may come twice.
    qos: u8,
    /// Each topic's messages must come in order, repeated ones left out.
    ordered: bool,
    /// How often each number came.
    counts: BTreeMap<String, BTreeMap<u64, u32>>,
    highest: BTreeMap<String, u64>,
    faults: Vec<String>,
}

/// Whether a filter of the test matches a topic of the test.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for level in filter.split('/') {
        match (level, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (own, Some(other)) if own == other => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

impl Ledger {
    pub(crate) fn new(who: &str, filter: &str, qos: u8, ordered: bool) -> Ledger {
        Ledger {
            who: who.to_owned(),
            filter: filter.to_owned(),
            qos,
            ordered,
            counts: BTreeMap::new(),
            highest: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// Notes a message that the client takes as new.
    pub(crate) fn note(&mut self, topic: &str, number: u64) {
        let count = self.counts.entry(topic.to_owned()).or_default().entry(number).or_default();
        *count += 1;
        if *count > 1 {
            if self.qos == 2 && topic.ends_with("/2") {
                self.fault(format!("{topic} {number} came {count} times", count = 2));
            }
            return;
        }
        let highest = self.highest.entry(topic.to_owned()).or_default();
        if number < *highest && self.ordered && topic.starts_with("crash/load/") {
            let highest = *highest;
            return self.fault(format!("{topic} {number} came after {highest}"));
        }
        *highest = number.max(*highest);
    }

    fn fault(&mut self, text: String) {
        self.faults.push(format!("{}: {text}", self.who));
    }

    /// What is wrong with what came, once each.
    pub(crate) fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// The first few messages that have not come.
    pub(crate) fn missing(&self, expected: &Expected) -> Vec<String> {
        let none = BTreeMap::new();
        let mut missing = Vec::new();
        for (topic, last) in &expected.up_to {
            if matches(&self.filter, topic) {
                let counts = self.counts.get(topic).unwrap_or(&none);
                // Counting first: the usual case is that nothing is missing.
                if counts.range(1..=*last).count() as u64 != *last {
                    let gone = (1..=*last).filter(|number| !counts.contains_key(number));
                    missing.extend(gone.take(3).map(|number| format!("{topic} {number}")));
                }
            }
        }
        for (topic, number) in &expected.single {
            let counts = self.counts.get(topic).unwrap_or(&none);
            if matches(&self.filter, topic) && !counts.contains_key(number) {
                missing.push(format!("{topic} {number}"));
            }
        }
        missing
    }

    /// Messages that came, repeated ones left out.
    pub(crate) fn len(&self) -> usize {
        self.counts.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn who(&self) -> &str {
        &self.who
    }
}

#[cfg(test)]
mod tests {
    use super::{Expected, Ledger, matches};

    #[test]
    fn the_ledger_finds_what_is_missing_doubled_or_out_of_order() {
        let mut ledger = Ledger::new("s", "crash/load/+/2", 2, true);
        for number in [1, 2, 2, 5, 4] {
            ledger.note("crash/load/0/2", number);
        }
        assert_eq!(ledger.take_faults().len(), 2);
        let up_to = [("crash/load/0/2".to_owned(), 5), ("crash/load/0/1".to_owned(), 9)];
        let expected = Expected { up_to: up_to.into(), single: Vec::new() };
        assert_eq!(ledger.missing(&expected), ["crash/load/0/2 3"]);
        assert!(matches("crash/#", "crash/will/1") && !matches("crash/+", "crash/will/1"));
    }
}
