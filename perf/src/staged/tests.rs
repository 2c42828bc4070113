use std::fs;
use std::path::Path;

use super::check::{Host, check};
use super::file::parse;
use super::plan::{Pace, Part, Plan, Size, seconds};

const FULL: Size = Size { scale: 1.0, duration_s: None };

/// A host that has enough of everything.
const LARGE: Host = Host { descriptors: u64::MAX, ports: (1000, 65_535), processes: 1 };

fn scenarios() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    let mut all: Vec<_> = entries.map(named).collect();
    all.sort();
    all
}

/// What is said of a text that is a good scenario but for one change.
fn refused(from: &str, to: &str, size: Size, host: &Host) -> String {
    let good = include_str!("../../scenarios/e-4.toml");
    assert_eq!(good.matches(from).count().min(1), 1, "{from}");
    let text = good.replacen(from, to, 1);
    let judged = parse(&text).and_then(|file| check(&text, &file, size, host));
    judged.err().map_or_else(|| format!("{to} was not refused"), |wrong| wrong.to_string())
}

#[test]
fn every_scenario_of_the_sources_is_a_good_one() {
    let all = scenarios();
    assert_eq!(all.len(), 14);
    for (name, text) in all {
        let file = parse(&text).unwrap_or_else(|wrong| panic!("{name}:{wrong}"));
        let judged = check(&text, &file, FULL, &LARGE);
        assert!(judged.is_ok(), "{name}:{}", judged.unwrap_err());
        assert!(!file.source.figures.is_empty(), "{name}: what the source found is missing");
        let figures = file.source.figures.iter().filter_map(|figure| figure.sampler.as_ref());
        let plan = Plan::new(&file, FULL);
        for sampler in figures {
            assert!(plan.samplers.iter().any(|s| s.name == *sampler), "{name}: {sampler}");
        }
    }
}

#[test]
fn scenarios_have_the_rates_of_their_sources() {
    for (name, text) in scenarios() {
        let file = parse(&text).unwrap();
        let plan = Plan::new(&file, FULL);
        let last = plan.stages.last().unwrap();
        let rates = last.publish.iter().map(|group| {
            let group = &plan.groups[*group];
            let publish = group.publish.as_ref().unwrap();
            match publish.pace {
                Pace::Every(ns) => f64::from(group.count) * publish.fan as f64 / (ns as f64 / 1e9),
                Pace::Window(_) => 0.0,
            }
        });
        let rate: f64 = rates.sum();
        let figures = file.source.figures.iter();
        let mut rated = figures.filter(|f| f.what == super::file::What::MessageRate);
        if let Some(figure) = rated.next()
            && rate > 0.0
        {
            let ratio = rate / figure.value;
            assert!((0.98..1.02).contains(&ratio), "{name}: {rate} of {}", figure.value);
        }
    }
}

#[test]
fn what_is_no_field_is_refused_with_its_line_and_the_fields_there_are() {
    let said = refused("keep_alive_s", "keepalive", FULL, &LARGE);
    assert!(said.starts_with("6: unknown field `keepalive`, expected one of"), "{said}");
    let said = refused("transport = \"tcp\"", "transport = \"quic\"", FULL, &LARGE);
    assert!(said.starts_with("5: unknown variant `quic`, expected one of `tcp`"), "{said}");
    let said = refused("mqtt = 4", "mqtt = \"four\"", FULL, &LARGE);
    assert!(said.starts_with("4: "), "{said}");
}

#[test]
fn numbers_that_cannot_be_are_refused_with_their_line() {
    let cases = [
        ("mqtt = 4", "mqtt = 6", "4: mqtt is 4 (3.1.1) or 5"),
        ("clients = 800000", "clients = 0", "0 clients: 1 to"),
        ("clients = 800000", "clients = 700000", "there are 700000 and 800000"),
        ("client_id = \"mobile%i\"", "client_id = \"m\"", "needs %i in client_id"),
        ("qos = 0\npayload", "qos = 3\npayload", "qos is 0, 1 or 2"),
        ("qos = 0\npayload", "qos = 1\npayload", "QoS 0 of the subscription is below QoS 1"),
        ("payload_bytes = 256", "payload_bytes = 15", "15 bytes: a payload has 16"),
        ("every_s = ", "window = 5\nevery_s = ", "either every_s or window"),
        ("every_s = ", "window = 0 # ", "a window is 1 to 60000, not 0"),
        ("every_s = ", "every_s = -", "every_s is 0.000001 to 86400, not -"),
        (
            "from = [\"device\"]",
            "from = [\"devices\"]",
            "no group `devices`; there are mobile, dev",
        ),
        ("from = [\"device\"]", "from = [\"listener\"]", "group `listener` publishes nothing"),
        ("connect_per_s = 2000", "connect_per_s = 0", "connects a second: above 0"),
        ("seconds = 60", "seconds = 1e9", "a stage takes 0 to 86400 seconds"),
        ("mobile = 0.5", "mobile = 1.5", "1.5 is no share: 0 to 1"),
        ("mobile = 0.5", "phone = 0.5", "no group `phone`"),
        ("ListenToAllTopics = 10", "Nobody = 10", "no subscription has the sampler `Nobody`"),
    ];
    for (from, to, wanted) in cases {
        let said = refused(from, to, FULL, &LARGE);
        assert!(said.contains(wanted), "{to}: {said}");
        let line = said.split(':').next().unwrap();
        assert!(line.parse::<usize>().is_ok() || wanted.contains("Nobody"), "{to}: {said}");
    }
}

