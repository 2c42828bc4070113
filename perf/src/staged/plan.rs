//! What a scenario amounts to at one scale: numbered clients, who hears whom, stages in seconds.
//! Made from a file that `check.rs` has found right. Pure.

use std::str::FromStr;

use bytes::Bytes;

use super::file::{Bars, File, Group};
use crate::sequence::Stamp;
use crate::wire::Version;

/// Payloads beyond this are sent from one shared buffer and not copied into each write.
const INLINE_MAX_BYTES: usize = 8 * 1024;

/// How much of a scenario is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Clients and connects a second are multiplied with it.
    pub(crate) scale: f64,
    /// Seconds that the stages take in sum; as in the file by default.
    pub(crate) duration_s: Option<f64>,
}

/// One of several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 0.
    pub(crate) number: u16,
    pub(crate) of: u16,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let parts =
            text.split_once('/').and_then(|(n, of)| Some((n.parse().ok()?, of.parse().ok()?)));
        let part = parts.map(|(number, of)| Part { number, of }).filter(|p| p.number < p.of);
        part.ok_or_else(|| "it is NUMBER/OF, from 0/OF on".to_owned())
    }
}

/// A scenario to be run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) title: String,
    pub(crate) version: Version,
    pub(crate) keep_alive_s: u16,
    pub(crate) connect_per_s: f64,
    pub(crate) groups: Vec<GroupPlan>,
    pub(crate) stages: Vec<StagePlan>,
    pub(crate) samplers: Vec<SamplerPlan>,
    pub(crate) bars: Bars,
    /// Clients in all.
    pub(crate) clients: u32,
}

/// What is reported under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SamplerPlan {
    pub(crate) name: String,
    /// It counts deliveries, else what publishers send.
    pub(crate) delivers: bool,
}

/// Clients with numbers that follow each other.
#[derive(Debug)]
pub(crate) struct GroupPlan {
    pub(crate) name: String,
    pub(crate) first: u32,
    pub(crate) count: u32,
    first_number: u64,
    client_id: String,
    user_name: Option<String>,
    password: Option<String>,
    pub(crate) subscribe: Vec<SubscribePlan>,
    pub(crate) publish: Option<PublishPlan>,
    /// The shortest and the longest life of a connection, in seconds.
    pub(crate) life_s: Option<(f64, f64)>,
}

/// One filter.
#[derive(Debug)]
pub(crate) struct SubscribePlan {
    filter: String,
    pub(crate) qos: u8,
    /// Numbers of groups.
    pub(crate) from: Vec<usize>,
    /// It hears the client with its own place in each of them, else all clients.
    pub(crate) paired: bool,
    pub(crate) sampler: usize,
}

/// What a group's clients publish.
#[derive(Debug)]
pub(crate) struct PublishPlan {
    topic: String,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) pace: Pace,
    /// Deliveries of one message when every client is there.
    pub(crate) fan: u64,
    pub(crate) sampler: usize,
    /// What follows the stamp: copied into each write, or shared.
    pub(crate) tail: Bytes,
    pub(crate) tail_shared: bool,
}

/// When a client publishes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Nanoseconds between two messages of a client.
    Every(u64),
    /// Whenever fewer are undelivered.
    Window(u64),
}

/// A part of the run.
#[derive(Debug)]
pub(crate) struct StagePlan {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    /// Groups, and how many of their clients are connected at the end.
    pub(crate) connect: Vec<(usize, u32)>,
    pub(crate) publish: Vec<usize>,
}

/// A count at a scale: none of nothing, else at least one.
pub(crate) fn scaled(count: u64, scale: f64) -> u64 {
    if count == 0 { 0 } else { ((count as f64 * scale).round() as u64).max(1) }
}

