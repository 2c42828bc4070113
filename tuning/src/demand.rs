//! What a number of connections needs of the host, with the arithmetic.

use crate::check::{Check, Verdict};
use crate::limits;
use crate::memory::{self, bytes};
use crate::profile::{Cost, Rule};
use crate::root::Root;
use crate::{conntrack, kernel, unit};

/// Bytes of a page that the kernel counts buffers of sockets in.
const PAGE: u64 = 4096;
/// Files that the rest of the host may have open. Not what is open now: with the clients connected
/// that would count them twice.
const OTHER_FILES: u64 = 65_536;
/// The most slots for descriptors that the kernel gives to one ring.
pub const RING_SLOTS_MAX: u64 = 1 << 20;

/// What is asked of the host: the broker's configuration, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Connections at a time; 0 = no number in particular.
    pub connections: u64,
    /// Shards.
    pub shards: u64,
    /// Descriptors that the broker needs besides those of its connections.
    pub descriptors_own: u64,
    /// Connections are slots of the rings and take no descriptors.
    pub direct: bool,
    /// The largest backlog of a listener, per shard.
    pub backlog: u64,
    /// Bytes of the rings of one shard and their buffers.
    pub ring_bytes: u64,
    /// Bytes that the rings of all shards lock in memory.
    pub memlock_bytes: u64,
    /// Ports that are listened on, besides those that the profile names.
    pub ports: Vec<u16>,
    /// What io_uring is to the broker.
    pub io_uring: IoUring,
}

/// What io_uring is to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoUring {
    /// It does not start without.
    Needed,
    /// It costs more CPU without.
    Wanted,
    /// Something else does the network I/O.
    Unused,
}

impl IoUring {
    /// A finding about io_uring as it weighs here; none where nobody asks.
    pub fn weighs(self, check: Check) -> Option<Check> {
        match self {
            IoUring::Needed => Some(check),
            IoUring::Unused => None,
            IoUring::Wanted => {
                let verdict = check.verdict.min(Verdict::Advice);
                let remedy = format!(
                    "{}; until then epoll does the network I/O, which can take more CPU for \
                     each message",
                    check.remedy
                );
                Some(Check { fatal: false, ..check }.verdict(verdict).remedy(remedy))
            }
        }
    }
}

/// The least that a kernel setting must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The setting.
    pub(crate) key: &'static str,
    /// One number, or as many as the setting has.
    pub(crate) value: Vec<u64>,
    /// How it comes about.
    pub(crate) arithmetic: String,
}

impl Demand {
    /// The limit of descriptors that the broker's process needs. It bounds the slots of each ring
    /// too, where connections are slots.
    pub(crate) fn descriptors(&self) -> u64 {
        match self.direct {
            false => self.descriptors_own.saturating_add(self.connections),
            true => self.descriptors_own.max(self.connections.div_ceil(self.shards.max(1))),
        }
    }

    /// How [`Demand::descriptors`] comes about.
    fn of_descriptors(&self) -> String {
        let Demand { connections, shards, descriptors_own: own, .. } = *self;
        match (connections, self.direct) {
            (0, _) => "descriptors of the broker without any connection".to_owned(),
            (_, false) => format!("{own} own + {connections} connections"),
            (_, true) => format!("{connections} connections as slots of {shards} rings"),
        }
    }

    /// The kernel settings that must not be less.
    pub(crate) fn needs(&self, root: &Root, cost: &Cost) -> Vec<Need> {
        let mut needs = Vec::new();
        let mut add = |key, value, arithmetic| needs.push(Need { key, value, arithmetic });
        let Demand { connections, backlog, .. } = *self;
        if connections > 0 {
            let own = self.descriptors_own;
            let files = connections.saturating_add(own + OTHER_FILES);
            let text = format!(
                "{OTHER_FILES} of other programs + {own} own + {connections} connections = {files}"
            );
            add("fs.file-max", vec![files], text);
            add("fs.nr_open", vec![self.descriptors()], self.of_descriptors());
            let pages = connections.saturating_mul(cost.queued_pages);
            let text = format!(
                "{connections} connections x {} pages in buffers at a time = {pages} pages, {}",
                cost.queued_pages,
                bytes(pages.saturating_mul(PAGE))
            );
            if pages > 0 {
                // The kernel's own ratio: eases, presses, refuses at 3 : 4 : 6.
                add(
                    "net.ipv4.tcp_mem",
                    vec![pages / 4 * 3, pages, pages.saturating_mul(3) / 2],
                    text,
                );
            }
            if conntrack::tracked(root) > 0 {
                let text = format!("{connections} connections, one place in the table for each");
                add(conntrack::TABLE, vec![connections], text);
            }
        }
        if backlog > 0 {
            let text = format!("a listener's backlog of {backlog} is cut to it");
            add("net.core.somaxconn", vec![backlog], text);
        }
        needs
    }

