//! What durability costs and holds: `ringtide-perf durable` starts brokers on fresh data
//! directories, measures each row, prints one table and records it.

mod bound;
mod device;
mod drain;
mod figures;
mod publish;
mod sessions;

use std::path::{Path, PathBuf};

use argh::FromArgs;

use crate::bench::broker::{Broker, Keeps, resolve, say};
use crate::bench::peers::Kind;
use crate::bench::record::{self, Side};
use crate::carry::link::Transport;
use crate::failure::Failure;
use crate::io::Io;
use crate::options::{Backend, pin};
use crate::procfs;
use figures::{Outcome, Party, Record, Run};
use publish::Load;

/// Measure what is stored before it is acknowledged: publishes for a session that is away, its
/// return, a million sessions, the disk; each with a broker of its own on one CPU.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "durable")]
pub(crate) struct Durable {
    /// the broker; target/release/ringtide by default
    #[argh(option, default = "PathBuf::from(\"target/release/ringtide\")")]
    broker: PathBuf,
    /// another broker for the publish and drain rows, with what persistence it offers; may be
    /// given several times; one that is not installed is left out
    #[argh(option)]
    against: Vec<PathBuf>,
    /// only rows whose name holds one of these parts, separated by commas
    #[argh(option)]
    rows: Option<String>,
    /// runs of each row; 1 by default, the table shows the median
    #[argh(option, default = "1")]
    rounds: u32,
    /// the directory whose device is measured; that for temporary files by default
    #[argh(option, default = "std::env::temp_dir()")]
    dir: PathBuf,
    /// sync, os or memory; sync by default
    #[argh(option, default = "String::from(\"sync\")")]
    durability: String,
    /// shards of the broker; 1 by default
    #[argh(option, default = "1")]
    shards: u16,
    /// milliseconds measured in each publish row; 5000 by default
    #[argh(option, default = "5000")]
    measure_ms: u64,
    /// messages that the drain row stores; 1000000 by default
    #[argh(option, default = "1_000_000")]
    messages: u64,
    /// receive maximum of the client that drains, which then speaks MQTT 5; none by default
    #[argh(option)]
    receive_maximum: Option<u16>,
    /// sessions of the sessions row; 1000000 by default
    #[argh(option, default = "1_000_000")]
    sessions: u64,
    /// messages that the disk row holds for a session that never returns; 1000000 by default
    #[argh(option, default = "1_000_000")]
    held: u64,
    /// messages that pass meanwhile; 10000000 by default
    #[argh(option, default = "10_000_000")]
    passed: u64,
    /// CPU of the broker; 0 by default
    #[argh(option, default = "0")]
    broker_cpu: usize,
    /// CPU of the generator; 1 by default
    #[argh(option, default = "1")]
    cpu: usize,
    /// the generator's I/O, epoll or uring
    #[argh(option, default = "Backend::Epoll")]
    pub(crate) io: Backend,
    /// what a reader of the record should know, such as who else used the machine
    #[argh(option)]
    remark: Option<String>,
    /// where the record goes; perf/results by default
    #[argh(option, default = "PathBuf::from(\"perf/results\")")]
    results: PathBuf,
    /// list the rows and end
    #[argh(switch)]
    list: bool,
}

/// What a row needs.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Durable,
    pub(crate) broker: &'a Broker,
}

/// What a row's runs do.
#[derive(Clone, Copy, Debug)]
enum Work {
    Publish(Load),
    Drain,
    Sessions,
    Disk,
}

const LOAD: Load = Load {
    count: 1000,
    window: 1,
    batch: 1,
    rate: None,
    rate_bar: None,
    p99_bar: None,
    beside_device: false,
};

/// All rows, each with its name.
const ROWS: [(&str, Work); 7] = [
    ("publish-n1000", Work::Publish(Load { rate_bar: Some(75_000.0), ..LOAD })),
    (
        "publish-batches",
        Work::Publish(Load { count: 50, window: 64, batch: 32, rate_bar: Some(400_000.0), ..LOAD }),
    ),
    ("publish-20k", Work::Publish(Load { rate: Some(20_000), p99_bar: Some(5000.0), ..LOAD })),
    ("publish-alone", Work::Publish(Load { count: 1, beside_device: true, ..LOAD })),
    ("drain", Work::Drain),
    ("sessions", Work::Sessions),
    ("disk", Work::Disk),
];

impl Durable {
    fn check(&self) -> Result<(), Failure> {
        let rules = [
            (
                matches!(&*self.durability, "sync" | "os" | "memory"),
                "durability is sync, os or memory",
            ),
            (self.receive_maximum != Some(0), "a receive maximum is at least 1"),
            (self.rounds > 0 && self.shards > 0, "rounds and shards are at least 1"),
            (self.messages > 0 && self.held > 0 && self.passed > 0, "messages are at least 1"),
            // Their numbers have eight digits.
            ((2..100_000_000).contains(&self.sessions), "sessions are from 2 to 99999999"),
            (self.messages.max(self.passed) <= u64::from(u32::MAX), "messages are at most 2^32"),
        ];
        match rules.iter().find(|(kept, _)| !kept) {
            None => Ok(()),
            Some((_, text)) => Err(Failure::Option((*text).to_owned())),
        }
    }

    fn wants(&self, row: &str) -> bool {
        let parts = self.rows.as_deref().unwrap_or("");
        parts.split(',').any(|part| row.contains(part.trim()))
    }

