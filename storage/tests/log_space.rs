//! A log that comes near the end of its space: it tells early, and a checkpoint of what lives still
//! finds room.
#![allow(clippy::unwrap_used)]

mod model;

use model::{EIO, Life, Model, SEGMENT_BYTES, config};
use ringtide_storage::Store;
use ringtide_storage::log::Sync;
use ringtide_storage::log::faults::{Fault, FaultDisk};

/// Linux: read-only file system.
const EROFS: i32 = 30;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
/// What a record of this test takes: a batch of its own.
const RECORD_BYTES: u64 = 4096;

/// A log of which nothing ends until `alive` records live: checkpoints as it asks for them.
fn fill(model: &mut Model, life: &mut Life, disk: &FaultDisk) -> u64 {
    let mut alive = 0;
    while !life.log.is_full() {
        model.append_one(life, 3000);
        model.settle(life, disk);
        alive += 1;
        if life.log.wants_checkpoint() {
            write_all(model, life, disk, alive);
        }
        assert!(alive < 10_000, "it never fills");
    }
    alive
}

/// A checkpoint of so many records, and the one behind it that frees what it made void.
fn write_all(model: &mut Model, life: &mut Life, disk: &FaultDisk, alive: u64) {
    let begin = life.log.appended().0 + 1;
    life.log.begin_checkpoint();
    for _ in 0..alive {
        model.append_one(life, 3000);
        model.settle(life, disk);
    }
    life.log.end_checkpoint();
    model.checkpoints.push((begin, life.log.appended().0));
    model.append_one(life, 10);
    model.settle(life, disk);
    assert!(life.log.wants_record(), "its forerunner is not freed yet");
    assert!(!life.log.is_full(), "and so nothing is refused for it");
    for _ in 0..2 {
        model.append_one(life, 10);
        model.settle(life, disk);
    }
    assert!(!life.log.wants_record());
}

fn space(limit: impl Fn(&mut ringtide_storage::LogConfig, &FaultDisk)) {
    let disk = FaultDisk::new(31);
    let mut limited = config(Sync::EachBatch);
    limited.reserve_bytes = 1 << 40;
    limit(&mut limited, &disk);
    let mut model = Model::default();
    let (mut life, _) = model.open(&disk, &limited).unwrap();
    let alive = fill(&mut model, &mut life, &disk);
    // No segment was missing: there is room for what lives, and more.
    assert!(life.log.shortage().is_none());
    let usage = life.log.usage();
    assert!(usage.fill_percent >= 75, "{usage:?}");
    assert!(alive * RECORD_BYTES > 5 * SEGMENT_BYTES, "{alive} records live");
    assert!(!life.log.wants_checkpoint(), "it would show the same again");
    // What was alive has ended; only a checkpoint shows it.
    model.append_one(&mut life, 10);
    model.settle(&mut life, &disk);
    assert!(life.log.is_full() && life.log.may_win_space());
    write_all(&mut model, &mut life, &disk, 5);
    assert!(!life.log.is_full() && !life.log.is_tight());
    assert!(life.log.usage().fill_percent < 50, "{:?}", life.log.usage());
    let again = fill(&mut model, &mut life, &disk);
    assert!(again > alive / 2, "{again} records found room, {alive} before");
    drop(life);
    disk.cut();
    model.open(&disk, &limited).unwrap();
}

#[test]
fn a_capacity_leaves_room_for_a_checkpoint() {
    space(|config, _| config.capacity_bytes = 30 * SEGMENT_BYTES);
}

#[test]
fn a_small_disk_leaves_room_for_a_checkpoint() {
    space(|_, disk| disk.limit(30 * SEGMENT_BYTES));
}

/// What ends in a full store is written, too, a batch each time: before that has taken the room for
/// a checkpoint, one is asked for.
#[test]
fn what_ends_in_a_full_store_does_not_take_the_last_room() {
    let disk = FaultDisk::new(34);
    let mut limited = config(Sync::EachBatch);
    limited.reserve_bytes = 1 << 40;
    limited.capacity_bytes = 30 * SEGMENT_BYTES;
    let mut model = Model::default();
    let (mut life, _) = model.open(&disk, &limited).unwrap();
    let alive = fill(&mut model, &mut life, &disk);
    for useless in 0..3 {
        let mut ended = 0;
        while !life.log.is_last_chance() {
            assert!(life.log.is_full() && ended < 1000, "{ended} have ended");
            model.append_one(&mut life, 10);
            model.settle(&mut life, &disk);
            assert!(life.log.may_win_space(), "no room for a checkpoint after {ended} ends");
            ended += 1;
        }
        assert!(ended > 1, "checkpoint {useless} was asked for right after the one before");
        write_all(&mut model, &mut life, &disk, alive);
    }
    model.append_one(&mut life, 10);
    model.settle(&mut life, &disk);
    write_all(&mut model, &mut life, &disk, 5);
    assert!(!life.log.is_full() && !life.log.is_tight());
}

#[test]
fn while_a_checkpoint_takes_the_last_space_others_wait() {
    let disk = FaultDisk::new(32);
    let mut limited = config(Sync::EachBatch);
    limited.capacity_bytes = 12 * SEGMENT_BYTES;
    limited.reserve_bytes = 1 << 40;
    let mut model = Model::default();
    let (mut life, _) = model.open(&disk, &limited).unwrap();
    // All at once, in memory: it counts as taken before it is written.
    let mut records = 0;
    while !life.log.is_tight() {
        model.append_one(&mut life, 3000);
        records += 1;
        assert!(records < 1000, "{} bytes wait", life.log.waiting_bytes());
    }
    assert!(life.log.waiting_bytes() > 3 * SEGMENT_BYTES);
    assert!(life.log.wants_checkpoint() && !life.log.is_full());
    model.settle(&mut life, &disk);
    write_all(&mut model, &mut life, &disk, 2);
    assert!(!life.log.is_tight() && !life.log.is_full());
}

#[test]
fn a_broken_disk_is_no_shortage() {
    for errno in [EIO, EROFS, ENOENT, EACCES] {
        let disk = FaultDisk::new(33);
        let mut model = Model::default();
        let (mut life, _) = model.open(&disk, &config(Sync::EachBatch)).unwrap();
        model.append_one(&mut life, 100);
        model.settle(&mut life, &disk);
        // The next segment is asked for when the one that is ready comes into use.
        while !life.log.is_waiting() && life.log.failed().is_none() {
            model.append_one(&mut life, 3000);
            life.log.end_turn();
            let used = life.log.usage().used_bytes;
            if let Some(write) = life.log.take_write() {
                let result = disk.write(&write);
                life.log.written(write.bytes, result);
            }
            if life.log.usage().used_bytes > used {
                disk.plan(disk.operations() + 1, Fault::Fail(errno));
            }
            // The full segment is closed, the next one prepared.
            for _ in 0..2 {
                life.log.work();
            }
            life.log.end_turn();
        }
        let failure = life.log.failed().unwrap();
        assert_eq!(failure.errno, errno);
        assert!(failure.what.contains("preparation of log-"), "{failure}");
    }
}
