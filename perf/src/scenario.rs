//! What a run does: its kind of work and numbers, and the clients, topics and filters that follow
//! from them. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::client::ClientSpec;
use crate::failure::Failure;
use crate::sequence::Stamp;
use crate::template::Templates;
use crate::wire::Version;

/// Which publishers reach which subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// `count` publishers, each with a subscriber and a topic of its own.
    Pairs,
    /// One publisher, `count` subscribers of its topic.
    FanOut,
    /// `count` publishers of one topic, one subscriber.
    FanIn,
    /// `count` publishers and subscribers, many wildcard filters, one of which matches.
    Wildcard,
    /// `count` publishers, and one persistent session whose client is away.
    Offline,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scenario {
    pub(crate) work: Work,
    pub(crate) count: usize,
    /// Messages that a publisher may have outstanding.
    pub(crate) window: u64,
    /// Messages in one write.
    pub(crate) batch: u64,
    pub(crate) payload_bytes: usize,
    pub(crate) qos: u8,
    /// The MQTT level: 4 or 5.
    pub(crate) level: u8,
    /// Messages a second in all; without it as fast as the window allows.
    pub(crate) rate: Option<u64>,
    pub(crate) warm_up_ms: u64,
    pub(crate) measure_ms: u64,
    /// For [`Work::Wildcard`]: filters in all, and their pattern, `%g` standing for the number.
    pub(crate) filters: usize,
    pub(crate) pattern: String,
    /// Client ids are made from this number instead of being counted through.
    pub(crate) random_ids: Option<u64>,
    /// Poll without sleeping.
    pub(crate) spin: bool,
    /// The subscribers' sessions outlive their connections.
    pub(crate) persistent: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            work: Work::Pairs,
            count: 50,
            window: 1,
            batch: 1,
            payload_bytes: 256,
            qos: 0,
            level: 4,
            rate: None,
            warm_up_ms: 1000,
            measure_ms: 5000,
            filters: 15_000,
            pattern: "w/%g/+/x/#".to_owned(),
            random_ids: None,
            spin: false,
            persistent: false,
        }
    }
}

/// The clients of a run: the publishers first, then the subscribers.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) specs: Vec<ClientSpec>,
    /// What each publisher sends.
    pub(crate) templates: Vec<Templates>,
    /// For each subscriber the first publisher that it hears, and how many.
    pub(crate) hears: Vec<(u32, u32)>,
    /// Deliveries of one message; 0 if nobody is there to get it, and its acknowledgement counts.
    pub(crate) fan: u64,
    /// The client whose session is to be there before the others come.
    pub(crate) away: Option<ClientSpec>,
}

/// The client of [`Work::Offline`] that is away.
pub(crate) const AWAY: &str = "perf-away";

/// No run is longer than this, its keep-alive is 0.
const MEASURE_MAX: Duration = Duration::from_secs(600);
const COUNT_MAX: usize = 1_000_000;

impl Scenario {
    /// The protocol version; [`Scenario::plan`] has checked it.
    pub(crate) fn version(&self) -> Version {
        Version::from_level(self.level).unwrap_or(Version::V3_1_1)
    }

