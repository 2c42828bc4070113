//! `ringtide store check`: reads every record of every log and says what is there.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use ringtide_shard::message::View;
use ringtide_storage::log::{OpenError, Opened, inspect};
use ringtide_storage::record::{
    CheckpointEndRecord, ConnectionRecord, ExchangeRecord, MessageHead, QueueRecord, RecordError,
    SessionEndRecord, SessionRecord, SubscriptionRecord, VoidRecord, WatermarkRecord,
};
use ringtide_storage::{Lsn, RecordKind};

use super::{faults, print};
use crate::datadir::DataDir;
use crate::exit::{Exit, Failure};
use crate::replay::in_parallel;

/// What one log is like.
enum Verdict {
    /// There is none.
    Missing,
    /// It was read to its end.
    Read { opened: Opened, bad: Bad },
    /// It is one, but cannot be used.
    Unusable(OpenError),
    /// It cannot be read by this user, or by this release.
    Unreadable(String),
}

/// Records whose bytes are those that were written and yet mean nothing.
#[derive(Default)]
struct Bad {
    count: u64,
    first: Option<(Lsn, RecordKind)>,
}

/// Verifies the store and prints what was found.
///
/// # Errors
/// When a log cannot be read.
pub(super) fn run(dir: &DataDir) -> Result<Exit, Failure> {
    let path = |shard| dir.log_dir(dir.manifest.generation, shard);
    let verdicts = in_parallel(dir.manifest.shards, |shard| verify(&path(shard), shard));
    let has_records = |verdict: &Verdict| match verdict {
        Verdict::Missing => false,
        Verdict::Read { opened, .. } => opened.last.0 > 0,
        Verdict::Unusable(_) | Verdict::Unreadable(_) => true,
    };
    let others = verdicts.iter().any(has_records);
    let mut text = String::new();
    let mut damaged = 0;
    let mut unreadable = None;
    for (shard, verdict) in (0..).zip(&verdicts) {
        let found = describe(verdict, others);
        damaged += usize::from(!found.faults.is_empty());
        let state = if found.faults.is_empty() { "intact" } else { "DAMAGED" };
        if let Verdict::Unreadable(error) = verdict {
            unreadable.get_or_insert_with(|| format!("{}: {error}", path(shard).display()));
            continue;
        }
        let _ = writeln!(text, "shard {shard}: {state}: {}", found.facts);
        for line in found.faults.iter().chain(&found.notes).chain(&set_aside(&path(shard))) {
            let _ = writeln!(text, "  {line}");
        }
    }
    if let Some(error) = unreadable {
        print(&text);
        return Err(Failure::host(error));
    }
    let (shards, root) = (verdicts.len(), dir.root().display());
    let _ = match damaged {
        0 => writeln!(text, "{root}: intact, {shards} shards"),
        _ => writeln!(
            text,
            "{root}: damaged, {damaged} of {shards} shards; a broker that starts on it serves what \
             is intact, and sets the damaged files aside"
        ),
    };
    print(&text);
    Ok(if damaged == 0 { Exit::Done } else { Exit::Runtime })
}

fn verify(path: &Path, log: u16) -> Verdict {
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Verdict::Missing,
        Err(error) => return Verdict::Unreadable(error.to_string()),
    }
    let mut bad = Bad::default();
    let mut judge = |lsn, kind, body: &[u8]| match understand(kind, body) {
        Err(RecordError::Truncated | RecordError::Invalid) => {
            bad.count += 1;
            bad.first.get_or_insert((lsn, kind));
            Ok(())
        }
        understood => understood,
    };
    let opened = inspect(path, log, &mut judge, &mut |_| {});
    match opened {
        Ok(opened) => Verdict::Read { opened, bad },
        Err(error @ (OpenError::Foreign { .. } | OpenError::Inconsistent { .. })) => {
            Verdict::Unusable(error)
        }
        Err(OpenError::Record { lsn, error, .. }) => {
            Verdict::Unreadable(format!("record {}: {error}: a newer release wrote it", lsn.0))
        }
        Err(error) => Verdict::Unreadable(error.to_string()),
    }
}

/// Reads a record as a broker would.
fn understand(kind: RecordKind, body: &[u8]) -> Result<(), RecordError> {
    match kind {
        RecordKind::Message | RecordKind::Checkpoint => {
            let (_, message) = MessageHead::decode(body)?;
            View::read(message).map(drop).map_err(|_| RecordError::Invalid)
        }
        RecordKind::Session => SessionRecord::decode(body).map(drop),
        RecordKind::Subscription => SubscriptionRecord::decode(body).map(drop),
        RecordKind::Queue => QueueRecord::decode(body).map(drop),
        RecordKind::Exchange => ExchangeRecord::decode(body).map(drop),
        RecordKind::Connection => ConnectionRecord::decode(body).map(drop),
        RecordKind::SessionEnd => SessionEndRecord::decode(body).map(drop),
        RecordKind::Watermark => WatermarkRecord::decode(body).map(drop),
        RecordKind::Void => VoidRecord::decode(body).map(drop),
        RecordKind::CheckpointEnd => CheckpointEndRecord::decode(body).map(drop),
    }
}

/// What is to be said of one log.
struct Found {
    facts: String,
    faults: Vec<String>,
    notes: Vec<String>,
}

fn describe(verdict: &Verdict, others: bool) -> Found {
    let mut notes = Vec::new();
    let (facts, faults) = match verdict {
        Verdict::Missing => ("no log".to_owned(), faults(None, others)),
        Verdict::Unusable(error) => ("it cannot be used".to_owned(), vec![error.to_string()]),
        Verdict::Unreadable(error) => ("it cannot be read".to_owned(), vec![error.clone()]),
        Verdict::Read { opened, bad } => {
            let mut wrong = faults(Some(opened), others);
            if let Some((lsn, kind)) = bad.first {
                let (count, at) = (bad.count, lsn.0);
                wrong.push(format!(
                    "{count} records mean nothing, the first at position {at} ({kind:?})"
                ));
            }
            if opened.cut_batches > 0 {
                let cut = opened.cut_batches;
                notes.push(format!("a crash cut {cut} batches off: nobody relied on them"));
            }
            let facts = format!(
                "{} records, last position {}, {} segments, {} bytes in records, {} on disk",
                opened.records, opened.last.0, opened.segments, opened.bytes, opened.file_bytes
            );
            (facts, wrong)
        }
    };
    Found { facts, faults, notes }
}

/// Damaged files that an earlier start has set aside.
fn set_aside(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.contains(".corrupt-")).collect();
    names.sort();
    names.iter().map(|name| format!("set aside by an earlier start: {name}")).collect()
}
