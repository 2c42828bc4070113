//! The command line.

mod passwd;
mod store;
mod tune;

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};
use toml::Value;

use crate::config::{KeyPath, Sources};
use crate::exit::Failure;

pub use passwd::PasswdCommand;
pub use store::StoreCommand;
pub use tune::{Look, TuneCommand};

/// The program's name in messages.
const PROGRAM: &str = "ringtide";

/// The commands, for hints.
const COMMANDS: [&str; 7] = ["run", "check-config", "config", "passwd", "store", "tune", "version"];

/// Ringtide, an MQTT broker. Start it with `ringtide run`.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    note = "Without any file the broker listens on port 1883 with one shard per core.",
    note = "",
    note = "Settings, later ones over earlier ones: defaults, the file (--config, else",
    note = "RINGTIDE_CONFIG, else /etc/ringtide/ringtide.toml if it exists), the environment",
    note = "(RINGTIDE_SHARDS, RINGTIDE_LISTENERS_0_BIND, ...), arguments.",
    error_code(0, "ended as asked"),
    error_code(1, "something failed while running, a store is damaged, a host could be better"),
    error_code(2, "arguments, configuration or an imported file are wrong"),
    error_code(3, "the host lacks something: a free port, descriptors, a kernel feature")
)]
struct Arguments {
    /// print the version and exit
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(subcommand)]
    command: Option<Subcommand>,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
enum Subcommand {
    Run(Run),
    CheckConfig(CheckConfig),
    Config(ShowConfig),
    Passwd(passwd::Passwd),
    Store(store::Store),
    Tune(tune::Tune),
    Version(ShowVersion),
}

/// A command that takes all settings: the options are the same for each.
macro_rules! command_with_settings {
    ($name:ident: $($attribute:tt)*) => {
        #[derive(FromArgs, Debug, PartialEq, Default)]
        #[argh(subcommand, $($attribute)*)]
        struct $name {
            /// configuration file
            #[argh(option, arg_name = "FILE")]
            config: Option<PathBuf>,
            /// address and port to listen on, or a port, after ws:// for WebSocket; may be given
            /// more than once, and replaces the listeners of the configuration
            #[argh(option, arg_name = "ADDRESS")]
            listen: Vec<String>,
            /// number of shards; 0 = one per usable core
            #[argh(option, arg_name = "N")]
            shards: Option<u16>,
            /// network driver: auto, uring or epoll
            #[argh(option, arg_name = "NAME")]
            driver: Option<String>,
            /// directory of the broker's data
            #[argh(option, arg_name = "DIRECTORY")]
            data_dir: Option<String>,
            /// text or json, or a level (error, warn, info, debug, trace), or both: json:debug
            #[argh(option, arg_name = "FORMAT")]
            log: Option<String>,
        }

        impl From<$name> for Settings {
            fn from(given: $name) -> Settings {
                let $name { config, listen, shards, driver, data_dir, log } = given;
                Settings { config, listen, shards, driver, data_dir, log }
            }
        }
    };
}

command_with_settings!(Run: name = "run", description = "Start the broker.");
command_with_settings!(CheckConfig: name = "check-config",
    description = "Check the configuration and exit: 0 if it can be used, else 2.");
command_with_settings!(ShowConfig: name = "config",
    description = "Print the effective configuration, each value with where it comes from.");

/// Print the version.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "version")]
struct ShowVersion {}

/// What the program was asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start the broker.
    Run(Settings),
    /// Check the configuration.
    CheckConfig(Settings),
    /// Print the effective configuration.
    Config(Settings),
    /// Change the users of a password file.
    Passwd(PasswdCommand),
    /// Look into a data directory, or carry its contents elsewhere.
    Store(StoreCommand),
    /// Look at the host, or change it.
    Tune(TuneCommand),
    /// Print the version.
    Version,
    /// Print this text: the help that was asked for.
    Help(String),
}

/// Settings given as arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    config: Option<PathBuf>,
    listen: Vec<String>,
    shards: Option<u16>,
    driver: Option<String>,
    data_dir: Option<String>,
    log: Option<String>,
}

