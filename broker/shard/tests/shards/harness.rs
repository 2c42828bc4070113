//! Shards in memory that a test steps one by one: drivers without a kernel, a clock that moves
//! only when it is told to or looked at, a store that can be held back, settings that can change.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, ReadOp, Socket, Token, Turn,
    TurnEnd, Wait,
};
use ringtide_ring::{Shared, mesh};
use ringtide_shard::access::{Access, Ticket};
use ringtide_shard::clock::Clock;
use ringtide_shard::counters::{Counter, Counters};
use ringtide_shard::partition::PartitionMap;
use ringtide_shard::password::{Answer, Passwords, Question};
use ringtide_shard::{Limits, Methods, Parts, Settings, Shard, Stage, Steering};
use ringtide_storage::state::Parts as Left;
use ringtide_storage::{Lsn, RecordKind, Store};
use ringtide_topics::TenantId;
use ringtide_topics::interest::InterestTable;

/// What a socket does next.
enum Came {
    Bytes(Rc<[u8]>),
    End,
}

/// What the test and one shard's driver share.
#[derive(Default)]
pub(crate) struct Wire {
    connects: VecDeque<u32>,
    /// It asked for connections; those of tests come all the same.
    accepts: bool,
    arrivals: HashMap<u32, VecDeque<Came>>,
    /// Sockets with arrivals, in order.
    order: VecDeque<u32>,
    /// Who receives: token, and whether one chunk only.
    receiving: HashMap<u32, (Token, bool)>,
    completions: VecDeque<Completion>,
    sent: HashMap<u32, Vec<u8>>,
    /// Sockets that take nothing, with the send that has stalled.
    full: HashMap<u32, Option<Token>>,
    pub(crate) closed: HashSet<u32>,
    pub(crate) wait: Option<Wait>,
    /// Sends that the driver had been given when it was asked to wake each other shard.
    pub(crate) sends_at_wake: Vec<usize>,
    pub(crate) sends: usize,
}

impl Wire {
    fn arrive(&mut self, socket: u32, came: Came) {
        self.arrivals.entry(socket).or_default().push_back(came);
        self.order.push_back(socket);
    }

    fn deliver(&mut self, buffers: &mut Vec<Option<Rc<[u8]>>>) -> Option<Completion> {
        if let Some(completion) = self.completions.pop_front() {
            return Some(completion);
        }
        if let Some(socket) = self.connects.pop_front() {
            let (listener, socket) = (ListenerId(0), Socket(socket));
            return Some(Completion::Accepted { listener, socket, peer: None });
        }
        let at = self.order.iter().position(|socket| self.receiving.contains_key(socket))?;
        let socket = self.order.remove(at)?;
        let (token, once) = self.receiving[&socket];
        let came = self.arrivals.get_mut(&socket)?.pop_front()?;
        if once || matches!(came, Came::End) {
            self.receiving.remove(&socket);
        }
        Some(match came {
            Came::End => Completion::Ended { token, errno: 0 },
            Came::Bytes(bytes) => {
                let (index, len) = (buffers.len() as u32, bytes.len() as u32);
                buffers.push(Some(bytes));
                Completion::Received { token, buffer: BufferId { index, len } }
            }
        })
    }
}

pub(crate) struct MemoryDriver {
    wire: Rc<RefCell<Wire>>,
    buffers: Vec<Option<Rc<[u8]>>>,
}

impl Driver for MemoryDriver {
    fn start_accept(&mut self, _listener: ListenerId) {
        self.wire.borrow_mut().accepts = true;
    }

