//! `ringtide-perf run`: a scenario file against a broker, with live rates, a table, JSON and HTML.

mod chart;
mod check;
mod crowd;
mod dial;
mod engine;
mod file;
mod html;
mod meter;
mod outcome;
mod parts;
mod plan;
mod screen;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use argh::FromArgs;

use crate::bench::broker::{Broker, Running, resolve, say};
use crate::bench::peers::Kind;
use crate::bench::record;
use crate::carry::Carried;
use crate::carry::link::{Link, Transport, Way};
use crate::failure::Failure;
use crate::io::Io;
use crate::options::{Backend, pin};
use crate::procfs;
use crate::run::Target;
use check::Host;
use dial::Dial;
use engine::{Ending, Engine};
use file::File;
use meter::Meter;
use outcome::{About, Before, Outcome};
use plan::{Part, Plan, Size};
use screen::Screen;

/// Run a scenario against a broker: `perf/scenarios/` has those of the published tests.
///
/// Exit codes: 0 all bars held, 1 it could not be run, 2 the scenario or an option is wrong,
/// 3 a bar was not held, 4 the broker ended before the scenario did, 5 the broker that is to be
/// started is not known to listen with the transport.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "run")]
pub(crate) struct Run {
    /// a file, or the name of one in perf/scenarios
    #[argh(positional)]
    scenario: String,
    /// run this part of the clients and of the connects a second; 0.01 by default
    #[argh(option, default = "0.01")]
    scale: f64,
    /// seconds for all stages together, which shrink alike; as in the file by default
    #[argh(option)]
    duration: Option<f64>,
    /// a broker that runs, a loopback address; without it one is started
    #[argh(option)]
    target: Option<SocketAddr>,
    /// the process of that broker, whose CPU and memory are read
    #[argh(option)]
    pid: Option<u32>,
    /// the broker to start; target/release/ringtide by default; what it is follows from its name
    #[argh(option, default = "PathBuf::from(\"target/release/ringtide\")")]
    broker: PathBuf,
    /// an argument for it, after the usual ones; may be given several times
    #[argh(option)]
    broker_arg: Vec<String>,
    /// shards of the broker that is started; 1 by default
    #[argh(option, default = "1")]
    shards: u16,
    /// CPU of the broker that is started; 0 by default
    #[argh(option, default = "0")]
    broker_cpu: usize,
    /// pin the generator to this CPU
    #[argh(option)]
    cpu: Option<usize>,
    /// the generator's I/O, epoll or uring
    #[argh(option, default = "Backend::Epoll")]
    pub(crate) io: Backend,
    /// folder for the report, as JSON and HTML; perf/results by default
    #[argh(option, default = "PathBuf::from(\"perf/results\")")]
    results: PathBuf,
    /// tcp, tls, ws or wss in place of the scenario's own
    #[argh(option)]
    transport: Option<Transport>,
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
    /// processes that the clients are dealt out to, each with descriptors of its own; 1 by default
    #[argh(option, default = "1")]
    processes: u16,
    /// what --processes gives to each of its own
    #[argh(option)]
    part: Option<Part>,
    /// only check the scenario against this host
    #[argh(switch)]
    check: bool,
}

/// How a run that could be made came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Held,
    NotHeld,
    BrokerGone,
}

/// A scenario that has been read and judged.
struct Read {
    name: String,
    file: File,
    plan: Plan,
    addresses: u64,
}

/// Where the scenarios of the published tests are.
const SCENARIOS: &str = "perf/scenarios";

fn read(options: &Run) -> Result<Read, Failure> {
    if !(1e-9..=1000.0).contains(&options.scale) {
        return Err(Failure::Scenario("--scale is above 0 and at most 1000".to_owned()));
    }
    if options.duration.is_some_and(|seconds| !(0.1..=86_400.0).contains(&seconds)) {
        return Err(Failure::Scenario("--duration is 0.1 to 86400 seconds".to_owned()));
    }
    let given = Path::new(&options.scenario);
    let known = Path::new(SCENARIOS).join(format!("{}.toml", options.scenario));
    let path = if given.exists() { given.to_owned() } else { known };
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::Scenario(format!(
            "{}: {error}; give a file, or the name of one in {SCENARIOS}",
            path.display()
        ))
    })?;
    let wrong = |wrong: file::Wrong| Failure::Scenario(format!("{}:{wrong}", path.display()));
    let file = file::parse(&text).map_err(wrong)?;
    let size = Size { scale: options.scale, duration_s: options.duration };
    let addresses =
        check::check(&text, &file, size, &Host::here(options.processes)).map_err(wrong)?;
    let plan = Plan::new(&file, size);
    if let (Some(filter), true) = (plan.crossing(), options.processes > 1) {
        return Err(Failure::Scenario(format!(
            "{}: `{filter}` hears the clients of all processes, of which each knows only its own: \
             --processes 1",
            path.display()
        )));
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Read { name, file, plan, addresses })
}