#[test]
fn more_connections_than_ports_are_refused_with_the_arithmetic() {
    let host = Host { descriptors: u64::MAX, ports: (32_768, 60_999), processes: 1 };
    let keep = "connect_per_s = 2000";
    let given = "connect_per_s = 2000\nsource_addresses = 50";
    let said = refused(keep, given, FULL, &host);
    assert!(
        said.starts_with(
            "9: 1600001 connections from 50 addresses x 28232 ports (net.ipv4.ip_local_port_range \
             32768 to 60999) = 1411600 at the most; 57 addresses are needed"
        ),
        "{said}"
    );
    assert!(said.ends_with("or --scale 0.8822"), "{said}");
    let said = refused(keep, "connect_per_s = 2000\nsource_addresses = 0", FULL, &host);
    assert!(said.contains("0 addresses"), "{said}");
}

#[test]
fn more_connections_than_descriptors_are_refused_with_the_arithmetic() {
    let host = Host { descriptors: 20_000, ports: (1000, 65_535), processes: 1 };
    let said = refused("title", "title", FULL, &host);
    assert!(
        said.contains(
            "1600001 connections / 1 processes + 100 = 1600101 descriptors, and a process"
        ),
        "{said}"
    );
    assert!(said.ends_with("--processes 81, or --scale 0.01243"), "{said}");
    let many = Host { processes: 81, ..host };
    assert!(refused("title", "title", FULL, &many).contains("was not refused"));
    let small = Size { scale: 0.01243, duration_s: None };
    assert!(refused("title", "title", small, &host).contains("was not refused"));
}

#[test]
fn parts_have_every_client_once_and_pairs_together() {
    let file = parse(include_str!("../../scenarios/e-1.toml")).unwrap();
    let size = Size { scale: 0.0001, duration_s: None };
    let mut ids = Vec::new();
    for number in 0..3 {
        let part = Plan::new(&file, size).part(Part { number, of: 3 });
        assert!((part.connect_per_s - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(part.groups[0].count, part.groups[1].count);
        assert_eq!(part.clients, part.groups[0].count + part.groups[1].count);
        assert_eq!(part.stages[0].connect, [(0, part.groups[0].count)]);
        for group in &part.groups {
            ids.extend((group.first..group.first + group.count).map(|c| group.client_id(c)));
            assert_eq!(part.group_of(group.first), usize::from(group.first > 0));
        }
    }
    ids.sort();
    let whole = Plan::new(&file, size);
    let groups = whole.groups.iter();
    let mut all: Vec<String> =
        groups.flat_map(|g| (g.first..g.first + g.count).map(|c| g.client_id(c))).collect();
    all.sort();
    assert_eq!(ids, all);
    assert_eq!(whole.crossing(), None);
    let listened = Plan::new(&parse(include_str!("../../scenarios/e-4.toml")).unwrap(), size);
    assert_eq!(listened.crossing(), Some("topic/#"));
    assert_eq!("1/3".parse(), Ok(Part { number: 1, of: 3 }));
    assert!("3/3".parse::<Part>().is_err() && "1".parse::<Part>().is_err());
}

#[test]
fn a_scale_shrinks_clients_and_a_duration_shrinks_time() {
    let text = include_str!("../../scenarios/e-7.toml");
    let file = parse(text).unwrap();
    let size = Size { scale: 0.001, duration_s: Some(seconds(&file) / 100.0) };
    let plan = Plan::new(&file, size);
    let counts: Vec<u32> = plan.groups.iter().map(|group| group.count).collect();
    assert_eq!(counts, [990, 990, 10, 10, 1]);
    assert_eq!(plan.clients, 2001);
    assert!((plan.connect_per_s - 200.0).abs() < 1e-6);
    assert_eq!(plan.groups[2].life_s, Some((0.6, 3.0)));
    assert!((plan.stages[3].seconds - 18.0).abs() < 1e-6);
    assert_eq!(plan.groups[2].client_id(1980), "mobile990001");
    assert_eq!(plan.group_of(1979), 1);
    assert_eq!(plan.group_of(1980), 2);
    let publish = plan.groups[0].publish.as_ref().unwrap();
    assert_eq!(publish.fan, 2, "its device and the listener");
}
