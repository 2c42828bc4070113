//! Signals: SIGTERM and SIGINT end the broker, gracefully at the first and at once at the second;
//! SIGHUP reads the configuration again.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use crate::config::{Config, Sources};
use crate::control::{Control, Stage};
use crate::exit::{Exit, Failure};
use crate::logs::{self, LogLevel};
use crate::notify;
use crate::passwords::Passwords;
use crate::reload::reload;
use crate::tls::TlsFiles;

/// Time that shards have to return after they were told to end now.
const ENDING_GRACE: Duration = Duration::from_secs(2);

/// The longest that an end at once waits for whoever reads the log.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What a signal works on.
pub struct Wiring {
    /// Told to the shards.
    pub control: Arc<Control>,
    /// Where the configuration was read from.
    pub sources: Sources,
    /// What is in force.
    pub running: Config,
    /// The listeners' TLS.
    pub tls: Arc<TlsFiles>,
    /// The users.
    pub passwords: Arc<Passwords>,
    /// The logs' level.
    pub level: LogLevel,
}

/// Starts the thread that takes signals from now on.
///
/// # Errors
/// When the handlers or the thread cannot be had.
pub fn start(wiring: Wiring) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::runtime(format!("cannot handle signals: {error}"));
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let take = move || take_signals(signals, wiring);
    thread::Builder::new().name("signals".to_owned()).spawn(take).map_err(failed)?;
    Ok(())
}

fn take_signals(mut signals: Signals, mut wiring: Wiring) {
    for signal in signals.forever() {
        match signal {
            SIGHUP => take_hangup(&mut wiring),
            _ if wiring.control.stage() == Stage::Running => begin_shutdown(&wiring),
            _ => {
                warn!("second signal: ending at once");
                logs::finish(LAST_LINES);
                std::process::exit(Exit::Runtime as i32);
            }
        }
    }
}

fn begin_shutdown(wiring: &Wiring) {
    let limit = Duration::from_secs(wiring.control.live().shutdown_timeout_s.into());
    info!("shutting down: no new connections, {} s for what is in flight", limit.as_secs());
    notify::stopping();
    wiring.control.advance(Stage::Draining);
    let control = Arc::clone(&wiring.control);
    let enforce = move || enforce_shutdown(&control, limit);
    if let Err(error) = thread::Builder::new().name("shutdown".to_owned()).spawn(enforce) {
        error!("no thread to watch over the shutdown ({error}): ending now");
        wiring.control.advance(Stage::Ending);
    }
}

/// Ends a shutdown that takes too long. The process is gone before this returns, if all is well.
fn enforce_shutdown(control: &Control, limit: Duration) {
    thread::sleep(limit);
    warn!("shutdown took longer than {} s: cutting off what is left", limit.as_secs());
    control.advance(Stage::Ending);
    thread::sleep(ENDING_GRACE);
    error!("shards did not end");
    logs::finish(LAST_LINES);
    std::process::exit(Exit::Runtime as i32);
}

fn take_hangup(wiring: &mut Wiring) {
    let Wiring { control, sources, running, tls, passwords, .. } = wiring;
    match reload(sources, running, control, tls, passwords) {
        Ok(changes) => {
            wiring.level.set(wiring.running.log.level);
            info!("configuration read again: {} changes applied", changes.applied.len());
            for change in &changes.applied {
                info!("applied: {change}");
            }
            for change in &changes.restart {
                warn!("needs a restart: {change}");
            }
        }
        Err(problems) => {
            for problem in &problems.0 {
                error!("configuration read again but not used, nothing has changed: {problem}");
            }
        }
    }
}