/// Reads the command line, without the program's name.
///
/// # Errors
/// A line that says what is wrong and what would be right.
pub fn parse(arguments: &[&str]) -> Result<Command, Failure> {
    let parsed = match Arguments::from_args(&[PROGRAM], arguments) {
        Ok(parsed) => parsed,
        Err(EarlyExit { output, status: Ok(()) }) => return Ok(Command::Help(output)),
        Err(EarlyExit { output, status: Err(()) }) => {
            return Err(Failure::usage(format!("{}{}", output.trim_end(), hint(arguments))));
        }
    };
    match parsed.command {
        _ if parsed.version => Ok(Command::Version),
        Some(Subcommand::Run(given)) => Ok(Command::Run(given.into())),
        Some(Subcommand::CheckConfig(given)) => Ok(Command::CheckConfig(given.into())),
        Some(Subcommand::Config(given)) => Ok(Command::Config(given.into())),
        Some(Subcommand::Passwd(given)) => Ok(Command::Passwd(given.into())),
        Some(Subcommand::Store(given)) => Ok(Command::Store(given.into())),
        Some(Subcommand::Tune(given)) => Ok(Command::Tune(given.into())),
        Some(Subcommand::Version(ShowVersion {})) => Ok(Command::Version),
        None => Err(Failure::usage(
            "no command given: `ringtide run` starts the broker, `ringtide --help` lists the rest",
        )),
    }
}

/// For a word that is no command: the command that was probably meant.
fn hint(arguments: &[&str]) -> String {
    let Some(word) = arguments.iter().find(|argument| !argument.starts_with('-')) else {
        return "\ntry `ringtide --help`".to_owned();
    };
    if COMMANDS.contains(word) {
        return format!("\ntry `ringtide {word} --help`");
    }
    let near = COMMANDS
        .iter()
        .map(|command| (strsim::damerau_levenshtein(word, command), command))
        .filter(|(edits, _)| *edits <= 3)
        .min();
    match near {
        Some((_, command)) => format!("\ndid you mean `ringtide {command}`?"),
        None => format!("\ncommands: {}", COMMANDS.join(", ")),
    }
}

impl Settings {
    /// Where to look for the configuration: these arguments over the process's environment and
    /// files.
    ///
    /// # Errors
    /// When `--log` is neither a format nor a level.
    pub fn sources(&self) -> Result<Sources, Failure> {
        let mut sources = Sources::of_process(self.config.clone());
        sources.arguments = self.values()?;
        sources.listen = self.listen.iter().map(|address| bind(address)).collect();
        Ok(sources)
    }

    fn values(&self) -> Result<Vec<(KeyPath, Value, &'static str)>, Failure> {
        let root = KeyPath::default();
        let text = |value: &String| Value::String(value.clone());
        let shards = self.shards.map(|count| Value::Integer(count.into()));
        let mut values = Vec::new();
        let mut add = |path: KeyPath, value: Option<Value>, name| {
            values.extend(value.map(|value| (path, value, name)));
        };
        add(root.key("shards"), shards, "--shards");
        add(root.key("driver"), self.driver.as_ref().map(text), "--driver");
        add(root.key("data_dir"), self.data_dir.as_ref().map(text), "--data-dir");
        let log = root.key("log");
        for word in self.log.iter().flat_map(|words| words.split(':')) {
            let key = match word {
                "text" | "json" => "format",
                "error" | "warn" | "info" | "debug" | "trace" => "level",
                _ => {
                    return Err(Failure::usage(format!(
                        "argument --log: `{word}` is neither a format (text, json) nor a level \
                         (error, warn, info, debug, trace)"
                    )));
                }
            };
            add(log.key(key), Some(Value::String(word.to_owned())), "--log");
        }
        Ok(values)
    }
}

