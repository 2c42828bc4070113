//! The configuration file: TOML, every key known, every problem with its line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::Config;
use super::layers::{Layers, Origin};
use super::load::Problem;
use super::names::{element, plain_words, suggestion};
use super::path::KeyPath;

/// Adds the text of a file to the layers.
///
/// # Errors
/// All unknown keys, or the first mistake of syntax or type, each with its line.
pub(super) fn apply(layers: &mut Layers, text: &str, path: &Path) -> Result<(), Vec<Problem>> {
    let fail = |error: toml::de::Error| vec![located(text, path, &error)];
    let parsed = DeTable::parse(text).map_err(fail)?;
    let mut walk = Walk { text, path, origins: BTreeMap::new(), problems: Vec::new() };
    let schema = Config::schema();
    walk.table(parsed.get_ref(), &schema, &KeyPath::default(), &schema);
    if !walk.problems.is_empty() {
        return Err(walk.problems);
    }
    toml::from_str::<Config>(text).map_err(fail)?;
    let table = toml::from_str::<Table>(text).map_err(fail)?;
    layers.set_file(table, walk.origins);
    Ok(())
}

/// One pass over the file beside the schema.
struct Walk<'a> {
    text: &'a str,
    path: &'a Path,
    origins: BTreeMap<KeyPath, Origin>,
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn table(&mut self, given: &DeTable<'_>, known: &Table, at: &KeyPath, schema: &Table) {
        for (key, value) in given {
            let name = key.get_ref().as_ref();
            let line = line_of(self.text, key.span().start);
            let here = at.key(name);
            match known.get(name) {
                Some(expected) if element(expected).is_some() => {
                    self.inner(value, expected, &here, schema);
                }
                Some(_) => {
                    let origin = Origin::File { path: self.path.to_owned(), line };
                    self.origins.insert(here, origin);
                }
                None => self.problems.push(Problem {
                    place: format!("{}:{line}", self.path.display()),
                    text: format!("unknown key `{here}`: {}", suggestion(name, known, schema)),
                }),
            }
        }
    }

    /// Enters tables and lists of tables; a value of another type is left to the deserialiser,
    /// which says what it expected.
    fn inner(&mut self, given: &Spanned<DeValue<'_>>, known: &Value, at: &KeyPath, schema: &Table) {
        let Some(inner) = element(known) else { return };
        match given.get_ref() {
            DeValue::Table(table) if known.is_table() => self.table(table, inner, at, schema),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(table) = item.get_ref() {
                        self.table(table, inner, &at.index(index), schema);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A mistake found by the TOML parser or by serde, with its line.
fn located(text: &str, path: &Path, error: &toml::de::Error) -> Problem {
    let place = match error.span() {
        Some(span) => format!("{}:{}", path.display(), line_of(text, span.start)),
        None => path.display().to_string(),
    };
    Problem { place, text: plain_words(error) }
}

/// The line of a byte offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut layers = Layers::default();
        apply(&mut layers, text, Path::new("r.toml"))
            .expect_err("a problem")
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_unknown_key_is_named_with_line_and_nearest_name() {
        assert_eq!(
            problems("shards = 2\n\n[limits]\nreceive_maximum = 9\nmax_paket_bytes = 1\n"),
            ["r.toml:5: unknown key `limits.max_paket_bytes`: did you mean `max_packet_bytes`?"]
        );
    }

    #[test]
    fn every_unknown_key_is_reported_at_once() {
        let found = problems("shard = 2\n[[listeners]]\nbind = \"0.0.0.0:1\"\nbaklog = 2\n");
        assert_eq!(
            found,
            [
                "r.toml:1: unknown key `shard`: did you mean `shards`?",
                "r.toml:4: unknown key `listeners[0].baklog`: did you mean `backlog`?",
            ]
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let found = problems("\nshards = \"two\"\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("r.toml:2: invalid type: string \"two\""), "{found:?}");
        assert!(found[0].ends_with("expected a whole number from 0 to 65535"), "{found:?}");
        let found = problems("limits = 7\n");
        assert!(found[0].ends_with("expected a section"), "{found:?}");
        let found = problems("[access]\nallow_anonymous = 1\n");
        assert!(found[0].ends_with("expected true or false"), "{found:?}");
        let found = problems("[limits]\nreceive_maximum = 70000\n");
        assert!(found[0].starts_with("r.toml:2: invalid value: integer `70000`"), "{found:?}");
        let found = problems("[limits]\nqueue_policy = \"drop\"\n");
        assert!(found[0].contains("drop_oldest"), "{found:?}");
    }

    #[test]
    fn broken_syntax_is_named_with_its_line() {
        let found = problems("shards = 1\n[limits\n");
        assert!(found[0].starts_with("r.toml:2: "), "{found:?}");
    }

    #[test]
    fn origins_have_lines() {
        let mut layers = Layers::default();
        let text = "[limits]\n\nreceive_maximum = 7\n[[listeners]]\nbind = \"0.0.0.0:1\"\n";
        apply(&mut layers, text, Path::new("r.toml")).unwrap();
        let limits = KeyPath::default().key("limits");
        let line = |path: &KeyPath| layers.origin(path).to_string();
        assert_eq!(line(&limits.key("receive_maximum")), "r.toml:3");
        let listener = KeyPath::default().key("listeners").index(0);
        assert_eq!(line(&listener.key("bind")), "r.toml:5");
    }
}