    fn stop_accept(&mut self, _listener: ListenerId) {
        self.wire.borrow_mut().accepts = false;
    }

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.wire.borrow_mut().receiving.insert(socket.0, (token, false));
    }

    fn receive_once(&mut self, token: Token, socket: Socket) {
        self.wire.borrow_mut().receiving.insert(socket.0, (token, true));
    }

    fn stop_receive(&mut self, token: Token, socket: Socket) {
        let mut wire = self.wire.borrow_mut();
        wire.receiving.remove(&socket.0);
        wire.completions.push_back(Completion::Stopped { token });
    }

    fn receive_exact(&mut self, token: Token, _: Socket, buffer: BytesMut, _: usize) {
        let done = Completion::ReceivedExact { token, buffer };
        self.wire.borrow_mut().completions.push_back(done);
    }

    fn bytes(&self, buffer: BufferId) -> &[u8] {
        self.buffers.get(buffer.index as usize).and_then(Option::as_deref).unwrap_or(&[])
    }

    fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        let held = self.buffers.get_mut(buffer.index as usize).and_then(Option::as_mut);
        held.map_or(&mut [], Rc::make_mut)
    }

    fn release(&mut self, buffer: BufferId) {
        self.buffers[buffer.index as usize] = None;
    }

    fn send(&mut self, token: Token, socket: Socket, data: Outgoing) {
        let mut wire = self.wire.borrow_mut();
        wire.sends += 1;
        if let Some(stalled) = wire.full.get_mut(&socket.0) {
            *stalled = Some(token);
            wire.completions.push_back(Completion::SendStalled { token });
        }
        let sent = wire.sent.entry(socket.0).or_default();
        let mut from = 0;
        for (position, part) in &data.shared {
            sent.extend_from_slice(&data.head[from..*position as usize]);
            sent.extend_from_slice(part);
            from = *position as usize;
        }
        sent.extend_from_slice(&data.head[from..]);
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn close(&mut self, token: Token, socket: Socket) {
        let mut wire = self.wire.borrow_mut();
        wire.receiving.remove(&socket.0);
        wire.closed.insert(socket.0);
        wire.completions.push_back(Completion::Closed { token });
    }

    fn hand_over(&mut self, socket: Socket, _to: u16, _tag: u64) -> Option<Socket> {
        Some(socket)
    }

    fn wake(&mut self, _to: u16) {
        let mut wire = self.wire.borrow_mut();
        let sends = wire.sends;
        wire.sends_at_wake.push(sends);
    }

    fn write_log(&mut self, _write: LogOp) {
        unreachable!("the store of these tests keeps nothing");
    }

    fn read_log(&mut self, _read: ReadOp) {
        unreachable!("the store of these tests keeps nothing");
    }

    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.wire.borrow_mut().wait = Some(wait);
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.wire.borrow_mut().deliver(&mut self.buffers)
    }
}

/// Microseconds since the epoch, and how long one look takes.
#[derive(Clone)]
pub(crate) struct TestClock(Rc<(Cell<u64>, Cell<u64>)>);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.0.get() / 1000
    }

    fn now_us(&self) -> u64 {
        self.0.0.set(self.0.0.get() + self.0.1.get());
        self.0.0.get()
    }
}

/// What the test and the shards' stores share.
#[derive(Default)]
pub(crate) struct Shelf {
    /// What is appended does not become durable.
    pub(crate) held: Cell<bool>,
    pub(crate) wants_checkpoint: Cell<bool>,
    /// The last position before the checkpoint that was last begun.
    pub(crate) begin: Cell<u64>,
    /// What was appended since then.
    pub(crate) since_begin: RefCell<Vec<(RecordKind, Vec<u8>)>>,
}

/// What a test tells one shard's store, and sees of it.
#[derive(Default)]
pub(crate) struct Space {
    /// Nothing becomes durable on this shard while it is set.
    pub(crate) held: Cell<bool>,
    pub(crate) full: Cell<bool>,
    pub(crate) tight: Cell<bool>,
    /// A checkpoint may find no room later.
    pub(crate) last_chance: Cell<bool>,
    /// Bytes of records that are not durable.
    pub(crate) waiting_bytes: Cell<u64>,
    pub(crate) records: Cell<u64>,
    pub(crate) checkpoints: Cell<u64>,
}

/// A store in memory; what is appended is durable at the end of the turn, unless it is held back.
pub(crate) struct HeldStore {
    appended: u64,
    durable: u64,
    shelf: Rc<Shelf>,
    space: Rc<Space>,
}

impl Store for HeldStore {
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Lsn {
        self.appended += 1;
        let body = parts.concat();
        self.space.records.set(self.appended);
        self.space.waiting_bytes.set(self.space.waiting_bytes.get() + body.len() as u64);
        self.shelf.since_begin.borrow_mut().push((kind, body));
        Lsn(self.appended)
    }

    fn end_turn(&mut self) {
        if !self.shelf.held.get() && !self.space.held.get() {
            self.durable = self.appended;
            self.space.waiting_bytes.set(0);
        }
    }

    fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }

    fn appended(&self) -> Lsn {
        Lsn(self.appended)
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn keeps(&self) -> bool {
        true
    }

    fn wants_checkpoint(&self) -> bool {
        self.shelf.wants_checkpoint.get()
    }

    fn begin_checkpoint(&mut self) {
        self.shelf.wants_checkpoint.set(false);
        self.shelf.begin.set(self.appended);
        self.shelf.since_begin.borrow_mut().clear();
    }

    fn waiting_bytes(&self) -> u64 {
        self.space.waiting_bytes.get()
    }

    fn is_full(&self) -> bool {
        self.space.full.get()
    }

    fn is_tight(&self) -> bool {
        self.space.tight.get()
    }

    fn may_win_space(&self) -> bool {
        true
    }

    fn is_last_chance(&self) -> bool {
        self.space.last_chance.get()
    }

    fn end_checkpoint(&mut self) {
        self.space.checkpoints.set(self.space.checkpoints.get() + 1);
    }
}

