//! Puts the layers together.

use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::{self, CONFIG_VARIABLE};
use super::layers::{Layers, Origin};
use super::names::plain_words;
use super::path::KeyPath;
use super::validate::validate;
use super::{Config, file};

/// Read if no file is named and this one is there.
pub(super) const SYSTEM_FILE: &str = "/etc/ringtide/ringtide.toml";

/// One thing that is wrong, with the place where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE`, `environment NAME`, `argument NAME`.
    pub place: String,
    /// What is wrong and, where it is known, what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.text)
    }
}

/// A configuration that cannot be used. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(out, "{problem}{end}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file named by `--config`.
    pub file: Option<PathBuf>,
    /// Read when no file is named and it exists; `None` = none.
    pub fallback_file: Option<PathBuf>,
    /// The environment, all of it.
    pub environment: Vec<(String, String)>,
    /// Values from the arguments: key, value, the argument's name.
    pub arguments: Vec<(KeyPath, toml::Value, &'static str)>,
    /// Addresses from `--listen`, each with its transport before it (`ws://`) if that is not TCP;
    /// they replace all other listeners.
    pub listen: Vec<String>,
}

impl Sources {
    /// The process's environment and the system's file; no arguments.
    pub fn of_process(file: Option<PathBuf>) -> Sources {
        let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
        Sources {
            file,
            fallback_file: Some(PathBuf::from(SYSTEM_FILE)),
            environment: std::env::vars_os().map(|(n, v)| (text(n), text(v))).collect(),
            ..Sources::default()
        }
    }

    /// The file to read: named by argument, then by variable, then the system's if it exists.
    fn file(&self) -> Option<PathBuf> {
        let variable = || {
            let named = self.environment.iter().find(|(name, _)| name == CONFIG_VARIABLE);
            named.filter(|(_, path)| !path.is_empty()).map(|(_, path)| PathBuf::from(path))
        };
        let fallback = || self.fallback_file.clone().filter(|path| path.exists());
        self.file.clone().or_else(variable).or_else(fallback)
    }
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective values.
    pub config: Config,
    /// Where each comes from.
    pub layers: Layers,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What should be told, but keeps nothing from working.
    pub warnings: Vec<String>,
}

/// Reads all layers and validates the result.
///
/// # Errors
/// Everything wrong with the first layer that has something wrong.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    let file = sources.file();
    if let Some(path) = &file {
        let text = read(path)?;
        file::apply(&mut layers, &text, path).map_err(ConfigError)?;
    }
    let warnings = environment::apply(&mut layers, &sources.environment).map_err(ConfigError)?;
    arguments(&mut layers, sources).map_err(ConfigError)?;
    let config = layers.resolve().map_err(|error| {
        let text = plain_words(&error);
        ConfigError(vec![Problem { place: "configuration".into(), text }])
    })?;
    let problems = validate(&config, &layers);
    if problems.is_empty() {
        Ok(Loaded { config, layers, file, warnings })
    } else {
        Err(ConfigError(problems))
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        let place = path.display().to_string();
        ConfigError(vec![Problem { place, text: format!("cannot be read: {error}") }])
    })
}

