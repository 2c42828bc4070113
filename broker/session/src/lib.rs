//! Pure MQTT session state machines, one file per concern: the handshake, enhanced authentication,
//! messages from and to a client, owed acknowledgements, topic aliases, the will, expiry, keep
//! alive.
//!
//! Owns the protocol's rules beyond a single packet. Does no I/O, reads no clock and keeps nothing
//! on disk: times come in as milliseconds, packets as values of `ringtide-codec`, and what is to be
//! sent goes out as values. What a client sends never panics here.
//!
//! Every state is small, is made on first use by its owner and freed when it says that it is idle.
#![forbid(unsafe_code)]

mod alias;
mod auth;
pub mod expiry;
mod handshake;
mod inbound;
pub mod keepalive;
mod outbound;
mod owed;
mod violation;
mod will;

pub use alias::{AliasError, AliasIn, AliasOut, AliasUse};
pub use auth::{AuthAsk, AuthError, AuthExchange, AuthMethod, AuthReply, AuthStep};
pub use expiry::ExpiryRaised;
pub use handshake::{
    Negotiated, Refusal, ServerLimits, ServerReference, connack, fit_connack, negotiate,
    refusal_connack,
};
pub use inbound::{Accept, Inbound};
pub use outbound::{
    Acked, Completed, Delivery, DropPolicy, DropReason, Next, Offer, Outbound, PubrecReply,
    QueueLimits, Resend, SubscriptionIds, Unfinished,
};
pub use owed::{Owed, OwedAck};
pub use violation::Violation;
pub use will::{EndKind, WillAction, WillState};
