//! `ringtide store import`: makes a store from exported lines, for any number of shards.
//!
//! The file is read twice: once to judge all of it, and once more to write the logs. In memory are
//! one line, and of each session a few bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;

use ringtide_shard::partition::PartitionMap;
use ringtide_storage::log::{LogConfig, Sync};
use ringtide_storage::record::{
    Entry, EntryWriter, Exchange, Filter, MessageHead, SessionId, SessionRecord, WillRecord,
};
use ringtide_storage::{Log, RecordKind, Store};
use ringtide_topics::TenantId;

use super::content::{header, parts};
use super::format::{Message, Session, Subscription, Uncompleted, Will};
use super::lines::{self, Target};
use super::print;
use crate::config::{Config, SHARDS_MAX};
use crate::datadir::{NewStore, refuse_store};
use crate::exit::{Exit, Failure};
use crate::recovery::{MANY_BYTES, drain, log_config};

/// Entries of one record: with more sessions than that a message is written again for the rest.
const ENTRIES_MAX: u32 = 4096;

/// Imports a file into the configured data directory.
///
/// # Errors
/// What is wrong with the file or the directory: then there is no store.
pub(super) fn run(config: &Config, input: &Path, shards: Option<u16>) -> Result<Exit, Failure> {
    if shards.is_some_and(|shards| !(1..=SHARDS_MAX).contains(&shards)) {
        return Err(Failure::usage(format!("argument --shards: not 1 to {SHARDS_MAX}")));
    }
    refuse_store(&config.data_dir)?;
    let unreadable = |error: std::io::Error| Failure::host(format!("{}: {error}", input.display()));
    let mut file = File::open(input).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        let input = input.display();
        return Err(Failure::usage(format!(
            "{input}: not a file; it must be one, to be read twice"
        )));
    }
    let (export, end) = lines::read(BufReader::new(&file), input, &mut Judged)?;
    let shards = shards.unwrap_or(export.shards);
    let key = export.partition_key.0;
    let new = NewStore::begin(&config.data_dir, shards, key)?;
    new.dir.seed_topics();
    let mut writer = Writer::open(config, &new, PartitionMap::even(key, shards))?;
    file.rewind().map_err(unreadable)?;
    lines::read(BufReader::new(&file), input, &mut writer)?;
    writer.finish()?;
    new.commit()?;
    print(&format!(
        "{}: {} sessions, {} waiting messages, {} retained messages, {shards} shards\n",
        config.data_dir.display(),
        end.sessions,
        end.waiting,
        end.retained
    ));
    Ok(Exit::Done)
}

/// Of the first reading nothing is wanted but that it is right.
struct Judged;

