//! The runner: starts brokers, runs each row several times in alternation, prints and records.

pub(crate) mod broker;
pub(crate) mod peers;
pub(crate) mod record;
pub(crate) mod rows;

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::carry::Carried;
use crate::carry::link::{Transport, Way};
use crate::connect::{self, Connections};
use crate::failure::Failure;
use crate::io::Io;
use crate::options::{Backend, pin};
use crate::procfs;
use crate::report::Report;
use crate::run::{self, Target};
use crate::wire::Version;
use broker::{Broker, say};
use peers::Kind;
use record::{Measured, Party, Record, Side};
use rows::{Load, Row};

/// Measure every row of the figures with a broker of its own on one CPU, alternating with another
/// broker or binary, and record the results.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "bench")]
pub(crate) struct Bench {
    /// the broker; target/release/ringtide by default; what it is follows from its name
    #[argh(option, default = "PathBuf::from(\"target/release/ringtide\")")]
    broker: PathBuf,
    /// an argument for it, after the usual ones; may be given several times
    #[argh(option)]
    broker_arg: Vec<String>,
    /// another broker to alternate with: a ringtide, mosquitto, nats-server or rumqttd binary
    #[argh(option)]
    against: Option<PathBuf>,
    /// an argument for that one; may be given several times
    #[argh(option)]
    against_arg: Vec<String>,
    /// what carries MQTT to the broker: tcp, tls, ws or wss; tcp by default
    #[argh(option, default = "Transport::Tcp")]
    transport: Transport,
    /// and to the other one; the same by default
    #[argh(option)]
    against_transport: Option<Transport>,
    /// mask WebSocket frames with zeros and not with random keys
    #[argh(switch)]
    zero_mask: bool,
    /// run the null broker over io_uring too: the limit of this machine
    #[argh(switch)]
    relay: bool,
    /// runs of each row; 3 by default
    #[argh(option, default = "3")]
    rounds: u32,
    /// only rows whose name holds one of these parts, separated by commas
    #[argh(option)]
    rows: Option<String>,
    /// milliseconds measured in each run; 5000 by default
    #[argh(option, default = "5000")]
    measure_ms: u64,
    /// CPU of the broker; 0 by default
    #[argh(option, default = "0")]
    broker_cpu: usize,
    /// CPU of the generator; 1 by default
    #[argh(option, default = "1")]
    cpu: usize,
    /// the generator's I/O, epoll or uring
    #[argh(option, default = "Backend::Epoll")]
    pub(crate) io: Backend,
    /// where results go; perf/results by default
    #[argh(option, default = "PathBuf::from(\"perf/results\")")]
    results: PathBuf,
    /// list the rows and end
    #[argh(switch)]
    list: bool,
}

impl Bench {
    fn wants(&self, row: &Row) -> bool {
        let parts = self.rows.as_deref().unwrap_or("");
        parts.split(',').any(|part| row.id.contains(part.trim()))
    }

    fn broker(&self, program: &std::path::Path, extra: &[String], transport: Transport) -> Broker {
        Broker {
            program: broker::resolve(program),
            kind: Kind::of(program),
            extra: extra.to_vec(),
            cpu: self.broker_cpu,
            transport,
            keeps: None,
        }
    }
}

/// Runs the bench.
///
/// # Errors
/// If nothing can be measured; a row that fails is recorded with its error.
pub(crate) fn bench<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    options: &Bench,
) -> Result<(), Failure> {
    let wanted: Vec<_> =
        rows::rows(options.measure_ms).into_iter().filter(|row| options.wants(row)).collect();
    if options.list {
        return wanted.iter().try_for_each(|row| say(&row.id));
    }
    if wanted.is_empty() {
        return Err(Failure::Option("no row has such a name; see --list".to_owned()));
    }
    pin(Some(options.cpu))?;
    let transport = options.transport;
    let ours = options.broker(&options.broker, &options.broker_arg, transport);
    let mut brokers = vec![(Party::Ours, ours.clone())];
    let against = options.against.as_ref();
    let carries_other = options.against_transport.unwrap_or(transport);
    let other = against.map(|program| options.broker(program, &options.against_arg, carries_other));
    brokers.extend(other.clone().map(|other| (Party::Other, other)));
    if options.relay {
        let itself = std::env::current_exe().map_err(|e| Failure::Io("cannot find myself", e))?;
        brokers.push((Party::Relay, options.broker(&itself, &[], transport)));
    }
    let mut record = Record {
        time: record::time(),
        commit: record::commit(),
        command: record::command(),
        host: procfs::host(),
        congestion_control: record::congestion_control(),
        ours: Side::of(&ours),
        other: other.as_ref().map(Side::of),
        rows: Vec::new(),
    };
    if record.congestion_control == "bbr" {
        say("note: this host paces TCP with bbr, which costs every broker CPU; Debian has cubic")?;
    }
    for row in wanted {
        record.rows.push(measure(&make, options, row, &brokers)?);
    }
    say(&record.table())?;
    let path = record.write(&options.results)?;
    say(&format!("recorded in {}", path.display()))
}

fn measure<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    options: &Bench,
    row: Row,
    brokers: &[(Party, Broker)],
) -> Result<Measured, Failure> {
    let (ours, other, relay) = (Vec::new(), Vec::new(), Vec::new());
    let mut measured = Measured { row, ours, other, relay, errors: Vec::new() };
    for round in 0..options.rounds {
        let mut order: Vec<_> = brokers.iter().collect();
        // Nobody always runs first.
        if round % 2 == 1 {
            order.reverse();
        }
        for (party, broker) in order {
            if measured.row.needs_shards() && broker.kind != Kind::Ringtide {
                continue;
            }
            let result = run_once(make, options, &measured.row, broker);
            let said = match &result {
                Ok(report) => report.line(),
                Err(failure) => failure.to_string(),
            };
            say(&format!("{:>6} {}: {said}", party.name(), measured.row.id))?;
            measured.add(*party, result);
        }
    }
    Ok(measured)
}

/// One run of a row with a fresh broker.
fn run_once<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    options: &Bench,
    row: &Row,
    broker: &Broker,
) -> Result<Report, Failure> {
    let way = Way { zero_mask: options.zero_mask, ..Way::default() };
    let measure = Duration::from_millis(options.measure_ms);
    run_load(make, broker, row.shards, &way, &row.load, measure)
}

/// Starts a broker and puts a load on it, by the transport that it listens with.
///
/// # Errors
/// If it does not start, or the load cannot be run.
pub(crate) fn run_load<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    broker: &Broker,
    shards: u16,
    way: &Way,
    load: &Load,
    measure: Duration,
) -> Result<Report, Failure> {
    let running = broker.start(shards)?;
    let target = Target::new(running.address, Some(running.pid()))?;
    let link = running.link(way)?;
    let mut report = if broker.transport == Transport::Tcp {
        put(make, &target, load, measure)?
    } else {
        let carried = || Ok(Carried::client(make()?, link.clone()));
        put(&carried, &target, load, measure)?
    };
    report.notes.extend(link.notes());
    Ok(report)
}

fn put<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    target: &Target,
    load: &Load,
    measure: Duration,
) -> Result<Report, Failure> {
    let connections = |count| Connections { count, version: Version::V3_1_1, measure };
    match load {
        Load::Messages(scenario) => run::run(&mut make()?, target, scenario),
        Load::Connect(count) => connect::held(make, target, &connections(*count)),
        Load::ConnectClose => connect::closed(make, target, &connections(0)),
        Load::Idle(count) => connect::idle(make, target, &connections(*count)),
    }
}
