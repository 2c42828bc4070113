//! The command line.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;

use rustix::net::sockopt;

use crate::bench;
use crate::carry::Carried;
use crate::carry::link::{Link, Transport, Way};
use crate::carry::tls::ServerSide;
use crate::compare;
use crate::connect::{self, Connections};
use crate::epoll::EpollIo;
use crate::failure::Failure;
use crate::io::Io;
use crate::report::Report;
use crate::run::{self, Target};
use crate::scenario::{Scenario, Work};
use crate::staged::{self, Verdict};
use crate::transports;
use crate::uring::UringIo;
use crate::wire::Version;
use crate::{durable, procfs, reflect};

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
    Durable(durable::Durable),
    Run(staged::Run),
    Compare(compare::Compare),
    Transports(transports::Transports),
}

/// Send one load to a broker on a loopback address and report.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "load")]
struct Load {
    /// pairs, fan-out, fan-in, wildcard, offline, connect, connect-close or idle
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
    /// tcp, tls, ws or wss; tcp by default
    #[argh(option, default = "Transport::Tcp")]
    transport: Transport,
    /// file of those who may have signed the broker's certificate
    #[argh(option)]
    ca: Option<PathBuf>,
    /// take any certificate; the report says so
    #[argh(switch)]
    insecure: bool,
    /// path that WebSocket clients connect to; /mqtt by default
    #[argh(option)]
    path: Option<String>,
    /// mask WebSocket frames with zeros and not with random keys
    #[argh(switch)]
    zero_mask: bool,
    /// come back with the tickets that TLS gives
    #[argh(switch)]
    resume: bool,
    /// epoll or uring
    #[argh(option, default = "Backend::Epoll")]
    io: Backend,
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
    /// epoll or uring
    #[argh(option, default = "Backend::Epoll")]
    io: Backend,
    /// speak TLS with this certificate
    #[argh(option)]
    certificate: Option<PathBuf>,
    /// and its key
    #[argh(option)]
    key: Option<PathBuf>,
    /// seconds until it ends by itself; 3600 by default
    #[argh(option, default = "3600")]
    time_s: u64,
}

/// Which [`Io`] to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Epoll,
    Uring,
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "epoll" => Ok(Self::Epoll),
            "uring" => Ok(Self::Uring),
            _ => Err("it is epoll or uring".to_owned()),
        }
    }
}

/// Does what the command line says; the exit code.
///
/// # Errors
/// If it cannot be done.
pub(crate) fn execute(options: Options) -> Result<u8, Failure> {
    raise_descriptor_limit();
    let done = match options.command {
        Command::Load(load) => run_load(&load),
        Command::Reflect(reflect) => run_reflect(&reflect),
        Command::Bench(options) => match options.io {
            Backend::Epoll => bench::bench(epoll, &options),
            Backend::Uring => bench::bench(uring, &options),
        },
        Command::Durable(options) => match options.io {
            Backend::Epoll => durable::durable(epoll, &options),
            Backend::Uring => durable::durable(uring, &options),
        },
        Command::Transports(options) => match options.io {
            Backend::Epoll => transports::transports(epoll, &options),
            Backend::Uring => transports::transports(uring, &options),
        },
        Command::Run(options) => {
            let verdict = match options.io {
                Backend::Epoll => staged::run(epoll, &options),
                Backend::Uring => staged::run(uring, &options),
            }?;
            return Ok(match verdict {
                Verdict::Held => 0,
                Verdict::NotHeld => 3,
                Verdict::BrokerGone => 4,
            });
        }
        Command::Compare(options) => compare::compare(&options),
    };
    done.map(|()| 0)
}

fn run_load(load: &Load) -> Result<(), Failure> {
    pin(load.cpu)?;
    let target = Target::new(load.address, load.pid)?;
    let connections = Connections {
        count: load.count,
        version: Version::from_level(load.mqtt).unwrap_or(Version::V3_1_1),
        measure: Duration::from_millis(load.measure_ms),
    };
    let link = Link::new(&load.way())?;
    let carries = link.transport != Transport::Tcp;
    let mut report = match (load.io, carries) {
        (Backend::Epoll, false) => work(epoll, load, &target, &connections),
        (Backend::Uring, false) => work(uring, load, &target, &connections),
        (Backend::Epoll, true) => {
            let make = || Ok(Carried::client(epoll()?, link.clone()));
            work(make, load, &target, &connections)
        }
        (Backend::Uring, true) => {
            let make = || Ok(Carried::client(uring()?, link.clone()));
            work(make, load, &target, &connections)
        }
    }?;
    report.notes.extend(link.notes());
    show(&report, load.json.as_ref())
}

fn work<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    load: &Load,
    target: &Target,
    connections: &Connections,
) -> Result<Report, Failure> {
    let messages = |work| run::run(&mut make()?, target, &load.scenario(work));
    match load.work.as_str() {
        "pairs" => messages(Work::Pairs),
        "fan-out" => messages(Work::FanOut),
        "fan-in" => messages(Work::FanIn),
        "wildcard" => messages(Work::Wildcard),
        "offline" => messages(Work::Offline),
        "connect" => connect::held(make, target, connections),
        "connect-close" => connect::closed(make, target, connections),
        "idle" => connect::idle(make, target, connections),
        other => Err(Failure::Option(format!("there is no work called {other}"))),
    }
}

impl Load {
    fn way(&self) -> Way {
        Way {
            transport: self.transport,
            ca: self.ca.clone(),
            insecure: self.insecure,
            path: self.path.clone(),
            zero_mask: self.zero_mask,
            resume: self.resume,
        }
    }

    fn scenario(&self, work: Work) -> Scenario {
        let load = self;
        Scenario {
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
            persistent: false,
        }
    }
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
    let listener = TcpListener::bind(target.address).map_err(failed)?;
    // Accepted sockets inherit both.
    sockopt::set_tcp_nodelay(&listener, true).map_err(|e| failed(e.into()))?;
    let _ = sockopt::set_tcp_congestion(&listener, "cubic");
    let time = Duration::from_secs(reflect.time_s);
    let side = reflect.server_side()?;
    match reflect.io {
        Backend::Epoll => {
            let mut io = epoll()?;
            io.listen(listener).map_err(failed)?;
            serve(io, side, time)
        }
        Backend::Uring => serve(UringIo::new(Some(listener)).map_err(failed)?, side, time),
    }
}

impl Reflect {
    fn server_side(&self) -> Result<Option<ServerSide>, Failure> {
        let read =
            |path| std::fs::read(path).map_err(|e| Failure::Io("cannot read the identity", e));
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                ServerSide::new(&read(certificate)?, &read(key)?).map(Some)
            }
            _ => Err(Failure::Option("--certificate and --key go together".to_owned())),
        }
    }
}

fn serve<I: Io>(mut io: I, side: Option<ServerSide>, time: Duration) -> Result<(), Failure> {
    match side {
        None => reflect::serve(&mut io, time),
        Some(side) => reflect::serve(&mut Carried::server(io, side), time),
    }
}

fn uring() -> Result<UringIo, Failure> {
    UringIo::new(None).map_err(|error| Failure::Io("cannot use io_uring", error))
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
