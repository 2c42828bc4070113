//! The simulated driver: the rules of [`ringtide_driver`] over [`Net`], with the faults of its
//! weather. It holds the shard to its side of the rules: a breach is a failure of the run.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bytes::BytesMut;
use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, ReadOp, Socket, Token, Wait,
};

use crate::net::{ECONNRESET, End, LinkId, Net};

/// `EMFILE`.
const EMFILE: i32 = 24;
/// Receive buffers hold this many bytes at most.
const BUFFER_BYTES_MAX: usize = 4096;
/// Chunks that one poll gives one token.
const CHUNKS_MAX: usize = 4;

/// What a token receives.
#[derive(Debug)]
enum Receive {
    No,
    Many,
    Once,
    Exact(BytesMut, usize),
}

/// One token's operations.
#[derive(Debug)]
struct Entry {
    socket: u32,
    link: LinkId,
    receive: Receive,
    stopping: bool,
    /// A send was queued in this turn.
    queued: bool,
    /// What a stalled send still has to send.
    rest: Option<VecDeque<u8>>,
    closing: bool,
    /// Polls until `Closed`.
    closed_in: u64,
}

impl Entry {
    fn is_receiving(&self) -> bool {
        !matches!(self.receive, Receive::No)
    }
}

/// What is carried out by the next submission, in order.
#[derive(Debug)]
enum Operation {
    Send(Token, Vec<u8>),
    Close(Token),
    HandOver(LinkId, u16, u64),
    Wake(u16),
    WriteLog(LogOp),
    ReadLog(ReadOp),
}

/// What the simulator's scheduler may know of a driver.
#[derive(Debug)]
pub(crate) struct Ear {
    /// How the last turn ended.
    pub(crate) wait: Wait,
    /// Virtual time at which it ended.
    pub(crate) since_us: u64,
    entries: BTreeMap<u64, Entry>,
    accepting: bool,
    completions: VecDeque<Completion>,
    operations: Vec<Operation>,
    buffers_out: usize,
    buffers_max: usize,
    me: u16,
}

impl Ear {
    /// True if a sleeping driver would return.
    pub(crate) fn has_news(&self, net: &Net) -> bool {
        let accepts = self.accepting && net.has_backlog(self.me);
        let arrives = net.arriving[usize::from(self.me)]
            .front()
            .is_some_and(|(at_us, _, _)| *at_us <= net.now_us);
        !self.completions.is_empty()
            || !self.operations.is_empty()
            || accepts
            || arrives
            || net.logs[usize::from(self.me)].due_us().is_some_and(|due_us| due_us <= net.now_us)
            || net.woken[usize::from(self.me)]
            || self.entries.values().any(|entry| self.stirs(entry, net))
    }

    fn stirs(&self, entry: &Entry, net: &Net) -> bool {
        let (bytes, end) = net.incoming(entry.link);
        let input = bytes > 0 && self.buffers_out < self.buffers_max || end.is_some();
        let room = entry.rest.is_some() && net.room(entry.link) != Some(0);
        entry.closing || entry.stopping || (entry.is_receiving() && input) || room
    }

    /// Tokens with a socket or operations.
    pub(crate) fn open(&self) -> usize {
        self.entries.len()
    }

    /// Received buffers that were not given back.
    pub(crate) fn buffers_out(&self) -> usize {
        self.buffers_out
    }