/// Connections that the stages of a file make, at a scale.
fn connections(file: &File, scale: f64) -> Vec<u64> {
    let mut up = vec![0.0_f64; file.groups.len()];
    let mut made = Vec::new();
    for stage in &file.stages {
        let mut more = 0.0;
        for (name, share) in &stage.connect {
            let Some(group) = position(file, name.get_ref()) else { continue };
            let wanted = scaled(*file.groups[group].clients.get_ref(), scale) as f64;
            let wanted = (wanted * share.get_ref()).ceil();
            more += (wanted - up[group]).max(0.0);
            up[group] = up[group].max(wanted);
        }
        made.push(more as u64);
    }
    made
}

/// Seconds that the stages take as the file has them.
pub(crate) fn seconds(file: &File) -> f64 {
    let rate = *file.connect_per_s.get_ref();
    let made = connections(file, 1.0);
    let stages = file.stages.iter().zip(made);
    stages.map(|(stage, made)| stage.seconds.get_ref().max(made as f64 / rate)).sum()
}

fn position(file: &File, name: &str) -> Option<usize> {
    file.groups.iter().position(|group| group.name.get_ref() == name)
}

impl Plan {
    /// Works a file out.
    pub(crate) fn new(file: &File, size: Size) -> Plan {
        // Everything that takes time shrinks alike; the publishers' pace stays.
        let shrink = size.duration_s.map_or(1.0, |wanted| wanted / seconds(file));
        let mut plan = Plan {
            title: file.title.clone(),
            version: Version::from_level(*file.mqtt.get_ref()).unwrap_or(Version::V3_1_1),
            keep_alive_s: file.keep_alive_s,
            connect_per_s: (file.connect_per_s.get_ref() * size.scale / shrink).max(1.0),
            groups: Vec::new(),
            stages: Vec::new(),
            samplers: Vec::new(),
            bars: file.bars.clone(),
            clients: 0,
        };
        for group in &file.groups {
            let made = plan.group(file, group, size.scale, shrink);
            plan.clients += made.count;
            plan.groups.push(made);
        }
        plan.count_deliveries();
        plan.stages = file.stages.iter().map(|stage| plan.stage(file, stage, shrink)).collect();
        plan
    }

    fn sampler(&mut self, name: &str, delivers: bool) -> usize {
        let wanted = SamplerPlan { name: name.to_owned(), delivers };
        self.samplers.iter().position(|sampler| *sampler == wanted).unwrap_or_else(|| {
            self.samplers.push(wanted);
            self.samplers.len() - 1
        })
    }

    fn group(&mut self, file: &File, group: &Group, scale: f64, shrink: f64) -> GroupPlan {
        let publish = group.publish.as_ref().map(|publish| {
            let payload_bytes = *publish.payload_bytes.get_ref();
            let every = publish.every_s.as_ref().map(|every| (every.get_ref() * 1e9) as u64);
            let window = publish.window.as_ref().map_or(1, |window| u64::from(*window.get_ref()));
            PublishPlan {
                topic: publish.topic.get_ref().clone(),
                qos: *publish.qos.get_ref(),
                payload_bytes,
                pace: every.map_or(Pace::Window(window), Pace::Every),
                fan: 0,
                sampler: self.sampler(&publish.sampler, false),
                tail: Bytes::from(vec![b'x'; payload_bytes - Stamp::LEN]),
                tail_shared: payload_bytes > INLINE_MAX_BYTES,
            }
        });
        let subscribe = group.subscribe.iter().map(|subscribe| SubscribePlan {
            filter: subscribe.filter.get_ref().clone(),
            qos: *subscribe.qos.get_ref(),
            from: subscribe.from.iter().filter_map(|n| position(file, n.get_ref())).collect(),
            paired: subscribe.filter.get_ref().contains("%i"),
            sampler: self.sampler(&subscribe.sampler, true),
        });
        let subscribe = subscribe.collect();
        GroupPlan {
            name: group.name.get_ref().clone(),
            first: self.clients,
            count: scaled(*group.clients.get_ref(), scale) as u32,
            first_number: group.first_number,
            client_id: group.client_id.get_ref().clone(),
            user_name: group.user_name.clone(),
            password: group.password.clone(),
            subscribe,
            publish,
            life_s: group.life_s.as_ref().map(|life| {
                let [least, most] = *life.get_ref();
                (least * shrink, most * shrink)
            }),
        }
    }

