//! How clients reach a broker: the transports by name, and what speaking one of them needs.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::tls;
use crate::failure::Failure;

/// What carries MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    #[default]
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) fn has_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];
        let named = all.into_iter().find(|transport| transport.name() == text);
        named.ok_or_else(|| "it is tcp, tls, ws or wss".to_owned())
    }
}

/// What the command line says of the way to a broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    pub(crate) transport: Transport,
    /// File of those who may have signed the broker's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// Take any certificate.
    pub(crate) insecure: bool,
    /// The path that a WebSocket connects to, if it is not [`PATH`].
    pub(crate) path: Option<String>,
    /// Mask WebSocket frames with zeros, which leaves their payload as it is.
    pub(crate) zero_mask: bool,
    /// Come back with the tickets that TLS has given.
    pub(crate) resume: bool,
}

/// The path that a WebSocket connects to where nobody has said otherwise.
pub(crate) const PATH: &str = "/mqtt";

/// What the connections of a run share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) transport: Transport,
    pub(crate) tls: Option<tls::ClientSide>,
    pub(crate) path: Arc<str>,
    pub(crate) zero_mask: bool,
    verified: bool,
    seen: Arc<OnceLock<String>>,
}

impl Link {
    /// Loads what the way needs.
    ///
    /// # Errors
    /// TLS without a way to check the broker's certificate, or a file that cannot be used.
    pub(crate) fn new(way: &Way) -> Result<Link, Failure> {
        let tls = if way.transport.has_tls() { Some(client_side(way)?) } else { None };
        Ok(Link {
            transport: way.transport,
            tls,
            path: way.path.as_deref().unwrap_or(PATH).into(),
            zero_mask: way.zero_mask,
            verified: !way.insecure,
            seen: Arc::default(),
        })
    }

    /// Notes what a TLS handshake has agreed on: the first says it for all.
    pub(crate) fn agreed(&self, what: impl FnOnce() -> String) {
        self.seen.get_or_init(what);
    }

    /// What a reader should know of the connections of a run that is over.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.transport == Transport::Tcp {
            return notes;
        }
        notes.push(format!("over {}", self.transport.name()));
        if let Some(tls) = &self.tls {
            let agreed = self.seen.get().map_or("no handshake", String::as_str);
            let (full, resumed) = tls.handshakes();
            notes.push(format!("{agreed}; {full} full handshakes, {resumed} resumed"));
            if !self.verified {
                notes.push("--insecure: certificates were not verified".to_owned());
            }
        }
        if self.transport.has_websocket() && self.zero_mask {
            notes.push("masked with zeros, which costs the broker no less".to_owned());
        }
        notes
    }
}

fn client_side(way: &Way) -> Result<tls::ClientSide, Failure> {
    let name = way.transport.name();
    match (&way.ca, way.insecure) {
        (None, false) => Err(Failure::Option(format!(
            "{name} needs --ca FILE, with which the broker's certificate is verified for \
             `localhost`, or --insecure"
        ))),
        (Some(_), true) => Err(Failure::Option("--ca or --insecure, not both".to_owned())),
        (Some(file), false) => {
            let pem = fs::read(file).map_err(|e| Failure::Io("cannot read the file of --ca", e))?;
            tls::ClientSide::new(Some(&pem), way.resume)
        }
        (None, true) => tls::ClientSide::new(None, way.resume),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_have_their_names() {
        for name in ["tcp", "tls", "ws", "wss"] {
            assert_eq!(name.parse::<Transport>().unwrap().name(), name);
        }
        assert!("quic".parse::<Transport>().is_err());
    }

    #[test]
    fn tls_says_whom_it_trusts() {
        let way = Way { transport: Transport::Tls, ..Way::default() };
        assert!(Link::new(&way).is_err_and(|e| e.to_string().contains("--ca FILE")));
        let open = Way { insecure: true, ..way.clone() };
        let notes = Link::new(&open).unwrap().notes();
        assert!(notes.iter().any(|note| note.contains("not verified")), "{notes:?}");
        let both = Way { ca: Some("ca.pem".into()), ..open };
        assert!(Link::new(&both).is_err());
        assert!(Link::new(&Way::default()).unwrap().notes().is_empty());
    }
}
