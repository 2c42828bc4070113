//! Rules that types cannot say: ranges, and keys that must fit each other.

use std::collections::HashSet;
use std::net::IpAddr;

use ringtide_net::ListenAddr;

use super::layers::{Layers, Origin};
use super::load::Problem;
use super::path::KeyPath;
use super::{ClientCertificates, Config, Driver, Durability, Host, Limits, Listener, SHARDS_MAX};

/// The largest packet that the standard's length field can say, with its fixed header.
const PACKET_BYTES_MAX: u64 = 268_435_455 + 5;

/// The longest path of a Unix socket: `sun_path` without the byte that ends it.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// What is wrong with a configuration whose types are right. Empty = nothing.
pub(super) fn validate(config: &Config, layers: &Layers) -> Vec<Problem> {
    let mut report = Report { layers, problems: Vec::new() };
    machine(config, &mut report);
    listeners(&config.listeners, config.durability, &mut report);
    limits(&config.limits, &mut report);
    groups(config, &mut report);
    store(config, &mut report);
    report.problems
}

/// Collects problems, each with the origin of the value.
struct Report<'a> {
    layers: &'a Layers,
    problems: Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, path: &KeyPath, text: String) {
        let place = match self.layers.origin(path) {
            Origin::Default => "configuration".to_owned(),
            origin => origin.to_string(),
        };
        self.problems.push(Problem { place, text: format!("`{path}` {text}") });
    }

    fn range(&mut self, path: &KeyPath, value: impl Into<u64>, low: u64, high: u64) {
        let value = value.into();
        if value < low || value > high {
            self.add(path, format!("is {value}, must be {low} to {high}"));
        }
    }
}

fn machine(config: &Config, report: &mut Report<'_>) {
    let root = KeyPath::default();
    report.range(&root.key("shards"), config.shards, 0, SHARDS_MAX.into());
    report.range(&root.key("shutdown_timeout_s"), config.shutdown_timeout_s, 1, 3600);
    report.range(&root.key("sys_interval_s"), config.sys_interval_s, 0, 86_400);
    if config.data_dir.as_os_str().is_empty() {
        report.add(&root.key("data_dir"), "is empty: name a directory".to_owned());
    }
    let mut seen = HashSet::new();
    if let Some(cpu) = config.cpus.iter().find(|cpu| !seen.insert(**cpu)) {
        report.add(&root.key("cpus"), format!("names processor {cpu} twice"));
    }
    let host = root.key("host");
    let asked = !matches!(report.layers.origin(&host), Origin::Default);
    if config.driver == Driver::Epoll && config.host == Host::Glommio && asked {
        let text = "is \"glommio\", which needs io_uring, but driver is \"epoll\"; leave host out \
                    or set it to \"threads\"";
        report.add(&host, text.to_owned());
    }
}

fn store(config: &Config, report: &mut Report<'_>) {
    let at = KeyPath::default().key("store");
    let segment = config.store.segment_bytes;
    report.range(&at.key("segment_bytes"), segment, 64 << 10, 4 << 30);
    report.range(&at.key("checkpoint_bytes"), config.store.checkpoint_bytes, 64 << 10, 1 << 40);
    report.range(&at.key("backlog_bytes_max"), config.store.backlog_bytes_max, 64 << 10, 1 << 40);
    report.range(
        &at.key("waiting_memory_bytes_max"),
        config.store.waiting_memory_bytes_max,
        0,
        1 << 50,
    );
    let disk = config.store.disk_bytes_max;
    let least = 4 * segment + config.store.checkpoint_bytes;
    if disk != 0 && disk < least {
        let text = format!(
            "is {disk}, must be 0 or at least {least}: four segments and store.checkpoint_bytes"
        );
        report.add(&at.key("disk_bytes_max"), text);
    }
}

