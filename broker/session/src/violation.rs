//! What a client did that ends its connection. Owns the names and their reason codes; deciding
//! that one has happened is the business of the state machines.

use core::fmt;

use ringtide_codec::ReasonCode;

/// A breach of the protocol in an exchange of PUBLISH and its acknowledgements.
///
/// The state machine that reports one has not changed: the caller sends DISCONNECT with
/// [`Violation::reason`] (version 5 only) and closes, and the session can be carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// More QoS 1 and QoS 2 PUBLISH packets unacknowledged than the server announced.
    ReceiveMaximumExceeded,
    /// An acknowledgement of a kind that its exchange does not call for, as PUBACK to a QoS 2
    /// message or PUBCOMP before PUBREC.
    WrongAcknowledgement,
}

impl Violation {
    /// The code for the DISCONNECT that a version 5 client is sent.
    pub fn reason(self) -> ReasonCode {
        match self {
            //= [MQTT-3.3.4-7]
            Violation::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            //= [MQTT-4.13.1-1]
            //= 3.1.1 [MQTT-4.8.0-1]
            Violation::WrongAcknowledgement => ReasonCode::ProtocolError,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::ReceiveMaximumExceeded => {
                "more messages are unacknowledged than the receive maximum allows"
            }
            Violation::WrongAcknowledgement => {
                "the acknowledgement is of the wrong kind for its exchange"
            }
        })
    }
}

impl core::error::Error for Violation {}