/// What the shards are told from outside.
struct Told {
    stage: AtomicU8,
    epoch: AtomicU64,
    settings: Mutex<(Limits, fn() -> Access)>,
}

impl Steering for Told {
    fn stage(&self) -> Stage {
        if self.stage.load(Ordering::Relaxed) == 0 { Stage::Running } else { Stage::Draining }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    fn settings(&self) -> Settings {
        let told = self.settings.lock().expect("no test holds it while it fails");
        Settings { limits: told.0.clone(), access: told.1() }
    }
}

/// What a shard has asked about a password.
#[derive(Clone)]
pub(crate) struct Asked {
    ticket: Ticket,
    pub(crate) username: String,
    pub(crate) password: Vec<u8>,
    pub(crate) patience_ms: u64,
}

/// Who judges the passwords for one shard: everybody is believed, unless the test judges.
#[derive(Default)]
pub(crate) struct Judge {
    /// The test judges.
    pub(crate) by_test: Cell<bool>,
    /// What has no answer yet.
    pub(crate) asked: RefCell<VecDeque<Asked>>,
    pub(crate) answers: RefCell<VecDeque<(Ticket, Answer)>>,
}

impl Judge {
    /// Answers the oldest question that has no answer.
    pub(crate) fn answer(&self, answer: Answer) {
        let asked = self.asked.borrow_mut().pop_front().expect("a question");
        self.answers.borrow_mut().push_back((asked.ticket, answer));
    }
}

struct Judges(Rc<Judge>);

impl Passwords for Judges {
    fn ask(&mut self, ticket: Ticket, question: &Question<'_>) -> Option<Answer> {
        if !self.0.by_test.get() {
            return Some(Answer::Right);
        }
        let Question { username, password, patience_ms, .. } = *question;
        let (username, password) = (username.to_owned(), password.unwrap_or_default().to_vec());
        self.0.asked.borrow_mut().push_back(Asked { ticket, username, password, patience_ms });
        None
    }

    fn answer(&mut self) -> Option<(Ticket, Answer)> {
        self.0.answers.borrow_mut().pop_front()
    }
}

pub(crate) struct World {
    shards: Vec<Shard<MemoryDriver, HeldStore, TestClock>>,
    pub(crate) wires: Vec<Rc<RefCell<Wire>>>,
    counters: Arc<[Arc<Counters>]>,
    partitions: Arc<PartitionMap>,
    clock: TestClock,
    told: Arc<Told>,
    /// What the shards know of each other's sleep.
    pub(crate) shared: Option<Arc<Shared>>,
    pub(crate) shelf: Rc<Shelf>,
    /// Shard by shard.
    pub(crate) space: Vec<Rc<Space>>,
    /// Shard by shard.
    pub(crate) judges: Vec<Rc<Judge>>,
    names: u32,
}

/// The settings of a test: nothing that happens by itself.
pub(crate) fn quiet() -> Limits {
    Limits { sys_interval_ms: 0, ..Limits::default() }
}

impl World {
    pub(crate) fn new(shards: u16, limits: Limits) -> World {
        World::with_methods(shards, limits, Methods::default())
    }

    pub(crate) fn with_methods(shards: u16, limits: Limits, auth_methods: Methods) -> World {
        World::build((0..shards).map(|_| None).collect(), limits, auth_methods)
    }

    /// One shard for each of these, which an earlier run has left.
    pub(crate) fn restored(left: Vec<Left>, limits: Limits) -> World {
        World::build(left.into_iter().map(Some).collect(), limits, Methods::default())
    }

