//! The log on a real file system: what was appended is there after a restart.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringtide_storage::log::{
    LockError, OpenError, Opened, Progress, Sync, inspect, lock, lock_shared,
};
use ringtide_storage::{Log, LogConfig, Lsn, RecordKind, Store};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ringtide-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Records = Vec<(u64, RecordKind, Vec<u8>)>;

fn small(dir: &Path) -> LogConfig {
    let mut config = LogConfig::new(dir.join("log"), 3);
    config.segment_bytes = 64 << 10;
    config.reserve_bytes = 256 << 10;
    config
}

fn open(config: &LogConfig) -> (Log, Opened, Records) {
    let mut records = Vec::new();
    let (log, opened) = Log::open(config.clone(), &mut |lsn, kind, body| {
        records.push((lsn.0, kind, body.to_vec()));
        Ok(())
    })
    .unwrap();
    (log, opened, records)
}

/// Waits until everything is durable; segments come from another thread.
fn settle(log: &mut Log) {
    log.end_turn();
    while log.durable() < log.appended() {
        assert_eq!(log.failed(), None);
        if !log.write_now() {
            assert!(log.is_waiting());
            std::thread::yield_now();
        }
    }
}

fn body(lsn: u64) -> Vec<u8> {
    let length = (lsn * 7919 % 3000) as usize;
    (0..length).map(|at| (at as u64 ^ lsn) as u8).collect()
}

fn append(log: &mut Log, from: u64, to: u64) {
    for lsn in from..=to {
        let body = body(lsn);
        let (head, tail) = body.split_at(body.len() / 3);
        assert_eq!(log.append(RecordKind::Message, &[head, tail]), Lsn(lsn));
        if lsn % 5 == 0 {
            settle(log);
        }
    }
    settle(log);
}

#[test]
fn what_was_appended_is_there_after_restarts() {
    for sync in [Sync::EachBatch, Sync::Os] {
        let scratch = Scratch::new(&format!("restarts-{sync:?}"));
        let mut config = small(&scratch.0);
        config.sync = sync;
        let mut last = 0;
        for _ in 0..4 {
            let (mut log, opened, records) = open(&config);
            assert_eq!((opened.records, opened.last), (last, Lsn(last)));
            assert_eq!(opened.damaged, None);
            for (record, lsn) in records.iter().zip(1..) {
                assert_eq!(*record, (lsn, RecordKind::Message, body(lsn)));
            }
            append(&mut log, last + 1, last + 200);
            last += 200;
            drop(log);
            let mut count = 0;
            let mut told = Progress::default();
            let mut replay = |_, _, _: &[u8]| {
                count += 1;
                Ok(())
            };
            let mut watch = |now: Progress| {
                assert!(now.records > told.records && now.bytes > told.bytes);
                assert!(now.read_bytes > told.read_bytes && now.read_bytes <= now.file_bytes);
                told = now;
            };
            let seen = inspect(&config.dir, 3, &mut replay, &mut watch).unwrap();
            assert_eq!((seen.last, count), (Lsn(last), last));
            assert_eq!((seen.records, seen.bytes), (told.records, told.bytes));
            assert_eq!(seen.file_bytes, told.file_bytes);
        }
    }
}

#[test]
fn a_checkpoint_frees_what_lies_before_it() {
    for sync in [Sync::EachBatch, Sync::Os] {
        let scratch = Scratch::new(&format!("checkpoint-{sync:?}"));
        let mut config = small(&scratch.0);
        config.sync = sync;
        let (mut log, ..) = open(&config);
        let (mut begin, mut checkpoints) = (1, 0);
        for round in 0..100 {
            let last = round * 20;
            append(&mut log, last + 1, last + 20);
            if log.wants_checkpoint() {
                begin = last + 21;
                log.begin_checkpoint();
                assert!(!log.wants_checkpoint());
                append(&mut log, begin, begin + 19);
                log.end_checkpoint();
                checkpoints += 1;
                assert!(!log.wants_checkpoint());
                append(&mut log, begin + 20, begin + 20);
                break;
            }
        }
        assert_eq!(checkpoints, 1);
        // Freeing waits for a later batch, and with `Sync::Os` for syncs on another thread.
        let mut next = begin + 21;
        let mut freed = false;
        while !freed {
            let used = log.used_bytes();
            append(&mut log, next, next);
            freed = log.used_bytes() < used;
            next += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(log);
        let (_log, opened, records) = open(&config);
        assert_eq!((opened.start, opened.damaged), (Lsn(begin), None));
        assert_eq!(records.first().unwrap().0, begin);
        assert_eq!(records.last().unwrap().0, next - 1);
    }
}

#[test]
fn large_records_have_segments_of_their_own() {
    let scratch = Scratch::new("large");
    let config = small(&scratch.0);
    let (mut log, ..) = open(&config);
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    for _ in 0..3 {
        log.append(RecordKind::Session, &[b"small"]);
        log.append(RecordKind::Message, &[&large]);
        log.append(RecordKind::Queue, &[]);
        settle(&mut log);
    }
    drop(log);
    let (_log, opened, records) = open(&config);
    assert_eq!((opened.records, opened.damaged), (9, None));
    for triple in records.chunks(3) {
        assert_eq!((triple[0].1, &triple[0].2[..]), (RecordKind::Session, &b"small"[..]));
        assert!(triple[1].2 == large && triple[2].2.is_empty());
    }
}

#[test]
fn files_are_for_the_owner_alone() {
    let scratch = Scratch::new("modes");
    let config = small(&scratch.0);
    let (mut log, ..) = open(&config);
    append(&mut log, 1, 10);
    drop(log);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&config.dir), 0o700);
    let files: Vec<_> = fs::read_dir(&config.dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(mode(&file), 0o600);
    }
}

