use super::*;
use crate::bench::rows::rows;
use crate::procfs::host;
use crate::report::Unit;
use crate::sequence::Faults;

fn report(cpu: f64) -> Report {
    Report {
        title: String::new(),
        unit: Unit::Message,
        seconds: 1.0,
        done: 1,
        per_second: 1.0,
        cpu_us_per_unit: Some(cpu),
        broker: None,
        generator_busy: 0.0,
        generator_user_share: 0.0,
        memory: None,
        idle: None,
        latency: None,
        ack_latency: None,
        faults: Faults::default(),
        order_proved: true,
        notes: Vec::new(),
    }
}

fn record(measured: &[(&str, Vec<f64>, Vec<f64>)]) -> Record {
    let (kind, transport) = (Kind::Ringtide, Transport::Tcp);
    let side = Side { program: "ringtide".into(), kind, transport, version: String::new() };
    let all = rows(1);
    let find = |id: &str| all.iter().find(|row| row.id == id).cloned().unwrap();
    let reports = |values: &Vec<f64>| values.iter().map(|cpu| report(*cpu)).collect();
    Record {
        time: utc(0),
        commit: "abc".to_owned(),
        command: String::new(),
        host: host(),
        congestion_control: String::new(),
        ours: side.clone(),
        other: Some(side),
        rows: measured
            .iter()
            .map(|(id, ours, other)| Measured {
                row: find(id),
                ours: reports(ours),
                other: reports(other),
                relay: Vec::new(),
                errors: Vec::new(),
            })
            .collect(),
    }
}

#[test]
fn the_table_shows_median_range_and_ratio() {
    let table = record(&[("q0-n1000-w1-256", vec![6.0, 9.0, 8.0], vec![16.0])]).table();
    let line = table.lines().nth(1).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(
        words[3..],
        ["7.00", "-", "8.00", "(6.00", "..", "9.00)", "16.0", "2.00", "above", "the", "bar"]
    );
}

#[test]
fn extra_cpu_is_counted_over_one_shard() {
    let rows = [("shards-1-loaded", vec![7.0], vec![]), ("shards-2-loaded", vec![9.5], vec![])];
    let table = record(&rows).table();
    let extra = table.lines().find(|line| line.contains("extra")).unwrap();
    assert!(extra.contains("2.50         -      2.50"), "{extra}");
    let alone = record(&rows[1..]).table();
    let extra = alone.lines().find(|line| line.contains("extra")).unwrap();
    assert!(extra.ends_with("not measured"), "{extra}");
}

#[test]
fn faults_show_in_the_table() {
    let mut record = record(&[("q0-n1000-w1-256", vec![6.0], vec![])]);
    record.rows[0].ours[0].faults.lost = 1;
    assert!(record.table().contains("FAULTS"));
}

#[test]
fn medians_of_odd_and_even_counts() {
    assert_eq!(Spread::of(Vec::new()), None);
    assert_eq!(Spread::of(vec![3.0, 1.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
    assert_eq!(Spread::of(vec![3.0, 1.0, 2.5]).map(|s| s.median), Some(2.5));
}

#[test]
fn times_are_utc() {
    assert_eq!(utc(0), "1970-01-01T00:00:00Z");
    assert_eq!(utc(951_826_154), "2000-02-29T12:09:14Z");
    assert_eq!(utc(1_795_249_500), "2026-11-21T08:25:00Z");
}

#[test]
fn a_record_is_written_as_json() {
    let record = record(&[("q0-n1000-w1-256", vec![6.0], vec![])]);
    let directory = std::env::temp_dir().join(format!("ringtide-record-{}", std::process::id()));
    let path = record.write(&directory).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(json["rows"][0]["row"]["id"], "q0-n1000-w1-256");
    assert_eq!(json["commit"], "abc");
}

#[test]
fn records_hold_no_folders_of_this_host() {
    assert_eq!(public("/home/me/target/release/ringtide"), "ringtide");
    assert_eq!(public("/usr/sbin/mosquitto"), "/usr/sbin/mosquitto");
    assert_eq!(public("target/release/ringtide"), "target/release/ringtide");
    assert_eq!(public("--rows"), "--rows");
}
