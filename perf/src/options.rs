//! The command line.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::bench;
use crate::connect::{self, Connections};
use crate::epoll::EpollIo;
use crate::failure::Failure;
use crate::report::Report;
use crate::run::{self, Target};
use crate::scenario::{Scenario, Work};
use crate::wire::Version;
use crate::{procfs, reflect};

/// Load generator and bench runner of Ringtide.
#[derive(FromArgs, Debug)]
pub(crate) struct Options {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Load(Load),
    Reflect(Reflect),
    Bench(bench::Bench),
}

/// Send one load to a broker on a loopback address and report.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "load")]
struct Load {
    /// pairs, fan-out, fan-in, wildcard, connect, connect-close or idle
    #[argh(positional)]
    work: String,
    /// the broker, a loopback address; 127.0.0.1:1883 by default
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 1883))")]
    address: SocketAddr,
    /// the broker's process, whose CPU time and memory are read
    #[argh(option)]
    pid: Option<u32>,
    /// pairs, subscribers, publishers or connections, after the kind of work; 50 by default
    #[argh(option, short = 'n', default = "50")]
    count: usize,
    /// messages outstanding per publisher; 1 by default
    #[argh(option, short = 'w', default = "1")]
    window: u64,
    /// messages per write; 1 by default
    #[argh(option, short = 'b', default = "1")]
    batch: u64,
    /// payload in bytes; 256 by default; order is proved from 16 on
    #[argh(option, short = 'l', default = "256")]
    payload_bytes: usize,
    /// qos of messages and subscriptions; 0 by default
    #[argh(option, short = 'q', default = "0")]
    qos: u8,
    /// MQTT level: 4 (3.1.1, the default) or 5
    #[argh(option, default = "4")]
    mqtt: u8,
    /// messages a second over all publishers; as fast as the window allows by default
    #[argh(option)]
    rate: Option<u64>,
    /// milliseconds before the measurement; 1000 by default
    #[argh(option, default = "1000")]
    warm_up_ms: u64,
    /// milliseconds measured; 5000 by default, 600000 at most
    #[argh(option, default = "5000")]
    measure_ms: u64,
    /// wildcard filters in all; 15000 by default
    #[argh(option, default = "15000")]
    filters: usize,
    /// wildcard pattern, %g is the filter's number; w/%g/+/x/# by default
    #[argh(option, default = "String::from(\"w/%g/+/x/#\")")]
    pattern: String,
    /// make client ids from this number instead of counting
    #[argh(option)]
    random_ids: Option<u64>,
    /// poll without sleeping
    #[argh(switch)]
    spin: bool,
    /// pin the generator to this CPU
    #[argh(option)]
    cpu: Option<usize>,
    /// write the report there as JSON
    #[argh(option)]
    json: Option<PathBuf>,
}

/// Route messages as a null broker would, until killed or the time is over.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "reflect")]
struct Reflect {
    /// a loopback address; 127.0.0.1:1884 by default
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 1884))")]
    listen: SocketAddr,
    /// pin it to this CPU
    #[argh(option)]
    cpu: Option<usize>,
    /// seconds until it ends by itself; 3600 by default
    #[argh(option, default = "3600")]
    time_s: u64,
}

/// Does what the command line says.
///
/// # Errors
/// If it cannot be done.
pub(crate) fn execute(options: Options) -> Result<(), Failure> {
    raise_descriptor_limit();
    match options.command {
        Command::Load(load) => run_load(&load),
        Command::Reflect(reflect) => run_reflect(&reflect),
        Command::Bench(options) => bench::bench(epoll, &options),
    }
}

fn run_load(load: &Load) -> Result<(), Failure> {
    pin(load.cpu)?;
    let target = Target::new(load.address, load.pid)?;
    let connections = Connections {
        count: load.count,
        version: Version::from_level(load.mqtt).unwrap_or(Version::V3_1_1),
        measure: Duration::from_millis(load.measure_ms),
    };
    let report = match load.work.as_str() {
        "pairs" => messages(load, &target, Work::Pairs),
        "fan-out" => messages(load, &target, Work::FanOut),
        "fan-in" => messages(load, &target, Work::FanIn),
        "wildcard" => messages(load, &target, Work::Wildcard),
        "connect" => connect::held(epoll, &target, &connections),
        "connect-close" => connect::closed(epoll, &target, &connections),
        "idle" => connect::idle(epoll, &target, &connections),
        other => Err(Failure::Option(format!("there is no work called {other}"))),
    }?;
    show(&report, load.json.as_ref())
}

fn messages(load: &Load, target: &Target, work: Work) -> Result<Report, Failure> {
    let scenario = Scenario {
        work,
        count: load.count,
        window: load.window,
        batch: load.batch,
        payload_bytes: load.payload_bytes,
        qos: load.qos,
        level: load.mqtt,
        rate: load.rate,
        warm_up_ms: load.warm_up_ms,
        measure_ms: load.measure_ms,
        filters: load.filters,
        pattern: load.pattern.clone(),
        random_ids: load.random_ids,
        spin: load.spin,
    };
    run::run(&mut epoll()?, target, &scenario)
}

fn show(report: &Report, json: Option<&PathBuf>) -> Result<(), Failure> {
    let failed = |error| Failure::Io("cannot write the report", error);
    writeln!(std::io::stdout(), "{}", report.line()).map_err(failed)?;
    let Some(path) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).map_err(|e| failed(e.into()))?;
    std::fs::write(path, text + "\n").map_err(failed)
}

fn run_reflect(reflect: &Reflect) -> Result<(), Failure> {
    pin(reflect.cpu)?;
    let target = Target::new(reflect.listen, None)?;
    let failed = |error| Failure::Io("cannot listen", error);
    let mut io = epoll()?;
    let listener = TcpListener::bind(target.address).map_err(failed)?;
    crate::io::Io::listen(&mut io, listener).map_err(failed)?;
    reflect::serve(&mut io, Duration::from_secs(reflect.time_s))
}

fn epoll() -> Result<EpollIo, Failure> {
    EpollIo::new().map_err(|error| Failure::Io("cannot use epoll", error))
}

/// Pins this thread, and what it starts, to one CPU.
pub(crate) fn pin(cpu: Option<usize>) -> Result<(), Failure> {
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu >= procfs::host().cpus {
        return Err(Failure::Option(format!("there is no CPU {cpu}")));
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| Failure::Io("cannot pin to a CPU", error.into()))
}

/// As many descriptors as the hard limit allows; too few shows up where it matters.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