    /// True if a send waits for its client to read.
    pub(crate) fn stalled(&self) -> usize {
        self.entries.values().filter(|entry| entry.rest.is_some()).count()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct SimDriver {
    me: u16,
    net: Rc<RefCell<Net>>,
    ear: Rc<RefCell<Ear>>,
    buffers: Vec<Option<Vec<u8>>>,
    reclaimed: Vec<Vec<u8>>,
    /// The network has been looked at since the last submission.
    polled: bool,
}

impl SimDriver {
    /// The driver of shard `me` with this many receive buffers.
    pub fn new(me: u16, net: Rc<RefCell<Net>>, buffers: usize) -> SimDriver {
        let ear = Ear {
            wait: Wait::Poll,
            since_us: 0,
            entries: BTreeMap::new(),
            accepting: false,
            completions: VecDeque::new(),
            operations: Vec::new(),
            buffers_out: 0,
            buffers_max: buffers,
            me,
        };
        SimDriver {
            me,
            net,
            ear: Rc::new(RefCell::new(ear)),
            buffers: (0..buffers).map(|_| None).collect(),
            reclaimed: Vec::new(),
            polled: false,
        }
    }

    pub(crate) fn ear(&self) -> Rc<RefCell<Ear>> {
        Rc::clone(&self.ear)
    }

    fn breach(&self, words: &str, token: Token) {
        self.net.borrow().trace.fail(format_args!(
            "shard {} breaks the driver's rules: {words} (token {:x})",
            self.me, token.0
        ));
    }

    /// Runs `with` on a token's entry, made anew for a socket that has none.
    fn entry(
        &mut self,
        token: Token,
        socket: Socket,
        with: impl FnOnce(&mut Entry) -> Option<&'static str>,
    ) {
        let ear = Rc::clone(&self.ear);
        let mut ear = ear.borrow_mut();
        let wrong = if token.0 >> 56 != 0 {
            Some("the upper 8 bits of a token are not zero")
        } else if let Some(entry) = ear.entries.get_mut(&token.0) {
            match entry {
                Entry { closing: true, .. } => Some("a closed token is used"),
                Entry { socket: own, .. } if *own != socket.0 => {
                    Some("a token is used again before Closed")
                }
                _ => with(entry),
            }
        } else if ear.entries.values().any(|entry| entry.socket == socket.0) {
            Some("a socket is used under two tokens")
        } else {
            let link = self.net.borrow().link_of(self.me, socket.0);
            match link {
                None => Some("the socket is not this shard's"),
                Some(link) => {
                    let mut entry = Entry {
                        socket: socket.0,
                        link,
                        receive: Receive::No,
                        stopping: false,
                        queued: false,
                        rest: None,
                        closing: false,
                        closed_in: 0,
                    };
                    let wrong = with(&mut entry);
                    ear.entries.insert(token.0, entry);
                    wrong
                }
            }
        };
        drop(ear);
        if let Some(words) = wrong {
            self.breach(words, token);
        }
    }

    fn begin_receive(&mut self, token: Token, socket: Socket, receive: Receive) {
        self.entry(token, socket, |entry| {
            if entry.is_receiving() || entry.stopping {
                return Some("a receive is begun while another is under way");
            }
            entry.receive = receive;
            None
        });
    }

    /// Carries out what was queued, in order.
    fn carry_out(&mut self) {
        let operations = std::mem::take(&mut self.ear.borrow_mut().operations);
        for operation in operations {
            match operation {
                Operation::Send(token, bytes) => self.carry_out_send(token, &bytes),
                Operation::Close(token) => self.carry_out_close(token),
                Operation::HandOver(link, to, tag) => self.carry_out_hand_over(link, to, tag),
                Operation::Wake(to) => self.net.borrow_mut().woken[usize::from(to)] = true,
                Operation::ReadLog(read) => self.net.borrow_mut().read_log(self.me, read),
                Operation::WriteLog(write) => {
                    let refused = self.net.borrow_mut().write_log(self.me, write);
                    self.ear.borrow_mut().completions.extend(refused);
                }
            }
        }
    }

    fn carry_out_send(&mut self, token: Token, bytes: &[u8]) {
        let mut ear = self.ear.borrow_mut();
        let ear = &mut *ear;
        let Some(entry) = ear.entries.get_mut(&token.0) else { return };
        entry.queued = false;
        let mut net = self.net.borrow_mut();
        let Some(room) = net.room(entry.link) else {
            if !entry.closing {
                let errno = ECONNRESET;
                ear.completions.push_back(Completion::SendFailed { token, errno });
            }
            return;
        };
        let mut now = room.min(bytes.len());
        let short = net.weather.short_send;
        if net.random.chance(short) {
            now = net.random.below(now as u64 + 1) as usize;
        }
        net.send(entry.link, &bytes[..now]);
        let numbers = [1, u64::from(entry.link.0), now as u64, bytes.len() as u64];
        let link = entry.link.0;
        net.trace.event(
            numbers,
            format_args!("s{} link {link}: sends {now} of {} bytes", self.me, bytes.len()),
        );
        if now < bytes.len() && !entry.closing {
            entry.rest = Some(bytes[now..].iter().copied().collect());
            ear.completions.push_back(Completion::SendStalled { token });
        }
    }

    fn carry_out_close(&mut self, token: Token) {
        let mut ear = self.ear.borrow_mut();
        let Some(entry) = ear.entries.get_mut(&token.0) else { return };
        entry.rest = None;
        entry.receive = Receive::No;
        entry.stopping = false;
        let mut net = self.net.borrow_mut();
        let lag = net.weather.lag;
        entry.closed_in = if net.random.chance(lag) { net.random.below(4) } else { 0 };
        let numbers = [2, u64::from(entry.link.0), 0, 0];
        net.trace.event(numbers, format_args!("s{} link {}: closes", self.me, entry.link.0));
        net.close_link(entry.link);
    }

    fn carry_out_hand_over(&mut self, link: LinkId, to: u16, tag: u64) {
        let mut net = self.net.borrow_mut();
        let fails = net.weather.hand_over_fails;
        if net.random.chance(fails) {
            net.close_link(link);
            let failed = Completion::HandOverFailed { tag, errno: EMFILE };
            self.ear.borrow_mut().completions.push_back(failed);
            return;
        }
        let delay_us = net.weather.delay_max_us;
        let at_us = net.now_us + net.random.below(delay_us + 1);
        let list = &mut net.arriving[usize::from(to)];
        let at_us = list.back().map_or(at_us, |last| at_us.max(last.0));
        list.push_back((at_us, tag, link));
    }

    /// Looks at the network: what a sleeping driver would have been woken by.
    fn poll(&mut self) {
        let ear = Rc::clone(&self.ear);
        let net = Rc::clone(&self.net);
        let (mut ear, mut net) = (ear.borrow_mut(), net.borrow_mut());
        if std::mem::take(&mut net.woken[usize::from(self.me)]) {
            ear.completions.push_back(Completion::Woken);
        }
        let now_us = net.now_us;
        let log = &mut net.logs[usize::from(self.me)];
        ear.completions.extend(log.finish(now_us));
        ear.completions.extend(log.finish_reads(now_us));
        self.poll_arrivals(&mut ear, &mut net);
        let mut tokens: Vec<u64> = ear.entries.keys().copied().collect();
        net.random.shuffle(&mut tokens);
        for token in tokens {
            let lag = net.weather.lag;
            if net.random.chance(lag) {
                continue;
            }
            self.poll_token(&mut ear, &mut net, token);
        }
    }

    fn poll_arrivals(&self, ear: &mut Ear, net: &mut Net) {
        let me = usize::from(self.me);
        while net.arriving[me].front().is_some_and(|(at_us, _, _)| *at_us <= net.now_us) {
            let Some((_, tag, link)) = net.arriving[me].pop_front() else { break };
            let socket = Socket(net.take(link, self.me));
            ear.completions.push_back(Completion::Arrived { tag, socket });
        }
        while ear.accepting && net.has_backlog(self.me) {
            let fails = net.weather.accept_fails;
            if net.random.chance(fails) {
                let listener = ListenerId(0);
                ear.completions.push_back(Completion::AcceptFailed { listener, errno: EMFILE });
                return;
            }
            let Some((socket, link)) = net.accept(self.me) else { break };
            let numbers = [3, u64::from(link.0), u64::from(socket), u64::from(self.me)];
            net.trace.event(numbers, format_args!("s{} accepts link {}", self.me, link.0));
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, link.0 as u16));
            ear.completions.push_back(Completion::Accepted {
                listener: ListenerId(0),
                socket: Socket(socket),
                peer: Some(peer),
            });
        }
    }

