//! `[[listeners]]`: where clients connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use ringtide_net::ListenAddr;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Durability, Tls};

/// A protocol version that a listener may accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// MQTT 3.1 (protocol level 3, name `MQIsdp`).
    #[serde(rename = "3.1")]
    V3_1,
    /// MQTT 3.1.1 (protocol level 4).
    #[serde(rename = "3.1.1")]
    V3_1_1,
    /// MQTT 5.0 (protocol level 5).
    #[serde(rename = "5.0")]
    V5_0,
}

/// How many versions there are.
pub const MAX_VERSIONS: usize = 3;

impl Version {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5_0 => "5.0",
        }
    }

    /// The protocol level byte of CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Version::V3_1 => 3,
            Version::V3_1_1 => 4,
            Version::V5_0 => 5,
        }
    }
}

/// What an acknowledgement promises to the clients of one listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerDurability {
    /// What the broker's own `durability` says.
    #[default]
    Inherit,
    /// Nothing: acknowledgements do not wait for the store.
    Memory,
    /// That it survives a crash of the broker.
    Os,
    /// That it survives a crash of the machine.
    Sync,
}

impl ListenerDurability {
    /// What it comes to in a broker that promises `global`.
    pub fn over(self, global: Durability) -> Durability {
        match self {
            ListenerDurability::Inherit => global,
            ListenerDurability::Memory => Durability::Memory,
            ListenerDurability::Os => Durability::Os,
            ListenerDurability::Sync => Durability::Sync,
        }
    }
}

/// What carries MQTT between the clients of a listener and the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP alone.
    #[default]
    Tcp,
    /// WebSocket.
    Ws,
    /// TLS.
    Tls,
    /// WebSocket in TLS.
    Wss,
}

impl Transport {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Ws => "ws",
            Transport::Tls => "tls",
            Transport::Wss => "wss",
        }
    }

    /// Whether connections are encrypted.
    pub fn is_secured(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// Whether clients connect by WebSocket.
    pub fn is_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }
}

/// One address on which clients connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Name in logs and counters; empty = the address.
    pub name: String,
    /// Address and port, or `unix:` and the path of a socket. Port 0 lets the system choose one,
    /// which the start-up log names.
    #[serde(with = "address")]
    pub bind: ListenAddr,
    /// Permissions of a Unix socket, in octal digits.
    #[serde(with = "mode")]
    pub unix_mode: u32,
    /// What carries MQTT.
    pub transport: Transport,
    /// Connections that may wait in the kernel to be accepted, per shard.
    pub backlog: u32,
    /// Connections at a time; 0 = as many as there are descriptors for.
    pub max_connections: u32,
    /// Protocol versions that are accepted.
    pub versions: Vec<Version>,
    /// Seconds within which a client's CONNECT must have come, 1 to 3600.
    pub handshake_timeout_s: u16,
    /// Connections a second, dealt out over the shards; 0 = no bound.
    pub max_connects_per_s: u32,
    /// Largest packet that a client may send, in bytes; 0 = `limits.max_packet_bytes`, which also
    /// bounds it.
    pub max_packet_bytes: u32,
    /// Bytes a second that each client may send; 0 = no bound.
    pub max_client_bytes_per_s: u32,
    /// Messages a second that each client may publish; 0 = no bound.
    pub max_client_messages_per_s: u32,
    /// Small segments are sent at once (TCP_NODELAY).
    pub tcp_nodelay: bool,
    /// Seconds of silence after which the kernel asks whether a client's host is still there
    /// (SO_KEEPALIVE); 0 = it does not ask. At most 32767.
    pub tcp_keepalive_s: u16,
    /// Milliseconds that sent bytes may stay unacknowledged by a client's host before its
    /// connection is given up (TCP_USER_TIMEOUT); 0 = as long as the kernel's own rules say.
    pub tcp_user_timeout_ms: u32,
    /// Bytes of the kernel's send buffer for each connection; 0 = as the kernel sees fit.
    pub send_buffer_bytes: u32,
    /// Bytes of the kernel's receive buffer for each connection; 0 = as the kernel sees fit.
    pub receive_buffer_bytes: u32,
    /// Tenant that all clients of this listener belong to.
    pub tenant: u32,
    /// What an acknowledgement promises to its clients; not more than the broker's `durability`.
    pub durability: ListenerDurability,
    /// The path that WebSocket clients connect to.
    pub websocket_path: String,
    /// Values of `Origin` with which browsers are let in, such as `https://example.org`; empty =
    /// all.
    pub websocket_origins: Vec<String>,
    /// Networks of proxies whose word for the client's address is taken.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Every connection begins with a PROXY header (version 1 or 2).
    pub proxy_protocol: bool,
    /// Seconds within which that header must have come, 1 to 3600.
    pub proxy_header_timeout_s: u16,
    /// The user name is the common name of the client's certificate, as the proxy has verified it;
    /// what CONNECT says is not believed.
    pub user_name_from_proxy: bool,
    /// The only networks that clients may come from; empty = all.
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
    /// Networks that no client may come from, whatever `allow` says.
    #[serde(deserialize_with = "networks")]
    pub deny: Vec<IpNet>,
    /// TLS; there if, and only if, the transport needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Keys of a listener, beside those of its TLS, that a running broker can change.
pub const LIVE_LISTENER_KEYS: [&str; 11] = [
    "allow",
    "deny",
    "handshake_timeout_s",
    "max_client_bytes_per_s",
    "max_client_messages_per_s",
    "max_connections",
    "max_connects_per_s",
    "max_packet_bytes",
    "proxy_header_timeout_s",
    "trusted_proxies",
    "versions",
];

