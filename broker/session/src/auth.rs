//! The exchange of AUTH packets (section 4.12, version 5 only): whose turn it is and what each
//! packet must carry. Knows no method's secrets: a method judges the data, wherever it runs, and
//! says what comes next.

use core::fmt;

use ringtide_codec::{Auth, PacketType, ReasonCode};

/// What a method makes of the client's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// Ask the client for more, with this data.
    Continue(Vec<u8>),
    /// The client is who it says it is; it is told this, if it is not empty.
    Succeed(Vec<u8>),
    /// The client is not, for this reason.
    Fail(ReasonCode),
}

/// A method of enhanced authentication, one value per exchange.
pub trait AuthMethod {
    /// The name by which clients ask for it.
    fn name(&self) -> &str;

    /// Judges the data of the packet that begins an exchange: CONNECT, or AUTH with 0x19.
    fn start(&mut self, data: Option<&[u8]>) -> AuthStep;

    /// Judges the data with which the client answered [`AuthStep::Continue`].
    fn answer(&mut self, data: Option<&[u8]>) -> AuthStep;
}

/// What the method is to be asked, see [`AuthMethod`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthAsk<'a> {
    /// [`AuthMethod::start`] with this data.
    Start(Option<&'a [u8]>),
    /// [`AuthMethod::answer`] with this data.
    Answer(Option<&'a [u8]>),
}

/// What is sent for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthReply<'a> {
    /// This AUTH: the exchange goes on, or a re-authentication has succeeded.
    Auth(Auth<'a>),
    /// CONNACK with Success, with this method and this data.
    ConnAck {
        /// For the property Authentication Method.
        method: &'a str,
        /// For the property Authentication Data.
        data: Option<&'a [u8]>,
    },
    /// CONNACK with this code; the connection closes.
    Refuse(ReasonCode),
    /// DISCONNECT with this code; the connection closes.
    Disconnect(ReasonCode),
}

/// How a client broke the rules of the exchange. The connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthError {
    /// AUTH from a client whose CONNECT named no method; such a client has no [`AuthExchange`].
    NoMethod,
    /// AUTH without a method.
    MethodMissing,
    /// AUTH with another method than CONNECT.
    MethodMismatch,
    /// AUTH with a code that is not its turn: 0x00, 0x19 before CONNACK, 0x18 unasked.
    UnexpectedReason,
    /// AUTH while the last one is still being judged.
    OutOfTurn,
}

impl AuthError {
    /// The code for the CONNACK or DISCONNECT that the client is sent.
    //= [MQTT-4.12.0-7]
    //= [MQTT-4.12.1-1]
    pub fn reason(self) -> ReasonCode {
        ReasonCode::ProtocolError
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthError::NoMethod => "AUTH, but CONNECT named no authentication method",
            AuthError::MethodMissing => "AUTH without an authentication method",
            AuthError::MethodMismatch => "AUTH with another authentication method than CONNECT",
            AuthError::UnexpectedReason => "AUTH with a reason code that does not fit the exchange",
            AuthError::OutOfTurn => "AUTH before the last one was answered",
        })
    }
}

impl core::error::Error for AuthError {}

/// Where an exchange stands.
///
/// ```text
///                  continue                              continue
///             ┌──────────────┐                      ┌──────────────┐
///  CONNECT    │              ▼             AUTH 0x19│              ▼
///  ──────► Judging       Challenged   ┌──────► Rejudging      Rechallenged
///           │ ▲  │          │         │           │ ▲  │         │
///           │ │  │ AUTH 0x18│         │           │ │  │AUTH 0x18│
///           │ └──┼──────────┘         │           │ └──┼─────────┘
///           │    │ succeed: CONNACK   │           │    │ succeed: AUTH 0x00
///           │    └────────────► Established ◄─────┼────┘
///      fail │                                     │ fail
///           └────────────────► Failed ◄───────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The method judges; CONNACK has not been sent.
    Judging,
    /// The client owes an AUTH; CONNACK has not been sent.
    Challenged,
    /// CONNACK has been sent and nothing is under way.
    Established,
    /// The method judges anew; messages flow meanwhile.
    Rejudging,
    /// The client owes an AUTH; messages flow meanwhile.
    Rechallenged,
    /// The connection is to close.
    Failed,
}