fn listeners(listeners: &[Listener], durability: Durability, report: &mut Report<'_>) {
    let list = KeyPath::default().key("listeners");
    if listeners.is_empty() {
        report.add(&list, "is empty: no client could connect".to_owned());
    }
    // Listeners are numbered in 16 bits, and each is opened once per shard.
    if listeners.len() > 64 {
        report.add(&list, format!("has {} elements, at most 64 are possible", listeners.len()));
    }
    let mut names = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let at = list.index(index);
        if !names.insert(listener.name.as_str()) {
            report.add(&at.key("name"), format!("\"{}\" is used twice", listener.name));
        }
        if let Some(other) = listeners[..index].iter().find(|other| overlap(listener, other)) {
            let text = format!(
                "is {}, which the broker's own listener \"{}\" on {} has already: leave one \
                 out or choose another address",
                listener.bind, other.name, other.bind
            );
            report.add(&at.key("bind"), text);
        }
        if listener.versions.is_empty() {
            report.add(&at.key("versions"), "is empty: no client could connect".to_owned());
        }
        let promised = listener.durability.over(durability);
        if promised > durability {
            let (more, less) = (promised.name(), durability.name());
            let text = format!("is \"{more}\", more than the broker's durability, \"{less}\"");
            report.add(&at.key("durability"), text);
        }
        websocket(listener, &at, report);
        origin(listener, &at, report);
        tcp(listener, &at, report);
        if listener.max_packet_bytes != 0 {
            let key = at.key("max_packet_bytes");
            report.range(&key, listener.max_packet_bytes, 32, PACKET_BYTES_MAX);
        }
        tls(listener, &at, report);
        report.range(&at.key("backlog"), listener.backlog, 1, i32::MAX as u64);
        report.range(&at.key("handshake_timeout_s"), listener.handshake_timeout_s, 1, 3600);
    }
}

/// Whether the system would refuse one of two listeners for the other's sake.
fn overlap(one: &Listener, other: &Listener) -> bool {
    let (ListenAddr::Tcp(one), ListenAddr::Tcp(other)) = (&one.bind, &other.bind) else {
        return one.bind == other.bind;
    };
    let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
    // All addresses of IPv6 are those of IPv4, too: see `ringtide_net::listen`.
    let has = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() != 0
        && one.port() == other.port()
        && (first == second || has(first, second) || has(second, first))
}

/// Options of a listener's sockets.
fn tcp(listener: &Listener, at: &KeyPath, report: &mut Report<'_>) {
    report.range(&at.key("tcp_keepalive_s"), listener.tcp_keepalive_s, 0, 32_767);
    let high = i32::MAX as u64;
    report.range(&at.key("tcp_user_timeout_ms"), listener.tcp_user_timeout_ms, 0, high);
    report.range(&at.key("send_buffer_bytes"), listener.send_buffer_bytes, 0, high / 2);
    report.range(&at.key("receive_buffer_bytes"), listener.receive_buffer_bytes, 0, high / 2);
}

/// Where clients come from, and who says so.
fn origin(listener: &Listener, at: &KeyPath, report: &mut Report<'_>) {
    let unix = matches!(listener.bind, ListenAddr::Unix(_));
    report.range(&at.key("proxy_header_timeout_s"), listener.proxy_header_timeout_s, 1, 3600);
    if listener.proxy_protocol && listener.trusted_proxies.is_empty() && !unix {
        let text =
            "is empty, but proxy_protocol is true: name the proxies, or nobody could connect";
        report.add(&at.key("trusted_proxies"), text.to_owned());
    }
    if listener.user_name_from_proxy && !listener.proxy_protocol {
        let text = "has no effect while proxy_protocol is false";
        report.add(&at.key("user_name_from_proxy"), text.to_owned());
    }
    for (key, networks) in [("allow", &listener.allow), ("deny", &listener.deny)] {
        if unix && !listener.proxy_protocol && !networks.is_empty() {
            let text = "has no effect: clients of a Unix socket have no address; its mode and its \
                        directory say who may connect";
            report.add(&at.key(key), text.to_owned());
        }
    }
    if let ListenAddr::Unix(path) = &listener.bind {
        let bytes = path.as_os_str().len();
        if bytes == 0 || bytes > UNIX_PATH_BYTES_MAX {
            let text = format!("has a path of {bytes} bytes, must be 1 to {UNIX_PATH_BYTES_MAX}");
            report.add(&at.key("bind"), text);
        }
    }
}

