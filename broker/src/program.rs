//! The commands, from arguments to exit code.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::args::{self, Command, Settings};
use crate::banner::{Banner, VERSION};
use crate::config::{self, Config, Loaded, Sources};
use crate::control::{Control, Live, Stage};
use crate::exit::{Exit, Failure};
use crate::listen::{self, Opened};
use crate::logs::{self, LogLevel};
use crate::passwords::{self, Passwords};
use crate::tls::{self, TlsFiles};
use crate::{drivers, notify, preflight, signals, start, store_command, tune_command, watchdog};

/// The longest that the end waits for whoever reads the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Does what the arguments (without the program's name) ask for.
pub fn main(arguments: &[&str]) -> Exit {
    let done = match args::parse(arguments) {
        Ok(Command::Run(settings)) => return run(&settings),
        Ok(Command::CheckConfig(settings)) => check_config(&settings),
        Ok(Command::Config(settings)) => load(&settings).map(|(_, loaded)| {
            warn_plainly(&loaded.warnings);
            config::effective(&loaded)
        }),
        Ok(Command::Passwd(command)) => return passwords::run(&command),
        Ok(Command::Store(command)) => return store_command::run(&command),
        Ok(Command::Tune(command)) => return tune_command::run(&command),
        Ok(Command::Version) => Ok(format!("ringtide {VERSION}\n")),
        Ok(Command::Help(text)) => Ok(text),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(text) => print(&text),
        Err(failure) => complain(&failure),
    }
}

/// What a command has to say, on standard output.
fn print(text: &str) -> Exit {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has gone away (`ringtide config | head`) is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&Failure::runtime(format!("standard output: {error}")))
        }
        _ => Exit::Done,
    }
}

pub(crate) fn complain(failure: &Failure) -> Exit {
    let _ = writeln!(io::stderr(), "ringtide: {failure}");
    failure.exit
}

pub(crate) fn load(settings: &Settings) -> Result<(Sources, Loaded), Failure> {
    let sources = settings.sources()?;
    let loaded = config::load(&sources).map_err(|error| Failure::usage(error.to_string()))?;
    Ok((sources, loaded))
}

fn check_config(settings: &Settings) -> Result<String, Failure> {
    let (_, loaded) = load(settings)?;
    let rules = preflight::read_rules(&loaded.config.access);
    rules.map_err(|error| Failure::usage(error.to_string()))?;
    passwords::read(&loaded.config.access).map_err(|error| Failure::usage(error.to_string()))?;
    let tls = tls::check(&loaded.config.listeners);
    let mut warnings = tls.map_err(|error| Failure::usage(error.to_string()))?;
    warnings.extend(passwords::warnings(&loaded.config.access));
    warn_plainly(&loaded.warnings);
    warn_plainly(&warnings);
    Ok(match &loaded.file {
        Some(path) => format!("{}: the configuration can be used\n", path.display()),
        None => "the configuration can be used (no file, built-in defaults)\n".to_owned(),
    })
}

fn warn_plainly(warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(io::stderr(), "ringtide: warning: {warning}");
    }
}

/// Starts the broker and returns when it has ended. What is wrong before the logs are there is a
/// plain line; after that it is a log line, in the log's format.
fn run(settings: &Settings) -> Exit {
    let (sources, loaded) = match load(settings) {
        Ok(found) => found,
        Err(failure) => return complain(&failure),
    };
    let level = logs::init(loaded.config.log);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let served = serve(sources, &loaded, level);
    // Makes room, so that what comes now is not dropped.
    logs::finish(LAST_LINES / 2);
    let exit = match served {
        Ok(()) => {
            info!("ended");
            Exit::Done
        }
        Err(failure) => {
            for line in failure.text.lines() {
                error!("{line}");
            }
            failure.exit
        }
    };
    logs::finish(LAST_LINES / 2);
    exit
}

fn serve(sources: Sources, loaded: &Loaded, level: LogLevel) -> Result<(), Failure> {
    let mut config = loaded.config.clone();
    let driver = drivers::choose(&mut config)?;
    let rules = preflight::read_rules(&config.access);
    let rules = rules.map_err(|error| Failure::usage(error.to_string()))?;
    let footing = preflight::check(&config)?;
    for warning in footing.warnings.iter().chain(&passwords::warnings(&config.access)) {
        warn!("{warning}");
    }
    let users = read_users(&config)?;
    let control = Arc::new(Control::new(Live::from(&config)));
    control.set_rules(rules);
    let tls = TlsFiles::open(&config.listeners, Arc::clone(&control));
    let tls = Arc::new(tls.map_err(|error| Failure::usage(error.to_string()))?);
    let shards = u16::try_from(footing.cpus.len()).unwrap_or(config::SHARDS_MAX);
    let listeners = config
        .listeners
        .iter()
        .map(|listener| listen::open(listener, shards))
        .collect::<Result<Vec<Opened>, Failure>>()?;
    end_on_panic(Arc::clone(&control));
    signals::start(signals::Wiring {
        control: Arc::clone(&control),
        sources,
        running: loaded.config.clone(),
        tls: Arc::clone(&tls),
        passwords: Arc::clone(&users),
        level,
    })?;
    tls.watch()?;
    let addresses: Vec<_> = listeners.iter().map(|opened| opened.address.clone()).collect();
    let banner = Banner {
        loaded,
        footing: &footing,
        addresses: &addresses,
        host: config.host,
        driver: &driver.describe(),
    };
    for line in banner.lines() {
        info!("{line}");
    }
    let (listening, told) = (banner.listening(), Arc::clone(&control));
    let plan = start::Plan {
        config,
        cpus: footing.cpus,
        listeners,
        connections_max: footing.connections_max,
        control,
        passwords: users,
    };
    start::run(plan, driver, |turns| {
        // A signal may have come during the recovery.
        if told.stage() != Stage::Running {
            return;
        }
        for line in listening {
            info!("{line}");
        }
        notify::ready();
        watchdog::start(turns, told);
    })
}

/// The users who may connect, and the threads that check their passwords, where they are needed.
fn read_users(config: &Config) -> Result<Arc<Passwords>, Failure> {
    let users = passwords::read(&config.access);
    let users = users.map_err(|error| Failure::usage(error.to_string()))?;
    let passwords = Passwords::new()?;
    passwords
        .put_in_force(users)
        .map_err(|error| Failure::host(format!("no thread to check passwords: {error}")))?;
    Ok(passwords)
}

/// A shard that breaks one of its own rules ends the whole broker: half a broker would go on
/// acknowledging messages that nobody gets.
fn end_on_panic(control: Arc<Control>) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        error!("{} has failed: {panic}; ending", thread.name().unwrap_or("a thread"));
        control.advance(Stage::Ending);
        // The thread may be the one whose end is the process's.
        logs::finish(LAST_LINES / 2);
    }));
}