/// One connection's exchange. A client whose CONNECT names no method has none: its AUTH is
/// [`AuthError::NoMethod`], and its CONNACK names no method.
//= [MQTT-4.12.0-6]
#[derive(Clone, Debug)]
pub struct AuthExchange {
    method: Box<str>,
    phase: Phase,
}

impl AuthExchange {
    /// A CONNECT has named this method, which the server has: ask the method to start with
    /// CONNECT's data.
    pub fn on_connect(method: &str) -> AuthExchange {
        AuthExchange { method: method.into(), phase: Phase::Judging }
    }

    /// The method that CONNECT named.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Whether CONNACK with Success has been sent.
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established | Phase::Rejudging | Phase::Rechallenged)
    }

    /// Whether the client may send a packet of this type now.
    //= [MQTT-3.1.2-30]
    //= [MQTT-3.1.4-6]
    pub fn permits(&self, packet: PacketType) -> bool {
        match self.phase {
            Phase::Judging | Phase::Challenged => {
                matches!(packet, PacketType::Auth | PacketType::Disconnect)
            }
            Phase::Established | Phase::Rejudging | Phase::Rechallenged => true,
            Phase::Failed => false,
        }
    }

    /// The client has sent AUTH: what to ask the method.
    ///
    /// # Errors
    /// [`AuthError`] if the packet lacks the method, names another, or is not the client's turn;
    /// the exchange has failed then.
    //= [MQTT-4.12.0-3]
    pub fn on_auth<'a>(&mut self, auth: &Auth<'a>) -> Result<AuthAsk<'a>, AuthError> {
        let judged = self.judge(auth);
        if judged.is_err() {
            self.phase = Phase::Failed;
        }
        judged
    }

    fn judge<'a>(&mut self, auth: &Auth<'a>) -> Result<AuthAsk<'a>, AuthError> {
        let method = auth.method.ok_or(AuthError::MethodMissing)?;
        if *method != *self.method {
            return Err(AuthError::MethodMismatch);
        }
        let answered = auth.reason == ReasonCode::ContinueAuthentication;
        let begun = auth.reason == ReasonCode::ReAuthenticate;
        match self.phase {
            Phase::Challenged if answered => {
                self.phase = Phase::Judging;
                Ok(AuthAsk::Answer(auth.data))
            }
            Phase::Rechallenged if answered => {
                self.phase = Phase::Rejudging;
                Ok(AuthAsk::Answer(auth.data))
            }
            Phase::Established if begun => {
                self.phase = Phase::Rejudging;
                Ok(AuthAsk::Start(auth.data))
            }
            Phase::Judging | Phase::Rejudging | Phase::Failed => Err(AuthError::OutOfTurn),
            Phase::Challenged | Phase::Rechallenged | Phase::Established => {
                Err(AuthError::UnexpectedReason)
            }
        }
    }

    /// The method has judged: what to send. Nothing if no judgement was asked for.
    pub fn on_step<'a>(&'a mut self, step: &'a AuthStep) -> Option<AuthReply<'a>> {
        match step {
            AuthStep::Continue(data) => self.continue_with(present(data)),
            AuthStep::Succeed(data) => self.succeed(present(data)),
            AuthStep::Fail(reason) => self.fail(*reason),
        }
    }

    //= [MQTT-4.12.0-2]
    fn continue_with<'a>(&'a mut self, data: Option<&'a [u8]>) -> Option<AuthReply<'a>> {
        self.phase = match self.phase {
            Phase::Judging => Phase::Challenged,
            Phase::Rejudging => Phase::Rechallenged,
            _ => return None,
        };
        Some(AuthReply::Auth(self.packet(ReasonCode::ContinueAuthentication, data)))
    }

    //= [MQTT-4.12.0-5]
    fn succeed<'a>(&'a mut self, data: Option<&'a [u8]>) -> Option<AuthReply<'a>> {
        let before = self.phase;
        if !matches!(before, Phase::Judging | Phase::Rejudging) {
            return None;
        }
        self.phase = Phase::Established;
        Some(match before {
            Phase::Judging => AuthReply::ConnAck { method: &self.method, data },
            _ => AuthReply::Auth(self.packet(ReasonCode::Success, data)),
        })
    }

    //= [MQTT-4.12.0-4]
    //= [MQTT-4.12.1-2]
    fn fail(&mut self, reason: ReasonCode) -> Option<AuthReply<'static>> {
        let (packet, reply): (_, fn(ReasonCode) -> AuthReply<'static>) = match self.phase {
            Phase::Judging => (PacketType::ConnAck, AuthReply::Refuse),
            Phase::Rejudging => (PacketType::Disconnect, AuthReply::Disconnect),
            _ => return None,
        };
        self.phase = Phase::Failed;
        let fitting = reason.is_error() && reason.valid_in(packet, false);
        Some(reply(if fitting { reason } else { ReasonCode::NotAuthorized }))
    }

    //= [MQTT-4.12.0-5]
    fn packet<'a>(&'a self, reason: ReasonCode, data: Option<&'a [u8]>) -> Auth<'a> {
        Auth { method: Some(&self.method), data, ..Auth::new(reason) }
    }
}