impl Target for Judged {
    fn session(&mut self, _session: &Session<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn message(&mut self, _message: &Message<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// One shard's log under construction.
struct Shard {
    log: Log,
    config: LogConfig,
    sessions: u64,
}

impl Shard {
    fn append(&mut self, kind: RecordKind, parts: &[&[u8]]) -> Result<(), Failure> {
        self.log.append(kind, parts);
        self.log.end_turn();
        self.drain(MANY_BYTES)
    }

    fn drain(&mut self, bytes: u64) -> Result<(), Failure> {
        drain(&mut self.log, bytes)
            .map_err(|text| Failure::host(format!("{}: {text}", self.config.dir.display())))
    }
}

/// Writes what is read into the logs of a new store.
struct Writer {
    shards: Vec<Shard>,
    partitions: PartitionMap,
    /// Shard and id of each session, in the order of their numbers.
    homes: Vec<(u16, SessionId)>,
    body: Vec<u8>,
}

impl Writer {
    fn open(config: &Config, new: &NewStore, partitions: PartitionMap) -> Result<Writer, Failure> {
        let generation = new.dir.manifest.generation;
        let open = |shard| {
            let mut config = log_config(config, &new.dir, generation, shard);
            config.sync = Sync::EachBatch;
            let (log, _) = Log::open(config.clone(), &mut |_, _, _| Ok(()))
                .map_err(|error| Failure::host(format!("{}: {error}", config.dir.display())))?;
            Ok(Shard { log, config, sessions: 0 })
        };
        let shards = (0..new.dir.manifest.shards).map(open).collect::<Result<_, Failure>>()?;
        Ok(Writer { shards, partitions, homes: Vec::new(), body: Vec::new() })
    }

    /// Everything is on the disk when this returns.
    fn finish(mut self) -> Result<(), Failure> {
        self.shards.iter_mut().try_for_each(|shard| shard.drain(0))
    }

    fn home(&self, tenant: u32, name: &str) -> u16 {
        self.partitions.home(TenantId(tenant), name)
    }
}

impl Target for Writer {
    fn session(&mut self, session: &Session<'_>) -> Result<(), Failure> {
        let home = self.home(session.tenant, &session.client_id);
        let shard = &mut self.shards[usize::from(home)];
        shard.sessions += 1;
        let id = SessionId(shard.sessions);
        self.homes.push((home, id));
        self.body.clear();
        session_record(id, session, &self.partitions).encode(&mut self.body);
        shard.append(RecordKind::Session, &[&self.body])
    }

    fn message(&mut self, message: &Message<'_>) -> Result<(), Failure> {
        let content = &message.content;
        let mut records: BTreeMap<u16, Vec<EntryWriter>> = BTreeMap::new();
        for one in &message.waits_for {
            let (home, session) = self.homes[one.session as usize - 1];
            let chunks = records.entry(home).or_default();
            if chunks.last().is_none_or(|last| last.count() == ENTRIES_MAX) {
                chunks.push(EntryWriter::default());
            }
            let Some(last) = chunks.last_mut() else { continue };
            last.push(&Entry {
                session,
                seq: one.place.into(),
                qos: one.qos,
                retain: one.retain,
                membership: one.membership,
                ids: Cow::Borrowed(&one.ids),
            });
        }
        let retained_at = message.retained.then(|| self.home(content.tenant, &content.topic));
        if let Some(home) = retained_at {
            let chunks = records.entry(home).or_default();
            if chunks.is_empty() {
                chunks.push(EntryWriter::default());
            }
        }
        let head = header(content, &self.partitions);
        let [header, topic, properties, payload] = parts(&head, content);
        for (home, chunks) in records {
            let mut retained = retained_at == Some(home);
            for entries in chunks {
                let head = MessageHead { retained, ..MessageHead::default() };
                self.body.clear();
                head.encode_with_entries(entries.bytes(), entries.count(), &mut self.body);
                let record = [&self.body[..], header, topic, properties, payload];
                self.shards[usize::from(home)].append(RecordKind::Message, &record)?;
                retained = false;
            }
        }
        Ok(())
    }
}

fn session_record(
    id: SessionId,
    session: &Session<'_>,
    partitions: &PartitionMap,
) -> SessionRecord {
    let filter = |one: &Subscription<'_>| Filter {
        filter: one.filter.clone().into_owned(),
        options: one.qos | u8::from(one.no_local) << 2 | u8::from(one.retain_as_published) << 3,
        id: one.id,
    };
    let exchange = |one: &Uncompleted| Exchange {
        packet_id: one.packet_id,
        seq: (one.place > 0).then(|| one.place.into()),
    };
    let will = |will: &Will<'_>| WillRecord {
        message: parts(&header(&will.content, partitions), &will.content).concat(),
        expiry_s: will.expiry_s,
        delay_s: will.delay_s,
        due_ms: will.due_ms,
    };
    SessionRecord {
        id,
        tenant: session.tenant,
        client_id: session.client_id.clone().into_owned(),
        username: session.username.clone().map(Cow::into_owned),
        expiry_s: session.expiry_s,
        connected_ms: session.connected_ms,
        detached_ms: session.detached_ms,
        will: session.will.as_ref().map(will),
        filters: session.subscriptions.iter().map(filter).collect(),
        inbound: session.unreleased.clone(),
        exchanges: session.uncompleted.iter().map(exchange).collect(),
    }
}
