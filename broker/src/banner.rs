//! The first lines of the log: what was started and how.

use ringtide_net::ListenAddr;

use crate::config::{
    ClientCertificates, Config, Durability, Host, Listener, ListenerDurability, Loaded, Transport,
};
use crate::preflight::Footing;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the banner tells.
pub struct Banner<'a> {
    /// The configuration that was loaded.
    pub loaded: &'a Loaded,
    /// What the host gives.
    pub footing: &'a Footing,
    /// The addresses that are listened on, one per listener of the configuration.
    pub addresses: &'a [ListenAddr],
    /// What hosts the shards' threads.
    pub host: Host,
    /// The driver and what it found in the kernel.
    pub driver: &'a str,
}

impl Banner<'_> {
    /// What is started, as lines in their order.
    pub fn lines(&self) -> Vec<String> {
        let config = &self.loaded.config;
        let from = match &self.loaded.file {
            Some(path) => path.display().to_string(),
            None => "built-in defaults".to_owned(),
        };
        let mut lines = vec![
            format!("ringtide {VERSION}, configuration: {from}"),
            self.shards(),
            format!("driver: {}", self.driver),
            format!(
                "connections: up to {} (nofile {})",
                self.footing.connections_max, self.footing.nofile
            ),
            durability(config),
        ];
        if config.access.allow_anonymous {
            lines.push("access: anonymous clients are let in".to_owned());
        }
        if let Some(path) = config.access.password_file() {
            let path = path.display();
            lines.push(format!("access: passwords are checked, the users are those of {path}"));
        }
        lines.extend(believed(config).map(str::to_owned));
        lines
    }

    /// Where it listens, a line for each listener: to be told when connections are accepted.
    pub fn listening(&self) -> Vec<String> {
        self.loaded.config.listeners.iter().zip(self.addresses).map(listener).collect()
    }

    fn shards(&self) -> String {
        let cpus: Vec<String> = self.footing.cpus.iter().map(ToString::to_string).collect();
        let count = cpus.len();
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} shard{plural} on cpu {}, host {}", cpus.join(","), self.host.name())
    }
}

/// What an operator who names users must know.
fn believed(config: &Config) -> Option<&'static str> {
    if config.access.password_file().is_some() {
        return None;
    }
    let names_users = !config.access.allow_anonymous || config.access.acl_file().is_some();
    let unproven = |listener: &Listener| {
        let asked = listener.tls.as_ref().map(|tls| tls.client_certificates);
        asked != Some(ClientCertificates::Required) && !listener.user_name_from_proxy
    };
    (names_users && config.listeners.iter().any(unproven)).then_some(
        "access: passwords are not checked, whoever gives a user name is believed: let only those \
         connect whom you trust, by network, or by client certificates (client_certificates = \
         \"required\"); or name a password_file",
    )
}

fn durability(config: &Config) -> String {
    let kept = match config.durability {
        Durability::Memory => String::new(),
        Durability::Os | Durability::Sync => format!(", in {}", config.data_dir.display()),
    };
    format!("durability: {}: {}{kept}", config.durability.name(), config.durability.meaning())
}

fn listener((listener, address): (&Listener, &ListenAddr)) -> String {
    let versions: Vec<&str> = listener.versions.iter().map(|version| version.name()).collect();
    let limit = match listener.max_connections {
        0 => String::new(),
        most => format!(", up to {most} connections"),
    };
    let name = match listener.name == listener.bind.to_string() {
        true => String::new(),
        false => format!(" ({})", listener.name),
    };
    let promise = match listener.durability {
        ListenerDurability::Inherit => String::new(),
        own => format!(", durability: {}", own.over(Durability::Sync).name()),
    };
    let over = match listener.transport {
        Transport::Tcp => match address {
            ListenAddr::Tcp(_) => "TCP".to_owned(),
            ListenAddr::Unix(_) => "a Unix socket".to_owned(),
        },
        Transport::Ws => format!("WebSocket at {}", listener.websocket_path),
        Transport::Tls => "TLS".to_owned(),
        Transport::Wss => format!("WebSocket in TLS at {}", listener.websocket_path),
    };
    let behind = if listener.proxy_protocol { ", behind a proxy (PROXY protocol)" } else { "" };
    format!(
        "listening on {address}{name}, MQTT {} over {over}{behind}{limit}{promise}",
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tls;
    use crate::config::{Sources, load};

    #[test]
    fn the_banner_tells_version_shards_driver_durability_and_listeners() {
        let variables = [
            ("RINGTIDE_LISTENERS_0_BIND", "127.0.0.1:0"),
            ("RINGTIDE_LISTENERS_0_NAME", "lan"),
            ("RINGTIDE_LISTENERS_0_MAX_CONNECTIONS", "9"),
        ];
        let environment = variables.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let loaded = load(&Sources { environment, ..Sources::default() }).unwrap();
        let footing =
            Footing { cpus: vec![0, 1], connections_max: 7, nofile: 1024, warnings: Vec::new() };
        let addresses = ["127.0.0.1:4711".parse().unwrap()];
        let banner = Banner {
            loaded: &loaded,
            footing: &footing,
            addresses: &addresses,
            host: Host::Glommio,
            driver: "io_uring (multishot)",
        };
        assert_eq!(
            banner.lines(),
            [
                &format!("ringtide {VERSION}, configuration: built-in defaults"),
                "2 shards on cpu 0,1, host glommio",
                "driver: io_uring (multishot)",
                "connections: up to 7 (nofile 1024)",
                "durability: sync: acknowledged messages survive a crash of the machine, in \
                 /var/lib/ringtide",
                "access: anonymous clients are let in",
            ]
        );
        let told = banner.listening();
        let wanted = "listening on 127.0.0.1:4711 (lan), MQTT 3.1, 3.1.1, 5.0 over TCP, up to 9 \
                      connections";
        assert_eq!(told, [wanted]);
    }

    #[test]
    fn whoever_names_users_is_told_that_they_are_believed() {
        let mut config = Config::default();
        assert_eq!(believed(&config), None, "anybody may do anything anyway");
        config.access.allow_anonymous = false;
        assert!(believed(&config).is_some_and(|line| line.contains("passwords are not checked")));
        let certificates =
            Tls { client_certificates: ClientCertificates::Required, ..Tls::default() };
        for listener in &mut config.listeners {
            listener.tls = Some(certificates.clone());
        }
        assert_eq!(believed(&config), None, "certificates say who they are");
        config.access.acl_file = "rules".into();
        config.listeners.push(Listener::default());
        assert!(believed(&config).is_some(), "one listener asks for none");
        config.access.password_file = "users".into();
        assert_eq!(believed(&config), None, "passwords are checked");
    }
}