    fn check(&self) -> Result<(), Failure> {
        let rules = [
            (self.count >= 1 && self.count <= COUNT_MAX, "count must be from 1 to 1000000"),
            (self.batch >= 1 && self.batch <= self.window, "batch must be from 1 to the window"),
            (self.window <= 60_000, "window must be at most 60000"),
            (self.qos <= 2, "qos must be 0, 1 or 2"),
            (self.qos > 0 || self.work != Work::Offline, "offline needs qos 1 or 2"),
            (matches!(self.level, 4 | 5), "mqtt must be 4 (3.1.1) or 5"),
            (self.payload_bytes <= 100_000_000, "payload must be at most 100 MB"),
            (self.rate != Some(0), "rate must be at least 1"),
            (self.rate.is_none_or(|rate| rate <= 20_000_000), "rate must be at most 20000000"),
            (
                self.payload_bytes >= Stamp::LEN || self.rate.is_none(),
                "a fixed rate needs payloads of at least 16 bytes",
            ),
            (
                self.payload_bytes >= Stamp::LEN || self.work != Work::FanIn,
                "fan-in needs payloads of at least 16 bytes",
            ),
            (
                Duration::from_millis(self.measure_ms.max(self.warm_up_ms)) <= MEASURE_MAX,
                "a run is at most 600 s",
            ),
            (
                self.work != Work::Wildcard
                    || (self.filters >= self.count && self.filters <= 100_000),
                "filters must be from the count of clients to 100000",
            ),
            (
                self.work != Work::Wildcard || self.pattern.contains("%g"),
                "the pattern must hold %g",
            ),
        ];
        match rules.iter().find(|(kept, _)| !kept) {
            None => Ok(()),
            Some((_, text)) => Err(Failure::Option((*text).to_owned())),
        }
    }

    fn client_id(&self, kind: char, index: usize) -> String {
        match self.random_ids {
            None => format!("perf-{kind}-{index:06}"),
            Some(seed) => {
                let word = mix(seed ^ (u64::from(kind) << 32) ^ index as u64);
                format!("{kind}{word:016x}")
            }
        }
    }

    /// The groups whose filters one subscriber of [`Work::Wildcard`] has.
    fn groups(&self, index: usize) -> std::ops::Range<usize> {
        let each = self.filters / self.count;
        index * each..(index + 1) * each
    }

    fn filter(&self, group: usize) -> String {
        self.pattern.replace("%g", &format!("{group:05}"))
    }

    /// Topics of publisher `index`.
    fn topics(&self, index: usize) -> Vec<String> {
        match self.work {
            Work::Pairs => vec![format!("pair/{index:06}")],
            Work::FanOut => vec!["fan/out".to_owned()],
            Work::FanIn => vec!["fan/in".to_owned()],
            Work::Offline => vec![format!("away/{index:06}")],
            Work::Wildcard => {
                let topic = |group| self.filter(group).replace('+', "d").replace('#', "y");
                self.groups(index).map(topic).collect()
            }
        }
    }

    /// Filters of subscriber `index`.
    fn filters(&self, index: usize) -> Vec<String> {
        match self.work {
            Work::Wildcard => self.groups(index).map(|group| self.filter(group)).collect(),
            _ => self.topics(index),
        }
    }

    /// Works out the clients.
    ///
    /// # Errors
    /// [`Failure::Option`] for numbers that make no sense.
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        self.check()?;
        let publishers = if self.work == Work::FanOut { 1 } else { self.count };
        let subscribers = match self.work {
            Work::FanIn => 1,
            Work::Offline => 0,
            _ => self.count,
        };
        let mut specs = Vec::with_capacity(publishers + subscribers);
        let mut templates = Vec::with_capacity(publishers);
        let tail = Templates::tail(self.payload_bytes);
        for index in 0..publishers {
            let id = self.client_id('p', index);
            specs.push(ClientSpec { id, ..ClientSpec::default() });
            let topics = self.topics(index);
            templates.push(
                Templates::new(self.version(), self.qos, &topics, self.payload_bytes, &tail)
                    .map_err(Failure::Option)?,
            );
        }
        let mut hears = Vec::with_capacity(subscribers);
        for index in 0..subscribers {
            let id = self.client_id('s', index);
            let filters = self.filters(index);
            let persistent = self.persistent;
            specs.push(ClientSpec { id, filters, persistent, ..ClientSpec::default() });
            hears.push(match self.work {
                Work::FanOut => (0, 1),
                Work::FanIn => (0, publishers as u32),
                _ => (index as u32, 1),
            });
        }
        let fan = match self.work {
            Work::FanOut => subscribers as u64,
            Work::Offline => 0,
            _ => 1,
        };
        let away = (self.work == Work::Offline).then(|| ClientSpec {
            id: AWAY.to_owned(),
            filters: vec!["away/#".to_owned()],
            persistent: true,
            ..ClientSpec::default()
        });
        Ok(Plan { specs, templates, hears, fan, away })
    }

    /// The scenario in a few words.
    pub(crate) fn title(&self) -> String {
        let work = match self.work {
            Work::Pairs => "pairs".to_owned(),
            Work::FanOut => "fan-out".to_owned(),
            Work::FanIn => "fan-in".to_owned(),
            Work::Offline => "offline".to_owned(),
            Work::Wildcard => format!("wildcard {} x {}", self.filters, self.pattern),
        };
        let pace = match self.rate {
            None => format!("w{} b{}", self.window, self.batch),
            Some(rate) => format!("{rate}/s"),
        };
        let (qos, count, bytes) = (self.qos, self.count, self.payload_bytes);
        format!("{work} qos {qos} n{count} {pace} {bytes} B mqtt {}", self.level)
    }
}