fn present(data: &[u8]) -> Option<&[u8]> {
    Some(data).filter(|data| !data.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for a number, then for its double.
    struct Doubling {
        asked: u8,
    }

    impl AuthMethod for Doubling {
        fn name(&self) -> &str {
            "doubling"
        }

        fn start(&mut self, data: Option<&[u8]>) -> AuthStep {
            match data {
                Some(&[number]) => {
                    self.asked = number;
                    AuthStep::Continue(vec![number])
                }
                _ => AuthStep::Fail(ReasonCode::MalformedPacket),
            }
        }

        fn answer(&mut self, data: Option<&[u8]>) -> AuthStep {
            match data {
                Some(&[number]) if number == 2 * self.asked => AuthStep::Succeed(vec![b'!']),
                _ => AuthStep::Fail(ReasonCode::NotAuthorized),
            }
        }
    }

    fn auth<'a>(reason: ReasonCode, data: &'a [u8]) -> Auth<'a> {
        Auth { method: Some("doubling"), data: Some(data), ..Auth::new(reason) }
    }

    fn ask(method: &mut Doubling, ask: AuthAsk<'_>) -> AuthStep {
        match ask {
            AuthAsk::Start(data) => method.start(data),
            AuthAsk::Answer(data) => method.answer(data),
        }
    }

    /// An exchange in which the client has been let in.
    fn established() -> (AuthExchange, Doubling) {
        let mut method = Doubling { asked: 0 };
        let mut exchange = AuthExchange::on_connect(method.name());
        let step = ask(&mut method, AuthAsk::Start(Some(&[4])));
        assert!(exchange.on_step(&step).is_some());
        let answer = auth(ReasonCode::ContinueAuthentication, &[8]);
        let step = ask(&mut method, exchange.on_auth(&answer).unwrap());
        assert!(exchange.on_step(&step).is_some());
        assert!(exchange.is_established());
        (exchange, method)
    }

    #[test]
    fn challenge_and_answer_lead_to_connack_with_the_method() {
        let mut method = Doubling { asked: 0 };
        let mut exchange = AuthExchange::on_connect("doubling");
        let step = method.start(Some(&[4]));
        let Some(AuthReply::Auth(challenge)) = exchange.on_step(&step) else { panic!() };
        assert_eq!(challenge, auth(ReasonCode::ContinueAuthentication, &[4]));
        let answer = auth(ReasonCode::ContinueAuthentication, &[8]);
        let step = ask(&mut method, exchange.on_auth(&answer).unwrap());
        let reply = exchange.on_step(&step);
        assert_eq!(reply, Some(AuthReply::ConnAck { method: "doubling", data: Some(b"!") }));
    }

    #[test]
    fn a_wrong_answer_is_refused_by_connack() {
        let mut method = Doubling { asked: 0 };
        let mut exchange = AuthExchange::on_connect("doubling");
        let step = method.start(Some(&[4]));
        assert!(exchange.on_step(&step).is_some());
        let answer = auth(ReasonCode::ContinueAuthentication, &[9]);
        let step = ask(&mut method, exchange.on_auth(&answer).unwrap());
        let reply = exchange.on_step(&step);
        assert_eq!(reply, Some(AuthReply::Refuse(ReasonCode::NotAuthorized)));
        assert!(!exchange.permits(PacketType::Auth), "nothing more is processed");
    }

    #[test]
    fn before_connack_only_auth_and_disconnect_are_permitted() {
        let mut exchange = AuthExchange::on_connect("doubling");
        for _ in 0..2 {
            assert!(exchange.permits(PacketType::Auth));
            assert!(exchange.permits(PacketType::Disconnect));
            assert!(!exchange.permits(PacketType::Publish));
            assert!(!exchange.permits(PacketType::PingReq));
            let _ = exchange.on_step(&AuthStep::Continue(Vec::new()));
        }
    }

    #[test]
    fn re_authentication_ends_in_auth_and_messages_flow_meanwhile() {
        let (mut exchange, mut method) = established();
        let begin = auth(ReasonCode::ReAuthenticate, &[5]);
        let step = ask(&mut method, exchange.on_auth(&begin).unwrap());
        assert!(exchange.permits(PacketType::Publish));
        assert!(matches!(exchange.on_step(&step), Some(AuthReply::Auth(_))));
        assert!(exchange.permits(PacketType::Publish));
        let answer = auth(ReasonCode::ContinueAuthentication, &[10]);
        let step = ask(&mut method, exchange.on_auth(&answer).unwrap());
        let reply = exchange.on_step(&step);
        assert_eq!(reply, Some(AuthReply::Auth(auth(ReasonCode::Success, b"!"))));
        assert!(exchange.is_established());
    }

    #[test]
    fn a_failed_re_authentication_ends_in_disconnect_with_a_fitting_code() {
        for (given, sent) in [
            (ReasonCode::NotAuthorized, ReasonCode::NotAuthorized),
            (ReasonCode::BadUserNameOrPassword, ReasonCode::NotAuthorized),
            (ReasonCode::Success, ReasonCode::NotAuthorized),
        ] {
            let (mut exchange, _) = established();
            exchange.on_auth(&auth(ReasonCode::ReAuthenticate, &[5])).unwrap();
            let step = AuthStep::Fail(given);
            assert_eq!(exchange.on_step(&step), Some(AuthReply::Disconnect(sent)));
            assert!(!exchange.permits(PacketType::Publish));
        }
    }

    #[test]
    fn auth_against_the_rules_is_a_protocol_error() {
        let nameless = Auth::new(ReasonCode::ReAuthenticate);
        let other = Auth { method: Some("other"), ..Auth::new(ReasonCode::ReAuthenticate) };
        let begin = auth(ReasonCode::ReAuthenticate, &[1]);
        let answer = auth(ReasonCode::ContinueAuthentication, &[1]);
        let success = auth(ReasonCode::Success, &[1]);
        for (packet, error) in [
            (nameless, AuthError::MethodMissing),
            (other, AuthError::MethodMismatch),
            (answer, AuthError::UnexpectedReason),
            (success, AuthError::UnexpectedReason),
        ] {
            let (mut exchange, _) = established();
            assert_eq!(exchange.on_auth(&packet), Err(error));
            assert_eq!(error.reason(), ReasonCode::ProtocolError);
            assert!(!exchange.permits(PacketType::Publish));
        }
        let mut judging = AuthExchange::on_connect("doubling");
        assert_eq!(judging.on_auth(&answer), Err(AuthError::OutOfTurn));
        let mut challenged = AuthExchange::on_connect("doubling");
        assert!(challenged.on_step(&AuthStep::Continue(Vec::new())).is_some());
        assert_eq!(challenged.on_auth(&begin), Err(AuthError::UnexpectedReason));
    }

    #[test]
    fn a_judgement_that_nobody_asked_for_sends_nothing() {
        let (mut exchange, _) = established();
        for step in [
            AuthStep::Continue(vec![1]),
            AuthStep::Succeed(vec![1]),
            AuthStep::Fail(ReasonCode::Banned),
        ] {
            assert_eq!(exchange.on_step(&step), None);
        }
        assert!(exchange.is_established());
    }
}
