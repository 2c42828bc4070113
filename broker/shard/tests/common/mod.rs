//! A driver in memory: bytes that a test puts in are received, what the shard sends is kept.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use ringtide_driver::{
    BufferId, Completion, Driver, ListenerId, LogOp, Outgoing, ReadOp, Socket, Token, Wait,
};
use ringtide_filter::{Layers, Networks, websocket};
use ringtide_ring::mesh;
use ringtide_shard::access::Access;
use ringtide_shard::clock::Clock;
use ringtide_shard::counters::Counters;
use ringtide_shard::partition::PartitionMap;
use ringtide_shard::password::Unchecked;
use ringtide_shard::{Limits, Methods, Parts, Settings, Shard, Stage, Steering, Transport};
use ringtide_storage::MemoryStore;
use ringtide_topics::interest::InterestTable;

/// What the test and the driver share.
#[derive(Default)]
pub(crate) struct Wire {
    /// Bytes on their way to the shard, by socket.
    pub(crate) arrivals: VecDeque<(u32, Rc<[u8]>)>,
    /// Sockets that connect.
    pub(crate) connects: VecDeque<u32>,
    /// Bytes that the shard has sent, by socket, if they are kept.
    pub(crate) sent: HashMap<u32, Vec<u8>>,
    /// Bytes that the shard has sent in all.
    pub(crate) sent_bytes: usize,
    /// Whether sent bytes are kept.
    pub(crate) keep: bool,
    /// Calls of `submit_and_wait`.
    pub(crate) enters: u64,
}

/// See the module's documentation.
pub(crate) struct MemoryDriver {
    wire: Rc<RefCell<Wire>>,
    buffers: Vec<Option<Rc<[u8]>>>,
    free: Vec<u32>,
    /// Who receives: token, and whether one chunk only.
    receiving: HashMap<u32, (Token, bool)>,
    completions: VecDeque<Completion>,
    spent: Vec<Vec<u8>>,
}

impl MemoryDriver {
    fn deliver(&mut self) -> Option<Completion> {
        let mut wire = self.wire.borrow_mut();
        if let Some(socket) = wire.connects.pop_front() {
            let (listener, socket) = (ListenerId(0), Socket(socket));
            return Some(Completion::Accepted { listener, socket, peer: None });
        }
        let at =
            wire.arrivals.iter().position(|(socket, _)| self.receiving.contains_key(socket))?;
        let (socket, bytes) = wire.arrivals.remove(at)?;
        let (token, once) = self.receiving[&socket];
        if once {
            self.receiving.remove(&socket);
        }
        let len = bytes.len() as u32;
        let index = self.free.pop().unwrap_or_else(|| {
            self.buffers.push(None);
            self.buffers.len() as u32 - 1
        });
        self.buffers[index as usize] = Some(bytes);
        Some(Completion::Received { token, buffer: BufferId { index, len } })
    }
}

impl Driver for MemoryDriver {
    fn start_accept(&mut self, _listener: ListenerId) {}
    fn stop_accept(&mut self, _listener: ListenerId) {}

    fn start_receive(&mut self, token: Token, socket: Socket) {
        self.receiving.insert(socket.0, (token, false));
    }

    fn receive_once(&mut self, token: Token, socket: Socket) {
        self.receiving.insert(socket.0, (token, true));
    }

    fn stop_receive(&mut self, token: Token, socket: Socket) {
        self.receiving.remove(&socket.0);
        self.completions.push_back(Completion::Stopped { token });
    }

    fn receive_exact(&mut self, token: Token, _: Socket, buffer: BytesMut, _: usize) {
        self.completions.push_back(Completion::ReceivedExact { token, buffer });
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
        self.free.push(buffer.index);
    }

    fn send(&mut self, _token: Token, socket: Socket, data: Outgoing) {
        let mut wire = self.wire.borrow_mut();
        wire.sent_bytes += data.len();
        if wire.keep {
            wire.sent.entry(socket.0).or_default().extend_from_slice(&data.head);
        }
        let mut head = data.head;
        head.clear();
        self.spent.push(head);
    }