/// Spreads bits (the finisher of splitmix64).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn plan(work: Work, count: usize) -> Plan {
        Scenario { work, count, ..Scenario::default() }.plan().unwrap()
    }

    #[test]
    fn each_work_has_its_clients() {
        let pairs = plan(Work::Pairs, 3);
        assert_eq!((pairs.specs.len(), pairs.fan), (6, 1));
        assert_eq!(pairs.hears, [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(pairs.specs[5].filters, ["pair/000002"]);
        let out = plan(Work::FanOut, 5);
        assert_eq!((out.specs.len(), out.templates.len(), out.fan), (6, 1, 5));
        let fan_in = plan(Work::FanIn, 5);
        assert_eq!((fan_in.specs.len(), fan_in.fan), (6, 1));
        assert_eq!(fan_in.hears, [(0, 5)]);
        let offline = Scenario { work: Work::Offline, count: 5, qos: 1, ..Scenario::default() };
        let offline = offline.plan().unwrap();
        assert_eq!((offline.specs.len(), offline.hears.len(), offline.fan), (5, 0, 0));
        assert!(offline.away.is_some_and(|away| away.persistent && away.filters == ["away/#"]));
    }

    #[test]
    fn wildcard_filters_are_spread_over_the_clients() {
        let plan = plan(Work::Wildcard, 50);
        let filters = plan.specs[50..].iter().flat_map(|spec| &spec.filters);
        assert_eq!(filters.clone().collect::<HashSet<_>>().len(), 15_000);
        assert!(filters.clone().all(|f| f.starts_with("w/") && f.ends_with("/+/x/#")));
        assert!(plan.specs[..50].iter().all(|spec| spec.filters.is_empty()));
    }

    #[test]
    fn random_ids_differ_and_come_back() {
        let scenario = Scenario { random_ids: Some(1), count: 1000, ..Scenario::default() };
        let ids = |plan: Plan| plan.specs.into_iter().map(|s| s.id).collect::<Vec<_>>();
        let first = ids(scenario.plan().unwrap());
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 2000);
        assert_eq!(first, ids(scenario.plan().unwrap()));
    }

    #[test]
    fn bad_numbers_are_refused() {
        let bad = [
            Scenario { count: 0, ..Scenario::default() },
            Scenario { batch: 2, ..Scenario::default() },
            Scenario { qos: 3, ..Scenario::default() },
            Scenario { level: 6, ..Scenario::default() },
            Scenario { rate: Some(10), payload_bytes: 15, ..Scenario::default() },
            Scenario { work: Work::FanIn, payload_bytes: 8, ..Scenario::default() },
            Scenario { work: Work::Offline, qos: 0, ..Scenario::default() },
            Scenario { measure_ms: 10_000_000, ..Scenario::default() },
            Scenario { work: Work::Wildcard, pattern: "a/#".into(), ..Scenario::default() },
        ];
        for scenario in bad {
            assert!(matches!(scenario.plan(), Err(Failure::Option(_))), "{scenario:?}");
        }
    }
}
