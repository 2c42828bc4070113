//! Many persistent sessions whose clients are away: what each costs on the disk and in memory, and
//! how long a start with them takes.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ringtide_driver::{Completion, Outgoing, Token, Wait};
use rustix::process::Signal;

use crate::bench::broker::{Running, say};
use crate::client::{self, Client, ClientSpec, Setup};
use crate::durable::Bench;
use crate::durable::device;
use crate::durable::figures::{Bar, Figure, Outcome};
use crate::failure::Failure;
use crate::io::{Io, close_all};
use crate::procfs;
use crate::run::{self, Target};
use crate::wire::{self, Scanner, Version, packet};

const DISK_BAR: f64 = 400.0;
const MEMORY_BAR: f64 = 700.0;
const START_BAR_S: f64 = 10.0;
/// Sessions that are there before memory is read first, so that the broker has touched its code.
const WARM: u64 = 1000;
/// Clients that are on their way at once: each waits for the disk.
const PARALLEL: usize = 512;
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// What the first sessions bring about is over.
const WARMED: Duration = Duration::from_secs(3);
/// The data has settled when its size has not changed for this long: a quiet broker tidies up after
/// 30 s.
const QUIET: Duration = Duration::from_secs(35);
const SETTLE_MAX: Duration = Duration::from_secs(150);
const END_MAX: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(300);

/// A client id of 21 bytes and one filter of 24.
fn spec(number: u64) -> ClientSpec {
    ClientSpec {
        id: format!("perf-session-{number:08}"),
        filters: vec![format!("devices/{number:016}")],
        persistent: true,
        ..ClientSpec::default()
    }
}

fn setup(target: &Target) -> Setup {
    Setup {
        address: target.address,
        version: Version::V3_1_1,
        qos: 1,
        keep_alive_s: 0,
        parallel: PARALLEL,
        spread_sources: true,
    }
}

/// Clients that connect, subscribe and leave, a bounded number at once.
struct Waves<'a, I> {
    io: &'a mut I,
    setup: Setup,
    open: Vec<Client>,
    /// The next session's number, and where they end.
    next: u64,
    end: u64,
    done: u64,
}

impl<I: Io> Waves<'_, I> {
    /// The next client connects and subscribes in one write, over the slot of one that has left.
    fn start(&mut self, token: Token) -> Result<Client, Failure> {
        let (spec, stream) = (spec(self.next), client::open(&self.setup, self.next)?);
        self.next += 1;
        let socket = self.io.adopt(stream).map_err(|e| Failure::Io("cannot take a socket", e))?;
        self.io.start_receive(token, socket);
        let mut head = wire::connect(&self.setup.connect(&spec));
        head.extend(wire::subscribe(self.setup.version, 1, &spec.filters, self.setup.qos));
        self.io.send(token, socket, Outgoing { head, shared: Vec::new() });
        Ok(Client::new(socket))
    }

    fn step(&mut self, completion: Completion) -> Result<(), Failure> {
        match completion {
            Completion::Received { token, buffer } => {
                let client = &mut self.open[token.0 as usize];
                let subscribed = subscribed(&mut client.scanner, self.io.bytes(buffer));
                self.io.release(buffer);
                if subscribed? {
                    client.open = false;
                    let (socket, head) = (client.socket, wire::DISCONNECT.to_vec());
                    self.io.send(token, socket, Outgoing { head, shared: Vec::new() });
                    self.io.close(token, socket);
                }
            }
            Completion::Closed { token } => {
                self.done += 1;
                if self.next < self.end {
                    self.open[token.0 as usize] = self.start(token)?;
                }
            }
            Completion::Ended { token, .. } | Completion::SendFailed { token, .. }
                if self.open[token.0 as usize].open =>
            {
                return Err(Failure::Closed);
            }
            _ => {}
        }
        Ok(())
    }
}

/// True with the SUBACK.
fn subscribed(scanner: &mut Scanner, bytes: &[u8]) -> Result<bool, Failure> {
    let mut result = Ok(false);
    scanner.scan(bytes, |frame| match frame.packet_type() {
        packet::CONNACK if frame.body.get(1) != Some(&0) => {
            result = Err(Failure::Refused(frame.body.get(1).copied().unwrap_or(0xff)));
        }
        packet::SUBACK if frame.body.last().is_none_or(|code| *code >= 0x80) => {
            result = Err(Failure::SubscriptionRefused);
        }
        packet::SUBACK if result.is_ok() => result = Ok(true),
        _ => {}
    })?;
    result
}

/// Makes the sessions of these numbers.
fn create<I: Io>(io: &mut I, target: &Target, numbers: (u64, u64)) -> Result<(), Failure> {
    let (next, end) = numbers;
    let mut waves = Waves { io, setup: setup(target), open: Vec::new(), next, end, done: 0 };
    let count = end - next;
    for index in 0..count.min(PARALLEL as u64) {
        let client = waves.start(Token(index))?;
        waves.open.push(client);
    }
    let mut last = (0, Instant::now());
    while waves.done < count {
        let wait = Wait::AtMost(Duration::from_millis(100));
        waves.io.submit_and_wait(wait).map_err(|e| Failure::Io("cannot wait", e))?;
        while let Some(completion) = waves.io.next() {
            waves.step(completion)?;
        }
        if waves.done > last.0 {
            last = (waves.done, Instant::now());
        } else if last.1.elapsed() > STUCK_AFTER {
            return Err(Failure::Stuck("sessions were made"));
        }
    }
    close_all(waves.io, std::iter::empty()).map_err(|e| Failure::Io("cannot close", e))
}