/// A port alone means all addresses, as in the default listener.
fn bind(address: &str) -> String {
    if let Some((transport, rest)) = address.split_once("://") {
        return format!("{transport}://{}", bind(rest));
    }
    match address.strip_prefix(':').unwrap_or(address).parse::<u16>() {
        Ok(port) => format!("0.0.0.0:{port}"),
        Err(_) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::exit::Exit;

    #[test]
    fn every_setting_reaches_the_configuration() {
        let command = parse(&[
            "run",
            "--listen",
            "127.0.0.1:2000",
            "--listen",
            "2001",
            "--shards",
            "3",
            "--driver",
            "uring",
            "--data-dir",
            "/tmp/d",
            "--log",
            "json:debug",
            "--config",
            "/dev/null",
        ]);
        let Ok(Command::Run(settings)) = command else { panic!("{command:?}") };
        let loaded = load(&settings.sources().unwrap()).unwrap();
        let config = &loaded.config;
        let binds: Vec<String> = config.listeners.iter().map(|l| l.bind.to_string()).collect();
        assert_eq!(binds, ["127.0.0.1:2000", "0.0.0.0:2001"]);
        assert_eq!(config.shards, 3);
        assert_eq!(config.driver.name(), "uring");
        assert_eq!(config.data_dir, PathBuf::from("/tmp/d"));
        assert_eq!(format!("{:?}", config.log), "Log { format: Json, level: Debug }");
        let origin = loaded.layers.origin(&KeyPath::default().key("log").key("level"));
        assert_eq!(origin.to_string(), "argument --log");
    }

    #[test]
    fn the_other_commands_are_known() {
        assert_eq!(parse(&["version"]), Ok(Command::Version));
        assert_eq!(parse(&["--version"]), Ok(Command::Version));
        assert!(matches!(parse(&["config", "--shards", "1"]), Ok(Command::Config(_))));
        assert!(matches!(parse(&["check-config"]), Ok(Command::CheckConfig(_))));
        let check = parse(&["store", "check", "--data-dir", "d"]);
        let settings = Settings { data_dir: Some("d".into()), ..Settings::default() };
        assert_eq!(check, Ok(Command::Store(StoreCommand::Check(settings))));
        let tune = parse(&["tune", "apply", "--dry-run", "--target-connections", "1000"]);
        let look = Look {
            profile: "appliance".into(),
            connections: Some(1000),
            settings: Settings::default(),
            root: "/".into(),
        };
        assert_eq!(tune, Ok(Command::Tune(TuneCommand::Apply { look, dry_run: true })));
        let revert = TuneCommand::Revert { root: "/".into() };
        assert_eq!(parse(&["tune", "revert"]), Ok(Command::Tune(revert)));
        let Ok(Command::Help(help)) = parse(&["--help"]) else { panic!("no help") };
        assert!(help.contains("check-config") && help.contains("RINGTIDE_CONFIG"), "{help}");
    }

    #[test]
    fn mistakes_are_usage_failures_with_a_hint() {
        let text = |arguments: &[&str]| {
            let failure = parse(arguments).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            failure.text
        };
        assert!(text(&[]).contains("`ringtide run` starts the broker"));
        assert!(text(&["rnu"]).contains("did you mean `ringtide run`?"));
        assert!(text(&["frobnicate"]).contains("commands: run, check-config"));
        assert!(text(&["run", "--shard", "1"]).contains("try `ringtide run --help`"));
        assert!(text(&["store", "chekc"]).contains("try `ringtide store --help`"));
        assert!(text(&["store", "import"]).contains("--input"));
        assert!(text(&["tune", "aply"]).contains("try `ringtide tune --help`"));
        assert!(text(&["run", "--shards", "many"]).contains("shards"));
    }

    #[test]
    fn a_log_that_is_neither_format_nor_level_is_refused() {
        let Ok(Command::Run(settings)) = parse(&["run", "--log", "json:loud"]) else { panic!() };
        let failure = settings.sources().unwrap_err();
        assert!(failure.text.contains("`loud` is neither"), "{failure}");
    }

    #[test]
    fn a_port_alone_listens_everywhere() {
        assert_eq!(bind("1884"), "0.0.0.0:1884");
        assert_eq!(bind(":1884"), "0.0.0.0:1884");
        assert_eq!(bind("[::]:1884"), "[::]:1884");
        assert_eq!(bind("ws://8083"), "ws://0.0.0.0:8083");
    }
}
