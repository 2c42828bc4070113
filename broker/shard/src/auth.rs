//! Enhanced authentication: the methods that a broker offers, and one connection's exchange.

use ringtide_codec::{Auth, Disconnect, FixedHeader, ReasonCode};
use ringtide_session::{AuthAsk, AuthExchange, AuthMethod, AuthReply, AuthStep};
use ringtide_storage::Store;

use crate::conn::Cause;
use crate::core::{Core, Flow};

/// Makes the method of one exchange.
pub type MakeMethod = fn() -> Box<dyn AuthMethod + Send>;

/// The methods that are offered, by name.
#[derive(Clone, Debug, Default)]
pub struct Methods(pub Vec<(&'static str, MakeMethod)>);

impl Methods {
    fn make(&self, name: &str) -> Option<Box<dyn AuthMethod + Send>> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, make)| make())
    }
}

/// One connection's exchange, kept for re-authentication.
pub(crate) struct Exchange {
    exchange: AuthExchange,
    method: Box<dyn AuthMethod + Send>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.exchange.fmt(f)
    }
}

/// What comes of a step.
pub(crate) enum Outcome {
    /// Send this AUTH packet, encoded; the exchange goes on or re-authentication has succeeded.
    Send(Vec<u8>),
    /// The client is let in; CONNACK carries this data.
    Accepted(Option<Box<[u8]>>),
    /// CONNACK with this code.
    Refused(ReasonCode),
    /// DISCONNECT with this code.
    Ended(ReasonCode),
    /// Nothing was asked.
    Nothing,
}

impl Exchange {
    /// A CONNECT has named a method; `None` if it is not offered.
    pub(crate) fn begin(
        methods: &Methods,
        name: &str,
        data: Option<&[u8]>,
    ) -> Option<(Exchange, Outcome)> {
        let mut method = methods.make(name)?;
        let step = method.start(data);
        let mut exchange = Exchange { exchange: AuthExchange::on_connect(name), method };
        let outcome = exchange.outcome(&step);
        Some((exchange, outcome))
    }

    pub(crate) fn method(&self) -> &str {
        self.exchange.method()
    }

    /// The client has sent AUTH.
    pub(crate) fn on_auth(&mut self, auth: &Auth<'_>) -> Outcome {
        let established = self.exchange.is_established();
        let step = match self.exchange.on_auth(auth) {
            Ok(AuthAsk::Start(data)) => self.method.start(data),
            Ok(AuthAsk::Answer(data)) => self.method.answer(data),
            Err(error) if established => return Outcome::Ended(error.reason()),
            Err(error) => return Outcome::Refused(error.reason()),
        };
        self.outcome(&step)
    }

    fn outcome(&mut self, step: &AuthStep) -> Outcome {
        match self.exchange.on_step(step) {
            Some(AuthReply::Auth(auth)) => {
                let mut bytes = Vec::new();
                auth.encode(ringtide_codec::Version::V5, &mut bytes);
                Outcome::Send(bytes)
            }
            Some(AuthReply::ConnAck { data, .. }) => Outcome::Accepted(data.map(Into::into)),
            Some(AuthReply::Refuse(code)) => Outcome::Refused(code),
            Some(AuthReply::Disconnect(code)) => Outcome::Ended(code),
            None => Outcome::Nothing,
        }
    }
}

impl<S: Store> Core<S> {
    /// Handles AUTH of an open connection: re-authentication.
    pub(crate) fn on_auth(&mut self, index: u32, header: &FixedHeader, body: &[u8]) -> Flow {
        let Some(conn) = self.clients.conns.at_mut(index) else { return Flow::Stop };
        let auth = match Auth::decode(conn.version, header.flags, body) {
            Ok(auth) => auth,
            Err(error) => return self.malformed(index, error),
        };
        //= [MQTT-4.12.0-7]
        let exchange = conn.cold.as_mut().and_then(|cold| cold.auth.as_mut());
        let outcome = match exchange {
            Some(exchange) => exchange.on_auth(&auth),
            None => Outcome::Ended(ReasonCode::ProtocolError),
        };
        match outcome {
            Outcome::Send(bytes) => {
                self.clients.write(index, |_, out| out.extend_from_slice(&bytes));
                Flow::Continue
            }
            Outcome::Nothing | Outcome::Accepted(_) => Flow::Continue,
            Outcome::Refused(code) | Outcome::Ended(code) => {
                self.close(index, Cause::Told(code));
                Flow::Stop
            }
        }
    }

    /// Handles a packet that comes before an authentication exchange has ended.
    pub(crate) fn on_auth_before_connack(
        &mut self,
        index: u32,
        header: &FixedHeader,
        body: &[u8],
    ) -> Option<Outcome> {
        let conn = self.clients.conns.at_mut(index)?;
        let exchange = conn.cold.as_mut()?.auth.as_mut()?;
        //= [MQTT-3.1.2-30]
        if !exchange.exchange.permits(header.packet_type) {
            return Some(Outcome::Refused(ReasonCode::ProtocolError));
        }
        if header.packet_type == ringtide_codec::PacketType::Disconnect {
            let decoded = Disconnect::decode(ringtide_codec::Version::V5, header.flags, body);
            return Some(Outcome::Ended(decoded.map_or(ReasonCode::MalformedPacket, |d| d.reason)));
        }
        match Auth::decode(ringtide_codec::Version::V5, header.flags, body) {
            Ok(auth) => Some(exchange.on_auth(&auth)),
            Err(error) => Some(Outcome::Refused(error.reason)),
        }
    }
}