    fn build(left: Vec<Option<Left>>, limits: Limits, auth_methods: Methods) -> World {
        let shards = left.len() as u16;
        let clock = TestClock(Rc::new((Cell::new(1_700_000_000_000_000), Cell::new(0))));
        let told = Arc::new(Told {
            stage: AtomicU8::new(0),
            epoch: AtomicU64::new(0),
            settings: Mutex::new((limits, || Access::Open)),
        });
        let counters: Arc<[Arc<Counters>]> =
            (0..shards).map(|_| Arc::new(Counters::new())).collect();
        let interest = Arc::new(InterestTable::new(16));
        let partitions = Arc::new(PartitionMap::even(1, shards));
        let shelf = Rc::new(Shelf::default());
        let space: Vec<Rc<Space>> = (0..shards).map(|_| Rc::default()).collect();
        let judges: Vec<Rc<Judge>> = (0..shards).map(|_| Rc::default()).collect();
        let mut wires = Vec::new();
        let mut all = Vec::new();
        let mut shared = None;
        for (ports, restored) in mesh(shards, 1 << 20).into_iter().zip(left) {
            shared = Some(Arc::clone(&ports.shared));
            let wire = Rc::new(RefCell::new(Wire::default()));
            wires.push(Rc::clone(&wire));
            all.push(Shard::new(Parts {
                restored,
                driver: MemoryDriver { wire, buffers: Vec::new() },
                store: HeldStore {
                    appended: 0,
                    durable: 0,
                    shelf: Rc::clone(&shelf),
                    space: Rc::clone(&space[usize::from(ports.me)]),
                },
                passwords: Box::new(Judges(Rc::clone(&judges[usize::from(ports.me)]))),
                clock: clock.clone(),
                ports,
                interest: Arc::clone(&interest),
                partitions: Arc::clone(&partitions),
                counters: Arc::clone(&counters),
                steering: Arc::clone(&told) as Arc<dyn Steering>,
                auth_methods: auth_methods.clone(),
                listeners: 1,
                seed: 1,
                version: "test",
            }));
        }
        World {
            shards: all,
            wires,
            counters,
            partitions,
            clock,
            told,
            shared,
            shelf,
            space,
            judges,
            names: 0,
        }
    }

    /// One turn of one shard.
    pub(crate) fn turn(&mut self, shard: usize) {
        assert_eq!(self.shards[shard].turn(), TurnEnd::Again);
    }

    /// The turn with which a shard ends, and why it did without being asked to.
    pub(crate) fn last_turn(&mut self, shard: usize) -> Option<String> {
        assert_eq!(self.shards[shard].turn(), TurnEnd::Done);
        self.shards[shard].failure()
    }

    /// So many turns of every shard.
    pub(crate) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            (0..self.shards.len()).for_each(|shard| self.turn(shard));
        }
    }

    /// The time, in milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Lets time pass.
    pub(crate) fn pass_ms(&self, ms: u64) {
        self.clock.0.0.set(self.clock.0.0.get() + ms * 1000);
    }

    /// From now on each look at the clock takes this long: work takes time.
    pub(crate) fn look_takes_us(&self, us: u64) {
        self.clock.0.1.set(us);
    }

    pub(crate) fn reload(&self, limits: Limits, access: fn() -> Access) {
        *self.told.settings.lock().expect("no test holds it while it fails") = (limits, access);
        self.told.epoch.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn drain(&self) {
        self.told.stage.store(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters.iter().map(|own| own.value(counter)).sum()
    }

    /// A name that lives on this shard and was not given before.
    pub(crate) fn name_at(&mut self, shard: u16, prefix: &str) -> String {
        loop {
            self.names += 1;
            let name = format!("{prefix}{}", self.names);
            if self.partitions.home(TenantId(0), &name) == shard {
                return name;
            }
        }
    }

    pub(crate) fn accept(&self, shard: usize, socket: u32, bytes: &[u8]) {
        self.wires[shard].borrow_mut().connects.push_back(socket);
        self.send(shard, socket, bytes);
    }

    pub(crate) fn send(&self, shard: usize, socket: u32, bytes: &[u8]) {
        self.wires[shard].borrow_mut().arrive(socket, Came::Bytes(bytes.into()));
    }

    /// The peer goes.
    pub(crate) fn end(&self, shard: usize, socket: u32) {
        self.wires[shard].borrow_mut().arrive(socket, Came::End);
    }

    /// What was sent to a socket since the last look.
    pub(crate) fn sent(&self, shard: usize, socket: u32) -> Vec<u8> {
        self.wires[shard].borrow_mut().sent.remove(&socket).unwrap_or_default()
    }

    /// The socket takes nothing until it is told so.
    pub(crate) fn stall(&self, shard: usize, socket: u32) {
        self.wires[shard].borrow_mut().full.insert(socket, None);
    }

    /// The socket takes everything again.
    pub(crate) fn unstall(&self, shard: usize, socket: u32) {
        let mut wire = self.wires[shard].borrow_mut();
        if let Some(token) = wire.full.remove(&socket).flatten() {
            wire.completions.push_back(Completion::Sent { token });
        }
    }

    pub(crate) fn is_closed(&self, shard: usize, socket: u32) -> bool {
        self.wires[shard].borrow().closed.contains(&socket)
    }

    /// True if the shard reads from the socket.
    pub(crate) fn is_read(&self, shard: usize, socket: u32) -> bool {
        self.wires[shard].borrow().receiving.contains_key(&socket)
    }

    /// True if the shard takes connections.
    pub(crate) fn accepts(&self, shard: usize) -> bool {
        self.wires[shard].borrow().accepts
    }

    pub(crate) fn polls(&self, shard: usize) -> bool {
        self.wires[shard].borrow().wait == Some(Wait::Poll)
    }
}
