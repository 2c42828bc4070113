//! Names that do not exist, and what was probably meant.

use toml::{Table, Value};

use super::path::{KeyPath, flatten};

/// What to say after "unknown key NAME": the nearest name that exists in `table`, the same name in
/// another section of `schema`, or, when nothing is near, the names that exist here.
pub(super) fn suggestion(name: &str, table: &Table, schema: &Table) -> String {
    if let Some(near) = nearest(name, table.keys().map(String::as_str)) {
        return format!("did you mean `{near}`?");
    }
    if let Some(path) = elsewhere(name, schema) {
        return format!("did you mean `{path}`?");
    }
    let known: Vec<&str> = table.keys().map(String::as_str).collect();
    format!("known here: {}", known.join(", "))
}

/// What is wrong with a value, in the words of the documentation instead of Rust's types.
pub(super) fn plain_words(error: &toml::de::Error) -> String {
    let text = error.message().trim().replace('\n', ", ");
    let Some((found, expected)) = text.rsplit_once(", expected ") else { return text };
    let number = |max: u64| format!("a whole number from 0 to {max}");
    let expected = match expected {
        "u8" => number(u8::MAX.into()),
        "u16" => number(u16::MAX.into()),
        "u32" => number(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "path string" => "a string, the path of a file or directory".to_owned(),
        other => match other.split_once(' ') {
            Some(("struct", _)) => "a section".to_owned(),
            _ => return text,
        },
    };
    format!("{found}, expected {expected}")
}

/// The candidate with the fewest edits to `name`, if that is few enough to be a slip.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two names; words left out at the end or the start cost one.
fn distance(name: &str, candidate: &str) -> usize {
    let (name, candidate) = (name.to_ascii_lowercase(), candidate.to_ascii_lowercase());
    let part = name.len() >= 4
        && (candidate.starts_with(&name)
            || candidate.ends_with(&name)
            || name.starts_with(&candidate));
    if part { 1 } else { strsim::damerau_levenshtein(&name, &candidate) }
}

/// The path of a key of another section that has (nearly) this name.
fn elsewhere(name: &str, schema: &Table) -> Option<String> {
    let paths: Vec<KeyPath> = flatten(schema).into_iter().map(|(path, _)| path).collect();
    let last = |path: &KeyPath| path.to_string().rsplit('.').next().unwrap_or_default().to_owned();
    let lasts: Vec<String> = paths.iter().map(last).collect();
    let near = nearest(name, lasts.iter().map(String::as_str))?;
    let position = lasts.iter().position(|last| last == near)?;
    Some(paths.get(position)?.to_string().replace("[0]", "[]"))
}

/// The table in which the keys of `value` are looked up: itself, or the first element of a list of
/// tables.
pub(super) fn element(value: &Value) -> Option<&Table> {
    match value {
        Value::Table(table) => Some(table),
        Value::Array(items) => items.first().and_then(Value::as_table),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let schema = Config::schema();
        let limits = element(&schema["limits"]).unwrap();
        assert_eq!(
            suggestion("max_paket_bytes", limits, &schema),
            "did you mean `max_packet_bytes`?"
        );
        assert_eq!(
            suggestion("keep_alive_max", limits, &schema),
            "did you mean `keep_alive_max_s`?"
        );
    }

    #[test]
    fn a_name_of_another_section_is_pointed_to() {
        let schema = Config::schema();
        assert_eq!(
            suggestion("max_packet_bytes", &schema, &schema),
            "did you mean `limits.max_packet_bytes`?"
        );
        assert_eq!(suggestion("bind", &schema, &schema), "did you mean `listeners[].bind`?");
    }

    #[test]
    fn nothing_near_lists_what_exists() {
        let schema = Config::schema();
        let log = element(&schema["log"]).unwrap();
        assert_eq!(suggestion("zzzzzzzz", log, &schema), "known here: format, level");
    }
}