/// Runs a scenario.
///
/// # Errors
/// If it is wrong, or cannot be run.
pub(crate) fn run<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    options: &Run,
) -> Result<Verdict, Failure> {
    let scenario = read(options)?;
    if let Some(part) = options.part {
        return run_part(make()?, options, scenario, part);
    }
    let Read { name, file, plan, addresses } = &scenario;
    scenario.introduce(options)?;
    let way = options.way(file);
    if options.check {
        say("the scenario can be run here")?;
        return Ok(Verdict::Held);
    }
    pin(options.cpu)?;
    let broker = options.start(way.transport)?;
    let (target, version, link) = match (&broker, options.target) {
        (Some((running, version)), _) => {
            let target = Target::new(running.address, Some(running.pid()))?;
            (target, version.clone(), running.link(&way)?)
        }
        (None, address) => {
            let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 1883)));
            let version = format!("the broker on {address}");
            (Target::new(address, options.pid)?, version, Link::new(&way)?)
        }
    };
    let mut about = About {
        scenario: name.clone(),
        time: record::time(),
        commit: record::commit(),
        host: procfs::host(),
        broker: version,
        scale: options.scale,
        source: file.source.clone(),
        before: Before {
            broker_bytes: target.pid.and_then(|pid| procfs::memory(pid).ok()).map(|m| m.resident),
            kernel_bytes: procfs::kernel_memory(),
        },
        notes: notes(file, way.transport, options.scale),
    };
    let mut screen = Screen::new(plan.stages.len());
    let (meter, ending) = if options.processes > 1 {
        let ca = broker.as_ref().and_then(|(running, _)| running.ca());
        let arguments = options.for_parts(&way, ca.as_deref());
        parts::conduct(plan, &target, options.processes, &arguments, &mut screen)?
    } else {
        let dial = Dial::new(target.address, 0, *addresses);
        drive(make()?, &link, Drive { plan, target, dial, keeps: false }, &mut screen)?
    };
    about.notes.extend(link.notes());
    report(&Outcome::new(about, plan, &meter, ending), ending, options)
}

/// Runs one part of a scenario for the process that has started this one.
fn run_part<I: Io>(io: I, options: &Run, scenario: Read, part: Part) -> Result<Verdict, Failure> {
    let address = options
        .target
        .ok_or_else(|| Failure::Option("--part is for the processes of --processes".to_owned()))?;
    let target = Target::new(address, options.pid)?;
    let plan = scenario.plan.part(part);
    let addresses = scenario.addresses.div_ceil(u64::from(part.of));
    let dial = Dial::new(address, u64::from(part.number) * addresses, addresses);
    let mut screen = Screen::of_part(plan.stages.len());
    parts::wait_for_go()?;
    let link = Link::new(&options.way(&scenario.file))?;
    let of = Drive { plan: &plan, target, dial, keeps: true };
    let (meter, ending) = drive(io, &link, of, &mut screen)?;
    parts::tell_end(&meter, ending);
    Ok(Verdict::Held)
}

/// What an engine is to run.
struct Drive<'a> {
    plan: &'a Plan,
    target: Target,
    dial: Dial,
    /// Whether it keeps the latencies of each reading.
    keeps: bool,
}

/// Runs the stages by the transport of `link`.
fn drive<I: Io>(
    mut io: I,
    link: &Link,
    of: Drive<'_>,
    screen: &mut Screen,
) -> Result<(Meter, Ending), Failure> {
    if link.transport == Transport::Tcp {
        drive_over(&mut io, of, screen)
    } else {
        drive_over(&mut Carried::client(io, link.clone()), of, screen)
    }
}

