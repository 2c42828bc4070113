//! Messages that were stored for a client that was away, when it comes back: how fast they come,
//! and whether they are all there, once and in order.

use std::time::{Duration, Instant};

use ringtide_driver::{Completion, Outgoing, Token, Wait};

use crate::client::{self, Client, ClientSpec, Setup};
use crate::durable::Bench;
use crate::durable::figures::{Bar, Figure, Outcome};
use crate::durable::publish::{Load, scenario};
use crate::failure::Failure;
use crate::io::{Io, close_all};
use crate::run::{self, PARALLEL, Passed, Target};
use crate::scenario::AWAY;
use crate::sequence::{Faults, Stamp, Stream};
use crate::wire::{self, Connect, Frame, Version, packet};

const BAR_PER_SECOND: f64 = 200_000.0;
/// What is not stored by then is not waited for: some brokers are slow.
const FILL_MAX: Duration = Duration::from_secs(180);
/// Without a message for this long the drain is over.
const STALLED_AFTER: Duration = Duration::from_secs(5);
const TOKEN: Token = Token(0);

/// How messages get into the session.
pub(crate) const FILL: Load = Load {
    count: 50,
    window: 64,
    batch: 32,
    rate: None,
    rate_bar: None,
    p99_bar: None,
    beside_device: false,
};

/// The client that has come back.
struct Returned {
    client: Client,
    version: Version,
    /// By publisher.
    streams: Vec<Stream>,
    /// What the CONNACK says: the session was there.
    present: Option<bool>,
    received: u64,
    faults: Faults,
}

impl Returned {
    fn on_frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        match frame.packet_type() {
            packet::CONNACK => {
                let answer = wire::connack(self.version, frame.body);
                let answer = answer.filter(|answer| answer.code == 0);
                self.present = Some(answer.is_some_and(|answer| answer.session_present));
            }
            packet::PUBLISH => self.on_publish(frame, out),
            _ => self.faults.protocol += 1,
        }
    }

    #[inline]
    fn on_publish(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let head = wire::parse_publish(self.version, frame).filter(|_| frame.qos() == 1);
        let Some(head) = head else {
            self.faults.protocol += 1;
            return;
        };
        wire::put_ack(out, packet::PUBACK, head.packet_id);
        self.received += 1;
        let stamp = frame.body.get(head.payload_at..).and_then(Stamp::from_payload);
        let stream = stamp.and_then(|stamp| self.streams.get_mut(stamp.publisher as usize));
        match stamp.zip(stream) {
            Some((stamp, stream)) => stream.observe(stamp.sequence, &mut self.faults),
            None => self.faults.misrouted += 1,
        }
    }

    fn on_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut scanner = std::mem::take(&mut self.client.scanner);
        let mut out = std::mem::take(&mut self.client.out);
        let result = scanner.scan(bytes, |frame| self.on_frame(&frame, &mut out));
        (self.client.scanner, self.client.out) = (scanner, out);
        Ok(result?)
    }
}

/// Fills the session of a fresh broker and lets its client come back.
///
/// # Errors
/// If the broker cannot be started, refuses a client, or has not kept the session.
pub(crate) fn drain<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    bench: &Bench<'_>,
) -> Result<Outcome, Failure> {
    let options = bench.options;
    let running = bench.broker.start(options.shards)?;
    let target = Target::new(running.address, Some(running.pid()))?;
    let filled = run::pass(&mut make()?, &target, &scenario(&FILL), options.messages, FILL_MAX)?;
    let before = target.usage()?;
    let began = Instant::now();
    let returned = come_back(&mut make()?, bench, &target, &filled)?;
    let (seconds, received) = (began.elapsed().as_secs_f64(), returned.received);
    let spent = target.usage()?.zip(before).map(|(now, then)| now.since(&then));
    let mut faults = returned.faults;
    for (stream, sent) in returned.streams.iter().zip(&filled.sent) {
        stream.finish(*sent, &mut faults);
    }
    let mut outcome = Outcome { faulty: !faults.none(), ..Outcome::default() };
    let bar = Some(Bar::AtLeast(BAR_PER_SECOND));
    outcome.figures.push(Figure::new("msg/s", received as f64 / seconds, bar));
    if let Some(spent) = spent {
        let cpu_us = run::per_unit_us(spent.cpu_ns, received);
        outcome.figures.push(Figure::new("cpu us/msg", cpu_us, None));
    }
    let stored = filled.done as f64 / filled.seconds;
    outcome.figures.push(Figure::new("stored/s before", stored, None));
    outcome.notes.push(format!("{received} messages of 256 B in {seconds:.1} s"));
    outcome.notes.push(match options.receive_maximum {
        Some(maximum) => format!("MQTT 5, receive maximum {maximum}"),
        None => "MQTT 3.1.1, no receive maximum of the client".to_owned(),
    });
    let verdict = if faults.none() { "all in order, none twice".into() } else { faults.text() };
    outcome.notes.push(verdict);
    Ok(outcome)
}

