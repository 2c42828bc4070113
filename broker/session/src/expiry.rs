//! The arithmetic of session expiry and message expiry. Holds no state and reads no clock; times
//! are milliseconds of the caller's clock, intervals are seconds as on the wire.

use core::fmt;
use core::num::NonZeroU64;

use ringtide_codec::ReasonCode;

/// The session expiry that means "never".
pub const NEVER_S: u32 = u32::MAX;

/// When a session ends whose connection ended at `now_ms`; never, if absent. An expiry of 0 ends it
/// at once.
//= [MQTT-3.1.2-23]
//= [MQTT-4.1.0-2]
pub fn deadline(now_ms: u64, expiry_s: u32) -> Option<u64> {
    (expiry_s != NEVER_S).then(|| now_ms.saturating_add(u64::from(expiry_s) * 1000))
}

/// A DISCONNECT that sets a session expiry although the CONNECT had set it to 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExpiryRaised;

impl ExpiryRaised {
    /// The code for the DISCONNECT that the client is sent. Its session ends at once, and its will
    /// is published.
    pub fn reason(self) -> ReasonCode {
        ReasonCode::ProtocolError
    }
}

impl fmt::Display for ExpiryRaised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DISCONNECT raises a session expiry that CONNECT had set to 0")
    }
}

impl core::error::Error for ExpiryRaised {}

/// The session expiry in force after a DISCONNECT that asks for `asked_s`, in seconds:
/// `connect_s` is what the CONNECT itself asked for (0 if nothing), `effective_s` what is in force,
/// `max_s` the server's limit.
///
/// # Errors
/// [`ExpiryRaised`], judged by what the CONNECT asked for.
pub fn after_disconnect(
    connect_s: u32,
    effective_s: u32,
    asked_s: Option<u32>,
    max_s: u32,
) -> Result<u32, ExpiryRaised> {
    match asked_s {
        None => Ok(effective_s),
        Some(asked_s) if connect_s == 0 && asked_s != 0 => Err(ExpiryRaised),
        Some(asked_s) => Ok(asked_s.min(max_s)),
    }
}

/// When a message that came at `now_ms` with this interval expires; never, if absent.
pub fn message_expires_at(now_ms: u64, expiry_s: Option<u32>) -> Option<NonZeroU64> {
    NonZeroU64::new(now_ms.saturating_add(u64::from(expiry_s?) * 1000).max(1))
}

/// Whether a message's expiry has passed. An interval of 0 passes at once.
//= [MQTT-3.3.2-5]
pub fn has_expired(expires_at_ms: impl Into<u64>, now_ms: u64) -> bool {
    now_ms >= expires_at_ms.into()
}

/// The Message Expiry Interval to send, in seconds: what was received less the whole seconds that
/// the message has waited, so at least 1. Absent once it has expired; a message that must be sent
/// again even so carries 0.
//= [MQTT-3.3.2-6]
pub fn remaining_s(expires_at_ms: impl Into<u64>, now_ms: u64) -> Option<u32> {
    let left_ms = expires_at_ms.into().checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
    Some(u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_its_expiry() {
        assert_eq!(deadline(5_000, 0), Some(5_000));
        assert_eq!(deadline(5_000, 10), Some(15_000));
        assert_eq!(deadline(5_000, u32::MAX - 1), Some(5_000 + 4_294_967_294_000));
        assert_eq!(deadline(5_000, u32::MAX), None);
        assert_eq!(deadline(u64::MAX, 10), Some(u64::MAX));
    }

    #[test]
    fn disconnect_may_change_an_expiry_but_not_raise_it_from_zero() {
        assert_eq!(after_disconnect(0, 0, Some(1), NEVER_S), Err(ExpiryRaised));
        assert_eq!(after_disconnect(0, 0, Some(0), NEVER_S), Ok(0));
        assert_eq!(after_disconnect(0, 0, None, NEVER_S), Ok(0));
        assert_eq!(after_disconnect(10, 10, Some(0), NEVER_S), Ok(0));
        assert_eq!(after_disconnect(10, 10, Some(20), NEVER_S), Ok(20));
        assert_eq!(after_disconnect(10, 10, Some(NEVER_S), 60), Ok(60));
        assert_eq!(after_disconnect(100, 60, None, 60), Ok(60));
        assert_eq!(ExpiryRaised.reason(), ReasonCode::ProtocolError);
    }

    #[test]
    fn raising_is_judged_by_what_connect_asked_for_and_not_by_the_limit() {
        assert_eq!(after_disconnect(10, 0, Some(20), 0), Ok(0));
    }

    #[test]
    fn the_interval_sent_is_less_by_the_whole_seconds_waited() {
        let at_ms = message_expires_at(1_000, Some(10)).unwrap();
        assert_eq!(remaining_s(at_ms, 1_000), Some(10));
        assert_eq!(remaining_s(at_ms, 1_999), Some(10));
        assert_eq!(remaining_s(at_ms, 2_000), Some(9));
        assert_eq!(remaining_s(at_ms, 10_999), Some(1));
        assert!(!has_expired(at_ms, 10_999));
        assert_eq!(remaining_s(at_ms, 11_000), None);
        assert!(has_expired(at_ms, 11_000));
    }

    #[test]
    fn intervals_at_the_ends_of_their_range() {
        assert_eq!(message_expires_at(7, None), None);
        let at_once = message_expires_at(0, Some(0)).unwrap();
        assert!(has_expired(at_once, 1));
        let at_ms = message_expires_at(0, Some(u32::MAX)).unwrap();
        assert_eq!(remaining_s(at_ms, 0), Some(u32::MAX));
        assert_eq!(remaining_s(u64::MAX, 0), Some(u32::MAX));
        assert_eq!(message_expires_at(u64::MAX, Some(9)), NonZeroU64::new(u64::MAX));
    }
}