impl Listener {
    /// Takes over from a new configuration what a running listener can change.
    pub fn change(&mut self, new: &Listener) {
        self.allow.clone_from(&new.allow);
        self.deny.clone_from(&new.deny);
        self.handshake_timeout_s = new.handshake_timeout_s;
        self.max_client_bytes_per_s = new.max_client_bytes_per_s;
        self.max_client_messages_per_s = new.max_client_messages_per_s;
        self.max_connections = new.max_connections;
        self.max_connects_per_s = new.max_connects_per_s;
        self.max_packet_bytes = new.max_packet_bytes;
        self.proxy_header_timeout_s = new.proxy_header_timeout_s;
        self.trusted_proxies.clone_from(&new.trusted_proxies);
        self.tls.clone_from(&new.tls);
        self.versions.clone_from(&new.versions);
    }
}

/// Where to listen, as text.
mod address {
    use super::{Deserialize, Deserializer, Error, ListenAddr};

    pub(super) fn serialize<S: serde::Serializer>(
        address: &ListenAddr,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(address)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ListenAddr, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is no address and port, such as \"0.0.0.0:1883\" or \"[::]:1883\", nor \
                 the path of a Unix socket, such as \"unix:/run/ringtide/mqtt.sock\""
            ))
        })
    }
}

/// Permissions in octal digits, as `chmod` has them.
mod mode {
    use super::{Deserialize, Deserializer, Error};

    pub(super) fn serialize<S: serde::Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no mode in octal digits, such as \"0660\""))
        })
    }
}

/// Networks, or single addresses.
fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let single = |_| text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(single).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is no network, such as \"10.0.0.0/8\", nor an address"
            ))
        })
    };
    Vec::<String>::deserialize(from)?.into_iter().map(network).collect()
}

impl Default for Listener {
    fn default() -> Self {
        Listener {
            name: String::new(),
            bind: ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1883))),
            unix_mode: 0o660,
            transport: Transport::Tcp,
            backlog: 4096,
            max_connections: 0,
            versions: vec![Version::V3_1, Version::V3_1_1, Version::V5_0],
            handshake_timeout_s: 10,
            max_connects_per_s: 0,
            max_packet_bytes: 0,
            max_client_bytes_per_s: 0,
            max_client_messages_per_s: 0,
            tcp_nodelay: true,
            tcp_keepalive_s: 0,
            tcp_user_timeout_ms: 0,
            send_buffer_bytes: 0,
            receive_buffer_bytes: 0,
            tenant: 0,
            durability: ListenerDurability::Inherit,
            websocket_path: "/mqtt".to_owned(),
            websocket_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            proxy_header_timeout_s: 3,
            user_name_from_proxy: false,
            allow: Vec::new(),
            deny: Vec::new(),
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_an_address_or_a_path() {
        let read = |text: &str| toml::from_str::<Listener>(text);
        for bind in ["127.0.0.1:1883", "[::1]:1883", "unix:/run/ringtide/mqtt.sock"] {
            let listener = read(&format!("bind = \"{bind}\"")).unwrap();
            assert_eq!(listener.bind.to_string(), bind);
            let written = toml::to_string(&listener).unwrap();
            assert_eq!(read(&written).unwrap(), listener);
        }
        let error = read("bind = \"localhost\"").unwrap_err().to_string();
        assert!(error.contains("`localhost` is no address and port"), "{error}");
        assert_eq!(read("unix_mode = \"0600\"").unwrap().unix_mode, 0o600);
        for wrong in ["rw", "0888", "1777", ""] {
            let error = read(&format!("unix_mode = \"{wrong}\"")).unwrap_err().to_string();
            assert!(error.contains("is no mode in octal digits"), "{error}");
        }
    }

    #[test]
    fn what_is_live_is_taken_over_and_nothing_else() {
        let mut running = Listener::default();
        let new: Listener = toml::from_str(
            "bind = \"127.0.0.1:1\"\nname = \"n\"\nallow = [\"10.0.0.0/8\"]\ndeny = \
             [\"10.0.0.1\"]\nhandshake_timeout_s = 1\nproxy_header_timeout_s = 1\n\
             trusted_proxies = [\"::1\"]\nbacklog = 1\nproxy_protocol = true\n\
             max_client_bytes_per_s = 1\nmax_client_messages_per_s = 1\nmax_connections = 1\n\
             max_connects_per_s = 1\nmax_packet_bytes = 99\nversions = [\"3.1\"]\n\
             tcp_nodelay = false\n",
        )
        .unwrap();
        running.change(&new);
        let table = |listener: &Listener| toml::Table::try_from(listener).unwrap();
        let (before, after) = (table(&Listener::default()), table(&running));
        let mut changed: Vec<&str> = after
            .iter()
            .filter(|(key, own)| before[*key] != **own)
            .map(|(key, _)| &**key)
            .collect();
        changed.sort_unstable();
        assert_eq!(changed, LIVE_LISTENER_KEYS);
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        let read = |list: &str| toml::from_str::<Listener>(&format!("trusted_proxies = [{list}]"));
        let listener = read("\"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\"").unwrap();
        let names: Vec<_> = listener.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]);
        for wrong in ["\"10.0.0.0/33\"", "\"proxy.example.org\"", "\"\""] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("is no network, such as"), "{error}");
        }
    }
}
