//! When a will is published: at the end of its connection, after its delay, at the end of its
//! session, or never. Owns that decision, so that a will goes out at most once; the message itself
//! stays with the session's owner.

use ringtide_codec::ReasonCode;

use crate::expiry::NEVER_S;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndKind {
    /// The client sent DISCONNECT with code 0x00, or a DISCONNECT before version 5.
    NormalDisconnect,
    /// The client sent DISCONNECT with any other code, 0x04 above all.
    DisconnectWithWill,
    /// The client broke the protocol, a malformed DISCONNECT included.
    ProtocolError,
    /// The network connection was lost or closed without a DISCONNECT.
    NetworkLost,
    /// The client was silent for too long.
    KeepAlive,
    /// The same client connected again.
    TakenOver {
        /// Whether the new connection carries the session on (Clean Start 0 and not expired).
        same_session: bool,
    },
    /// The server closed the connection for a reason of its own: a limit, revoked rights.
    ServerClosed,
    /// The server is shutting down.
    ServerShutdown,
}

impl EndKind {
    /// How a connection ended whose client sent DISCONNECT with this code; Success stands for a
    /// DISCONNECT before version 5.
    //= [MQTT-3.14.4-3]
    //= [MQTT-3.1.2-10]
    //= 3.1.1 [MQTT-3.14.4-3]
    //= 3.1.1 [MQTT-3.1.2-10]
    pub fn of_disconnect(reason: ReasonCode) -> EndKind {
        match reason {
            ReasonCode::Success => EndKind::NormalDisconnect,
            _ => EndKind::DisconnectWithWill,
        }
    }
}

/// What to do with the will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum WillAction {
    /// Publish it now, then drop it.
    Publish,
    /// Keep it until this time, in milliseconds of the caller's clock; then call
    /// [`WillState::on_timer`].
    At(u64),
    /// Drop it.
    Discard,
    /// There is no will, or it is not its time: do nothing.
    Nothing,
}

/// Where the will of a session stands.
///
/// ```text
///                   on_end: normal                    on_end: others, no delay
///            ┌──────────────────────── Armed ─────────────────────────────┐
///            │ Discard                  │ ▲                       Publish │
///            ▼                          │ │ on_connect with a will        │
///  ──────► Unset ◄───┐           on_end,│ │ (from any state)              │
///            ▲       │            delay │                                 │
///            │       │ on_resumed       ▼   on_timer, on_session_end      │
///            │       └───────────── Delayed ──────────────────────► Publish
///            └────────────────────────────────────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WillState {
    /// No will: none was given, or it was published or dropped.
    #[default]
    Unset,
    /// The client is connected and gave a will.
    Armed,
    /// The connection has ended and the delay runs.
    Delayed {
        /// When it is published.
        at_ms: u64,
    },
}

impl WillState {
    /// The session's new connection was accepted. The old connection's end, a takeover included,
    /// goes first; its will is never mistaken for the new one.
    //= [MQTT-3.1.2-7]
    //= 3.1.1 [MQTT-3.1.2-8]
    pub fn on_connect(&mut self, has_will: bool) {
        *self = if has_will { WillState::Armed } else { WillState::Unset };
    }

    /// The connection has ended, with this will delay (0 before version 5) and this session expiry
    /// in force, both in seconds.
    //= [MQTT-3.1.2-8]
    //= [MQTT-3.1.2-10]
    //= [MQTT-3.14.4-3]
    //= 3.1.1 [MQTT-3.1.2-8]
    //= 3.1.1 [MQTT-3.1.2-12]
    pub fn on_end(
        &mut self,
        kind: EndKind,
        delay_s: u32,
        session_expiry_s: u32,
        now_ms: u64,
    ) -> WillAction {
        if *self != WillState::Armed {
            return WillAction::Nothing;
        }
        *self = WillState::Unset;
        // A session that ends with its connection cannot delay its will.
        let wait_s = delay_s.min(session_expiry_s);
        match kind {
            EndKind::NormalDisconnect => WillAction::Discard,
            EndKind::TakenOver { same_session: false } => WillAction::Publish,
            _ if wait_s == 0 => WillAction::Publish,
            //= [MQTT-3.1.3-9]
            EndKind::TakenOver { same_session: true } => WillAction::Discard,
            _ => {
                let at_ms = now_ms.saturating_add(u64::from(wait_s) * 1000);
                *self = WillState::Delayed { at_ms };
                WillAction::At(at_ms)
            }
        }
    }

    /// The client is back on its session: a will that waits is dropped.
    //= [MQTT-3.1.3-9]
    pub fn on_resumed(&mut self) -> WillAction {
        self.take_delayed(WillAction::Discard)
    }

