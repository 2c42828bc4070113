//! What the log costs on this machine: commits in groups over plain pwrite and fdatasync, appends
//! alone, and the replay at a start.
//!
//! `cargo bench -p ringtide-storage --bench log [-- <directory>]`; the directory (default: the
//! system's for temporary files) decides which disk is measured.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringtide_storage::log::Sync;
use ringtide_storage::{Log, LogConfig, RecordKind, Store};

/// How long each case runs.
const CASE: Duration = Duration::from_secs(3);
/// Records of the replay's log.
const REPLAYED: u64 = 2_000_000;

fn main() {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let dir = argument.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("ringtide-log-bench-{}", std::process::id()));
    bare(&dir);
    for sync in [Sync::EachBatch, Sync::Os] {
        println!("commits, {sync:?}: all records of a turn are durable before the next turn");
        for (records, bytes) in [(1, 300), (100, 300), (1000, 300), (1000, 1000), (3000, 300)] {
            commits(&dir, sync, records, bytes);
        }
    }
    appends(&dir);
    replay(&dir, 300);
    replay(&dir, 2000);
}

/// The disk alone: one block over and over, each time synced.
fn bare(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let file = std::fs::File::create(dir.join("bare")).unwrap();
    let block = vec![0x5a; 4096];
    let mut times = Vec::with_capacity(1 << 20);
    file.write_all_at(&vec![0; 64 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < CASE {
        let turn = Instant::now();
        file.write_all_at(&block, times.len() as u64 * 4096 % (64 << 20)).unwrap();
        file.sync_data().unwrap();
        times.push(turn.elapsed());
    }
    times.sort_unstable();
    println!(
        "bare pwrite and fdatasync of 4096 B: p50 {:?} p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    std::fs::remove_dir_all(dir).unwrap();
}

fn open(dir: &Path, sync: Sync) -> Log {
    let mut config = LogConfig::new(dir, 0);
    config.sync = sync;
    Log::open(config, &mut |_, _, _| Ok(())).unwrap().0
}

/// Writes until all is durable; false if it had to wait for a segment.
fn settle(log: &mut Log) -> bool {
    log.end_turn();
    let mut at_once = true;
    while log.durable() < log.appended() {
        if !log.write_now() {
            at_once = false;
            std::thread::sleep(Duration::from_micros(50));
        }
        assert_eq!(log.failed(), None);
    }
    at_once
}

/// `records` records of `bytes` bytes per turn, a checkpoint of nothing whenever one is due.
fn commits(dir: &Path, sync: Sync, records: u64, bytes: usize) {
    let mut log = open(dir, sync);
    let body = vec![0x5a; bytes];
    let mut times = Vec::with_capacity(1 << 20);
    let mut waits = 0;
    settle(&mut log);
    let begun = Instant::now();
    while begun.elapsed() < CASE {
        let turn = Instant::now();
        for _ in 0..records {
            log.append(RecordKind::Message, &[&body]);
        }
        if log.wants_checkpoint() {
            log.begin_checkpoint();
            log.append(RecordKind::Watermark, &[]);
            log.end_checkpoint();
        }
        waits += u64::from(!settle(&mut log));
        times.push(turn.elapsed());
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let turns = times.len() as f64;
    println!(
        "  {records:>5} x {bytes:>4} B: {:>9.0} records/s, {:>6.0} commits/s, {:>6.1} MB/s; commit \
         p50 {:?} p99 {:?} max {:?}; {waits} waits for a segment",
        turns * records as f64 / seconds,
        turns / seconds,
        turns * records as f64 * bytes as f64 / seconds / 1e6,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
    );
    drop(log);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Appending and forming batches, without the time of the writes.
fn appends(dir: &Path) {
    let mut log = open(dir, Sync::Os);
    println!("appends, without the writes");
    for bytes in [64, 300, 4096] {
        let body = vec![0x5a; bytes];
        let mut spent = Duration::ZERO;
        let mut records = 0_u64;
        for _ in 0..50 {
            let begun = Instant::now();
            for _ in 0..1000 {
                log.append(RecordKind::Message, &[&body[..20], &body[20..]]);
            }
            spent += begun.elapsed();
            records += 1000;
            settle(&mut log);
        }
        println!("  {bytes:>5} B: {:.0} ns per record", spent.as_nanos() as f64 / records as f64);
    }
    drop(log);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Opening a log of [`REPLAYED`] records, just written.
fn replay(dir: &Path, bytes: usize) {
    let mut log = open(dir, Sync::Os);
    let body = vec![0x5a; bytes];
    for number in 1..=REPLAYED {
        log.append(RecordKind::Message, &[&body]);
        if number % 200 == 0 {
            settle(&mut log);
        }
    }
    settle(&mut log);
    drop(log);
    let begun = Instant::now();
    let mut sum = 0_u64;
    let (log, opened) = Log::open(LogConfig::new(dir, 0), &mut |lsn, _, body| {
        sum = sum.wrapping_add(lsn.0 ^ body.len() as u64);
        Ok(())
    })
    .unwrap();
    let first = begun.elapsed().as_secs_f64();
    drop(log);
    // The first opening had to sync what the writes had left in the page cache.
    let begun = Instant::now();
    drop(open(dir, Sync::EachBatch));
    let second = begun.elapsed().as_secs_f64();
    assert_eq!(opened.records, REPLAYED);
    println!(
        "replay of {} records of {bytes} B: {first:.2} s with the sync of what was written, then \
         {second:.2} s: {:.0} records/s, {:.0} MB/s",
        opened.records,
        opened.records as f64 / second,
        opened.bytes as f64 / second / 1e6,
    );
    std::fs::remove_dir_all(dir).unwrap();
}
