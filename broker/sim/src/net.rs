//! The network: byte pipes between clients and shards, with delays and faults from the seed.
//!
//! Owns both directions of every link and who holds its server end. Knows no driver command and
//! no MQTT. A client's end is used through the methods of [`Net`]; the server's end by
//! [`crate::driver::SimDriver`] alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::log::LogQueue;
use crate::random::Random;
use crate::trace::Trace;

/// `ECONNRESET`.
pub(crate) const ECONNRESET: i32 = 104;

/// A server that crashes may have forgotten what happened this long before.
pub(crate) const FORGETS_US: u64 = 1_000_000;

/// One connection between a client and the broker, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// What the network does to those who use it. All chances are per mille.
#[derive(Clone, Debug)]
pub struct Weather {
    /// The longest delay of a segment, in microseconds.
    pub delay_max_us: u64,
    /// A read gives one byte only.
    pub one_byte: u32,
    /// A read is cut at a random place.
    pub cut: u32,
    /// A send stalls although there is room.
    pub short_send: u32,
    /// A ready event is seen a turn later.
    pub lag: u32,
    /// An accept fails.
    pub accept_fails: u32,
    /// A hand-over fails; only those that arrive by a completion can.
    pub hand_over_fails: u32,
    /// Sockets handed over arrive by a completion, not at once.
    pub direct: bool,
    /// Bytes that the server may have under way to one client.
    pub window: usize,
    /// A client that is gone resets instead of closing in order.
    pub unread_resets: u32,
}

impl Weather {
    /// No fault and no delay.
    pub fn calm() -> Weather {
        Weather {
            delay_max_us: 0,
            one_byte: 0,
            cut: 0,
            short_send: 0,
            lag: 0,
            accept_fails: 0,
            hand_over_fails: 0,
            direct: false,
            window: 1 << 20,
            unread_resets: 0,
        }
    }
}

#[derive(Debug)]
enum Item {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// One direction of a link.
#[derive(Debug, Default)]
struct Lane {
    flight: VecDeque<(u64, Item)>,
    in_flight: usize,
    ready: VecDeque<u8>,
    fin: bool,
    reset: bool,
}

impl Lane {
    fn push(&mut self, at_us: u64, item: Item) {
        let at_us = self.flight.back().map_or(at_us, |(last, _)| at_us.max(*last));
        if let Item::Bytes(bytes) = &item {
            self.in_flight += bytes.len();
        }
        self.flight.push_back((at_us, item));
    }

    /// Lets arrive what is due; true if a reset has discarded bytes that nobody has read.
    fn settle(&mut self, now_us: u64) -> bool {
        let mut lost = false;
        while self.flight.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
            match self.flight.pop_front() {
                Some((_, Item::Bytes(bytes))) => {
                    self.in_flight -= bytes.len();
                    self.ready.extend(bytes);
                }
                Some((_, Item::Fin)) => self.fin = true,
                Some((_, Item::Reset)) => {
                    self.reset = true;
                    lost |= !self.ready.is_empty();
                    self.ready.clear();
                }
                None => {}
            }
        }
        lost
    }

    fn held(&self) -> usize {
        self.in_flight + self.ready.len()
    }
}

/// Who holds the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Waits to be accepted by this shard.
    Backlog(u16),
    /// A shard, by this socket.
    Shard(u16, u32),
    /// Between two shards.
    Transit,
    /// Nobody: it is closed.
    Closed,
}

#[derive(Debug)]
struct Link {
    up: Lane,
    down: Lane,
    holder: Holder,
    /// The client has let go of it: what comes to it is answered with a reset.
    client_gone: bool,
    /// Nothing passes any more, and nobody is told.
    cut: bool,
    /// The server has not been given all that the client sent.
    lost: bool,
}

