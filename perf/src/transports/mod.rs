//! What transports and drivers cost: `ringtide-perf transports` runs the sides of each row in turn,
//! each with a broker of its own on one CPU, prints one table and records it.

mod figures;
mod rows;

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::bench;
use crate::bench::broker::{Broker, resolve, say};
use crate::bench::peers::Kind;
use crate::bench::record;
use crate::carry::link::Way;
use crate::failure::Failure;
use crate::io::Io;
use crate::options::{Backend, pin};
use crate::procfs;
use crate::report::Report;
use figures::{Measured, Record, Run};
use rows::{Row, Side, Size};

/// Compare WebSocket with TCP, TLS with a bare TLS relay, epoll with io_uring; measure handshakes
/// and what idle connections of each transport take; record the results.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "transports")]
pub(crate) struct Transports {
    /// the broker; target/release/ringtide by default
    #[argh(option, default = "PathBuf::from(\"target/release/ringtide\")")]
    broker: PathBuf,
    /// only rows whose name holds one of these parts, separated by commas
    #[argh(option)]
    rows: Option<String>,
    /// runs of each side; 3 by default
    #[argh(option, default = "3")]
    rounds: u32,
    /// milliseconds measured in each run; 5000 by default
    #[argh(option, default = "5000")]
    measure_ms: u64,
    /// no run has more connections, for a trial; 18000 by default
    #[argh(option, default = "18_000")]
    connections_max: usize,
    /// mask WebSocket frames with zeros and not with random keys
    #[argh(switch)]
    zero_mask: bool,
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

impl Transports {
    fn wants(&self, row: &Row) -> bool {
        let parts = self.rows.as_deref().unwrap_or("");
        parts.split(',').any(|part| row.id.contains(part.trim()))
    }

    fn broker(&self, side: &Side) -> Result<Broker, Failure> {
        let program = if side.relay {
            std::env::current_exe().map_err(|e| Failure::Io("cannot find myself", e))?
        } else {
            resolve(&self.broker)
        };
        let driver = side.driver.into_iter();
        Ok(Broker {
            kind: Kind::of(&program),
            program,
            extra: driver.flat_map(|driver| ["--driver".to_owned(), driver.to_owned()]).collect(),
            cpu: self.broker_cpu,
            transport: side.transport,
            keeps: None,
        })
    }
}

/// Runs the rows.
///
/// # Errors
/// If nothing can be measured; a run that fails is recorded with its error.
pub(crate) fn transports<I: Io>(
    make: impl Fn() -> Result<I, Failure>,
    options: &Transports,
) -> Result<(), Failure> {
    let (measure_ms, connections_max) = (options.measure_ms, options.connections_max);
    if options.rounds == 0 || connections_max < 2 {
        return Err(Failure::Option("rounds are at least 1, connections 2".to_owned()));
    }
    let rows = rows::rows(Size { measure_ms, connections_max }).into_iter();
    let wanted: Vec<_> = rows.filter(|row| options.wants(row)).collect();
    if options.list {
        return wanted.iter().try_for_each(|row| say(&row.id));
    }
    if wanted.is_empty() {
        return Err(Failure::Option("no row has such a name; see --list".to_owned()));
    }
    pin(Some(options.cpu))?;
    let program = resolve(&options.broker);
    let mut record = Record {
        time: record::time(),
        commit: record::commit(),
        command: record::command(),
        host: procfs::host(),
        congestion_control: record::congestion_control(),
        version: Kind::of(&program).version(&program),
        remark: options.remark.clone(),
        rows: Vec::new(),
    };
    for row in wanted {
        record.rows.push(measure(&make, options, row)?);
    }
    say(&record.table())?;
    let path = record.write(&options.results)?;
    say(&format!("recorded in {}", path.display()))
}

fn measure<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    options: &Transports,
    row: Row,
) -> Result<Measured, Failure> {
    let mut measured = Measured { row, runs: Vec::new(), errors: Vec::new(), results: Vec::new() };
    for round in 0..options.rounds {
        let mut order = measured.row.sides.clone();
        // Nobody always runs first.
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            let result = run_once(make, options, &measured.row, &side);
            let said = match &result {
                Ok(report) => report.line(),
                Err(failure) => failure.to_string(),
            };
            say(&format!("{:>8} {}: {said}", side.name, measured.row.id))?;
            match result {
                Ok(report) => measured.runs.push(Run { side: side.name, round, report }),
                Err(failure) => measured.errors.push(format!("{}: {failure}", side.name)),
            }
        }
    }
    measured.conclude(options.rounds);
    Ok(measured)
}

fn run_once<I: Io>(
    make: &impl Fn() -> Result<I, Failure>,
    options: &Transports,
    row: &Row,
    side: &Side,
) -> Result<Report, Failure> {
    let broker = options.broker(side)?;
    let way = Way { zero_mask: options.zero_mask, resume: side.resume, ..Way::default() };
    let measure = Duration::from_millis(options.measure_ms);
    bench::run_load(make, &broker, 1, &way, &row.load, measure)
}
