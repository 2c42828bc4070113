//! Brings clients up: TCP, CONNECT, CONNACK, SUBSCRIBE, SUBACK, a bounded number at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringtide_driver::{Completion, Outgoing, Socket, Token, Wait};

use crate::failure::Failure;
use crate::io::{Io, close_all};
use crate::wire::{self, Connect, Scanner, Version, packet};

/// Filters in one SUBSCRIBE.
const FILTERS_PER_SUBSCRIBE: usize = 100;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Loopback addresses to connect from, so that ports do not run out.
const SOURCES: u64 = 200;

/// A client to bring up.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientSpec {
    pub(crate) id: String,
    pub(crate) user_name: Option<String>,
    pub(crate) filters: Vec<String>,
    /// Its session outlives its connection.
    pub(crate) persistent: bool,
}

/// How to bring clients up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    /// QoS of the subscriptions.
    pub(crate) qos: u8,
    pub(crate) keep_alive_s: u16,
    /// How many clients may be on their way at once.
    pub(crate) parallel: usize,
    /// Connect from many loopback addresses instead of one.
    pub(crate) spread_sources: bool,
}

/// One connected client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: Socket,
    pub(crate) scanner: Scanner,
    /// Bytes to send with the next flush.
    pub(crate) out: Vec<u8>,
    /// The socket is full.
    pub(crate) stalled: bool,
    /// In the list of clients to flush.
    pub(crate) dirty: bool,
    /// False once the broker has closed it.
    pub(crate) open: bool,
}

impl Client {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            scanner: Scanner::default(),
            out: Vec::new(),
            stalled: false,
            dirty: false,
            open: true,
        }
    }
}

/// All clients, by their token.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) clients: Vec<Client>,
    /// The smallest receive maximum that the broker gave.
    pub(crate) receive_maximum: u16,
}

/// Opens one TCP connection; `number` chooses the source address.
pub(crate) fn open(setup: &Setup, number: u64) -> Result<TcpStream, Failure> {
    let failed = |error| Failure::Io("cannot connect", error);
    if !setup.spread_sources || !setup.address.is_ipv4() {
        return TcpStream::connect_timeout(&setup.address, CONNECT_TIMEOUT).map_err(failed);
    }
    let source = Ipv4Addr::new(127, 0, 1, 1 + (number % SOURCES) as u8);
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).map_err(failed)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).map_err(failed)?;
    socket.connect_timeout(&setup.address.into(), CONNECT_TIMEOUT).map_err(failed)?;
    Ok(socket.into())
}

/// Opens a connection, hands it to the driver and sends CONNECT.
pub(crate) fn start<I: Io>(
    io: &mut I,
    setup: &Setup,
    token: Token,
    spec: &ClientSpec,
    number: u64,
) -> Result<Socket, Failure> {
    let stream = open(setup, number)?;
    let socket = io.adopt(stream).map_err(|e| Failure::Io("cannot take a socket", e))?;
    io.start_receive(token, socket);
    let head = wire::connect(&setup.connect(spec));
    io.send(token, socket, Outgoing { head, shared: Vec::new() });
    Ok(socket)
}

impl Setup {
    /// The CONNECT of a client.
    pub(crate) fn connect<'a>(&self, spec: &'a ClientSpec) -> Connect<'a> {
        Connect {
            version: self.version,
            client_id: &spec.id,
            user_name: spec.user_name.as_deref(),
            password: None,
            keep_alive_s: self.keep_alive_s,
            persistent: spec.persistent,
            receive_maximum: None,
        }
    }
}

/// Brings a client up and lets it leave with a DISCONNECT: what stays is its session.
///
/// # Errors
/// As [`establish`].
pub(crate) fn leave_behind<I: Io>(
    io: &mut I,
    setup: Setup,
    spec: &ClientSpec,
) -> Result<(), Failure> {
    let up = establish(io, setup, std::slice::from_ref(spec))?;
    let sockets: Vec<_> = up.clients.iter().map(|client| client.socket).collect();
    for socket in &sockets {
        let head = wire::DISCONNECT.to_vec();
        io.send(Token(0), *socket, Outgoing { head, shared: Vec::new() });
    }
    close_all(io, sockets.into_iter()).map_err(|e| Failure::Io("cannot close the clients", e))
}

