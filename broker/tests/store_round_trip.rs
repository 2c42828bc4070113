//! An exported store that is imported and exported again is the same: random stores, any number of
//! shards.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
mod store_model;

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::broker::{program, scratch};
use proptest::collection::vec;
use proptest::prelude::*;
use ringtide_shard::message::View;
use serde_json::Value;
use store_model::shard::{Client, Shard, comparable, found, replayed};
use store_model::write_store;

/// Runs a store command that must succeed.
fn store(arguments: &[&str], data_dir: &Path) {
    let mut command = Command::new(program());
    command.env_clear().env("RINGTIDE_CONFIG", "/dev/null").arg("store").args(arguments);
    // A small store needs no large files.
    command.env("RINGTIDE_STORE_SEGMENT_BYTES", "65536").arg("--data-dir").arg(data_dir);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{arguments:?}: {stderr}");
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

/// Without what may differ: the first line's values, the checksum over it.
fn comparable_lines(file: &Path) -> Vec<Value> {
    let mut lines: Vec<Value> =
        lines(file).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["written_ms", "shards"] {
        lines.first_mut().unwrap()["export"].as_object_mut().unwrap().remove(name).unwrap();
    }
    lines.last_mut().unwrap()["end"].as_object_mut().unwrap().remove("crc32c").unwrap();
    lines
}

/// What waits for a session, in order: QoS, RETAIN, membership, ids, payload.
type Waiting = Vec<(u64, bool, u64, Vec<u64>, Vec<u8>)>;

fn waiting_of(lines: &[Value], number: &Value) -> Waiting {
    let mut all = Vec::new();
    for message in lines.iter().filter_map(|line| line.get("message")) {
        let waits_for = message["waits_for"].as_array().into_iter().flatten();
        for one in waits_for.filter(|one| one["session"] == *number) {
            let ids = one["ids"].as_array().into_iter().flatten();
            let payload = STANDARD.decode(message["content"]["payload"].as_str().unwrap()).unwrap();
            let slot = (
                one["qos"].as_u64().unwrap(),
                one["retain"].as_bool().unwrap_or(false),
                one["membership"].as_u64().unwrap_or(0),
                ids.map(|id| id.as_u64().unwrap()).collect(),
                payload,
            );
            all.push((one["place"].as_u64().unwrap(), slot));
        }
    }
    all.sort();
    all.into_iter().map(|(_, slot)| slot).collect()
}

/// The exported session is the model's: all that it knew, and behind it what was on its way.
fn judge(lines: &[Value], client: &Client) -> Result<(), TestCaseError> {
    let mut sessions = lines.iter().filter_map(|line| line.get("session"));
    let session = sessions.find(|session| session["client_id"] == *client.record.client_id);
    let session = session.unwrap();
    let record = &client.record;
    prop_assert_eq!(session["expiry_s"].as_u64(), Some(record.expiry_s.into()));
    prop_assert_eq!(session["detached_ms"].as_u64().unwrap_or(0), record.detached_ms);
    prop_assert_eq!(session["username"].as_str(), record.username.as_deref());
    prop_assert_eq!(session.get("will").is_some(), record.will.is_some());
    let subscriptions = session["subscriptions"].as_array().map_or(0, Vec::len);
    prop_assert_eq!(subscriptions, record.filters.len());
    let unreleased = session["unreleased"].as_array().into_iter().flatten();
    let unreleased: Vec<u64> = unreleased.map(|id| id.as_u64().unwrap()).collect();
    prop_assert_eq!(unreleased, record.inbound.iter().map(|id| u64::from(*id)).collect::<Vec<_>>());
    let uncompleted = session["uncompleted"].as_array().into_iter().flatten();
    let uncompleted: Vec<(u64, u64)> = uncompleted
        .map(|one| (one["packet_id"].as_u64().unwrap(), one["place"].as_u64().unwrap_or(0)))
        .collect();
    let seqs: Vec<u64> = client.waiting.keys().copied().collect();
    let place = |seq| seqs.binary_search(&seq).unwrap() as u64 + 1;
    let expected = record.exchanges.iter();
    let expected: Vec<(u64, u64)> =
        expected.map(|one| (one.packet_id.into(), one.seq.map_or(0, place))).collect();
    prop_assert_eq!(uncompleted, expected);
    let expected: Waiting = client
        .waiting
        .values()
        .map(|(qos, retain, membership, ids, message)| {
            let ids = ids.iter().map(|id| u64::from(*id)).collect();
            let payload = View::read(message).unwrap().payload.to_vec();
            (u64::from(*qos), *retain, u64::from(*membership), ids, payload)
        })
        .collect();
    let waiting = waiting_of(lines, &session["number"]);
    prop_assert_eq!(&waiting[..expected.len()], &expected[..]);
    Ok(())
}

proptest! {
    // A case starts the program five times.
    #![proptest_config(ProptestConfig { max_shrink_iters: 60, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn a_store_that_goes_out_and_in_again_is_the_same(
        ops in vec((0..120_u8, any::<u16>(), any::<u16>(), any::<u16>()), 0..200),
        shards in 1..5_u16,
    ) {
        let mut model = Shard::default();
        for op in &ops {
            model.step(*op);
        }
        let dir = scratch();
        let (one, two) = (dir.join("one"), dir.join("two"));
        let (first, second) = (dir.join("first"), dir.join("second"));
        write_store(&one, &model.log);
        store(&["check"], &one);
        store(&["export", "--output", first.to_str().unwrap()], &one);
        let input = first.to_str().unwrap();
        store(&["import", "--input", input, "--shards", &shards.to_string()], &two);
        store(&["check"], &two);
        store(&["export", "--output", second.to_str().unwrap()], &two);
        let exported = comparable_lines(&first);
        prop_assert_eq!(&exported, &comparable_lines(&second));
        // The model itself says what must be there.
        let state = replayed(&model.log, 0, model.log.len());
        let truth = comparable(&model.truth);
        prop_assert_eq!(&found(state, &model.truth.taken), &truth);
        let count = exported.iter().filter(|line| line.get("session").is_some()).count();
        prop_assert_eq!(count, truth.clients.len());
        for client in truth.clients.values() {
            judge(&exported, client)?;
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