    fn stage(&self, file: &File, stage: &super::file::Stage, shrink: f64) -> StagePlan {
        let share = |(name, share): (&toml::Spanned<String>, &toml::Spanned<f64>)| {
            let group = position(file, name.get_ref())?;
            let wanted = (f64::from(self.groups[group].count) * share.get_ref()).ceil();
            Some((group, wanted as u32))
        };
        let groups = stage.publish.iter().filter_map(|name| position(file, name.get_ref()));
        StagePlan {
            name: stage.name.clone(),
            seconds: stage.seconds.get_ref() * shrink,
            connect: stage.connect.iter().filter_map(share).collect(),
            publish: groups.collect(),
        }
    }

    fn count_deliveries(&mut self) {
        let mut fans = vec![0; self.groups.len()];
        for group in &self.groups {
            for subscribe in &group.subscribe {
                for from in &subscribe.from {
                    fans[*from] += if subscribe.paired { 1 } else { u64::from(group.count) };
                }
            }
        }
        for (group, fan) in self.groups.iter_mut().zip(fans) {
            if let Some(publish) = &mut group.publish {
                publish.fan = fan;
            }
        }
    }

    /// The clients of one of several processes, which run the same stages at the same time. Only
    /// for plans without [`Plan::crossing`].
    pub(crate) fn part(mut self, part: Part) -> Plan {
        let (number, of) = (u64::from(part.number), u64::from(part.of));
        let slice = |count: u32, number: u64| (u64::from(count) * number / of) as u32;
        let mut first = 0;
        for (index, group) in self.groups.iter_mut().enumerate() {
            let (from, until) = (slice(group.count, number), slice(group.count, number + 1));
            let whole = f64::from(group.count.max(1));
            for stage in &mut self.stages {
                for (_, wanted) in stage.connect.iter_mut().filter(|(group, _)| *group == index) {
                    let share = f64::from(*wanted) / whole;
                    *wanted = (f64::from(until - from) * share).ceil() as u32;
                }
            }
            group.first_number += u64::from(from);
            group.count = until - from;
            group.first = first;
            first += group.count;
        }
        self.clients = first;
        self.connect_per_s = (self.connect_per_s / f64::from(part.of)).max(0.1);
        self
    }

    /// A filter that hears more than the client in its own place: its messages would come from
    /// several processes, which know nothing of each other's.
    pub(crate) fn crossing(&self) -> Option<&str> {
        let all = self.groups.iter().flat_map(|group| &group.subscribe);
        all.into_iter().find(|filter| !filter.paired).map(|filter| filter.filter.as_str())
    }

    /// The group of a client.
    pub(crate) fn group_of(&self, client: u32) -> usize {
        self.groups.partition_point(|group| group.first + group.count <= client)
    }
}

impl GroupPlan {
    fn fill(&self, pattern: &str, client: u32) -> String {
        let number = self.first_number + u64::from(client - self.first);
        pattern.replace("%i", &number.to_string())
    }

    /// The id of a client.
    pub(crate) fn client_id(&self, client: u32) -> String {
        self.fill(&self.client_id, client)
    }

    /// The user name of a client, and its password.
    pub(crate) fn credentials(&self, client: u32) -> (Option<String>, Option<&str>) {
        let name = self.user_name.as_ref().map(|name| self.fill(name, client));
        (name, self.password.as_deref())
    }

    /// A filter of a client.
    pub(crate) fn filter(&self, subscribe: &SubscribePlan, client: u32) -> String {
        self.fill(&subscribe.filter, client)
    }

    /// The topic of a client.
    pub(crate) fn topic(&self, publish: &PublishPlan, client: u32) -> String {
        self.fill(&publish.topic, client)
    }
}