    fn poll_token(&mut self, ear: &mut Ear, net: &mut Net, token: u64) {
        let Some(entry) = ear.entries.get_mut(&token) else { return };
        let token_id = Token(token);
        if entry.closing {
            if entry.closed_in > 0 {
                entry.closed_in -= 1;
                return;
            }
            let socket = entry.socket;
            ear.entries.remove(&token);
            net.free_socket(socket);
            ear.completions.push_back(Completion::Closed { token: token_id });
            return;
        }
        if let Some(rest) = &mut entry.rest {
            match net.room(entry.link) {
                None => {
                    entry.rest = None;
                    let errno = ECONNRESET;
                    ear.completions.push_back(Completion::SendFailed { token: token_id, errno });
                }
                Some(room) => {
                    let now: Vec<u8> = rest.drain(..room.min(rest.len())).collect();
                    net.send(entry.link, &now);
                    if rest.is_empty() {
                        entry.rest = None;
                        ear.completions.push_back(Completion::Sent { token: token_id });
                    }
                }
            }
        }
        self.poll_receive(ear, net, token);
    }

    fn poll_receive(&mut self, ear: &mut Ear, net: &mut Net, token: u64) {
        let Some(entry) = ear.entries.get_mut(&token) else { return };
        let token_id = Token(token);
        for _ in 0..CHUNKS_MAX {
            let (ready, end) = net.incoming(entry.link);
            match &mut entry.receive {
                Receive::No => break,
                Receive::Exact(buffer, until) if ready > 0 => {
                    let count = ready.min(*until - buffer.len());
                    buffer.extend_from_slice(&net.receive(entry.link, count));
                    if buffer.len() == *until {
                        let buffer = std::mem::take(buffer);
                        entry.receive = Receive::No;
                        let exact = Completion::ReceivedExact { token: token_id, buffer };
                        ear.completions.push_back(exact);
                    }
                }
                _ if ready > 0 => {
                    let Some(index) = self.buffers.iter().position(Option::is_none) else { break };
                    let len = cut(net, ready.min(BUFFER_BYTES_MAX));
                    self.buffers[index] = Some(net.receive(entry.link, len));
                    ear.buffers_out += 1;
                    let numbers = [4, u64::from(entry.link.0), len as u64, index as u64];
                    let link = entry.link.0;
                    net.trace.event(
                        numbers,
                        format_args!("s{} link {link}: receives {len} bytes", self.me),
                    );
                    let buffer = BufferId { index: index as u32, len: len as u32 };
                    ear.completions.push_back(Completion::Received { token: token_id, buffer });
                    if matches!(entry.receive, Receive::Once) {
                        entry.receive = Receive::No;
                    }
                }
                _ => {
                    let Some(end) = end else { break };
                    if let Receive::Exact(buffer, _) = &mut entry.receive {
                        let buffer = std::mem::take(buffer);
                        let exact = Completion::ReceivedExact { token: token_id, buffer };
                        ear.completions.push_back(exact);
                    }
                    entry.receive = Receive::No;
                    let errno = if end == End::Reset { ECONNRESET } else { 0 };
                    ear.completions.push_back(Completion::Ended { token: token_id, errno });
                }
            }
            // A stopped receive may bring one more chunk, not more.
            if entry.stopping || net.random.chance(500) {
                break;
            }
        }
        if entry.stopping {
            entry.stopping = false;
            if let Receive::Exact(buffer, _) = std::mem::replace(&mut entry.receive, Receive::No) {
                let exact = Completion::ReceivedExact { token: token_id, buffer };
                ear.completions.push_back(exact);
            }
            ear.completions.push_back(Completion::Stopped { token: token_id });
        }
    }
}

