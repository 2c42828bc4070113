//! `[[listeners]]`: where clients connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
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
    /// Address and port. Port 0 lets the system choose one, which the start-up log names.
    pub bind: SocketAddr,
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
    /// TLS; there if, and only if, the transport needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
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
            bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1883)),
            transport: Transport::Tcp,
            backlog: 4096,
            max_connections: 0,
            versions: vec![Version::V3_1, Version::V3_1_1, Version::V5_0],
            handshake_timeout_s: 10,
            tenant: 0,
            durability: ListenerDurability::Inherit,
            websocket_path: "/mqtt".to_owned(),
            websocket_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
