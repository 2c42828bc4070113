//! What differs between brokers: their arguments, configuration files, versions, and what they
//! promise of an acknowledged message.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::carry::identity::Identity;
use crate::carry::link::Transport;

/// Which broker it is: how to start it follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Ringtide,
    Mosquitto,
    NatsServer,
    Rumqttd,
    /// This program's null broker.
    Reflector,
}

/// Where a broker is to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// A directory of its own.
    pub(crate) directory: &'a Path,
    /// On 127.0.0.1.
    pub(crate) port: u16,
    pub(crate) shards: u16,
    /// It keeps sessions and messages in the directory; else it need not.
    pub(crate) keeps: bool,
    /// What it listens with; its identity for TLS is in the directory.
    pub(crate) transport: Transport,
}

impl Kind {
    /// Guesses from the program's name.
    pub(crate) fn of(program: &Path) -> Self {
        let name = program.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let known = [
            ("mosquitto", Self::Mosquitto),
            ("nats-server", Self::NatsServer),
            ("rumqttd", Self::Rumqttd),
            ("ringtide-perf", Self::Reflector),
        ];
        known.iter().find(|(part, _)| name.contains(part)).map_or(Self::Ringtide, |found| found.1)
    }

    /// Whether it is known how to have it listen with this.
    pub(crate) fn speaks(self, transport: Transport) -> bool {
        match self {
            Self::Ringtide | Self::Mosquitto => true,
            Self::Reflector => matches!(transport, Transport::Tcp | Transport::Tls),
            Self::NatsServer | Self::Rumqttd => transport == Transport::Tcp,
        }
    }

    /// The arguments and, if the broker wants one, the configuration file.
    pub(crate) fn arguments(self, place: &Place<'_>) -> (Vec<String>, String) {
        let Place { directory, port, shards, keeps, transport } = *place;
        let identity = Identity::within(directory);
        let [certificate, key] =
            [&identity.certificate, &identity.key].map(|path| path.display().to_string());
        let file = directory.join("config").display().to_string();
        let listen = format!("127.0.0.1:{port}");
        let data = directory.join("data").display().to_string();
        let shards = shards.to_string();
        let (arguments, config): (Vec<&str>, _) = match self {
            Self::Ringtide if transport != Transport::Tcp => {
                let run = ["run", "--config", &file, "--shards", &shards, "--data-dir", &data];
                (run.to_vec(), ringtide(&listen, transport, &identity))
            }
            Self::Ringtide => {
                let run = ["run", "--listen", &listen, "--shards", &shards, "--data-dir", &data];
                (run.to_vec(), String::new())
            }
            Self::Mosquitto => (vec!["-c", &file], mosquitto(place, &identity)),
            Self::NatsServer => (vec!["-c", &file], nats(directory, port, keeps)),
            Self::Rumqttd => (vec!["-c", &file], rumqttd(port)),
            Self::Reflector => {
                let mut arguments = vec!["reflect", "--io", "uring", "--listen", &listen];
                if transport.has_tls() {
                    arguments.extend(["--certificate", &certificate, "--key", &key]);
                }
                (arguments, String::new())
            }
        };
        (arguments.into_iter().map(str::to_owned).collect(), config)
    }

    /// The environment of a broker that is to keep all that is sent to it.
    pub(crate) fn environment(self, durability: &str) -> Vec<(String, String)> {
        let own = [
            ("RINGTIDE_DURABILITY", durability),
            ("RINGTIDE_LIMITS_QUEUE_COUNT_MAX", "100000000"),
            ("RINGTIDE_LIMITS_QUEUE_BYTES_MAX", "100000000000"),
        ];
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        if self == Self::Ringtide { own.collect() } else { Vec::new() }
    }

    /// What holds for a message when its PUBACK has come.
    pub(crate) fn promise(self, durability: &str) -> &'static str {
        match self {
            Self::Ringtide => match durability {
                "sync" => "written and synced before PUBACK: survives a power cut",
                "os" => "written, not synced: survives a crash of the broker, not a power cut",
                _ => "in memory only: lost when the broker stops",
            },
            Self::Mosquitto => {
                "in memory; the whole database is written every 30 minutes and at the end"
            }
            Self::NatsServer => {
                "written to a file before PUBACK, synced every 2 minutes: survives a crash of \
                 the broker, not a power cut"
            }
            Self::Rumqttd | Self::Reflector => "in memory only: lost when the broker stops",
        }
    }

    /// The version line of a program; empty if it cannot be run.
    pub(crate) fn version(self, program: &Path) -> String {
        let argument = match self {
            Self::Ringtide => "version",
            Self::Mosquitto => "-h",
            Self::NatsServer | Self::Rumqttd => "--version",
            Self::Reflector => return "null reflector".to_owned(),
        };
        let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
    }
}

fn ringtide(listen: &str, transport: Transport, identity: &Identity) -> String {
    let Identity { certificate, key, .. } = identity;
    let name = transport.name();
    let listener = format!("[[listeners]]\nbind = \"{listen}\"\ntransport = \"{name}\"\n");
    if !transport.has_tls() {
        return listener;
    }
    format!(
        "{listener}[listeners.tls]\n[[listeners.tls.certificates]]\ncertificate = {certificate:?}\n\
         key = {key:?}\n"
    )
}