/// How a stream has ended, as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Reset,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Net {
    links: BTreeMap<LinkId, Link>,
    next_link: u32,
    /// The link of each socket number that is in use; numbers are used again, lowest first.
    sockets: Vec<Option<LinkId>>,
    backlog: Vec<VecDeque<LinkId>>,
    /// Sockets on their way to each shard: when, tag, link.
    pub(crate) arriving: Vec<VecDeque<(u64, u64, LinkId)>>,
    /// Log writes under way, one a shard at most.
    pub(crate) logs: Vec<LogQueue>,
    /// Wake-ups sent to each shard.
    pub(crate) woken: Vec<bool>,
    /// When the server closed a link, in microseconds, and whether it had read all that was sent.
    closed: BTreeMap<LinkId, (u64, bool)>,
    /// Links that a crash of the server has ended.
    crashed: BTreeSet<LinkId>,
    /// When the server was gone: from, until.
    outages: Vec<(u64, u64)>,
    pub(crate) now_us: u64,
    /// The faults in force.
    pub weather: Weather,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
}

impl Net {
    /// A network for this many shards.
    pub fn new(shards: u16, weather: Weather, random: Random, trace: Trace) -> Net {
        let shards = usize::from(shards);
        Net {
            links: BTreeMap::new(),
            next_link: 0,
            sockets: Vec::new(),
            backlog: vec![VecDeque::new(); shards],
            arriving: vec![VecDeque::new(); shards],
            logs: (0..shards).map(|_| LogQueue::default()).collect(),
            woken: vec![false; shards],
            closed: BTreeMap::new(),
            crashed: BTreeSet::new(),
            outages: Vec::new(),
            now_us: 0,
            weather,
            random,
            trace,
        }
    }

    /// Lets arrive what is due.
    pub fn settle(&mut self, now_us: u64) {
        self.now_us = now_us;
        for link in self.links.values_mut().filter(|link| !link.cut) {
            link.lost |= link.up.settle(now_us);
            link.down.settle(now_us);
        }
        self.links.retain(|_, link| link.holder != Holder::Closed || !link.client_gone);
    }

    /// When the next thing arrives.
    pub(crate) fn next_us(&self) -> Option<u64> {
        let live = self.links.values().filter(|link| !link.cut);
        let lanes = live.flat_map(|link| [link.up.flight.front(), link.down.flight.front()]);
        let arriving = self.arriving.iter().filter_map(|list| list.front().map(|one| one.0));
        let logs = self.logs.iter().filter_map(LogQueue::due_us);
        lanes.flatten().map(|(at_us, _)| *at_us).chain(arriving).chain(logs).min()
    }

    fn arrival_us(&mut self) -> u64 {
        self.now_us + self.random.below(self.weather.delay_max_us + 1)
    }

    // ---- the client's end