    /// What must be there besides kernel settings.
    pub(crate) fn checks(&self, root: &Root, cost: &Cost) -> Vec<Check> {
        let mut checks = Vec::new();
        if self.connections == 0 {
            return checks;
        }
        checks.push(self.memory(root, cost));
        checks.push(self.accept_queue(root, cost));
        checks.push(self.addresses(root));
        if self.direct {
            checks.push(self.ring_slots(root));
        }
        checks
    }

    /// The kernel bounds the slots of a ring by a number of its own and by the process's limit.
    fn ring_slots(&self, root: &Root) -> Check {
        let nofile = limits::hard(root).map_or(u64::MAX, |(nofile, _)| nofile);
        let each = nofile.min(RING_SLOTS_MAX);
        let slots = each.saturating_mul(self.shards);
        let wanted = format!("at least {}", self.connections);
        let why = format!(
            "{} shards x {each} slots of a ring, the smaller of {RING_SLOTS_MAX} and nofile",
            self.shards
        );
        Check::new("ring slots", slots.to_string(), wanted, why)
            .remedy("raise nofile, run more shards, or take `descriptors = \"plain\"`")
            .met(slots >= self.connections, Verdict::Short)
    }

    fn memory(&self, root: &Root, cost: &Cost) -> Check {
        let Demand { connections, shards, ring_bytes, .. } = *self;
        let Cost { user_bytes, kernel_bytes, queued_pages, .. } = *cost;
        let each = user_bytes + kernel_bytes + queued_pages * PAGE;
        let needed = connections.saturating_mul(each).saturating_add(shards * ring_bytes);
        let why = format!(
            "{connections} connections x ({user_bytes} B of the broker + {kernel_bytes} B of the \
             kernel + {queued_pages} x {PAGE} B in buffers) + {shards} shards x {} of rings",
            bytes(ring_bytes)
        );
        let wanted = format!("at least {}", bytes(needed));
        let check = Check::new("memory", "", wanted, why)
            .remedy("add memory, or hold fewer connections on this host");
        match memory::usable(root) {
            Some((there, what)) => {
                let check = Check { found: format!("{} {what}", bytes(there)), ..check };
                check.met(there >= needed, Verdict::Short)
            }
            None => Check { found: "unreadable".into(), ..check }.verdict(Verdict::Unknown),
        }
    }

    /// A second's worth of those that come back after an outage must find a place in the queues.
    fn accept_queue(&self, root: &Root, cost: &Cost) -> Check {
        let somaxconn = root.number("proc/sys/net/core/somaxconn").unwrap_or(self.backlog);
        let each = self.backlog.min(somaxconn);
        let places = each.saturating_mul(self.shards);
        let rate = self.connections.div_ceil(cost.reconnect_s.max(1));
        let why = format!(
            "{} connections that come back within {} s are {rate} in a second; {} shards x {each} \
             places",
            self.connections, cost.reconnect_s, self.shards
        );
        let share = rate.div_ceil(self.shards.max(1));
        let wanted = format!("at least {rate}");
        Check::new("accept queue", places.to_string(), wanted, why)
            .remedy(format!(
                "set `backlog = {share}` in [[listeners]] (net.core.somaxconn bounds it)"
            ))
            .met(places >= rate, Verdict::Advice)
    }