fn tls(listener: &Listener, at: &KeyPath, report: &mut Report<'_>) {
    let transport = listener.transport;
    let Some(tls) = &listener.tls else {
        if transport.is_secured() {
            let text = "is missing: a certificate and its key are needed ([listeners.tls])";
            report.add(&at.key("tls"), text.to_owned());
        }
        return;
    };
    let at = at.key("tls");
    if !transport.is_secured() {
        let (name, secured) = match transport.is_websocket() {
            true => ("ws", "wss"),
            false => ("tcp", "tls"),
        };
        let text = format!("is set, but transport is \"{name}\"; set transport = \"{secured}\"");
        report.add(&at, text);
    }
    let missing = |path: &std::path::Path| path.as_os_str().is_empty();
    if tls.certificates.is_empty() {
        let text = "is empty: a certificate and its key are needed";
        report.add(&at.key("certificates"), text.to_owned());
    }
    for (index, own) in tls.certificates.iter().enumerate() {
        let at = at.key("certificates").index(index);
        for (key, path) in [("certificate", &own.certificate), ("key", &own.key)] {
            if missing(path) {
                report.add(&at.key(key), "names no file".to_owned());
            }
        }
    }
    let asks = tls.client_certificates != ClientCertificates::None;
    if asks && missing(&tls.client_ca) {
        let text = "names no file: nobody's certificate could be accepted";
        report.add(&at.key("client_ca"), text.to_owned());
    }
    for (key, set) in [("client_ca", !missing(&tls.client_ca)), ("crl", !tls.crl.is_empty())] {
        if set && !asks {
            let text = "has no effect while client_certificates is \"none\"";
            report.add(&at.key(key), text.to_owned());
        }
    }
    if tls.versions.is_empty() {
        report.add(&at.key("versions"), "is empty: no client could connect".to_owned());
    }
}

fn websocket(listener: &Listener, at: &KeyPath, report: &mut Report<'_>) {
    let path = listener.websocket_path.as_str();
    let plain = |c: char| c.is_ascii_graphic() && c != '?' && c != '#';
    if !path.starts_with('/') || !path.chars().all(plain) {
        let text = format!("is {path:?}, must be the path of an address, such as \"/mqtt\"");
        report.add(&at.key("websocket_path"), text);
    }
    let is_origin = |origin: &str| {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        origin == "null" || !host.is_empty() && host.chars().all(plain) && !host.contains('/')
    };
    if let Some(wrong) = listener.websocket_origins.iter().find(|origin| !is_origin(origin)) {
        let text = format!(
            "has {wrong:?}, must be scheme, host and port, such as \"https://example.org:8443\""
        );
        report.add(&at.key("websocket_origins"), text);
    }
}

