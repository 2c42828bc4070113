//! The environment: `RINGTIDE_SHARDS`, `RINGTIDE_LISTENERS_0_BIND`.
//!
//! A variable names a key in capitals, its sections and list numbers joined by `_`. Lists of plain
//! values are separated by commas. A variable that begins with `RINGTIDE_` and names no key is a
//! warning, not an error: container platforms set such variables by themselves
//! (`RINGTIDE_SERVICE_HOST` for a service called ringtide).

use toml::{Table, Value};

use super::Config;
use super::layers::{Layers, Origin};
use super::load::Problem;
use super::names::{element, nearest};
use super::path::{KeyPath, flatten};

/// What every variable begins with.
const PREFIX: &str = "RINGTIDE_";

/// Names the configuration file; not a key of it.
pub(super) const CONFIG_VARIABLE: &str = "RINGTIDE_CONFIG";

/// Switches of the test suite; no keys either.
const TEST_PREFIX: &str = "RINGTIDE_TEST_";

/// Adds the variables that name a key to the layers; returns warnings about those that do not.
///
/// # Errors
/// One problem for each value that does not fit its key.
pub(super) fn apply(
    layers: &mut Layers,
    variables: &[(String, String)],
) -> Result<Vec<String>, Vec<Problem>> {
    let schema = Config::schema();
    let mut known = Vec::new();
    let mut warnings = Vec::new();
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if name == CONFIG_VARIABLE || name.starts_with(TEST_PREFIX) {
            continue;
        }
        match find(rest, &schema, &KeyPath::default()) {
            Some((path, example)) => known.push((path, example, name, text)),
            None => warnings.push(unknown(name, rest, &schema)),
        }
    }
    // Elements of lists are set in their order, whatever order the variables came in.
    known.sort_by(|one, other| one.0.cmp(&other.0));
    let mut problems = Vec::new();
    for (path, example, name, text) in known {
        let set = value(text, &example)
            .and_then(|value| layers.set(&path, value, Origin::Environment(name.clone())));
        if let Err(reason) = set {
            problems.push(Problem {
                place: format!("environment {name}"),
                text: format!("`{text}` for `{path}`: {reason}"),
            });
        }
    }
    if problems.is_empty() { Ok(warnings) } else { Err(problems) }
}

/// The key that `rest` names below `table`, with a value of its type.
fn find(rest: &str, table: &Table, at: &KeyPath) -> Option<(KeyPath, Value)> {
    table.iter().find_map(|(name, known)| {
        let after = rest.strip_prefix(name.to_ascii_uppercase().as_str())?;
        let here = at.key(name);
        match (element(known), after.strip_prefix('_')) {
            (None, _) => after.is_empty().then(|| (here, known.clone())),
            (Some(inner), Some(after)) if known.is_table() => find(after, inner, &here),
            (Some(inner), Some(after)) => {
                let (index, after) = after.split_once('_')?;
                find(after, inner, &here.index(index.parse().ok()?))
            }
            (Some(_), None) => None,
        }
    })
}

/// Reads a variable's text as a value of the type of `example`.
fn value(text: &str, example: &Value) -> Result<Value, String> {
    match example {
        Value::Integer(_) => text
            .replace('_', "")
            .parse()
            .map(Value::Integer)
            .map_err(|_| "a whole number is expected".to_owned()),
        Value::Boolean(_) => match text {
            "true" => Ok(Value::Boolean(true)),
            "false" => Ok(Value::Boolean(false)),
            _ => Err("true or false is expected".to_owned()),
        },
        Value::Array(_) => Ok(Value::Array(
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(item).collect(),
        )),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// An element of a list of plain values: a whole number if it reads as one. `3.1` stays a string,
/// as the protocol versions want it.
fn item(text: &str) -> Value {
    text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
}

fn unknown(name: &str, rest: &str, schema: &Table) -> String {
    let variables: Vec<String> = flatten(schema)
        .iter()
        .map(|(path, _)| path.to_string().replace("[0]", ".0").replace('.', "_").to_uppercase())
        .collect();
    match nearest(rest, variables.iter().map(String::as_str)) {
        Some(near) => {
            format!("environment {name} names no key: did you mean {PREFIX}{near}?")
        }
        None => format!("environment {name} names no key and is ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), Vec<String>> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut layers = Layers::default();
        match apply(&mut layers, &variables) {
            Ok(warnings) => Ok((layers.resolve().unwrap(), warnings)),
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn sections_lists_and_plain_keys_are_found() {
        let (config, warnings) = with(&[
            ("RINGTIDE_SHARDS", "3"),
            ("RINGTIDE_CPUS", "0, 2,4"),
            ("RINGTIDE_LIMITS_MAX_PACKET_BYTES", "1_000_000"),
            ("RINGTIDE_ACCESS_ALLOW_ANONYMOUS", "false"),
            ("RINGTIDE_LISTENERS_1_BIND", "127.0.0.1:2001"),
            ("RINGTIDE_LISTENERS_0_BIND", "127.0.0.1:2000"),
            ("RINGTIDE_LISTENERS_0_VERSIONS", "3.1.1,5.0"),
            ("RINGTIDE_SHARED_STRATEGY", "sticky"),
            ("RINGTIDE_SHARED_GROUPS_0_NAME", "g"),
            ("RINGTIDE_CONFIG", "/dev/null"),
            ("RINGTIDE_TEST_SEED", "1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(config.shards, 3);
        assert_eq!(config.cpus, [0, 2, 4]);
        assert_eq!(config.limits.max_packet_bytes, 1_000_000);
        assert!(!config.access.allow_anonymous);
        let binds: Vec<String> = config.listeners.iter().map(|l| l.bind.to_string()).collect();
        assert_eq!(binds, ["127.0.0.1:2000", "127.0.0.1:2001"]);
        assert_eq!(config.listeners[0].versions.len(), 2);
        assert_eq!(config.shared.strategy.name(), "sticky");
        assert_eq!(config.shared.groups[0].name, "g");
    }

    #[test]
    fn values_that_do_not_fit_are_refused_by_name() {
        let problems = with(&[
            ("RINGTIDE_SHARDS", "many"),
            ("RINGTIDE_DRIVER", "dpdk"),
            ("RINGTIDE_ACCESS_ALLOW_ANONYMOUS", "yes"),
            ("RINGTIDE_LIMITS_RECEIVE_MAXIMUM", "65536"),
            ("RINGTIDE_LISTENERS_4_BIND", "127.0.0.1:1"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 5);
        let all = problems.join("\n");
        assert!(all.contains("environment RINGTIDE_SHARDS: `many` for `shards`"), "{all}");
        assert!(all.contains("unknown variant `dpdk`"), "{all}");
        assert!(all.contains("true or false"), "{all}");
        assert!(all.contains("expected a whole number from 0 to 65535"), "{all}");
        assert!(all.contains("the next number is 1"), "{all}");
    }

    #[test]
    fn variables_that_name_no_key_are_warned_of_with_the_nearest() {
        let (_, warnings) = with(&[
            ("RINGTIDE_LIMIT_MAX_PACKET_BYTES", "1"),
            ("RINGTIDE_SERVICE_HOST", "10.0.0.1"),
            ("RINGTIDE_LISTENERS_BIND", "127.0.0.1:1"),
        ])
        .unwrap();
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].contains("did you mean RINGTIDE_LIMITS_MAX_PACKET_BYTES?"));
        assert!(warnings[1].contains("RINGTIDE_SERVICE_HOST names no key"));
        assert!(warnings[2].contains("RINGTIDE_LISTENERS_0_BIND"), "{}", warnings[2]);
    }
}
