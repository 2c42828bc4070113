//! Judges a scenario before any connection is made: names that stand for nothing, numbers that
//! cannot be, more connections than the host has ports or descriptors for. Pure, but for
//! [`Host::here`].

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Resource, getrlimit};

use super::file::{File, Group, Lines, Subscribe, Wrong};
use super::plan::{Size, scaled};
use crate::sequence::Stamp;

/// Descriptors that are no connections.
const DESCRIPTORS_SPARE: u64 = 100;
/// Connections from one address unless the scenario says otherwise: the fewer of its ports are
/// taken, the sooner the kernel finds a free one.
const PER_ADDRESS: u64 = 2000;
/// Loopback addresses to connect from, 127.1.0.1 and on.
const ADDRESSES_MAX: u64 = 1 << 20;
const CLIENTS_MAX: u64 = 1 << 31;
const SECONDS_MAX: f64 = 86_400.0;

/// What the host has for connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// Descriptors of this process.
    pub(crate) descriptors: u64,
    /// The first and last ephemeral port.
    pub(crate) ports: (u64, u64),
    /// Processes that the clients are dealt out to.
    pub(crate) processes: u64,
}

impl Host {
    /// This host, with so many processes.
    pub(crate) fn here(processes: u16) -> Host {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let range = range.unwrap_or_default();
        let mut numbers = range.split_whitespace().filter_map(|word| word.parse().ok());
        let ports = numbers.next().zip(numbers.next()).unwrap_or((32_768, 60_999));
        let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        Host { descriptors, ports, processes: u64::from(processes.max(1)) }
    }

    fn ports_per_address(&self) -> u64 {
        self.ports.1.saturating_sub(self.ports.0) + 1
    }

    /// Addresses that so many connections need.
    fn addresses_for(&self, connections: u64) -> u64 {
        connections.div_ceil(self.ports_per_address()).max(1)
    }
}

/// Judges a file; how many addresses to connect from.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(text: &str, file: &File, size: Size, host: &Host) -> Result<u64, Wrong> {
    let lines = Lines(text);
    for group in &file.groups {
        numbers(lines, file, group)?;
    }
    names(lines, file)?;
    for stage in &file.stages {
        for (name, share) in &stage.connect {
            if !(0.0..=1.0).contains(share.get_ref()) {
                let text = format!("{} is no share: 0 to 1", share.get_ref());
                return Err(lines.at(share, text));
            }
            known(lines, file, name)?;
        }
        if !(0.0..=SECONDS_MAX).contains(stage.seconds.get_ref()) {
            return Err(lines.at(&stage.seconds, "a stage takes 0 to 86400 seconds".to_owned()));
        }
        for name in &stage.publish {
            let group = known(lines, file, name)?;
            if group.publish.is_none() {
                let text = format!("group `{}` publishes nothing", name.get_ref());
                return Err(lines.at(name, text));
            }
        }
    }
    if !matches!(file.mqtt.get_ref(), 4 | 5) {
        return Err(lines.at(&file.mqtt, "mqtt is 4 (3.1.1) or 5".to_owned()));
    }
    if !(1e-3..=1e9).contains(file.connect_per_s.get_ref()) {
        return Err(lines.at(&file.connect_per_s, "connects a second: above 0".to_owned()));
    }
    capacity(lines, file, size, host)
}

/// Every name is there once, and what refers to one finds it.
fn names(lines: Lines<'_>, file: &File) -> Result<(), Wrong> {
    let mut seen = BTreeSet::new();
    let mut samplers = BTreeSet::new();
    for group in &file.groups {
        if !seen.insert(group.name.get_ref()) {
            let text = format!("there are two groups `{}`", group.name.get_ref());
            return Err(lines.at(&group.name, text));
        }
        for subscribe in &group.subscribe {
            samplers.insert(&subscribe.sampler);
            for name in &subscribe.from {
                heard(lines, file, group, subscribe, known(lines, file, name)?)?;
            }
        }
    }
    match file.bars.stall_s.keys().find(|name| !samplers.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("bars.stall_s: no subscription has the sampler `{name}`");
            Err(Wrong { line: None, text })
        }
    }
}

fn known<'a>(
    lines: Lines<'_>,
    file: &'a File,
    name: &toml::Spanned<String>,
) -> Result<&'a Group, Wrong> {
    file.groups.iter().find(|group| group.name.get_ref() == name.get_ref()).ok_or_else(|| {
        let names: Vec<&str> = file.groups.iter().map(|g| g.name.get_ref().as_str()).collect();
        let text = format!("no group `{}`; there are {}", name.get_ref(), names.join(", "));
        lines.at(name, text)
    })
}

/// A subscription and one group that it hears.
fn heard(
    lines: Lines<'_>,
    file: &File,
    group: &Group,
    subscribe: &Subscribe,
    from: &Group,
) -> Result<(), Wrong> {
    let name = from.name.get_ref();
    let Some(publish) = &from.publish else {
        return Err(lines.at(&subscribe.filter, format!("group `{name}` publishes nothing")));
    };
    let paired = subscribe.filter.get_ref().contains("%i");
    let (own, theirs) = (*group.clients.get_ref(), *from.clients.get_ref());
    if paired && own != theirs {
        let text = format!(
            "`{}` pairs each client with one of `{name}`, but there are {own} and {theirs}",
            subscribe.filter.get_ref()
        );
        return Err(lines.at(&subscribe.filter, text));
    }
    if *subscribe.qos.get_ref() < *publish.qos.get_ref() {
        let text = format!(
            "QoS {} of the subscription is below QoS {} of what `{name}` publishes",
            subscribe.qos.get_ref(),
            publish.qos.get_ref()
        );
        return Err(lines.at(&subscribe.qos, text));
    }
    if file.groups.iter().any(|g| g.life_s.is_some()) && publish.window.is_some() {
        let text = "a window needs clients that stay: no group may have life_s".to_owned();
        return Err(lines.at(&subscribe.filter, text));
    }
    Ok(())
}

