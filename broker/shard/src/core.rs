//! A shard's state, all but its driver, clock and inbound lanes: what a packet acts on. The files
//! beside this one add the packets' handlers: `publish`, `acks`, `subscribe`, `connect`, `end`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ringtide_codec::{DecodeError, Disconnect, ReasonCode, Version};
use ringtide_driver::Socket;
use ringtide_storage::Store;
use ringtide_topics::InterestKey;

use crate::access::{Access, Ticket};
use crate::again::LastPublish;
use crate::checkpoint::Checkpoint;
use crate::clients::Clients;
use crate::config::Limits;
use crate::conn::{Cause, Conn, NONE, Phase};
use crate::counters::Counter;
use crate::intake::Disk;
use crate::large::LargeBuffers;
use crate::mesh_out::MeshOut;
use crate::message::Message;
use crate::note::HandOver;
use crate::own::{Internal, OwnMessages};
use crate::park::Progress;
use crate::promise::{NOTHING, Promise, Promises};
use crate::replaying::Replays;
use crate::route::Routes;
use crate::timer::Wheel;
use crate::walk::Walks;

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// A connection: its CONNECT or its keep alive.
    Conn(u32),
    /// A session without a connection: its will or its expiry.
    Session(u32),
    /// A connection whose client has sent more than its rates allow.
    Rested(u32),
    /// Once a second: the retained sweep, backlogs of shared groups.
    Second,
    /// `$SYS`.
    Sys,
}

/// Whether the next packet of a connection may be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// The connection waits or is closed: its other bytes stay.
    Stop,
}

/// What the driver is to do for a connection, after its packets have been handled.
#[derive(Debug)]
pub(crate) enum Command {
    /// Receive until stopped.
    Receive(u32),
    /// Receive one chunk.
    ReceiveOnce(u32),
    /// Stop receiving.
    Stop(u32),
    /// Give a socket to another shard.
    HandOver(u16, Socket, Box<HandOver>),
}

/// The network of a turn waits for these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitsFor {
    /// Log position.
    pub(crate) lsn: u64,
    /// Session or connection number.
    pub(crate) index: u32,
    /// Which use of that number.
    pub(crate) generation: u32,
}

pub(crate) struct Core<S: Store> {
    pub(crate) limits: Arc<Limits>,
    /// What clients were told of them.
    pub(crate) promises: Promises,
    pub(crate) clients: Clients,
    pub(crate) routes: Routes,
    pub(crate) mesh: MeshOut,
    pub(crate) store: S,
    pub(crate) access: Access,
    pub(crate) auth_methods: crate::auth::Methods,
    pub(crate) passwords: crate::password::Desk,
    pub(crate) timers: Wheel<Due>,
    pub(crate) commands: Vec<Command>,
    pub(crate) internal: OwnMessages,
    /// Connections (and their generation) whose parked packet is to be tried again.
    pub(crate) parked: VecDeque<(u32, u32)>,
    pub(crate) tickets: HashMap<Ticket, (u32, u32)>,
    pub(crate) replays: Replays,
    /// Sessions that owe acknowledgements, in the order of the log.
    pub(crate) owing: VecDeque<WaitsFor>,
    /// Sessions with sends that wait for the log, in its order.
    pub(crate) held: VecDeque<WaitsFor>,
    /// Connections whose CONNACK waits for the log.
    pub(crate) opening: VecDeque<WaitsFor>,
    /// Keys to be removed from the interest table whose segment was busy.
    pub(crate) removals: Vec<InterestKey>,
    /// Keys to be put into it, likewise: the SUBSCRIBEs that need them wait.
    pub(crate) insertions: Vec<InterestKey>,
    /// A checkpoint under way.
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) large: LargeBuffers,
    pub(crate) last: LastPublish,
    pub(crate) topic_scratch: String,
    pub(crate) forward_scratch: Vec<u8>,
    pub(crate) next_tag: u64,
    /// Numbers the joins of shared groups, from 1; those of an earlier run's members have 0.
    pub(crate) next_join: u64,
    /// Joins of an earlier run's members that not every shard knows of yet.
    pub(crate) joins_restored: u64,
    /// State of [`Core::random`].
    pub(crate) random: u64,
    pub(crate) disk: Disk,
    /// Every shard has taken in what an earlier run left: from then on something may be published.
    pub(crate) started: bool,
    /// Stops new connections and new persistent work: the broker is going down.
    pub(crate) draining: bool,
    pub(crate) walks: Walks,
}

impl<S: Store> Core<S> {
    /// Ends a connection for a malformed packet or a protocol error.
    //= [MQTT-4.13.1-1]
    //= 3.1.1 [MQTT-4.8.0-1]
    pub(crate) fn malformed(&mut self, index: u32, error: DecodeError) -> Flow {
        self.clients.counters.add(Counter::ProtocolErrors, 1);
        self.close_saying(index, Cause::Told(error.reason), Some(&error.to_string()));
        Flow::Stop
    }

