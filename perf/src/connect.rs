//! What connections cost: the CPU of connecting, with and without closing, and the memory of idle
//! clients.

use std::time::{Duration, Instant};

use ringtide_driver::{Completion, Token, Wait};

use crate::client::{self, Client, ClientSpec, Setup};
use crate::failure::Failure;
use crate::io::{Io, close_all};
use crate::procfs::{self, Memory, Usage};
use crate::report::{IdleMemory, Report, Unit};
use crate::run::{self, PARALLEL, Target};
use crate::sequence::Faults;
use crate::wire::{self, Version, packet};

/// Clients that come and go first, so that the broker has touched its code and buffers.
const WARM: usize = 100;
/// Time for the broker to work off what a close leaves behind.
const SETTLE: Duration = Duration::from_millis(1000);
/// How long the broker's CPU is watched while all clients are idle.
const WATCH: Duration = Duration::from_secs(2);
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Which connections to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections {
    /// How many to hold; ignored where each is closed at once.
    pub(crate) count: usize,
    pub(crate) version: Version,
    /// For connecting and closing: how long.
    pub(crate) measure: Duration,
}

impl Connections {
    fn setup(&self, target: &Target, keep_alive_s: u16) -> Setup {
        Setup {
            address: target.address,
            version: self.version,
            qos: 0,
            keep_alive_s,
            parallel: PARALLEL,
            spread_sources: true,
        }
    }
}

/// Client ids of 23 bytes.
fn client_id(index: usize) -> String {
    format!("perf-connection-{index:07}")
}

fn bare(count: usize) -> Vec<ClientSpec> {
    (0..count).map(|index| ClientSpec { id: client_id(index), ..ClientSpec::default() }).collect()
}

/// A user name of 16 bytes and one filter of 24.
fn subscribed(count: usize) -> Vec<ClientSpec> {
    (0..count)
        .map(|index| ClientSpec {
            id: client_id(index),
            user_name: Some(format!("user-{index:011}")),
            filters: vec![format!("devices/{index:016}")],
            persistent: false,
        })
        .collect()
}

fn warm_up<I: Io>(io: I, setup: Setup) -> Result<(), Failure> {
    let mut io = io;
    let up = client::establish(&mut io, setup, &subscribed(WARM))?;
    close(&mut io, &up.clients)?;
    drop(io);
    std::thread::sleep(SETTLE);
    Ok(())
}

fn close<I: Io>(io: &mut I, clients: &[Client]) -> Result<(), Failure> {
    close_all(io, clients.iter().map(|client| client.socket))
        .map_err(|e| Failure::Io("cannot close the clients", e))
}

/// The readings at the start of a measurement.
struct Start {
    at: Instant,
    broker: Option<Usage>,
    own: Usage,
}

impl Start {
    fn now(target: &Target) -> Result<Self, Failure> {
        let broker = target.usage()?;
        Ok(Self { at: Instant::now(), broker, own: run::own_usage()? })
    }

    fn report(
        self,
        target: &Target,
        title: String,
        done: usize,
        settle: Duration,
    ) -> Result<Report, Failure> {
        let seconds = self.at.elapsed().as_secs_f64();
        let own = run::own_usage()?.since(&self.own);
        std::thread::sleep(settle);
        let spent = target.usage()?.zip(self.broker).map(|(now, then)| now.since(&then));
        Ok(Report {
            title,
            unit: Unit::Connection,
            seconds,
            done: done as u64,
            per_second: done as f64 / seconds,
            cpu_us_per_unit: spent.as_ref().map(|s| run::per_unit_us(s.cpu_ns, done as u64)),
            broker: spent,
            generator_busy: own.cpu_ns as f64 / 1e9 / seconds,
            generator_user_share: own.user_share,
            memory: target.pid.and_then(|pid| procfs::memory(pid).ok()),
            idle: None,
            latency: None,
            ack_latency: None,
            faults: Faults::default(),
            order_proved: false,
            notes: Vec::new(),
        })
    }
}

/// Connects clients and holds them: the cost of one connection with its CONNECT.
///
/// # Errors
/// If the broker refuses one.
pub(crate) fn held<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    target: &Target,
    connections: &Connections,
) -> Result<Report, Failure> {
    let setup = connections.setup(target, 0);
    warm_up(make()?, setup)?;
    let mut io = make()?;
    let specs = bare(connections.count);
    let start = Start::now(target)?;
    let up = client::establish(&mut io, setup, &specs)?;
    let title = format!("connect n{} held", specs.len());
    let report = start.report(target, title, specs.len(), Duration::from_millis(100))?;
    close(&mut io, &up.clients)?;
    Ok(report)
}

