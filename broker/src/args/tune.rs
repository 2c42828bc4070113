//! `ringtide tune ...`: the host that the broker runs on.

use std::path::PathBuf;

use argh::FromArgs;

use super::Settings;

/// The most connections that can be asked for.
const CONNECTIONS_MAX: u64 = 1_000_000_000;

/// Look at the host, make it as the broker wants it, and put it back.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "tune")]
pub(super) struct Tune {
    #[argh(subcommand)]
    command: Subcommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
enum Subcommand {
    Check(Check),
    Apply(Apply),
    Revert(Revert),
    Profile(Show),
}

fn connections(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(count @ 1..=CONNECTIONS_MAX) => Ok(count),
        _ => Err(format!("must be a whole number from 1 to {CONNECTIONS_MAX}")),
    }
}

/// Print one line for each thing: what was found, what is wanted, why. Changes nothing. Ends with 0
/// if all is as wanted, 1 if there is advice or something cannot be read, 3 if the host falls
/// short.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "check")]
struct Check {
    /// what is wanted: appliance (the default), source-e, or a file
    #[argh(option, arg_name = "NAME", default = "String::from(\"appliance\")")]
    profile: String,
    /// say what so many connections need, and whether the host has it
    #[argh(option, arg_name = "N", from_str_fn(connections))]
    target_connections: Option<u64>,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
    /// configuration file of the broker: shards, backlog, how sockets are held
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// folder that stands for the host's /
    #[argh(option, hidden_help, default = "PathBuf::from(\"/\")")]
    root: PathBuf,
}

/// Set what is not as wanted: live values, /etc/sysctl.d, limits for logins and for the unit. What
/// was there is saved before. Ends with 0 if all is as wanted then, 1 if something was refused, 3
/// if nothing could be changed.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "apply")]
struct Apply {
    /// what is wanted: appliance (the default), source-e, or a file
    #[argh(option, arg_name = "NAME", default = "String::from(\"appliance\")")]
    profile: String,
    /// raise what so many connections need more of
    #[argh(option, arg_name = "N", from_str_fn(connections))]
    target_connections: Option<u64>,
    /// print the exact changes and make none
    #[argh(switch)]
    dry_run: bool,
    /// configuration file of the broker: shards, backlog, how sockets are held
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// folder that stands for the host's /
    #[argh(option, hidden_help, default = "PathBuf::from(\"/\")")]
    root: PathBuf,
}

/// Put back everything as it was before the first `ringtide tune apply`.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "revert")]
struct Revert {
    /// folder that stands for the host's /
    #[argh(option, hidden_help, default = "PathBuf::from(\"/\")")]
    root: PathBuf,
}

/// Print a built-in profile, to make one's own of it.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "profile")]
struct Show {
    /// appliance (the default) or source-e
    #[argh(positional, default = "String::from(\"appliance\")")]
    name: String,
}

/// What to look at, and by what measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Name of a built-in profile, or a file.
    pub profile: String,
    /// Connections that the host is to hold.
    pub connections: Option<u64>,
    /// Names the broker's configuration.
    pub settings: Settings,
    /// What stands for the host's `/`.
    pub root: PathBuf,
}

/// What is to be done with the host.
#[derive(Clone, Debug, PartialEq)]
pub enum TuneCommand {
    /// Say how it is.
    Check {
        /// At what, and by what measure.
        look: Look,
        /// As one JSON object.
        json: bool,
    },
    /// Make it as wanted.
    Apply {
        /// At what, and by what measure.
        look: Look,
        /// Only say what would be changed.
        dry_run: bool,
    },
    /// Put it back.
    Revert {
        /// What stands for the host's `/`.
        root: PathBuf,
    },
    /// Print a built-in profile.
    Profile(String),
}

impl From<Tune> for TuneCommand {
    fn from(given: Tune) -> TuneCommand {
        let look = |profile, connections, config, root| {
            let settings = Settings { config, ..Settings::default() };
            Look { profile, connections, settings, root }
        };
        match given.command {
            Subcommand::Check(Check { profile, target_connections, json, config, root }) => {
                TuneCommand::Check { look: look(profile, target_connections, config, root), json }
            }
            Subcommand::Apply(Apply { profile, target_connections, dry_run, config, root }) => {
                let look = look(profile, target_connections, config, root);
                TuneCommand::Apply { look, dry_run }
            }
            Subcommand::Revert(Revert { root }) => TuneCommand::Revert { root },
            Subcommand::Profile(Show { name }) => TuneCommand::Profile(name),
        }
    }
}