fn drive_over<I: Io>(
    io: &mut I,
    of: Drive<'_>,
    screen: &mut Screen,
) -> Result<(Meter, Ending), Failure> {
    let mut engine = Engine::new(io, of.plan, of.target, of.dial)?;
    if of.keeps {
        engine.keep_latencies();
    }
    engine.run(screen)
}

impl Read {
    /// Says what is about to be run.
    fn introduce(&self, options: &Run) -> Result<(), Failure> {
        let plan = &self.plan;
        let groups = plan.groups.iter().map(|group| format!("{} {}", group.count, group.name));
        say(&format!(
            "{}: {}; {} stages, {:.0} s; from {} addresses and {} processes",
            plan.title,
            groups.collect::<Vec<_>>().join(", "),
            plan.stages.len(),
            options.duration.unwrap_or_else(|| plan::seconds(&self.file)),
            self.addresses,
            options.processes
        ))
    }
}

/// What a reader should know of a run.
fn notes(file: &File, transport: Transport, scale: f64) -> Vec<String> {
    let mut notes = vec![
        "Publishers and subscribers are on one machine with one clock. Latency counts from when a \
         message was due, however late it was sent."
            .to_owned(),
    ];
    if scale < 1.0 {
        notes.push(format!(
            "The source's connections, rates, CPU and memory are those of its full size on its own \
             machines, ours are of {scale} of it: compare what one connection or message costs."
        ));
    }
    if transport != file.transport {
        let (ours, theirs) = (transport.name(), file.transport.name());
        notes.push(format!("The source used {theirs}, this run {ours}."));
    }
    notes
}

impl Run {
    /// How the clients reach the broker.
    fn way(&self, file: &File) -> Way {
        Way {
            transport: self.transport.unwrap_or(file.transport),
            ca: self.ca.clone(),
            insecure: self.insecure,
            path: self.path.clone(),
            zero_mask: self.zero_mask,
            resume: false,
        }
    }

    /// The arguments by which each of several processes knows what to run.
    fn for_parts(&self, way: &Way, ca: Option<&Path>) -> Vec<String> {
        let io = match self.io {
            Backend::Epoll => "epoll",
            Backend::Uring => "uring",
        };
        let mut arguments = vec![self.scenario.clone()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--scale", self.scale.to_string());
        option("--processes", self.processes.to_string());
        option("--io", io.to_owned());
        option("--transport", way.transport.name().to_owned());
        if let Some(ca) = way.ca.as_deref().or(ca).filter(|_| !way.insecure) {
            option("--ca", ca.display().to_string());
        }
        if let Some(path) = &way.path {
            option("--path", path.clone());
        }
        if let Some(duration) = self.duration {
            option("--duration", duration.to_string());
        }
        let switches = [("--insecure", way.insecure), ("--zero-mask", way.zero_mask)];
        arguments.extend(switches.iter().filter(|s| s.1).map(|s| s.0.to_owned()));
        arguments
    }

    /// Starts the broker, unless one is named.
    fn start(&self, transport: Transport) -> Result<Option<(Running, String)>, Failure> {
        if self.target.is_some() {
            return Ok(None);
        }
        let program = resolve(&self.broker);
        let kind = Kind::of(&program);
        let version = kind.version(&program);
        let extra = self.broker_arg.clone();
        let cpu = self.broker_cpu;
        let broker = Broker { program, kind, extra, cpu, transport, keeps: None };
        Ok(Some((broker.start(self.shards)?, version)))
    }
}

fn report(outcome: &Outcome, ending: Ending, options: &Run) -> Result<Verdict, Failure> {
    say(&outcome.table())?;
    let time = outcome.time.replace([':', '-'], "");
    let stem = format!("{time}-{}-{}", outcome.commit, outcome.scenario);
    let json = record::write(outcome, &options.results.join(format!("{stem}.json")))?;
    let page = options.results.join(format!("{stem}.html"));
    fs::write(&page, html::page(outcome)).map_err(|e| Failure::Io("cannot write the page", e))?;
    say(&format!("recorded in {} and {}", json.display(), page.display()))?;
    Ok(match ending {
        Ending::BrokerGone(_) => Verdict::BrokerGone,
        Ending::Done if outcome.held() => Verdict::Held,
        Ending::Done => Verdict::NotHeld,
    })
}

#[cfg(test)]
mod tests;