    /// One address can hold as many connections to one port as it has ports.
    fn addresses(&self, root: &Root) -> Check {
        let range = root.read("proc/sys/net/ipv4/ip_local_port_range").ok().and_then(|text| {
            let mut ends = text.split_whitespace().map(str::parse::<u64>);
            Some((ends.next()?.ok()?, ends.next()?.ok()?))
        });
        let check = Check::new("source addresses", "unreadable", "", "");
        let Some((first, last)) = range else { return check.verdict(Verdict::Unknown) };
        let ports = last.saturating_sub(first).saturating_add(1);
        let addresses = self.connections.div_ceil(ports);
        let found = format!("{ports} ports ({first}-{last}) for one source address");
        let why = format!(
            "{} / {ports} = {addresses}, when the load comes from hosts set up like this one",
            self.connections
        );
        let wanted = format!("at least {addresses} source address{}", plural(addresses));
        Check { found, ..Check::new("source addresses", "", wanted, why) }
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "es" }
}

/// The limits of this process and of the installed unit.
pub(crate) fn limit_checks(
    root: &Root,
    demand: &Demand,
    nofile: Option<&Rule>,
    memlock: Option<&Rule>,
) -> Vec<Check> {
    let units = unit::limits(root);
    let process = limits::hard(root);
    let descriptors = (demand.descriptors(), demand.of_descriptors());
    let locked = (demand.memlock_bytes, format!("rings of {} shards", demand.shards));
    let of_process = |of: fn(&(u64, u64)) -> u64| process.as_ref().map(of).map_err(Clone::clone);
    let mut checks = vec![
        limit("nofile", of_process(|limits| limits.0), nofile, &descriptors, limits::amount),
        limit("memlock", of_process(|limits| limits.1), memlock, &locked, limits::kibibytes),
    ];
    if let Some(unit) = units {
        let (open, lock) = (unit.nofile, unit.memlock);
        if let Some(open) = open {
            let name = "unit LimitNOFILE";
            checks.push(limit(name, Ok(open), nofile, &descriptors, limits::amount));
        }
        if let Some(lock) = lock {
            let name = "unit LimitMEMLOCK";
            checks.push(limit(name, Ok(lock), memlock, &locked, limits::kibibytes));
        }
    }
    checks
}

fn limit(
    name: &str,
    found: Result<u64, String>,
    rule: Option<&Rule>,
    (need, arithmetic): &(u64, String),
    words: fn(u64) -> String,
) -> Check {
    let value = rule.and_then(|rule| rule.value.first().copied()).unwrap_or(0);
    let wanted = format!("at least {}", words(value.max(*need)));
    let why = match rule {
        Some(rule) => format!("{} ({arithmetic}: {})", rule.why, words(*need)),
        None => format!("{arithmetic}: {}", words(*need)),
    };
    match found {
        Err(error) => Check::new(name, error, wanted, why).verdict(Verdict::Unknown),
        Ok(found) => {
            let verdict = match found {
                found if found < *need => Verdict::Short,
                found if found < value => Verdict::Advice,
                _ => Verdict::Ok,
            };
            let remedy = match name.starts_with("unit") {
                true => "`ringtide tune apply` raises it; then `systemctl daemon-reload`",
                false => "`ringtide tune apply` raises it for the unit, and for logins after that",
            };
            Check::new(name, words(found), wanted, why).remedy(remedy).verdict(verdict)
        }
    }
}

/// The checks at the broker's start: what is configured, and whether the host has it. What only a
/// profile wishes is not among them. A read that fails gives [`Verdict::Unknown`].
pub fn at_start(root: &Root, demand: &Demand) -> Vec<Check> {
    let cost = Cost::default();
    let needs = demand.needs(root, &cost);
    // What is only wanted is tried before, and told then.
    let mut checks = match demand.io_uring {
        IoUring::Needed => vec![kernel::check_version(root), kernel::check_io_uring(root)],
        IoUring::Wanted | IoUring::Unused => Vec::new(),
    };
    checks.extend(
        needs.iter().map(|need| crate::item::sysctl(root, need.key, None, Some(need)).check),
    );
    checks.extend(demand.checks(root, &cost));
    checks
}
