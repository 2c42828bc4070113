//! A process that writes a log is killed (SIGKILL) at any moment: what it had told to be durable is
//! there, on a real file system and with the log's own thread.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ringtide_storage::log::Sync;
use ringtide_storage::{Log, LogConfig, RecordKind, Store};

/// Names the directory for the process that is going to be killed.
const DIR: &str = "RINGTIDE_LOG_KILLED_DIR";

fn config(dir: &Path) -> LogConfig {
    let mut config = LogConfig::new(dir, 1);
    config.segment_bytes = 256 << 10;
    config.reserve_bytes = 1 << 20;
    // A process that dies takes nothing from the page cache with it.
    config.sync = Sync::Os;
    config
}

fn body(lsn: u64) -> Vec<u8> {
    let length = lsn.wrapping_mul(2_654_435_761) % 2_000;
    (0..length).map(|at| (at ^ lsn) as u8).collect()
}

/// Records that the writer is ahead of the disk at most.
const AHEAD_MAX: u64 = 30;

/// The process that is killed: tells each position when it is durable.
#[test]
#[ignore = "run by the other test"]
fn writer() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (mut log, _) = Log::open(config(Path::new(&dir)), &mut |_, _, _| Ok(())).unwrap();
    let mut output = std::io::stdout().lock();
    loop {
        for _ in 0..3 {
            let lsn = log.appended().0 + 1;
            assert_eq!(log.append(RecordKind::Message, &[&body(lsn)]).0, lsn);
        }
        if log.wants_checkpoint() {
            log.begin_checkpoint();
            let lsn = log.appended().0 + 1;
            log.append(RecordKind::Message, &[&body(lsn)]);
            log.end_checkpoint();
        }
        log.end_turn();
        let before = log.durable();
        // Segments come from another thread, slowly on a slow disk.
        while !log.write_now() && log.appended().0 > log.durable().0 + AHEAD_MAX {
            std::thread::yield_now();
        }
        if log.durable() > before {
            writeln!(output, "durable {}", log.durable().0).unwrap();
        }
    }
}

#[test]
fn what_a_killed_process_told_is_there() {
    let dir = std::env::temp_dir().join(format!("ringtide-log-killed-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let (mut told, mut checkpoints) = (0, 0);
    for round in 1..=25_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--ignored", "--nocapture"])
            .env(DIR, &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = round * round * 7919 % 900;
        let mut count = 0;
        while let Some(Ok(line)) = lines.next() {
            if let Some(number) = line.split("durable ").nth(1) {
                count += 1;
                // A line that the kill has cut short tells less than was durable.
                told = told.max(number.parse().unwrap_or(0));
            }
            if count == wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let mut next = None;
        let (log, opened) = Log::open(config(&dir), &mut |lsn, kind, bytes| {
            assert_eq!(next.unwrap_or(lsn.0), lsn.0);
            assert_eq!((kind, bytes), (RecordKind::Message, &body(lsn.0)[..]));
            next = Some(lsn.0 + 1);
            Ok(())
        })
        .unwrap();
        assert_eq!(opened.damaged, None);
        assert!(opened.last.0 >= told, "{} of {told}", opened.last.0);
        checkpoints += u64::from(opened.start.0 > 1);
        drop(log);
    }
    assert!(told > 0 && checkpoints > 0);
    fs::remove_dir_all(&dir).unwrap();
}