/// Clients on their way up.
#[derive(Debug)]
struct Progress<'a> {
    setup: Setup,
    specs: &'a [ClientSpec],
    clients: Vec<Client>,
    /// Filters of each client that the broker has confirmed.
    subscribed: Vec<usize>,
    ready: usize,
    receive_maximum: u16,
}

impl Progress<'_> {
    fn on_frame(&mut self, index: usize, frame: &wire::Frame<'_>) -> Result<(), Failure> {
        let filters = &self.specs[index].filters;
        match frame.packet_type() {
            packet::CONNACK => {
                let version = self.setup.version;
                let answer = wire::connack(version, frame.body).ok_or(Failure::Malformed)?;
                if answer.code != 0 {
                    return Err(Failure::Refused(answer.code));
                }
                self.receive_maximum = self.receive_maximum.min(answer.receive_maximum);
            }
            packet::SUBACK => {
                let asked = &filters[self.subscribed[index]..];
                let asked = asked.len().min(FILTERS_PER_SUBSCRIBE);
                let codes = frame.body.len().checked_sub(asked).ok_or(Failure::Malformed)?;
                if frame.body[codes..].iter().any(|code| *code >= 0x80) {
                    return Err(Failure::SubscriptionRefused);
                }
                self.subscribed[index] += asked;
            }
            _ => return Ok(()),
        }
        let rest = &filters[self.subscribed[index]..];
        if rest.is_empty() {
            self.ready += 1;
            return Ok(());
        }
        let part = &rest[..rest.len().min(FILTERS_PER_SUBSCRIBE)];
        let bytes = wire::subscribe(self.setup.version, 1, part, self.setup.qos);
        self.clients[index].out.extend(bytes);
        Ok(())
    }

    fn on_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), Failure> {
        let mut scanner = std::mem::take(&mut self.clients[index].scanner);
        let mut result = Ok(());
        scanner.scan(bytes, |frame| {
            if result.is_ok() {
                result = self.on_frame(index, &frame);
            }
        })?;
        self.clients[index].scanner = scanner;
        result
    }
}

/// Brings all clients up and waits until the last one is subscribed.
///
/// # Errors
/// The first that goes wrong, or [`Failure::Stuck`].
pub(crate) fn establish<I: Io>(
    io: &mut I,
    setup: Setup,
    specs: &[ClientSpec],
) -> Result<Established, Failure> {
    let mut progress = Progress {
        setup,
        specs,
        clients: Vec::with_capacity(specs.len()),
        subscribed: vec![0; specs.len()],
        ready: 0,
        receive_maximum: u16::MAX,
    };
    let mut last_ready = (0, Instant::now());
    while progress.ready < specs.len() {
        while progress.clients.len() < specs.len().min(progress.ready + setup.parallel) {
            let number = progress.clients.len();
            let token = Token(number as u64);
            let socket = start(io, &setup, token, &specs[number], number as u64)?;
            progress.clients.push(Client::new(socket));
        }
        io.submit_and_wait(Wait::AtMost(Duration::from_millis(100)))
            .map_err(|e| Failure::Io("cannot wait for the network", e))?;
        while let Some(completion) = io.next() {
            step(io, &mut progress, completion)?;
        }
        if progress.ready > last_ready.0 {
            last_ready = (progress.ready, Instant::now());
        } else if last_ready.1.elapsed() > STUCK_AFTER {
            return Err(Failure::Stuck("clients were set up"));
        }
    }
    let Progress { clients, receive_maximum, .. } = progress;
    Ok(Established { clients, receive_maximum })
}

fn step<I: Io>(
    io: &mut I,
    progress: &mut Progress<'_>,
    completion: Completion,
) -> Result<(), Failure> {
    match completion {
        Completion::Received { token, buffer } => {
            let index = token.0 as usize;
            let result = progress.on_bytes(index, io.bytes(buffer));
            io.release(buffer);
            result?;
            let client = &mut progress.clients[index];
            if !client.out.is_empty() {
                let head = std::mem::take(&mut client.out);
                io.send(token, client.socket, Outgoing { head, shared: Vec::new() });
            }
            Ok(())
        }
        Completion::Ended { .. } | Completion::SendFailed { .. } => Err(Failure::Closed),
        _ => Ok(()),
    }
}
