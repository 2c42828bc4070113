//! `ringtide store ...`: commands on a data directory that no broker uses.
//!
//! `check`, `stats` and `export` change nothing in it; `import` makes a store where there is none.

mod check;
mod content;
mod export;
mod format;
mod import;
mod lines;
mod rules;
mod stats;

use std::io::{self, Write};

use ringtide_storage::log::Opened;

use crate::args::{Settings, StoreCommand};
use crate::config::Config;
use crate::datadir::DataDir;
use crate::exit::{Exit, Failure};
use crate::program;
use crate::replay::Replayed;

/// Does what was asked for.
pub(crate) fn run(command: &StoreCommand) -> Exit {
    let done = match command {
        StoreCommand::Check(settings) => open(settings).and_then(|dir| check::run(&dir)),
        StoreCommand::Stats { settings, json } => {
            open(settings).and_then(|dir| stats::run(&dir, *json))
        }
        StoreCommand::Export { settings, output } => {
            open(settings).and_then(|dir| export::run(&dir, output))
        }
        StoreCommand::Import { settings, input, shards } => {
            config(settings).and_then(|config| import::run(&config, input, *shards))
        }
    };
    done.unwrap_or_else(|failure| program::complain(&failure))
}

fn config(settings: &Settings) -> Result<Config, Failure> {
    program::load(settings).map(|(_, loaded)| loaded.config)
}

fn open(settings: &Settings) -> Result<DataDir, Failure> {
    let dir = DataDir::read(&config(settings)?.data_dir)?;
    dir.seed_topics();
    Ok(dir)
}

/// Prints what was asked for. A reader that has gone away is no failure.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "ringtide: warning: {text}");
}

/// What is wrong with a shard's log, in words; nothing if it is intact. The log of one shard alone
/// is never missing: all are made before anything is written to one of them.
fn faults(opened: Option<&Opened>, others: bool) -> Vec<String> {
    let Some(opened) = opened else {
        let missing = others.then_some("the log is missing, those of other shards are there");
        return missing.into_iter().map(str::to_owned).collect();
    };
    let Some(damage) = &opened.damaged else { return Vec::new() };
    let lost = damage.lost.iter();
    let mut all: Vec<String> =
        lost.map(|(first, last)| format!("records {} to {} are lost", first.0, last.0)).collect();
    if damage.unreadable_blocks > 0 {
        let blocks = damage.unreadable_blocks;
        all.push(format!("the medium did not give {blocks} blocks of 4096 bytes"));
    }
    all.extend(damage.segments.iter().map(|file| format!("{file} is damaged")));
    all
}

/// Tells of all damage; whether there is none.
fn tell_damage(dir: &DataDir, replayed: &Replayed) -> Exit {
    let others = replayed.opened.iter().flatten().any(|opened| opened.last.0 > 0);
    let mut exit = Exit::Done;
    for (shard, opened) in replayed.opened.iter().enumerate() {
        for fault in faults(opened.as_ref(), others) {
            let path = dir.log_dir(dir.manifest.generation, shard as u16);
            warn(&format!("{}: {fault}; only what is intact is shown", path.display()));
            exit = Exit::Runtime;
        }
    }
    exit
}