#[test]
fn a_data_directory_has_one_holder() {
    let scratch = Scratch::new("lock");
    let dir = scratch.0.join("data");
    let held = lock(&dir).unwrap();
    assert!(matches!(lock(&dir), Err(LockError::Taken)));
    assert!(matches!(lock_shared(&dir), Err(LockError::Taken)));
    drop(held);
    assert!(lock(&dir).is_ok());
}

#[test]
fn a_data_directory_has_many_readers_or_one_holder() {
    let scratch = Scratch::new("lock-shared");
    assert!(matches!(lock_shared(&scratch.0), Ok(None)), "nobody has ever held it");
    assert!(!scratch.0.join("LOCK").exists(), "readers make nothing");
    drop(lock(&scratch.0).unwrap());
    let readers = (lock_shared(&scratch.0).unwrap(), lock_shared(&scratch.0).unwrap());
    assert!(readers.0.is_some() && readers.1.is_some());
    assert!(matches!(lock(&scratch.0), Err(LockError::Taken)));
    drop(readers);
    assert!(lock(&scratch.0).is_ok());
}

#[test]
fn the_log_of_another_shard_is_refused() {
    let scratch = Scratch::new("foreign");
    let mut config = small(&scratch.0);
    let (mut log, ..) = open(&config);
    append(&mut log, 1, 10);
    drop(log);
    config.log = 4;
    let refused = Log::open(config, &mut |_, _, _| Ok(()));
    assert!(matches!(refused, Err(OpenError::Foreign { log: 3, .. })));
}

#[test]
fn a_capacity_that_is_reached_is_told_and_ends_with_a_checkpoint() {
    let scratch = Scratch::new("capacity");
    let mut config = small(&scratch.0);
    config.capacity_bytes = 8 * config.segment_bytes;
    config.reserve_bytes = u64::MAX;
    let (mut log, ..) = open(&config);
    let mut last = 0;
    // Another thread makes the next segment, or finds that there is no room for one.
    let knows_next = |log: &Log| {
        let made = segments(&config) as u64 * config.segment_bytes;
        log.shortage().is_some() || made > log.used_bytes()
    };
    // Nobody heeds that the log is full: it goes on to the end.
    while log.shortage().is_none() {
        append(&mut log, last + 1, last + 1);
        last += 1;
        assert!(last < 10_000);
        while !knows_next(&log) {
            log.end_turn();
            std::thread::yield_now();
        }
    }
    assert!(log.is_full());
    assert_eq!(log.shortage().unwrap().errno, 122);
    assert_eq!(log.failed(), None);
    // What is left of the last segment is enough for the little that lives.
    log.begin_checkpoint();
    append(&mut log, last + 1, last + 2);
    log.end_checkpoint();
    append(&mut log, last + 3, last + 3);
    append(&mut log, last + 4, last + 4);
    while log.is_full() {
        log.end_turn();
        std::thread::yield_now();
    }
    append(&mut log, last + 5, last + 200);
    drop(log);
    let (_log, opened, _) = open(&config);
    assert_eq!((opened.start, opened.last), (Lsn(last + 1), Lsn(last + 200)));
}

fn segments(config: &LogConfig) -> usize {
    fs::read_dir(&config.dir).unwrap().count()
}

#[test]
fn a_log_that_is_left_alone_gives_back_what_it_does_not_need() {
    let scratch = Scratch::new("quiet");
    let config = small(&scratch.0);
    let (mut log, ..) = open(&config);
    let quiet = |log: &mut Log| (0..=config.quiet_s).for_each(|_| log.second_passed());
    append(&mut log, 1, 130);
    assert!(!log.wants_checkpoint(), "there is little to win yet");
    let before = segments(&config);
    quiet(&mut log);
    assert!(log.wants_checkpoint());
    log.begin_checkpoint();
    append(&mut log, 131, 140);
    log.end_checkpoint();
    append(&mut log, 141, 142);
    assert!(log.wants_record(), "what was voided is freed with a further record");
    append(&mut log, 143, 143);
    append(&mut log, 144, 144);
    assert!(!log.wants_record());
    quiet(&mut log);
    assert!(!log.wants_checkpoint(), "there is nothing to win any more");
    // What is written and what is ready: another thread deletes the others.
    let end = Instant::now() + Duration::from_secs(60);
    while segments(&config) > 3 {
        assert!(Instant::now() < end, "{} segments", segments(&config));
        log.end_turn();
        std::thread::yield_now();
    }
    assert!(before > 3, "{before} segments");
    drop(log);
    let (_, opened, records) = open(&config);
    assert_eq!((opened.damaged, opened.start), (None, Lsn(131)));
    assert_eq!(records.len(), 14);
}