fn resident(running: &Running) -> Result<u64, Failure> {
    let memory = procfs::memory(running.pid());
    Ok(memory.map_err(|e| Failure::Io("cannot read the broker", e))?.resident)
}

/// Waits for the session of a client, from `began` on: seconds until the CONNACK.
fn time_to_session(running: &Running, began: Instant, number: u64) -> Result<f64, Failure> {
    let target = Target::new(running.address, Some(running.pid()))?;
    let setup = setup(&target);
    let hello = wire::connect(&setup.connect(&spec(number)));
    while began.elapsed() < START_MAX {
        let answer = client::open(&setup, number).ok().and_then(|mut stream| {
            let rest = START_MAX.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(rest)).ok()?;
            stream.write_all(&hello).ok()?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).ok()?;
            let seconds = began.elapsed().as_secs_f64();
            stream.write_all(&wire::DISCONNECT).ok()?;
            Some((answer, seconds))
        });
        match answer {
            Some(([0x20, 2, 1, 0], seconds)) => return Ok(seconds),
            Some(([0x20, 2, 0, 0], _)) => {
                return Err(Failure::Broker(format!("session {number} is gone")));
            }
            Some(([_, _, _, code], _)) => return Err(Failure::Refused(code)),
            // Not listening yet.
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    Err(Failure::Broker(format!("no session after a start: {}", running.log())))
}

/// Ends the broker and starts it again: seconds to end, and from exec to the first CONNACK.
fn restart(
    bench: &Bench<'_>,
    running: &mut Running,
    signal: Signal,
) -> Result<(f64, f64), Failure> {
    let ending = running.end(signal, END_MAX)?;
    let began = Instant::now();
    bench.broker.start_again(running)?;
    let start = time_to_session(running, began, bench.options.sessions - 1)?;
    let shown = running.log();
    for line in shown.split(" | ").filter(|line| line.contains("store")) {
        say(&format!("       {line}"))?;
    }
    Ok((ending.as_secs_f64(), start))
}

/// One run with a fresh broker.
///
/// # Errors
/// If the broker cannot be started, refuses a client, or has lost a session.
pub(crate) fn sessions<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    bench: &Bench<'_>,
) -> Result<Outcome, Failure> {
    let count = bench.options.sessions;
    let mut running = bench.broker.start(bench.options.shards)?;
    let target = Target::new(running.address, Some(running.pid()))?;
    let empty = resident(&running)?;
    let warm = WARM.min(count / 2);
    create(&mut make()?, &target, (0, warm))?;
    std::thread::sleep(WARMED);
    let (before, before_cpu) = (resident(&running)?, target.usage()?);
    let began = Instant::now();
    create(&mut make()?, &target, (warm, count))?;
    let made = (count - warm) as f64;
    let per_second = made / began.elapsed().as_secs_f64();
    let spent = target.usage()?.zip(before_cpu).map(|(now, then)| now.since(&then));
    let disk = device::settled_bytes(&running.directory, QUIET, SETTLE_MAX);
    let grown = resident(&running)?.saturating_sub(before);
    let each = |bytes: u64, sessions: f64| bytes as f64 / sessions;
    let at_most = |bar| Some(Bar::AtMost(bar));
    let mut outcome = Outcome::default();
    let figures = &mut outcome.figures;
    figures.push(Figure::new("created/s", per_second, None));
    if let Some(spent) = spent {
        let cpu_us = run::per_unit_us(spent.cpu_ns, count - warm);
        figures.push(Figure::new("cpu us/session", cpu_us, None));
    }
    figures.push(Figure::new("disk B/session", each(disk, count as f64), at_most(DISK_BAR)));
    figures.push(Figure::new("memory B/session", each(grown, made), at_most(MEMORY_BAR)));
    let (ending, start) = restart(bench, &mut running, Signal::TERM)?;
    figures.push(Figure::new("shutdown s", ending, None));
    figures.push(Figure::new("start after shutdown s", start, at_most(START_BAR_S)));
    let disk = device::settled_bytes(&running.directory, QUIET, SETTLE_MAX);
    let grown = resident(&running)?.saturating_sub(empty);
    let count = count as f64;
    figures.push(Figure::new("restarted disk B/session", each(disk, count), at_most(DISK_BAR)));
    let memory = each(grown, count);
    figures.push(Figure::new("restarted memory B/session", memory, at_most(MEMORY_BAR)));
    let (_, start) = restart(bench, &mut running, Signal::KILL)?;
    figures.push(Figure::new("start after kill -9 s", start, at_most(START_BAR_S)));
    outcome.notes.push(format!("{count:.0} sessions with a filter each, {} B on the disk", disk));
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_have_ids_and_filters_of_their_own() {
        assert_eq!((spec(7).id.len(), spec(7).filters[0].len()), (21, 24));
        assert!(spec(7).persistent && spec(7).filters != spec(8).filters);
    }

    #[test]
    fn a_session_is_made_when_its_subscription_is_confirmed() {
        let mut scanner = Scanner::default();
        assert!(matches!(subscribed(&mut scanner, &[0x20, 2, 0, 0]), Ok(false)));
        assert!(matches!(subscribed(&mut scanner, &[0x90, 3, 0]), Ok(false)));
        assert!(matches!(subscribed(&mut scanner, &[1, 1]), Ok(true)));
        let both = [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0x80];
        assert!(matches!(subscribed(&mut scanner, &both), Err(Failure::SubscriptionRefused)));
        let refused = subscribed(&mut scanner, &[0x20, 2, 0, 5]);
        assert!(matches!(refused, Err(Failure::Refused(5))));
    }
}