fn numbers(lines: Lines<'_>, file: &File, group: &Group) -> Result<(), Wrong> {
    if !(1..=CLIENTS_MAX).contains(group.clients.get_ref()) {
        let text = format!("{} clients: 1 to {CLIENTS_MAX}", group.clients.get_ref());
        return Err(lines.at(&group.clients, text));
    }
    if *group.clients.get_ref() > 1 && !group.client_id.get_ref().contains("%i") {
        let text = "a group of several clients needs %i in client_id".to_owned();
        return Err(lines.at(&group.client_id, text));
    }
    if let Some(life) = &group.life_s {
        let [least, most] = *life.get_ref();
        if !(0.0 < least && least <= most && most <= SECONDS_MAX) {
            let text = format!("life_s [{least}, {most}]: 0 < least <= most");
            return Err(lines.at(life, text));
        }
    }
    for subscribe in &group.subscribe {
        if *subscribe.qos.get_ref() > 2 {
            return Err(lines.at(&subscribe.qos, "qos is 0, 1 or 2".to_owned()));
        }
    }
    let Some(publish) = &group.publish else { return Ok(()) };
    if *publish.qos.get_ref() > 2 {
        return Err(lines.at(&publish.qos, "qos is 0, 1 or 2".to_owned()));
    }
    let bytes = *publish.payload_bytes.get_ref();
    if !(Stamp::LEN..=100_000_000).contains(&bytes) {
        let text = format!("{bytes} bytes: a payload has 16 (its stamp) to 100000000");
        return Err(lines.at(&publish.payload_bytes, text));
    }
    match (&publish.every_s, &publish.window) {
        (Some(every), None) if (1e-6..=SECONDS_MAX).contains(every.get_ref()) => Ok(()),
        (Some(every), None) => {
            let text = format!("every_s is 0.000001 to 86400, not {}", every.get_ref());
            Err(lines.at(every, text))
        }
        (None, Some(window)) if !(1..=60_000).contains(window.get_ref()) => {
            Err(lines.at(window, format!("a window is 1 to 60000, not {}", window.get_ref())))
        }
        (None, Some(window)) => {
            let name = group.name.get_ref();
            let subscriptions = file.groups.iter().flat_map(|group| &group.subscribe);
            let mut from = subscriptions.flat_map(|subscribe| &subscribe.from);
            let heard = from.any(|from| from.get_ref() == name);
            let text = format!("a window needs somebody who subscribes from `{name}`");
            if heard { Ok(()) } else { Err(lines.at(window, text)) }
        }
        _ => Err(lines.at(&publish.topic, "either every_s or window is to be given".to_owned())),
    }
}

/// Ports and descriptors for all clients at once; how many addresses to connect from.
fn capacity(lines: Lines<'_>, file: &File, size: Size, host: &Host) -> Result<u64, Wrong> {
    let clients = |group: &Group| scaled(*group.clients.get_ref(), size.scale);
    let all: u64 = file.groups.iter().map(clients).sum();
    let largest = file.groups.iter().max_by_key(|group| clients(group));
    let place = |text| match largest {
        Some(group) => lines.at(&group.clients, text),
        None => Wrong { line: None, text: "there is no group".to_owned() },
    };
    if all == 0 {
        return Err(place(String::new()));
    }
    let (per_address, needed) = (host.ports_per_address(), host.addresses_for(all));
    let (first, last) = host.ports;
    let usual = needed.max(all.div_ceil(PER_ADDRESS)).min(ADDRESSES_MAX.max(needed));
    let addresses = file.source_addresses.as_ref().map_or(usual, |given| *given.get_ref());
    if addresses == 0 || addresses > ADDRESSES_MAX || addresses < needed {
        let text = format!(
            "{all} connections from {addresses} addresses x {per_address} ports (\
             net.ipv4.ip_local_port_range {first} to {last}) = {} at the most; {needed} addresses \
             are needed (source_addresses, up to {ADDRESSES_MAX}), or --scale {:.4}",
            addresses.saturating_mul(per_address),
            fitting(size.scale, addresses.saturating_mul(per_address), all)
        );
        return Err(match &file.source_addresses {
            Some(given) => lines.at(given, text),
            None => place(text),
        });
    }
    let each = all.div_ceil(host.processes);
    let descriptors = each + DESCRIPTORS_SPARE;
    if descriptors > host.descriptors {
        let room = host.descriptors.saturating_sub(DESCRIPTORS_SPARE);
        return Err(place(format!(
            "{all} connections / {} processes + {DESCRIPTORS_SPARE} = {descriptors} descriptors, \
             and a process may have {} (ulimit -Hn): raise it, --processes {}, or --scale {:.5}",
            host.processes,
            host.descriptors,
            all.div_ceil(room.max(1)),
            fitting(size.scale, room * host.processes, all)
        )));
    }
    Ok(addresses)
}

/// The scale at which `wanted` becomes `room`, rounded down.
fn fitting(scale: f64, room: u64, wanted: u64) -> f64 {
    (scale * room as f64 / wanted as f64 * 1e5).floor() / 1e5
}
