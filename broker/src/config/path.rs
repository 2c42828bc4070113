//! The path of a key: `limits.max_packet_bytes`, `listeners[0].bind`.

use std::fmt;

use toml::Value;

/// One step of a [`KeyPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of a list of tables, from 0.
    Index(usize),
}

/// Where a value stands in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(pub Vec<Step>);

impl KeyPath {
    /// The path of a key of this table.
    pub fn key(&self, name: &str) -> KeyPath {
        self.then(Step::Key(name.to_owned()))
    }

    /// The path of an element of this list.
    pub fn index(&self, index: usize) -> KeyPath {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(step);
        KeyPath(steps)
    }

    /// True if this is `other` or lies below it.
    pub fn is_within(&self, other: &KeyPath) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if position == 0 => out.write_str(name)?,
                Step::Key(name) => write!(out, ".{name}")?,
                Step::Index(index) => write!(out, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// All values of a table with their paths, in the table's order. Lists of tables are entered,
/// other lists are values.
pub fn flatten(table: &toml::Table) -> Vec<(KeyPath, Value)> {
    let mut leaves = Vec::new();
    for (name, value) in table {
        flatten_value(&KeyPath::default().key(name), value, &mut leaves);
    }
    leaves
}

fn flatten_value(path: &KeyPath, value: &Value, leaves: &mut Vec<(KeyPath, Value)>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                flatten_value(&path.key(name), value, leaves);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                flatten_value(&path.index(index), item, leaves);
            }
        }
        _ => leaves.push((path.clone(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_people_write_them() {
        let path = KeyPath::default().key("listeners").index(2).key("bind");
        assert_eq!(path.to_string(), "listeners[2].bind");
        assert!(path.is_within(&KeyPath::default().key("listeners")));
        assert!(!path.is_within(&KeyPath::default().key("limits")));
    }

    #[test]
    fn lists_of_tables_are_entered_and_other_lists_are_values() {
        let table: toml::Table = toml::from_str("a = [1, 2]\n[[b]]\nc = 3\n").unwrap();
        let leaves: Vec<String> =
            flatten(&table).iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(leaves, ["a", "b[0].c"]);
    }
}
