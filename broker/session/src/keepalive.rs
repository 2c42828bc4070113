//! How long a client may be silent. Holds no state and reads no clock: the caller knows when the
//! last whole packet came (any packet counts) and which keep alive is in force, which is the
//! server's own where it announced one.

/// How long silence lasts before it ends the connection, in milliseconds: one and a half times the
/// keep alive. Forever, if the keep alive is 0.
//= [MQTT-3.1.2-22]
//= [MQTT-3.2.2-21]
//= [MQTT-3.2.2-22]
//= 3.1.1 [MQTT-3.1.2-24]
pub const fn timeout_ms(keep_alive_s: u16) -> Option<u64> {
    match keep_alive_s {
        0 => None,
        keep_alive_s => Some(keep_alive_s as u64 * 1500),
    }
}

/// When silence since `last_packet_ms` ends the connection; never, if absent.
pub fn deadline(last_packet_ms: u64, keep_alive_s: u16) -> Option<u64> {
    timeout_ms(keep_alive_s).map(|timeout_ms| last_packet_ms.saturating_add(timeout_ms))
}

/// Whether silence since `last_packet_ms` has ended the connection.
pub fn due(last_packet_ms: u64, keep_alive_s: u16, now_ms: u64) -> bool {
    deadline(last_packet_ms, keep_alive_s).is_some_and(|deadline_ms| now_ms >= deadline_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_of_exactly_one_and_a_half_times_is_due() {
        assert!(!due(1_000, 10, 15_999));
        assert!(due(1_000, 10, 16_000));
        assert!(!due(16_000, 10, 16_000), "a packet starts it anew");
    }

    #[test]
    fn zero_is_never_due() {
        assert_eq!(deadline(0, 0), None);
        assert!(!due(0, 0, u64::MAX));
    }

    #[test]
    fn the_longest_keep_alive_does_not_overflow() {
        assert_eq!(timeout_ms(u16::MAX), Some(98_302_500));
        assert!(!due(0, u16::MAX, 98_302_499));
        assert!(due(0, u16::MAX, 98_302_500));
        assert_eq!(deadline(u64::MAX - 1, u16::MAX), Some(u64::MAX));
    }

    #[test]
    fn a_clock_that_reads_less_than_the_last_packet_is_not_due() {
        assert!(!due(5_000, 1, 1_000));
    }
}