fn limits(limits: &Limits, report: &mut Report<'_>) {
    let at = KeyPath::default().key("limits");
    let packet = u64::from(limits.max_packet_bytes);
    report.range(&at.key("max_packet_bytes"), packet, 32, PACKET_BYTES_MAX);
    report.range(&at.key("max_connect_bytes"), limits.max_connect_bytes, 32, PACKET_BYTES_MAX);
    report.range(&at.key("receive_maximum"), limits.receive_maximum, 1, 65_535);
    report.range(&at.key("inflight_count_max"), limits.inflight_count_max, 1, 65_535);
    report.range(&at.key("topic_levels_max"), limits.topic_levels_max, 1, 65_535);
    report.range(&at.key("client_id_bytes_max"), limits.client_id_bytes_max, 23, 65_535);
    report.range(&at.key("session_count_max"), limits.session_count_max, 1, u32::MAX.into());
    let subscriptions = limits.subscription_count_max;
    report.range(&at.key("subscription_count_max"), subscriptions, 1, u32::MAX.into());
    report.range(&at.key("queue_count_max"), limits.queue_count_max, 1, u32::MAX.into());
    let high = i64::MAX as u64;
    report.range(&at.key("retained_bytes_max"), limits.retained_bytes_max, 0, high);
    report.range(&at.key("write_buffer_bytes_max"), limits.write_buffer_bytes_max, 4096, 1 << 31);
    if limits.queue_bytes_max < packet || limits.queue_bytes_max > high {
        let bytes = limits.queue_bytes_max;
        let text = format!("is {bytes}, less than one packet of max_packet_bytes ({packet})");
        report.add(&at.key("queue_bytes_max"), text);
    }
    let (default, max) = (limits.keep_alive_default_s, limits.keep_alive_max_s);
    if max != 0 && default > max {
        let text = format!("is {default}, more than keep_alive_max_s ({max})");
        report.add(&at.key("keep_alive_default_s"), text);
    }
}