/// Connects and closes clients for some time: the cost of one that comes, is answered, and goes.
///
/// # Errors
/// If the broker refuses one, or nothing moves.
pub(crate) fn closed<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    target: &Target,
    connections: &Connections,
) -> Result<Report, Failure> {
    let setup = connections.setup(target, 0);
    warm_up(make()?, setup)?;
    let mut io = make()?;
    let specs = bare(PARALLEL);
    let mut number = 0;
    let mut open = Vec::with_capacity(PARALLEL);
    let start = Start::now(target)?;
    for (index, spec) in specs.iter().enumerate() {
        let socket = client::start(&mut io, &setup, Token(index as u64), spec, number)?;
        open.push(Client::new(socket));
        number += 1;
    }
    let mut done = 0;
    let mut last_done = Instant::now();
    while start.at.elapsed() < connections.measure {
        io.submit_and_wait(Wait::AtMost(Duration::from_millis(10)))
            .map_err(|e| Failure::Io("cannot wait for the network", e))?;
        while let Some(completion) = io.next() {
            match completion {
                Completion::Received { token, buffer } => {
                    let client = &mut open[token.0 as usize];
                    let accepted = accepted(setup.version, client, io.bytes(buffer));
                    io.release(buffer);
                    if accepted? {
                        io.close(token, client.socket);
                    }
                }
                Completion::Closed { token } => {
                    done += 1;
                    last_done = Instant::now();
                    let index = token.0 as usize;
                    let socket = client::start(&mut io, &setup, token, &specs[index], number)?;
                    open[index] = Client::new(socket);
                    number += 1;
                }
                Completion::Ended { .. } | Completion::SendFailed { .. } => {
                    return Err(Failure::Closed);
                }
                _ => {}
            }
        }
        if last_done.elapsed() > STUCK_AFTER {
            return Err(Failure::Stuck("connections were made and closed"));
        }
    }
    let report = start.report(target, "connect and close".to_owned(), done, SETTLE)?;
    close(&mut io, &open)?;
    Ok(report)
}

/// True once the CONNACK is there.
fn accepted(version: Version, client: &mut Client, bytes: &[u8]) -> Result<bool, Failure> {
    let mut code = None;
    client.scanner.scan(bytes, |frame| {
        if frame.packet_type() == packet::CONNACK {
            code = wire::connack(version, frame.body).map(|answer| answer.code);
        }
    })?;
    match code {
        None => Ok(false),
        Some(0) => Ok(true),
        Some(code) => Err(Failure::Refused(code)),
    }
}

/// Holds idle clients with one subscription each, lets them all go and come again, and reads the
/// broker's memory at each step.
///
/// # Errors
/// Without the broker's process, or if it refuses a client.
pub(crate) fn idle<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    target: &Target,
    connections: &Connections,
) -> Result<Report, Failure> {
    let pid = target.pid.ok_or_else(|| Failure::Option("idle needs --pid".to_owned()))?;
    let memory = || procfs::memory(pid).map_err(|e| Failure::Io("cannot read the broker", e));
    let setup = connections.setup(target, 300);
    warm_up(make()?, setup)?;
    let specs = subscribed(connections.count);
    let (before, slab_before) = (memory()?, procfs::kernel_memory());
    let start = Start::now(target)?;
    let mut io = make()?;
    let up = client::establish(&mut io, setup, &specs)?;
    let title = format!("idle n{} with one subscription", specs.len());
    let mut report = start.report(target, title, specs.len(), SETTLE)?;
    let (held, slab_held) = (memory()?, procfs::kernel_memory());
    let idle_from = (Instant::now(), target.usage()?);
    std::thread::sleep(WATCH);
    let spent = target.usage()?.zip(idle_from.1).map_or(0, |(now, then)| now.since(&then).cpu_ns);
    let idle_cpu_us_per_s = spent as f64 / 1000.0 / idle_from.0.elapsed().as_secs_f64();
    close(&mut io, &up.clients)?;
    drop(io);
    std::thread::sleep(SETTLE * 2);
    let after_close = memory()?;
    let mut io = make()?;
    let up = client::establish(&mut io, setup, &specs)?;
    std::thread::sleep(SETTLE);
    let held_again = memory()?;
    close(&mut io, &up.clients)?;
    report.unit = Unit::IdleClient;
    report.idle = Some(IdleMemory {
        before,
        held,
        closed: after_close,
        held_again,
        user_per_client: growth(before, held, specs.len()),
        user_per_client_after_churn: growth(before, held_again, specs.len()),
        kernel_slab_per_connection: slab_held.saturating_sub(slab_before) as f64
            / specs.len() as f64,
        idle_cpu_us_per_s,
    });
    Ok(report)
}

/// User memory per client.
fn growth(before: Memory, after: Memory, count: usize) -> f64 {
    after.resident.saturating_sub(before.resident) as f64 / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use ringtide_driver::Socket;

    use super::*;

    #[test]
    fn idle_clients_have_the_sizes_of_the_design() {
        let specs = subscribed(12);
        assert_eq!(specs[11].id.len(), 23);
        assert_eq!(specs[11].user_name.as_ref().map(String::len), Some(16));
        assert_eq!(specs[11].filters[0].len(), 24);
        assert!(bare(3).iter().all(|spec| spec.filters.is_empty() && spec.id.len() == 23));
    }

    #[test]
    fn memory_grows_per_client() {
        let at = |resident| Memory { resident, ..Memory::default() };
        assert!((growth(at(1000), at(7000), 10) - 600.0).abs() < 1e-9);
        assert_eq!(growth(at(1000), at(10), 10), 0.0);
    }

    #[test]
    fn a_connack_may_come_in_pieces_or_refuse() {
        let mut client = Client::new(Socket(0));
        assert!(matches!(accepted(Version::V3_1_1, &mut client, &[0x20, 2]), Ok(false)));
        assert!(matches!(accepted(Version::V3_1_1, &mut client, &[0, 0]), Ok(true)));
        let refused = accepted(Version::V3_1_1, &mut client, &[0x20, 2, 0, 5]);
        assert!(matches!(refused, Err(Failure::Refused(5))));
    }
}