    /// Ends a connection for breaking the protocol, with the code that MQTT 5 clients are told.
    pub(crate) fn protocol_error(&mut self, index: u32, code: ReasonCode) -> Flow {
        self.clients.counters.add(Counter::ProtocolErrors, 1);
        self.close(index, Cause::Told(code));
        Flow::Stop
    }

    /// Ends a connection. What it has in its output is still tried.
    pub(crate) fn close(&mut self, index: u32, cause: Cause) {
        self.close_saying(index, cause, None);
    }

    /// Ends a connection, and tells an MQTT 5 client why in words.
    fn close_saying(&mut self, index: u32, cause: Cause, text: Option<&str>) {
        let Some(conn) = self.clients.conns.at(index) else { return };
        if conn.phase == Phase::Closing {
            return;
        }
        let (session, phase, version) = (conn.session, conn.phase, conn.version);
        //= [MQTT-3.14.0-1]
        if let (Cause::Told(code), Phase::Open, Version::V5) = (cause, phase, version) {
            //= [MQTT-3.14.2-1]
            //= [MQTT-3.14.2-2]
            let mut packet = Disconnect { reason_string: text, ..Disconnect::new(code) };
            //= [MQTT-3.14.2-3]
            if packet.packet_len(version) > conn.packet_max as usize {
                packet.reason_string = None;
            }
            self.clients.write(index, |version, out| packet.encode(version, out));
        }
        self.clients.end_filter(index, cause);
        if phase != Phase::Open {
            self.clients.forget_name(index);
            self.clients.counters.add(Counter::ConnectsFailed, 1);
        }
        self.log_end(index, session, cause, text);
        self.end_meter(index);
        self.give_up_parked(index);
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        //= [MQTT-3.14.4-1]
        conn.phase = Phase::Closing;
        conn.session = NONE;
        conn.partial = Vec::new();
        if let Some(timer) = conn.timer.take() {
            self.timers.cancel(timer);
        }
        if let Some(cold) = &mut conn.cold {
            //= [MQTT-3.3.2-7]
            cold.frame = None;
            cold.auth = None;
        }
        //= [MQTT-3.14.4-2]
        //= [MQTT-4.13.2-1]
        self.clients.closing.push(index);
        if session != NONE {
            self.connection_ended(session, cause);
        }
    }

    /// Tells the log, at level debug, why a connection has ended.
    fn log_end(&self, index: u32, session: u32, cause: Cause, text: Option<&str>) {
        let peer = self.clients.conns.at(index).map(|conn| tracing::field::display(&conn.peer));
        let client = self.clients.sessions.at(session).map_or("", |session| &*session.client_id);
        tracing::debug!(client, peer, ?cause, text, "connection ended");
    }

    /// Asks for a receive, if none is under way and the connection may read.
    pub(crate) fn want_receive(&mut self, index: u32) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.phase == Phase::Open && !conn.receiving && !conn.ended {
            conn.receiving = true;
            self.commands.push(Command::Receive(index));
        }
    }

    /// Stops the receive of a connection whose packets must wait.
    pub(crate) fn pause_receive(&mut self, index: u32) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if conn.receiving && !conn.pausing {
            conn.pausing = true;
            self.commands.push(Command::Stop(index));
        }
    }

    /// Publishes a message of the broker itself, or in the name of a session; it is routed when
    /// there is room for it. One in this shard's own custody is published again if a crash comes
    /// first.
    pub(crate) fn publish_internal(
        &mut self,
        message: Message,
        publisher: Option<(u32, u32)>,
        custody: Option<(u16, u64)>,
    ) {
        let progress = Progress::default();
        self.internal.push(Internal { message, publisher, progress, custody });
    }

    /// What a connection's client was told in CONNACK.
    pub(crate) fn promised(&self, index: u32) -> &Promise {
        self.promises.of(self.clients.conns.at(index).map_or(NOTHING, |conn| conn.promised))
    }

    /// A position of the log up to which what was appended so far must be durable.
    pub(crate) fn durable(&self) -> u64 {
        self.store.durable().0
    }

    /// The log position that an acknowledgement on this connection waits for when what it answers
    /// was recorded at `needs`: 0, which is to wait for nothing, if the listener promises nothing.
    pub(crate) fn awaited(&self, index: u32, needs: u64) -> u64 {
        let promises = |conn: &Conn| self.limits.listener(conn.listener).durable_acks;
        match needs {
            0 => 0,
            _ if self.clients.conns.at(index).is_some_and(promises) => needs,
            _ => 0,
        }
    }
}
