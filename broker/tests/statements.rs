//! Every duty that the MQTT standard lays on a server stands beside the code that meets it.
//!
//! `server_statements.tsv` lists the duties. A line `//= [MQTT-x.y.z-n]` (MQTT 5.0) or
//! `//= 3.1.1 [MQTT-x.y.z-n]` in a crate's production source says that the code below it meets
//! one. A duty without such a line fails, unless `statement_exceptions.txt` gives the reason; so
//! do a line and an exception that name no duty, and an exception that is no longer needed.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Version of the standard and id: ids of the two versions overlap.
type Statement = (String, String);

#[test]
fn every_server_duty_is_met_or_has_its_reason() {
    let duties = duties();
    let (met, mut wrong) = annotations(&duties);
    let exceptions = exceptions(&duties, &mut wrong);
    for statement in exceptions.intersection(&met) {
        let (version, id) = statement;
        wrong.push(format!("statement_exceptions.txt: {version} {id} is met by code now"));
    }
    let missing: Vec<String> = duties
        .iter()
        .filter(|(statement, _)| !met.contains(statement) && !exceptions.contains(statement))
        .map(|((version, id), duty)| format!("{version}\t{id}\t{duty}"))
        .collect();
    if !missing.is_empty() {
        let (count, all) = (missing.len(), duties.len());
        wrong.push(format!("{count} of {all} duties without code:\n{}", missing.join("\n")));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn duties() -> BTreeMap<Statement, String> {
    let text = fs::read_to_string(root().join("broker/tests/server_statements.tsv")).unwrap();
    let duties: BTreeMap<_, _> = text
        .lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.splitn(3, '\t').map(str::to_owned);
            let id = fields.next().unwrap();
            let (version, duty) = (fields.next().unwrap(), fields.next().unwrap());
            ((version, id), duty)
        })
        .collect();
    assert!(duties.len() > 300, "the table of duties is not whole");
    duties
}

/// The statements that production code says it meets, and lines that name none.
fn annotations(duties: &BTreeMap<Statement, String>) -> (BTreeSet<Statement>, Vec<String>) {
    let mut files = Vec::new();
    for folder in ["broker", "storage"] {
        walk(&root().join(folder), &mut files);
    }
    let mut met = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(root()).unwrap().display().to_string();
        for (number, line) in text.lines().enumerate() {
            let Some(named) = line.trim_start().strip_prefix("//=") else { continue };
            match annotation(named) {
                Some(statements) => {
                    for statement in statements {
                        if !duties.contains_key(&statement) {
                            let (version, id) = &statement;
                            let line = number + 1;
                            wrong.push(format!("{place}:{line}: no duty {version} {id}"));
                        }
                        met.insert(statement);
                    }
                }
                None => wrong.push(format!("{place}:{}: cannot be read:{named}", number + 1)),
            }
        }
    }
    (met, wrong)
}

/// Reads what follows `//=`: an optional version, then ids in brackets.
fn annotation(text: &str) -> Option<Vec<Statement>> {
    let text = text.trim();
    let (version, ids) = match text.strip_prefix("3.1.1") {
        Some(rest) => ("3.1.1", rest),
        None => ("5.0", text.strip_prefix("5.0").unwrap_or(text)),
    };
    let statements: Option<Vec<Statement>> = ids
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(|word| {
            let id = word.strip_prefix('[')?.strip_suffix(']')?;
            Some((version.to_owned(), id.to_owned()))
        })
        .collect();
    statements.filter(|statements| !statements.is_empty())
}

/// Production sources: `src` folders, without the files of unit tests.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let tests = ["tests", "benches", "fuzz", "sim", "target", "node_modules"];
        if path.is_dir() && !tests.contains(&name.as_str()) {
            walk(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            files.push(path);
        }
    }
}

/// Lines `VERSION ID REASON`.
fn exceptions(
    duties: &BTreeMap<Statement, String>,
    wrong: &mut Vec<String>,
) -> BTreeSet<Statement> {
    let text = fs::read_to_string(root().join("broker/tests/statement_exceptions.txt")).unwrap();
    let mut exceptions = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let statement = (words.next().unwrap(), words.next().unwrap_or_default());
        let reason = words.next().unwrap_or_default();
        if !duties.contains_key(&statement) {
            wrong.push(format!("statement_exceptions.txt: `{line}` names no duty"));
        }
        if reason.trim().len() < 10 {
            wrong.push(format!("statement_exceptions.txt: `{line}` gives no reason"));
        }
        exceptions.insert(statement);
    }
    exceptions
}

#[test]
fn annotations_are_read_in_every_form() {
    let one = |version: &str, id: &str| (version.to_owned(), id.to_owned());
    let read = |text| annotation(text).unwrap();
    assert_eq!(read(" [MQTT-1.5.4-1]"), [one("5.0", "MQTT-1.5.4-1")]);
    assert_eq!(read(" 3.1.1 [MQTT-1.5.3-1]"), [one("3.1.1", "MQTT-1.5.3-1")]);
    let both = [one("5.0", "MQTT-3.1.0-1"), one("5.0", "MQTT-3.1.0-2")];
    assert_eq!(read(" [MQTT-3.1.0-1], [MQTT-3.1.0-2]"), both);
    assert_eq!(annotation(" MQTT-3.1.0-1"), None);
    assert_eq!(annotation(" 3.1.1"), None);
    assert_eq!(annotation(""), None);
}
