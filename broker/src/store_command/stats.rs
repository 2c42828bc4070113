//! `ringtide store stats`: what a store holds, in numbers.

use std::fmt::Write;

use ringtide_storage::state::{Parts, SessionPart, State};
use serde::Serialize;

use super::{print, tell_damage};
use crate::datadir::DataDir;
use crate::exit::{Exit, Failure};
use crate::replay;

/// Sessions that are named.
const LARGEST: usize = 10;
/// With so many the others are forgotten.
const RANKED_AT: usize = 1000;

/// Messages and their bytes, properties and header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Amount {
    messages: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

#[derive(Default, Serialize)]
struct Sessions {
    total: u64,
    /// When the broker ended.
    connected: u64,
    away: u64,
}

/// QoS 2 exchanges under way.
#[derive(Default, Serialize)]
struct Exchanges {
    /// Sent to clients.
    outgoing: u64,
    /// Received from clients.
    incoming: u64,
}

#[derive(Default, Serialize)]
struct Disk {
    /// Bytes of the records that a checkpoint would write.
    live_bytes: u64,
    /// Bytes of the logs' files.
    total_bytes: u64,
}

#[derive(Serialize)]
struct Session {
    client_id: String,
    tenant: u32,
    connected: bool,
    #[serde(flatten)]
    waiting: Amount,
}

/// What a store holds. Serialized, it is the output of `--json`.
#[derive(Default, Serialize)]
struct Stats {
    data_dir: String,
    shards: u16,
    damaged: bool,
    sessions: Sessions,
    subscriptions: u64,
    retained: Amount,
    waiting: Amount,
    exchanges: Exchanges,
    wills: u64,
    between_shards: Amount,
    disk: Disk,
    /// Those with the most waiting bytes, most first.
    largest_sessions: Vec<Session>,
}

/// Counts and prints.
///
/// # Errors
/// When a log cannot be read.
pub(super) fn run(dir: &DataDir, json: bool) -> Result<Exit, Failure> {
    let replayed = replay::replay(dir)?;
    let exit = tell_damage(dir, &replayed);
    let mut stats = Stats {
        data_dir: dir.root().display().to_string(),
        shards: dir.manifest.shards,
        damaged: exit != Exit::Done,
        ..Stats::default()
    };
    for opened in replayed.opened.iter().flatten() {
        stats.disk.total_bytes += opened.file_bytes;
    }
    for state in &replayed.states {
        let live = &mut stats.disk.live_bytes;
        state.write_checkpoint(&mut |_, parts| {
            *live += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        });
    }
    for parts in State::into_aligned_parts(replayed.states) {
        stats.count(&parts);
    }
    stats.rank();
    if json {
        let text = serde_json::to_string(&stats);
        print(&(text.map_err(|error| Failure::runtime(error.to_string()))? + "\n"));
    } else {
        print(&stats.text());
    }
    Ok(exit)
}

impl Stats {
    fn count(&mut self, parts: &Parts) {
        for session in &parts.sessions {
            self.count_session(session);
        }
        for one in &parts.retained {
            self.retained.add(one.message.bytes().len());
        }
        for one in &parts.pending {
            self.between_shards.add(one.message.bytes().len());
        }
    }

    fn count_session(&mut self, part: &SessionPart) {
        let record = &part.record;
        let connected = record.detached_ms == 0;
        self.sessions.total += 1;
        self.sessions.connected += u64::from(connected);
        self.sessions.away += u64::from(!connected);
        self.subscriptions += record.filters.len() as u64;
        self.exchanges.outgoing += record.exchanges.len() as u64;
        self.exchanges.incoming += record.inbound.len() as u64;
        self.wills += u64::from(record.will.is_some());
        let mut waiting = Amount::default();
        for one in &part.waiting {
            waiting.add(one.message.bytes().len());
        }
        self.waiting.messages += waiting.messages;
        self.waiting.bytes += waiting.bytes;
        if waiting.messages > 0 {
            let (client_id, tenant) = (record.client_id.clone(), record.tenant);
            self.largest_sessions.push(Session { client_id, tenant, connected, waiting });
        }
        if self.largest_sessions.len() == RANKED_AT {
            self.rank();
        }
    }

    /// Leaves only the largest sessions, in their order.
    fn rank(&mut self) {
        self.largest_sessions.sort_by(|one, two| {
            let key = |session: &Session| (session.waiting.bytes, session.waiting.messages);
            key(two).cmp(&key(one)).then_with(|| one.client_id.cmp(&two.client_id))
        });
        self.largest_sessions.truncate(LARGEST);
    }

    fn text(&self) -> String {
        let Stats { sessions, retained, waiting, exchanges, between_shards, disk, .. } = self;
        let amount = |amount: &Amount| format!("{} ({} bytes)", amount.messages, amount.bytes);
        let rows = [
            ("data directory", self.data_dir.clone()),
            ("shards", self.shards.to_string()),
            (
                "sessions",
                format!(
                    "{} ({} connected when the broker ended, {} away)",
                    sessions.total, sessions.connected, sessions.away
                ),
            ),
            ("subscriptions", self.subscriptions.to_string()),
            ("retained messages", amount(retained)),
            ("waiting messages", amount(waiting)),
            (
                "QoS 2 exchanges",
                format!("{} outgoing, {} incoming", exchanges.outgoing, exchanges.incoming),
            ),
            ("wills", self.wills.to_string()),
            ("between shards", amount(between_shards)),
            ("disk", format!("{} bytes, {} of them live", disk.total_bytes, disk.live_bytes)),
        ];
        let mut text = String::new();
        for (name, value) in rows {
            let _ = writeln!(text, "{name:18}  {value}");
        }
        if !self.largest_sessions.is_empty() {
            let _ = writeln!(text, "\nmost waiting: {:>14} {:>10}  client id", "bytes", "messages");
        }
        for session in &self.largest_sessions {
            let Amount { messages, bytes } = session.waiting;
            // As text a client id could hold anything that a terminal obeys.
            let client_id = &session.client_id;
            let _ = writeln!(text, "{bytes:>28} {messages:>10}  {client_id:?}");
        }
        text
    }
}