    /// The session has ended, by its expiry or by a Clean Start: a will that waits goes out now.
    //= [MQTT-3.1.2-8]
    pub fn on_session_end(&mut self) -> WillAction {
        self.take_delayed(WillAction::Publish)
    }

    /// The timer for [`WillAction::At`] went off. One that is early or stale does no harm.
    //= [MQTT-3.1.2-8]
    pub fn on_timer(&mut self, now_ms: u64) -> WillAction {
        match *self {
            WillState::Delayed { at_ms } if now_ms >= at_ms => {
                self.take_delayed(WillAction::Publish)
            }
            WillState::Delayed { at_ms } => WillAction::At(at_ms),
            WillState::Unset | WillState::Armed => WillAction::Nothing,
        }
    }

    fn take_delayed(&mut self, action: WillAction) -> WillAction {
        match self {
            WillState::Delayed { .. } => {
                *self = WillState::Unset;
                action
            }
            WillState::Unset | WillState::Armed => WillAction::Nothing,
        }
    }

    /// The state of a will that was persisted: armed when the server went down, or waiting since
    /// before. A server's crash counts as the network's.
    pub fn restore(delay_s: u32, session_expiry_s: u32, ended_at_ms: u64) -> WillState {
        let wait_ms = u64::from(delay_s.min(session_expiry_s)) * 1000;
        WillState::Delayed { at_ms: ended_at_ms.saturating_add(wait_ms) }
    }
}

const _: () = assert!(NEVER_S == u32::MAX, "an endless session never shortens a will's delay");

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> WillState {
        let mut will = WillState::default();
        will.on_connect(true);
        will
    }

    const ABNORMAL: [EndKind; 6] = [
        EndKind::DisconnectWithWill,
        EndKind::ProtocolError,
        EndKind::NetworkLost,
        EndKind::KeepAlive,
        EndKind::ServerClosed,
        EndKind::ServerShutdown,
    ];

    #[test]
    fn a_normal_disconnect_drops_the_will() {
        let mut will = armed();
        assert_eq!(will.on_end(EndKind::NormalDisconnect, 0, 0, 0), WillAction::Discard);
        assert_eq!(will.on_session_end(), WillAction::Nothing);
    }

    #[test]
    fn every_other_end_publishes_it_once() {
        for kind in ABNORMAL {
            let mut will = armed();
            assert_eq!(will.on_end(kind, 0, 100, 0), WillAction::Publish, "{kind:?}");
            assert_eq!(will.on_end(kind, 0, 100, 0), WillAction::Nothing);
            assert_eq!(will.on_session_end(), WillAction::Nothing);
            assert_eq!(will.on_timer(u64::MAX), WillAction::Nothing);
        }
    }

    #[test]
    fn no_will_no_action() {
        for kind in ABNORMAL {
            let mut will = WillState::default();
            will.on_connect(false);
            assert_eq!(will.on_end(kind, 10, 100, 0), WillAction::Nothing);
        }
    }

    #[test]
    fn a_delay_waits_and_the_timer_publishes() {
        for kind in ABNORMAL {
            let mut will = armed();
            assert_eq!(will.on_end(kind, 10, 100, 1_000), WillAction::At(11_000));
            assert_eq!(will.on_timer(10_999), WillAction::At(11_000));
            assert_eq!(will.on_timer(11_000), WillAction::Publish);
            assert_eq!(will.on_timer(11_000), WillAction::Nothing);
        }
    }

    #[test]
    fn coming_back_cancels_a_waiting_will_and_only_that() {
        let mut will = armed();
        assert_eq!(will.on_end(EndKind::NetworkLost, 10, 100, 0), WillAction::At(10_000));
        assert_eq!(will.on_resumed(), WillAction::Discard);
        will.on_connect(true);
        assert_eq!(will.on_timer(10_000), WillAction::Nothing, "the old timer is stale");
        assert_eq!(will.on_resumed(), WillAction::Nothing);
        assert_eq!(will, WillState::Armed);
    }

    #[test]
    fn an_endless_session_and_an_endless_delay_do_not_overflow() {
        let mut will = armed();
        let action = will.on_end(EndKind::NetworkLost, u32::MAX, NEVER_S, u64::MAX - 5);
        assert_eq!(action, WillAction::At(u64::MAX));
    }

    #[test]
    fn a_restored_will_waits_from_the_moment_of_disconnection() {
        let mut will = WillState::restore(10, 5, 1_000);
        assert_eq!(will.on_timer(5_999), WillAction::At(6_000));
        assert_eq!(will.on_timer(6_000), WillAction::Publish);
    }
}