fn groups(config: &Config, report: &mut Report<'_>) {
    let list = KeyPath::default().key("shared").key("groups");
    let mut names = HashSet::new();
    for (index, group) in config.shared.groups.iter().enumerate() {
        let path = list.index(index).key("name");
        if group.name.is_empty() || group.name.contains(['/', '+', '#', '\0']) {
            report.add(&path, format!("\"{}\" is no name of a group", group.name));
        }
        if !names.insert(group.name.as_str()) {
            report.add(&path, format!("\"{}\" is used twice", group.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Certificate, Group, ListenerDurability, Tls, Transport, Version};

    fn problems(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Layers::default().resolve().unwrap();
        change(&mut config);
        let found = validate(&config, &Layers::default());
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(problems(|_| ()), "");
    }

    #[test]
    fn a_disk_limit_must_leave_room_to_work() {
        let text = problems(|config| config.store.disk_bytes_max = 1 << 20);
        assert!(text.contains("`store.disk_bytes_max` is 1048576"), "{text}");
        assert!(!problems(|config| config.store.segment_bytes = 1).is_empty());
    }

    #[test]
    fn epoll_does_not_run_where_io_uring_is_needed() {
        assert_eq!(problems(|config| config.driver = Driver::Epoll), "", "the host is the default");
        let mut layers = Layers::default();
        let host = KeyPath::default().key("host");
        layers.set(&host, "glommio".into(), Origin::Argument("--host")).unwrap();
        let config = Config { driver: Driver::Epoll, ..Config::default() };
        let problems = validate(&config, &layers);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].text.contains("`host` is \"glommio\", which needs io_uring"));
        let config = Config { host: Host::Threads, ..config };
        assert_eq!(validate(&config, &layers).len(), 0);
    }

    #[test]
    fn ranges_are_checked() {
        assert!(problems(|config| config.shards = 251).contains("must be 0 to 250"));
        assert!(problems(|config| config.limits.receive_maximum = 0).contains("1 to 65535"));
        assert!(problems(|config| config.limits.max_packet_bytes = 1).contains("max_packet_bytes"));
        assert!(problems(|config| config.limits.client_id_bytes_max = 22).contains("23 to"));
        assert!(problems(|config| config.limits.queue_bytes_max = 1).contains("one packet"));
        assert!(problems(|config| config.listeners[0].backlog = 0).contains("backlog"));
        assert!(problems(|config| config.cpus = vec![1, 1]).contains("processor 1 twice"));
        let text = problems(|config| {
            config.limits.keep_alive_max_s = 60;
            config.limits.keep_alive_default_s = 61;
        });
        assert!(text.contains("more than keep_alive_max_s (60)"), "{text}");
    }

    #[test]
    fn listeners_must_differ_and_accept_something() {
        assert!(problems(|config| config.listeners.clear()).contains("no client could connect"));
        let text = problems(|config| config.listeners.push(config.listeners[0].clone()));
        assert!(text.contains("`listeners[1].name`") && text.contains("`listeners[1].bind`"));
        let text = problems(|config| config.listeners[0].versions = Vec::<Version>::new());
        assert!(text.contains("listeners[0].versions"), "{text}");
    }

    #[test]
    fn listeners_must_not_be_in_each_other_s_way() {
        let both = |one: &str, other: &str| {
            problems(|config| {
                config.listeners = [one, other]
                    .map(|bind| Listener {
                        name: bind.to_owned(),
                        bind: bind.parse().unwrap(),
                        ..Listener::default()
                    })
                    .to_vec();
                config.listeners[1].name.push('2');
            })
        };
        for (one, other) in [
            ("0.0.0.0:1883", "127.0.0.1:1883"),
            ("127.0.0.1:1883", "0.0.0.0:1883"),
            ("[::]:1883", "127.0.0.1:1883"),
            ("0.0.0.0:1883", "[::]:1883"),
            ("[::1]:1883", "[::]:1883"),
            ("127.0.0.1:1883", "127.0.0.1:1883"),
            ("127.0.0.1:1883", "[::ffff:127.0.0.1]:1883"),
            ("unix:a.sock", "unix:a.sock"),
        ] {
            let text = both(one, other);
            let said = format!("the broker's own listener \"{one}\" on {one} has already");
            assert!(text.contains("`listeners[1].bind` is") && text.contains(&said), "{text}");
        }
        for (one, other) in [
            ("0.0.0.0:1883", "127.0.0.1:1884"),
            ("0.0.0.0:0", "127.0.0.1:0"),
            ("127.0.0.1:1883", "127.0.0.2:1883"),
            ("0.0.0.0:1883", "[::1]:1883"),
            ("unix:a.sock", "unix:b.sock"),
        ] {
            assert_eq!(both(one, other), "");
        }
    }

    #[test]
    fn data_has_a_directory() {
        let text = problems(|config| config.data_dir = "".into());
        assert!(text.contains("`data_dir` is empty"), "{text}");
    }

    #[test]
    fn tls_is_there_where_it_is_needed_and_nowhere_else() {
        let certificates = vec![Certificate {
            certificate: "c".into(),
            key: "k".into(),
            ..Certificate::default()
        }];
        let good = Tls { certificates, ..Tls::default() };
        let with = |transport: Transport, tls: Option<Tls>| {
            problems(|config| {
                config.listeners[0].transport = transport;
                config.listeners[0].tls = tls;
            })
        };
        for transport in [Transport::Tls, Transport::Wss] {
            assert_eq!(with(transport, Some(good.clone())), "");
            assert!(with(transport, None).contains("`listeners[0].tls` is missing"));
        }
        let text = with(Transport::Ws, Some(good.clone()));
        assert!(text.contains("set transport = \"wss\""), "{text}");
        let text = with(Transport::Tls, Some(Tls::default()));
        assert!(text.contains("`listeners[0].tls.certificates` is empty"), "{text}");
        let nameless = Tls { certificates: vec![Certificate::default()], ..Tls::default() };
        let text = with(Transport::Tls, Some(nameless));
        assert!(text.contains("`listeners[0].tls.certificates[0].key` names no file"), "{text}");
        let asking = Tls { client_certificates: ClientCertificates::Optional, ..good.clone() };
        let text = with(Transport::Tls, Some(asking));
        assert!(text.contains("`listeners[0].tls.client_ca` names no file"), "{text}");
        let text = with(Transport::Tls, Some(Tls { crl: vec!["x".into()], ..good.clone() }));
        assert!(text.contains("`listeners[0].tls.crl` has no effect"), "{text}");
        let text = with(Transport::Tls, Some(Tls { versions: Vec::new(), ..good }));
        assert!(text.contains("`listeners[0].tls.versions` is empty"), "{text}");
    }

    #[test]
    fn a_listener_s_own_limits_have_ranges() {
        let with = |change: &dyn Fn(&mut Listener)| problems(|c| change(&mut c.listeners[0]));
        assert!(with(&|own| own.max_packet_bytes = 31).contains("max_packet_bytes` is 31, must"));
        assert_eq!(with(&|own| own.max_packet_bytes = 32), "");
        assert!(with(&|own| own.tcp_keepalive_s = 32_768).contains("tcp_keepalive_s"));
        assert!(with(&|own| own.tcp_user_timeout_ms = u32::MAX).contains("tcp_user_timeout_ms"));
        assert!(with(&|own| own.send_buffer_bytes = u32::MAX).contains("send_buffer_bytes"));
        assert!(with(&|own| own.receive_buffer_bytes = u32::MAX).contains("receive_buffer_bytes"));
    }

    #[test]
    fn who_tells_where_clients_come_from_must_be_known() {
        let with = |change: &dyn Fn(&mut Listener)| problems(|c| change(&mut c.listeners[0]));
        let text = with(&|own| own.proxy_protocol = true);
        assert!(text.contains("`listeners[0].trusted_proxies` is empty"), "{text}");
        let text = with(&|own| {
            own.proxy_protocol = true;
            own.bind = ListenAddr::Unix("mqtt.sock".into());
        });
        assert_eq!(text, "", "the socket's mode says who connects");
        let text = with(&|own| own.user_name_from_proxy = true);
        assert!(text.contains("`listeners[0].user_name_from_proxy` has no effect"), "{text}");
        let text = with(&|own| {
            own.allow = vec!["10.0.0.0/8".parse().unwrap()];
            own.bind = ListenAddr::Unix("mqtt.sock".into());
        });
        assert!(text.contains("`listeners[0].allow` has no effect"), "{text}");
        for path in [String::new(), "x".repeat(108)] {
            let text = with(&|own| own.bind = ListenAddr::Unix(path.clone().into()));
            assert!(text.contains("`listeners[0].bind` has a path of"), "{text}");
        }
    }

    #[test]
    fn a_websocket_has_a_path_and_origins_without_one() {
        for path in ["", "mqtt", "/a b", "/a?b=c"] {
            let text = problems(|config| config.listeners[0].websocket_path = path.into());
            assert!(text.contains("`listeners[0].websocket_path` is"), "{path}: {text}");
        }
        for origin in ["", "example.org", "https://", "https://example.org/"] {
            let text =
                problems(|config| config.listeners[0].websocket_origins = vec![origin.into()]);
            assert!(text.contains("`listeners[0].websocket_origins` has"), "{origin}: {text}");
        }
        let good = problems(|config| {
            config.listeners[0].websocket_path = "/".into();
            let origins = ["https://example.org", "http://[::1]:8080", "null"];
            config.listeners[0].websocket_origins = origins.map(String::from).to_vec();
        });
        assert_eq!(good, "");
    }

    #[test]
    fn a_listener_promises_no_more_than_the_broker() {
        let text = problems(|config| {
            config.durability = Durability::Os;
            config.listeners[0].durability = ListenerDurability::Sync;
        });
        assert!(text.contains("`listeners[0].durability` is \"sync\", more than"), "{text}");
        let less = problems(|config| config.listeners[0].durability = ListenerDurability::Memory);
        assert_eq!(less, "");
    }

    #[test]
    fn group_names_must_be_possible() {
        let group = |name: &str| Group { name: name.into(), ..Group::default() };
        let text = problems(|config| config.shared.groups = vec![group("a/b"), group("")]);
        assert!(text.contains("shared.groups[0].name") && text.contains("shared.groups[1].name"));
        let text = problems(|config| config.shared.groups = vec![group("a"), group("a")]);
        assert!(text.contains("used twice"), "{text}");
    }
}
