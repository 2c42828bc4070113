//! `ringtide store ...`: commands on a data directory that no broker uses.

use std::path::PathBuf;

use argh::FromArgs;

use super::Settings;

/// Look into a data directory that no broker uses, or carry its contents elsewhere.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "store")]
pub(super) struct Store {
    #[argh(subcommand)]
    command: Subcommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
enum Subcommand {
    Check(Check),
    Stats(Stats),
    Export(Export),
    Import(Import),
}

/// Read everything, change nothing, and say what is there: 0 if it is intact, 1 if it is damaged,
/// 3 if it cannot be read.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "check")]
struct Check {
    /// directory of the broker's data
    #[argh(option, arg_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// configuration file that names the directory
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
}

/// Print what the store holds.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "stats")]
struct Stats {
    /// directory of the broker's data
    #[argh(option, arg_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// configuration file that names the directory
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

/// Write everything that the store holds as lines of JSON.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "export")]
struct Export {
    /// directory of the broker's data
    #[argh(option, arg_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// configuration file that names the directory
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// file to write, replaced when all is written; default: - (standard output)
    #[argh(option, arg_name = "FILE", default = "PathBuf::from(\"-\")")]
    output: PathBuf,
}

/// Make a store from what `ringtide store export` has written.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "import")]
struct Import {
    /// directory of the broker's data: one that has no store
    #[argh(option, arg_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// configuration file that names the directory
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// file to read
    #[argh(option, arg_name = "FILE")]
    input: PathBuf,
    /// number of shards to deal out to; default: that of the exported store
    #[argh(option, arg_name = "N")]
    shards: Option<u16>,
}

/// What is to be done with a store.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreCommand {
    /// Verify it.
    Check(Settings),
    /// Say what it holds.
    Stats {
        /// Names the directory.
        settings: Settings,
        /// As one JSON object.
        json: bool,
    },
    /// Write it as lines of JSON.
    Export {
        /// Names the directory.
        settings: Settings,
        /// The file; `-` is the standard output.
        output: PathBuf,
    },
    /// Make one from such lines.
    Import {
        /// Names the directory.
        settings: Settings,
        /// The file.
        input: PathBuf,
        /// Shards; `None` = as many as were exported.
        shards: Option<u16>,
    },
}

impl From<Store> for StoreCommand {
    fn from(given: Store) -> StoreCommand {
        let settings = |config, data_dir| Settings { config, data_dir, ..Settings::default() };
        match given.command {
            Subcommand::Check(Check { data_dir, config }) => {
                StoreCommand::Check(settings(config, data_dir))
            }
            Subcommand::Stats(Stats { data_dir, config, json }) => {
                StoreCommand::Stats { settings: settings(config, data_dir), json }
            }
            Subcommand::Export(Export { data_dir, config, output }) => {
                StoreCommand::Export { settings: settings(config, data_dir), output }
            }
            Subcommand::Import(Import { data_dir, config, input, shards }) => {
                StoreCommand::Import { settings: settings(config, data_dir), input, shards }
            }
        }
    }
}