fn arguments(layers: &mut Layers, sources: &Sources) -> Result<(), Vec<Problem>> {
    let refused = |name: &str, value: &toml::Value, reason: String| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![Problem { place: format!("argument {name}"), text: format!("`{value}`: {reason}") }]
    };
    for (path, value, name) in &sources.arguments {
        layers
            .set(path, value.clone(), Origin::Argument(name))
            .map_err(|reason| refused(name, value, reason))?;
    }
    if !sources.listen.is_empty() {
        layers.clear_list("listeners");
    }
    for (index, address) in sources.listen.iter().enumerate() {
        let at = KeyPath::default().key("listeners").index(index);
        let (transport, bind) = match address.split_once("://") {
            Some((transport, bind)) => (Some(transport), bind),
            None => (None, address.as_str()),
        };
        let text = |value: &str| toml::Value::String(value.to_owned());
        for (key, value) in [("bind", Some(bind)), ("transport", transport)] {
            let Some(value) = value else { continue };
            layers
                .set(&at.key(key), text(value), Origin::Argument("--listen"))
                .map_err(|reason| refused("--listen", &text(address), reason))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Transport;

    /// A file of this test's own, removed when the guard goes.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, text: &str) -> Scratch {
            let name = format!("ringtide-load-{}-{name}.toml", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn nothing_at_all_gives_the_defaults() {
        let loaded = load(&Sources::default()).unwrap();
        assert_eq!(loaded.config.limits, crate::config::Limits::default());
        assert_eq!(loaded.config.listeners[0].bind.to_string(), "0.0.0.0:1883");
        assert_eq!(loaded.file, None);
    }

    #[test]
    fn arguments_beat_the_environment_beats_the_file_beats_the_defaults() {
        let file =
            Scratch::new("order", "shards = 1\nsys_interval_s = 1\nshutdown_timeout_s = 1\n");
        let shards = KeyPath::default().key("shards");
        let loaded = load(&Sources {
            file: Some(file.0.clone()),
            environment: environment(&[("RINGTIDE_SHARDS", "2"), ("RINGTIDE_SYS_INTERVAL_S", "2")]),
            arguments: vec![(shards.clone(), toml::Value::Integer(3), "--shards")],
            ..Sources::default()
        })
        .unwrap();
        let config = &loaded.config;
        assert_eq!((config.shards, config.sys_interval_s, config.shutdown_timeout_s), (3, 2, 1));
        let origin = |key: &str| loaded.layers.origin(&KeyPath::default().key(key)).to_string();
        assert_eq!(origin("shards"), "argument --shards");
        assert_eq!(origin("sys_interval_s"), "environment RINGTIDE_SYS_INTERVAL_S");
        assert_eq!(origin("shutdown_timeout_s"), format!("{}:3", file.0.display()));
        assert_eq!(origin("driver"), "default");
    }

    #[test]
    fn the_file_may_be_named_by_a_variable_or_found() {
        let named = Scratch::new("named", "shards = 4\n");
        let found = Scratch::new("found", "shards = 5\n");
        let path = named.0.to_string_lossy().into_owned();
        let mut sources = Sources {
            fallback_file: Some(found.0.clone()),
            environment: environment(&[("RINGTIDE_CONFIG", &path)]),
            ..Sources::default()
        };
        assert_eq!(load(&sources).unwrap().config.shards, 4);
        sources.environment.clear();
        assert_eq!(load(&sources).unwrap().config.shards, 5);
        sources.fallback_file = Some(PathBuf::from("/nonexistent/ringtide.toml"));
        assert_eq!(load(&sources).unwrap().config.shards, 0);
    }

    #[test]
    fn a_named_file_that_cannot_be_read_is_refused() {
        let file = Some(PathBuf::from("/nonexistent/ringtide.toml"));
        let error = load(&Sources { file, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/ringtide.toml: cannot be read"), "{error}");
    }

    #[test]
    fn listen_replaces_all_listeners() {
        let file = Scratch::new(
            "listen",
            "[[listeners]]\nbind = \"127.0.0.1:1\"\n[[listeners]]\nbind = \"127.0.0.1:2\"\n",
        );
        let listen = vec!["127.0.0.1:3".to_owned()];
        let sources = Sources { file: Some(file.0.clone()), listen, ..Sources::default() };
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.config.listeners.len(), 1);
        assert_eq!(loaded.config.listeners[0].bind.to_string(), "127.0.0.1:3");
        let listen = vec!["ws://127.0.0.1:4".to_owned(), "tcp://127.0.0.1:5".to_owned()];
        let loaded = load(&Sources { listen, ..Sources::default() }).unwrap();
        let transports: Vec<_> = loaded.config.listeners.iter().map(|l| l.transport).collect();
        assert_eq!(transports, [Transport::Ws, Transport::Tcp]);
        let error = load(&Sources { listen: vec!["x://127.0.0.1:4".into()], ..Sources::default() });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`x://127.0.0.1:4`: unknown variant `x`"), "{error}");
        let error = load(&Sources { listen: vec!["here".into()], ..Sources::default() });
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("argument --listen: `here`"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_says_where_it_was_written() {
        let file = Scratch::new("range", "[limits]\nreceive_maximum = 0\n");
        let error = load(&Sources { file: Some(file.0.clone()), ..Sources::default() });
        assert_eq!(
            error.unwrap_err().to_string(),
            format!("{}:2: `limits.receive_maximum` is 0, must be 1 to 65535", file.0.display())
        );
    }
}