    fn reclaim(&mut self) -> Option<Vec<u8>> {
        self.spent.pop()
    }

    fn close(&mut self, token: Token, socket: Socket) {
        self.receiving.remove(&socket.0);
        self.completions.push_back(Completion::Closed { token });
    }

    fn hand_over(&mut self, socket: Socket, _to: u16, _tag: u64) -> Option<Socket> {
        Some(socket)
    }

    fn wake(&mut self, _to: u16) {}

    fn write_log(&mut self, write: LogOp) {
        self.completions.push_back(Completion::LogWritten { bytes: write.bytes, errno: 0 });
    }

    fn read_log(&mut self, _read: ReadOp) {
        unreachable!("what these benchmarks and tests store is never read again");
    }

    fn submit_and_wait(&mut self, _wait: Wait) -> io::Result<()> {
        self.wire.borrow_mut().enters += 1;
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front().or_else(|| self.deliver())
    }
}

struct Fixed(Limits);

impl Steering for Fixed {
    fn stage(&self) -> Stage {
        Stage::Running
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn settings(&self) -> Settings {
        Settings { limits: self.0.clone(), access: Access::Open }
    }
}

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tcp,
    WebSocket,
}

impl Carrier {
    fn layers(self) -> Layers {
        let settings = || websocket::Settings {
            path: "/".to_owned(),
            origins: Vec::new(),
            trusted_proxies: Networks::default(),
            message_bytes_max: 1 << 20,
        };
        let websocket = (self == Carrier::WebSocket).then(|| Arc::new(settings()));
        Layers { websocket, ..Layers::default() }
    }

    /// What a client sends before its CONNECT.
    pub(crate) fn opening(self) -> Option<Rc<[u8]>> {
        let request = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\
                       \r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
        (self == Carrier::WebSocket).then(|| request.as_bytes().into())
    }

    /// Packets as they go on the wire, a frame for each.
    pub(crate) fn carry<'p>(self, packets: impl IntoIterator<Item = &'p [u8]>) -> Rc<[u8]> {
        let mut out = Vec::new();
        for packet in packets {
            if self == Carrier::WebSocket {
                frame(packet, &mut out);
            } else {
                out.extend_from_slice(packet);
            }
        }
        out.into()
    }
}

/// Writes a client's binary message.
fn frame(payload: &[u8], out: &mut Vec<u8>) {
    let mask = [0x12, 0x34, 0x56, 0x78];
    out.push(0x82);
    if payload.len() < 126 {
        out.push(0x80 | payload.len() as u8);
    } else {
        out.push(0x80 | 126);
        out.extend((payload.len() as u16).to_be_bytes());
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, own)| byte ^ own));
}

/// One shard, alone, with one listener, and its wire.
pub(crate) fn shard<C: Clock>(
    carrier: Carrier,
    clock: C,
) -> (Shard<MemoryDriver, MemoryStore, C>, Rc<RefCell<Wire>>) {
    let transport =
        Transport { name: String::new(), layers: carrier.layers(), ..Transport::default() };
    let limits = Limits { sys_interval_ms: 0, transports: vec![transport], ..Limits::default() };
    let wire = Rc::new(RefCell::new(Wire::default()));
    let driver = MemoryDriver {
        wire: Rc::clone(&wire),
        buffers: Vec::new(),
        free: Vec::new(),
        receiving: HashMap::new(),
        completions: VecDeque::new(),
        spent: Vec::new(),
    };
    let ports = mesh(1, 4096).remove(0);
    let shard = Shard::new(Parts {
        driver,
        store: MemoryStore::default(),
        clock,
        ports,
        interest: Arc::new(InterestTable::new(16)),
        partitions: Arc::new(PartitionMap::even(1, 1)),
        counters: [Arc::new(Counters::new())].into(),
        steering: Arc::new(Fixed(limits)),
        auth_methods: Methods::default(),
        passwords: Box::new(Unchecked),
        listeners: 1,
        seed: 1,
        version: "test",
        restored: None,
    });
    (shard, wire)
}