    fn broker_of(&self, program: &Path) -> Result<Broker, Failure> {
        let root = std::path::absolute(&self.dir);
        let root = root.map_err(|error| Failure::Io("cannot use the directory", error))?;
        Ok(Broker {
            program: resolve(program),
            kind: Kind::of(program),
            extra: Vec::new(),
            cpu: self.broker_cpu,
            transport: Transport::Tcp,
            keeps: Some(Keeps { root, durability: self.durability.clone() }),
        })
    }

    /// The broker under test and those of the others that are there.
    fn brokers(&self) -> Result<Vec<Broker>, Failure> {
        let mut brokers = vec![self.broker_of(&self.broker)?];
        for program in &self.against {
            let broker = self.broker_of(program)?;
            if broker.kind.version(&broker.program).is_empty() {
                say(&format!("{} is not installed: left out", program.display()))?;
            } else {
                brokers.push(broker);
            }
        }
        Ok(brokers)
    }

    fn party(&self, broker: &Broker) -> Party {
        let name = broker.program.file_name().unwrap_or_default();
        Party {
            side: Side::of(broker),
            name: name.to_string_lossy().into_owned(),
            promise: broker.kind.promise(&self.durability),
        }
    }
}

/// Runs the rows.
///
/// # Errors
/// If nothing can be measured; a row that fails is recorded with its error.
pub(crate) fn durable<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    options: &Durable,
) -> Result<(), Failure> {
    options.check()?;
    let wanted: Vec<_> = ROWS.iter().filter(|(row, _)| options.wants(row)).collect();
    if options.list {
        return wanted.iter().try_for_each(|(row, _)| say(row));
    }
    if wanted.is_empty() {
        return Err(Failure::Option("no row has such a name; see --list".to_owned()));
    }
    let brokers = options.brokers()?;
    let mut record = Record {
        time: record::time(),
        commit: record::commit(),
        command: record::command(),
        host: procfs::host(),
        congestion_control: record::congestion_control(),
        file_system: procfs::file_system(&options.dir),
        sync_time: device::sync_time(&options.dir)?,
        durability: options.durability.clone(),
        remark: options.remark.clone(),
        brokers: brokers.iter().map(|broker| options.party(broker)).collect(),
        runs: Vec::new(),
    };
    if matches!(&*record.file_system, "tmpfs" | "overlay" | "ramfs") {
        let system = &record.file_system;
        say(&format!("note: {} lies on {system}; name a disk with --dir", options.dir.display()))?;
    }
    pin(Some(options.cpu))?;
    for (row, work) in wanted {
        for _ in 0..options.rounds {
            for (number, broker) in brokers.iter().enumerate() {
                // What is not an MQTT broker's own promise is asked of nobody else.
                if number > 0 && matches!(work, Work::Sessions | Work::Disk) {
                    continue;
                }
                let outcome = run_once(&make, &Bench { options, broker }, *work);
                let said = match &outcome {
                    Ok(outcome) => outcome.line(),
                    Err(failure) => failure.to_string(),
                };
                say(&format!("{row}, {}: {said}", record.brokers[number].name))?;
                let outcome = outcome.map_err(|failure| failure.to_string());
                record.runs.push(Run { row, broker: number, outcome });
            }
        }
    }
    say(&record.table())?;
    let name = format!("{}-{}-durable.json", record.time.replace([':', '-'], ""), record.commit);
    let path = record::write(&record, &options.results.join(name))?;
    say(&format!("recorded in {}", path.display()))
}

/// One run of a row with a fresh broker.
fn run_once<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    bench: &Bench<'_>,
    work: Work,
) -> Result<Outcome, Failure> {
    match work {
        Work::Publish(load) => publish::publish(make, bench, &load),
        Work::Drain => drain::drain(make, bench),
        Work::Sessions => sessions::sessions(make, bench),
        Work::Disk => bound::bound(make, bench),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn options(arguments: &[&str]) -> Durable {
        Durable::from_args(&["durable"], arguments).unwrap()
    }

    #[test]
    fn rows_have_names_of_their_own_and_sound_loads() {
        assert_eq!(ROWS.iter().map(|row| row.0).collect::<HashSet<_>>().len(), ROWS.len());
        for (row, work) in ROWS {
            if let Work::Publish(load) = work {
                assert!(publish::scenario(&load).plan().is_ok(), "{row}");
            }
        }
        assert!(publish::scenario(&drain::FILL).plan().is_ok());
    }

    #[test]
    fn rows_are_chosen_by_parts_of_their_names() {
        let some = options(&["--rows", "alone, drain"]);
        let wanted: Vec<_> = ROWS.iter().map(|row| row.0).filter(|row| some.wants(row)).collect();
        assert_eq!(wanted, ["publish-alone", "drain"]);
        assert!(ROWS.iter().all(|row| options(&[]).wants(row.0)));
    }

    #[test]
    fn bad_numbers_are_refused() {
        assert!(options(&[]).check().is_ok());
        for bad in [["--durability", "much"], ["--sessions", "1"], ["--rounds", "0"]] {
            assert!(matches!(options(&bad).check(), Err(Failure::Option(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_installed_is_left_out() {
        let brokers = options(&["--against", "/missing/mosquitto"]).brokers().unwrap();
        assert_eq!(brokers.len(), 1);
    }
}
