//! Values from several places, the later over the earlier, each with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::{Table, Value};

use super::Config;
use super::names::plain_words;
use super::path::{KeyPath, Step};

/// Where an effective value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// An argument of the command line.
    Argument(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::File { path, line } => write!(out, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(out, "environment {name}"),
            Origin::Argument(name) => write!(out, "argument {name}"),
        }
    }
}

/// What has been set so far. Keys that nobody set are absent.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    table: Table,
    origins: BTreeMap<KeyPath, Origin>,
}

impl Layers {
    /// Puts a whole file's table under everything set later. Call it first.
    pub(super) fn set_file(&mut self, table: Table, origins: BTreeMap<KeyPath, Origin>) {
        self.table = table;
        self.origins = origins;
    }

    /// Sets one value.
    ///
    /// # Errors
    /// Says what is wrong with the place (an element beyond the end of its list) or the value.
    pub(super) fn set(
        &mut self,
        path: &KeyPath,
        value: Value,
        origin: Origin,
    ) -> Result<(), String> {
        let mut changed = self.clone();
        if let Some(Step::Key(top)) = path.0.first() {
            changed.materialise(top);
        }
        place(&mut changed.table, &path.0, value)?;
        changed.origins.insert(path.clone(), origin);
        changed.resolve().map_err(|error| plain_words(&error))?;
        *self = changed;
        Ok(())
    }

    /// A list that is about to be changed in one element starts as the default list, not as an
    /// empty one.
    fn materialise(&mut self, top: &str) {
        if !self.table.contains_key(top)
            && let Some(Value::Array(items)) = Config::default().to_table().remove(top)
        {
            self.table.insert(top.to_owned(), Value::Array(items));
        }
    }

    /// The configuration that results, not yet validated.
    pub(super) fn resolve(&self) -> Result<Config, toml::de::Error> {
        let mut config: Config = Value::Table(self.table.clone()).try_into()?;
        for listener in &mut config.listeners {
            if listener.name.is_empty() {
                listener.name = listener.bind.to_string();
            }
        }
        Ok(config)
    }

    /// Starts a list of tables anew, empty.
    pub(super) fn clear_list(&mut self, name: &str) {
        let list = KeyPath::default().key(name);
        self.origins.retain(|known, _| !known.is_within(&list));
        self.table.insert(name.to_owned(), Value::Array(Vec::new()));
    }

    /// Where the value at `path` comes from.
    pub fn origin(&self, path: &KeyPath) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }
}

/// Puts `value` at the end of `steps`, making tables on the way.
fn place(table: &mut Table, steps: &[Step], value: Value) -> Result<(), String> {
    match steps {
        [Step::Key(name)] => {
            table.insert(name.clone(), value);
            Ok(())
        }
        [Step::Key(name), Step::Index(index), rest @ ..] => {
            let list = table.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Err(format!("{name} is not a list")) };
            if *index == items.len() {
                items.push(Value::Table(Table::new()));
            }
            let length = items.len();
            match items.get_mut(*index) {
                Some(Value::Table(item)) => place(item, rest, value),
                _ => Err(format!("{name} has {length} elements: the next number is {length}")),
            }
        }
        [Step::Key(name), rest @ ..] => {
            let inner = table.entry(name.as_str()).or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => place(inner, rest, value),
                _ => Err(format!("{name} is not a section")),
            }
        }
        _ => Err("an empty key".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(steps: &[&str]) -> KeyPath {
        let step = |text: &&str| match text.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Key((*text).to_owned()),
        };
        KeyPath(steps.iter().map(step).collect())
    }

    #[test]
    fn a_later_value_wins_and_its_origin_with_it() {
        let mut layers = Layers::default();
        let shards = path(&["shards"]);
        layers.set(&shards, Value::Integer(2), Origin::Environment("A".into())).unwrap();
        layers.set(&shards, Value::Integer(3), Origin::Argument("--shards")).unwrap();
        assert_eq!(layers.resolve().unwrap().shards, 3);
        assert_eq!(layers.origin(&shards), Origin::Argument("--shards"));
        assert_eq!(layers.origin(&path(&["driver"])), Origin::Default);
    }

    #[test]
    fn a_wrong_value_changes_nothing() {
        let mut layers = Layers::default();
        let driver = path(&["driver"]);
        let error = layers
            .set(&driver, Value::String("dpdk".into()), Origin::Argument("--driver"))
            .unwrap_err();
        assert!(error.contains("`uring`"), "{error}");
        assert_eq!(layers.resolve().unwrap(), {
            let mut config = Config::default();
            config.listeners[0].name = "0.0.0.0:1883".into();
            config
        });
        assert_eq!(layers.origin(&driver), Origin::Default);
    }

    #[test]
    fn changing_one_listener_keeps_the_default_one() {
        let mut layers = Layers::default();
        let bind = Value::String("127.0.0.1:2000".into());
        let origin = Origin::Environment("X".into());
        layers.set(&path(&["listeners", "1", "bind"]), bind.clone(), origin.clone()).unwrap();
        let config = layers.resolve().unwrap();
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.listeners[0].bind.to_string(), "0.0.0.0:1883");
        assert_eq!(config.listeners[1].bind.port(), Some(2000));
        let error = layers.set(&path(&["listeners", "5", "bind"]), bind, origin).unwrap_err();
        assert!(error.contains("the next number is 2"), "{error}");
    }

    #[test]
    fn a_cleared_list_starts_empty() {
        let mut layers = Layers::default();
        let bind = path(&["listeners", "0", "bind"]);
        let backlog = path(&["listeners", "0", "backlog"]);
        layers.set(&backlog, Value::Integer(7), Origin::Environment("X".into())).unwrap();
        layers.clear_list("listeners");
        let value = Value::String("127.0.0.1:1".into());
        layers.set(&bind, value, Origin::Argument("--listen")).unwrap();
        assert_eq!(layers.origin(&bind), Origin::Argument("--listen"));
        assert_eq!(layers.origin(&backlog), Origin::Default);
        assert_ne!(layers.resolve().unwrap().listeners[0].backlog, 7);
    }
}