fn come_back<I: Io>(
    io: &mut I,
    bench: &Bench<'_>,
    target: &Target,
    filled: &Passed,
) -> Result<Returned, Failure> {
    let maximum = bench.options.receive_maximum;
    let version = if maximum.is_some() { Version::V5 } else { Version::V3_1_1 };
    let setup = Setup {
        address: target.address,
        version,
        qos: 1,
        keep_alive_s: 0,
        parallel: PARALLEL,
        spread_sources: false,
    };
    let spec = ClientSpec { id: AWAY.to_owned(), persistent: true, ..ClientSpec::default() };
    let stream = client::open(&setup, 0)?;
    let socket = io.adopt(stream).map_err(|e| Failure::Io("cannot take a socket", e))?;
    io.start_receive(TOKEN, socket);
    let asked = Connect { receive_maximum: maximum, ..setup.connect(&spec) };
    io.send(TOKEN, socket, Outgoing { head: wire::connect(&asked), shared: Vec::new() });
    let mut returned = Returned {
        client: Client::new(socket),
        version,
        streams: vec![Stream::default(); filled.sent.len()],
        present: None,
        received: 0,
        faults: Faults::default(),
    };
    let mut last = (0, Instant::now());
    while returned.received < filled.done {
        take_turn(io, &mut returned)?;
        if returned.present == Some(false) {
            return Err(Failure::Broker("it has not kept the session".to_owned()));
        }
        if returned.received > last.0 {
            last = (returned.received, Instant::now());
        } else if last.1.elapsed() > STALLED_AFTER {
            break;
        }
    }
    close_all(io, std::iter::once(socket)).map_err(|e| Failure::Io("cannot close", e))?;
    Ok(returned)
}

fn take_turn<I: Io>(io: &mut I, returned: &mut Returned) -> Result<(), Failure> {
    io.submit_and_wait(Wait::AtMost(Duration::from_millis(100)))
        .map_err(|e| Failure::Io("cannot wait for the network", e))?;
    while let Some(completion) = io.next() {
        match completion {
            Completion::Received { buffer, .. } => {
                let result = returned.on_bytes(io.bytes(buffer));
                io.release(buffer);
                result?;
            }
            Completion::SendStalled { .. } => returned.client.stalled = true,
            Completion::Sent { .. } => returned.client.stalled = false,
            Completion::Ended { .. } | Completion::SendFailed { .. } => {
                return Err(Failure::Broker("it closed the connection that drains".to_owned()));
            }
            _ => {}
        }
    }
    let client = &mut returned.client;
    if !client.stalled && !client.out.is_empty() {
        let mut head = io.reclaim().unwrap_or_default();
        head.append(&mut client.out);
        io.send(TOKEN, client.socket, Outgoing { head, shared: Vec::new() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ringtide_driver::Socket;

    use super::*;

    fn publish(publisher: u32, sequence: u32) -> Vec<u8> {
        let mut bytes = wire::publish_head(Version::V3_1_1, 1, "away/000000", Stamp::LEN);
        bytes.extend(Stamp { publisher, sequence, time_ns: 0 }.to_bytes());
        bytes
    }

    #[test]
    fn what_comes_is_counted_checked_and_acknowledged() {
        let mut returned = Returned {
            client: Client::new(Socket(0)),
            version: Version::V3_1_1,
            streams: vec![Stream::default(); 2],
            present: None,
            received: 0,
            faults: Faults::default(),
        };
        let bytes = [vec![0x20, 2, 1, 0], publish(1, 0), publish(0, 0), publish(0, 2)].concat();
        returned.on_bytes(&bytes).unwrap();
        assert_eq!((returned.present, returned.received), (Some(true), 3));
        assert_eq!(returned.client.out, [0x40, 2, 0, 0].repeat(3));
        assert_eq!(returned.faults, Faults { lost: 1, ..Faults::default() });
        returned.on_bytes(&publish(2, 0)).unwrap();
        assert_eq!(returned.faults.misrouted, 1);
    }
}