fn mosquitto(place: &Place<'_>, identity: &Identity) -> String {
    let Place { directory, port, keeps, transport, .. } = *place;
    // 2.0.11 ends if it has WebSocket listeners only: so there is another, of no use.
    let (websocket, beside) = match transport.has_websocket() {
        true => ("protocol websockets\n", format!("listener 0 {}/socket\n", directory.display())),
        false => ("", String::new()),
    };
    let Identity { certificate, key, .. } = identity;
    let (certificate, key) = (certificate.display(), key.display());
    let tls = match transport.has_tls() {
        true => format!("certfile {certificate}\nkeyfile {key}\n"),
        false => String::new(),
    };
    let persistence = if keeps {
        format!("persistence true\npersistence_location {}/\n", directory.display())
    } else {
        "persistence false\n".to_owned()
    };
    // Started by root it would otherwise become a user who may not use the directory.
    format!(
        "listener {port} 127.0.0.1\n\
         {websocket}{tls}\
         allow_anonymous true\n\
         {persistence}\
         {beside}\
         user root\n\
         max_queued_messages 0\n\
         max_inflight_messages 0\n\
         set_tcp_nodelay true\n\
         log_type error\n"
    )
}

fn nats(directory: &Path, port: u16, keeps: bool) -> String {
    let store = directory.display();
    // A session may have 65535 in all, and a filter that ends in # is two subscriptions there.
    let pending = if keeps { 32_767 } else { 65_535 };
    format!(
        "server_name: bench\n\
         listen: 127.0.0.1:-1\n\
         jetstream {{ store_dir: \"{store}\" }}\n\
         mqtt {{ listen: \"127.0.0.1:{port}\", max_ack_pending: {pending} }}\n"
    )
}

fn rumqttd(port: u16) -> String {
    format!(
        "id = 0\n\
         [router]\n\
         id = 0\n\
         max_connections = 20010\n\
         max_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\n\
         max_segment_count = 10\n\
         [v4.1]\n\
         name = \"v4-1\"\n\
         listen = \"127.0.0.1:{port}\"\n\
         next_connection_delay_ms = 0\n\
         [v4.1.connections]\n\
         connection_timeout_ms = 60000\n\
         max_payload_size = 20971520\n\
         max_inflight_count = 1000\n\
         dynamic_filters = true\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16, shards: u16, transport: Transport) -> Place<'static> {
        Place { directory: Path::new("/d"), port, shards, keeps: false, transport }
    }

    #[test]
    fn each_transport_has_its_listener() {
        let (arguments, config) = Kind::Ringtide.arguments(&place(4477, 1, Transport::Wss));
        assert_eq!(arguments[..3], ["run", "--config", "/d/config"]);
        for part in ["bind = \"127.0.0.1:4477\"", "transport = \"wss\"", "\"/d/cert.pem\""] {
            assert!(config.contains(part), "{config}");
        }
        let (_, config) = Kind::Mosquitto.arguments(&place(4477, 1, Transport::Wss));
        assert!(config.contains("protocol websockets\ncertfile /d/cert.pem\n"), "{config}");
        let (arguments, _) = Kind::Reflector.arguments(&place(4477, 1, Transport::Tls));
        assert_eq!(arguments[5..], ["--certificate", "/d/cert.pem", "--key", "/d/key.pem"]);
        assert!(!Kind::Reflector.speaks(Transport::Ws) && Kind::Ringtide.speaks(Transport::Ws));
    }

    #[test]
    fn the_kind_follows_from_the_name() {
        assert_eq!(Kind::of(Path::new("/usr/sbin/mosquitto")), Kind::Mosquitto);
        assert_eq!(Kind::of(Path::new("target/release/ringtide")), Kind::Ringtide);
        assert_eq!(Kind::of(Path::new("ringtide-perf")), Kind::Reflector);
    }

    #[test]
    fn each_kind_gets_port_and_shards() {
        let place = place(4477, 3, Transport::Tcp);
        let (arguments, _) = Kind::Ringtide.arguments(&place);
        let run = ["run", "--listen", "127.0.0.1:4477", "--shards", "3", "--data-dir", "/d/data"];
        assert_eq!(arguments, run);
        for kind in [Kind::Mosquitto, Kind::NatsServer, Kind::Rumqttd] {
            let (arguments, config) = kind.arguments(&place);
            assert_eq!(arguments, ["-c", "/d/config"]);
            assert!(config.contains("4477"));
        }
    }

    #[test]
    fn what_is_to_be_kept_is_kept_in_the_directory() {
        let place = Place { keeps: true, ..place(1, 1, Transport::Tcp) };
        let (_, config) = Kind::Mosquitto.arguments(&place);
        assert!(config.contains("persistence true\npersistence_location /d/\n"), "{config}");
        let environment = Kind::Ringtide.environment("os");
        assert!(environment.contains(&("RINGTIDE_DURABILITY".to_owned(), "os".to_owned())));
        assert!(Kind::Mosquitto.environment("os").is_empty());
    }
}