    /// A client connects; this shard will accept it.
    pub fn connect(&mut self, shard: u16) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let link = Link {
            up: Lane::default(),
            down: Lane::default(),
            holder: Holder::Backlog(shard),
            client_gone: false,
            cut: false,
            lost: false,
        };
        self.links.insert(id, link);
        self.backlog[usize::from(shard)].push_back(id);
        id
    }

    /// Puts bytes on their way to the server.
    pub fn write(&mut self, id: LinkId, bytes: &[u8]) {
        let at_us = self.arrival_us();
        if let Some(link) = self.links.get_mut(&id) {
            link.up.push(at_us, Item::Bytes(bytes.to_vec()));
        }
    }

    /// The client will send no more.
    pub fn finish(&mut self, id: LinkId) {
        let at_us = self.arrival_us();
        if let Some(link) = self.links.get_mut(&id) {
            link.up.push(at_us, Item::Fin);
        }
    }

    /// The client lets go of the link, after all that it sent has arrived or with a reset that
    /// may overtake it.
    pub fn leave(&mut self, id: LinkId, reset: bool) {
        let at_us = self.arrival_us();
        if let Some(link) = self.links.get_mut(&id) {
            link.client_gone = true;
            link.down = Lane::default();
            if reset {
                let all = link.up.flight.len();
                let lost = self.random.below(all as u64 + 1) as usize;
                link.lost = true;
                for (_, item) in link.up.flight.drain(all - lost..) {
                    if let Item::Bytes(bytes) = item {
                        link.up.in_flight -= bytes.len();
                    }
                }
                link.up.push(at_us, Item::Reset);
            } else {
                link.up.push(at_us, Item::Fin);
            }
        }
    }

    /// The network breaks without a word to either side.
    pub fn cut(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.cut = true;
            link.client_gone = true;
        }
    }

    /// Reads at the client, up to `max` bytes. The end shows once everything was read.
    pub(crate) fn read(&mut self, id: LinkId, max: usize, into: &mut Vec<u8>) -> Option<End> {
        let Some(link) = self.links.get_mut(&id) else { return Some(End::Orderly) };
        let count = link.down.ready.len().min(max);
        into.extend(link.down.ready.drain(..count));
        if link.down.reset {
            return Some(End::Reset);
        }
        (link.down.fin && link.down.ready.is_empty()).then_some(End::Orderly)
    }

    /// True if a read at the client would give something.
    pub(crate) fn is_readable(&self, id: LinkId) -> bool {
        self.links
            .get(&id)
            .is_some_and(|link| !link.down.ready.is_empty() || link.down.fin || link.down.reset)
    }

    /// When the server closed this link, if it has.
    pub(crate) fn server_closed_us(&self, id: LinkId) -> Option<u64> {
        self.closed.get(&id).map(|(at_us, _)| *at_us)
    }

    /// When the server takes this link to have been closed at the latest, if a crash came so soon
    /// after that it may have forgotten it.
    pub(crate) fn server_forgot_us(&self, id: LinkId) -> Option<u64> {
        let closed_us = self.server_closed_us(id)?;
        let mut forgot_us = None;
        for (from_us, until_us) in &self.outages {
            let at_us = forgot_us.unwrap_or(closed_us);
            if at_us <= *until_us && at_us + FORGETS_US >= *from_us {
                forgot_us = Some(*until_us);
            }
        }
        forgot_us
    }

    /// How often the server has crashed.
    pub(crate) fn crashes(&self) -> usize {
        self.outages.len()
    }

    /// True if a crash of the server has ended this link.
    pub(crate) fn has_crashed(&self, id: LinkId) -> bool {
        self.crashed.contains(&id)
    }

    /// True if the server read all that was sent on a link before it closed it.
    pub(crate) fn server_read_all(&self, id: LinkId) -> bool {
        self.closed.get(&id).is_some_and(|(_, all)| *all)
    }

    /// True if nothing is on its way anywhere, and nobody waits to be accepted.
    pub(crate) fn is_quiet(&self) -> bool {
        let still = |link: &Link| {
            link.cut
                || (link.up.flight.is_empty()
                    && (link.down.flight.is_empty() || link.client_gone)
                    && (link.up.ready.is_empty() || link.holder == Holder::Closed))
        };
        self.links.values().all(still)
            && self.backlog.iter().all(VecDeque::is_empty)
            && self.arriving.iter().all(VecDeque::is_empty)
            && self.logs.iter().all(|log| log.due_us().is_none())
    }

    /// Links whose server end is not closed.
    pub(crate) fn open_links(&self) -> usize {
        self.links.values().filter(|link| link.holder != Holder::Closed).count()
    }

    /// The server is gone, with all that it held; another one with so many shards listens since
    /// `outage.1`. What was on its way to clients may still come, or not.
    pub(crate) fn crash(&mut self, outage: (u64, u64), shards: u16, random: &mut Random) {
        self.outages.push(outage);
        let held: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.holder != Holder::Closed)
            .map(|(id, _)| *id)
            .collect();
        for id in held {
            self.crashed.insert(id);
            // Only when it is back the server sees that a connection is gone.
            self.closed.insert(id, (outage.1, false));
            let at_us = self.arrival_us();
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.holder = Holder::Closed;
            if random.chance(400) {
                let keep = random.below(link.down.flight.len() as u64 + 1) as usize;
                for (_, item) in link.down.flight.drain(keep..) {
                    if let Item::Bytes(bytes) = item {
                        link.down.in_flight -= bytes.len();
                    }
                }
            }
            let end = if random.chance(300) { Item::Reset } else { Item::Fin };
            link.down.push(at_us, end);
        }
        let shards = usize::from(shards);
        self.sockets.clear();
        self.backlog = vec![VecDeque::new(); shards];
        self.arriving = vec![VecDeque::new(); shards];
        self.logs = (0..shards).map(|_| LogQueue::default()).collect();
        self.woken = vec![false; shards];
    }

    // ---- the server's end

    /// True if a client waits to be accepted by a shard.
    pub(crate) fn has_backlog(&self, shard: u16) -> bool {
        !self.backlog[usize::from(shard)].is_empty()
    }

    /// Takes a waiting client and gives its link a socket.
    pub(crate) fn accept(&mut self, shard: u16) -> Option<(u32, LinkId)> {
        let id = self.backlog[usize::from(shard)].pop_front()?;
        Some((self.take(id, shard), id))
    }

    /// Gives a link to a shard under the lowest free number.
    pub(crate) fn take(&mut self, id: LinkId, shard: u16) -> u32 {
        let free = self.sockets.iter().position(Option::is_none);
        let socket = free.unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        self.sockets[socket] = Some(id);
        if let Some(link) = self.links.get_mut(&id) {
            link.holder = Holder::Shard(shard, socket as u32);
        }
        socket as u32
    }

    /// The link of a socket that this shard holds.
    pub(crate) fn link_of(&self, shard: u16, socket: u32) -> Option<LinkId> {
        let id = (*self.sockets.get(socket as usize)?)?;
        // A link that its client has left and the server closed is gone; sockets outlive neither.
        let link = self.links.get(&id)?;
        (link.holder == Holder::Shard(shard, socket)).then_some(id)
    }

    /// Takes a link from the shard that holds it, to hand it over.
    pub(crate) fn send_away(&mut self, socket: u32) {
        let Some(id) = self.sockets.get_mut(socket as usize).and_then(Option::take) else { return };
        if let Some(link) = self.links.get_mut(&id) {
            link.holder = Holder::Transit;
        }
    }

    /// Frees the number of a socket that is closed.
    pub(crate) fn free_socket(&mut self, socket: u32) {
        if let Some(place) = self.sockets.get_mut(socket as usize) {
            *place = None;
        }
    }

    /// The same link under the same number, held by another shard.
    pub(crate) fn pass_on(&mut self, socket: u32, to: u16) {
        let Some(Some(id)) = self.sockets.get(socket as usize) else { return };
        if let Some(link) = self.links.get_mut(id) {
            link.holder = Holder::Shard(to, socket);
        }
    }

    /// The server has closed its end.
    pub(crate) fn close_link(&mut self, id: LinkId) {
        let at_us = self.arrival_us();
        let resets = self.random.chance(self.weather.unread_resets);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.holder = Holder::Closed;
        let unread = link.up.held() > 0 && !link.up.reset;
        let all = !unread && !link.lost && !link.cut && !link.up.reset;
        self.closed.insert(id, (self.now_us, all));
        // Closing a socket with unread bytes resets it, and then the client may lose the last
        // bytes that were on their way to it.
        let end = if unread && resets { Item::Reset } else { Item::Fin };
        link.down.push(at_us, end);
    }

    /// How many bytes the socket's buffer takes now; `None` once it has failed.
    pub(crate) fn room(&self, id: LinkId) -> Option<usize> {
        let link = self.links.get(&id)?;
        if link.up.reset {
            return None;
        }
        Some(self.weather.window.saturating_sub(link.down.held()))
    }

    /// Sends from the server's end; there must be room.
    pub(crate) fn send(&mut self, id: LinkId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let at_us = self.arrival_us();
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.client_gone && !link.cut {
            // Nobody is there: the next thing that the server hears is a reset.
            link.up.push(at_us, Item::Reset);
        } else {
            link.down.push(at_us, Item::Bytes(bytes.to_vec()));
        }
    }

    /// Bytes that the server can read, and how the stream ends behind them.
    pub(crate) fn incoming(&self, id: LinkId) -> (usize, Option<End>) {
        let Some(link) = self.links.get(&id) else { return (0, Some(End::Reset)) };
        let end = match (link.up.reset, link.up.fin) {
            (true, _) => Some(End::Reset),
            (false, true) => Some(End::Orderly),
            (false, false) => None,
        };
        (link.up.ready.len(), end)
    }

    /// Reads at the server, exactly `len` bytes, which must be there.
    pub(crate) fn receive(&mut self, id: LinkId, len: usize) -> Vec<u8> {
        let Some(link) = self.links.get_mut(&id) else { return Vec::new() };
        link.up.ready.drain(..len).collect()
    }
}