/// How much of what is there one read gives.
fn cut(net: &mut Net, len: usize) -> usize {
    let (one_byte, cut) = (net.weather.one_byte, net.weather.cut);
    if net.random.chance(one_byte) {
        1
    } else if net.random.chance(cut) {
        net.random.range(1, len as u64) as usize
    } else {
        len
    }
}

impl Driver for SimDriver {
    fn start_accept(&mut self, _listener: ListenerId) {
        self.ear.borrow_mut().accepting = true;
    }

    fn stop_accept(&mut self, _listener: ListenerId) {
        self.ear.borrow_mut().accepting = false;
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.begin_receive(token, socket, Receive::Many);
    }

    fn receive_once(&mut self, token: Token, socket: Socket) {
        self.begin_receive(token, socket, Receive::Once);
    }

    fn stop_receive(&mut self, token: Token, socket: Socket) {
        self.entry(token, socket, |entry| {
            entry.stopping = true;
            None
        });
    }

    fn receive_exact(&mut self, token: Token, socket: Socket, buffer: BytesMut, until: usize) {
        if buffer.capacity() < until {
            self.breach("the buffer of an exact receive is too small", token);
        }
        self.begin_receive(token, socket, Receive::Exact(buffer, until));
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        let held = self.buffers.get(buffer.index as usize).and_then(Option::as_ref);
        held.and_then(|bytes| bytes.get(..buffer.len as usize)).unwrap_or_default()
    }

    fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        let held = self.buffers.get_mut(buffer.index as usize).and_then(Option::as_mut);
        held.and_then(|bytes| bytes.get_mut(..buffer.len as usize)).unwrap_or_default()
    }

    fn release(&mut self, buffer: BufferId) {
        if let Some(held) = self.buffers.get_mut(buffer.index as usize)
            && held.take().is_some()
        {
            self.ear.borrow_mut().buffers_out -= 1;
        }
    }

    fn send(&mut self, token: Token, socket: Socket, data: Outgoing) {
        self.entry(token, socket, |entry| {
            let busy = entry.queued || entry.rest.is_some();
            entry.queued = true;
            busy.then_some("a send is queued behind one that is in flight")
        });
        let bytes = flatten(&data);
        self.ear.borrow_mut().operations.push(Operation::Send(token, bytes));
        let mut head = data.head;
        head.clear();
        self.reclaimed.push(head);
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        if self.polled { self.reclaimed.pop() } else { None }
    }

    fn close(&mut self, token: Token, socket: Socket) {
        self.entry(token, socket, |entry| {
            entry.closing = true;
            entry.closed_in = 1;
            None
        });
        self.ear.borrow_mut().operations.push(Operation::Close(token));
    }

    fn hand_over(&mut self, socket: Socket, to: u16, tag: u64) -> Option<Socket> {
        let mut ear = self.ear.borrow_mut();
        let token = ear.entries.iter().find(|(_, entry)| entry.socket == socket.0);
        if let Some((&token, entry)) = token {
            let busy = entry.is_receiving() || entry.queued || entry.rest.is_some();
            if busy || entry.closing {
                self.breach("a socket is handed over with something in flight", Token(token));
            }
            ear.entries.remove(&token);
        }
        let mut net = self.net.borrow_mut();
        let Some(link) = net.link_of(self.me, socket.0) else {
            drop(net);
            self.breach("a socket is handed over that is not this shard's", Token(0));
            return None;
        };
        if !net.weather.direct {
            net.pass_on(socket.0, to);
            return Some(socket);
        }
        net.send_away(socket.0);
        ear.operations.push(Operation::HandOver(link, to, tag));
        None
    }

    fn wake(&mut self, to: u16) {
        self.ear.borrow_mut().operations.push(Operation::Wake(to));
    }

    fn write_log(&mut self, write: LogOp) {
        self.ear.borrow_mut().operations.push(Operation::WriteLog(write));
    }

    fn read_log(&mut self, read: ReadOp) {
        self.ear.borrow_mut().operations.push(Operation::ReadLog(read));
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.carry_out();
        let mut ear = self.ear.borrow_mut();
        ear.wait = wait;
        ear.since_us = self.net.borrow().now_us;
        self.polled = false;
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        if !self.polled {
            // Here the sleep has ended.
            self.polled = true;
            self.poll();
        }
        self.ear.borrow_mut().completions.pop_front()
    }
}

/// The bytes as they go out.
pub(crate) fn flatten(data: &Outgoing) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len());
    let mut from = 0;
    for (position, part) in &data.shared {
        let position = (*position as usize).max(from).min(data.head.len());
        bytes.extend_from_slice(&data.head[from..position]);
        bytes.extend_from_slice(part);
        from = position;
    }
    bytes.extend_from_slice(&data.head[from..]);
    bytes
}
