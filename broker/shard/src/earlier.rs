//! What a run that ended without a word may have sent: whether a PUBLISH of QoS 1 is a first
//! attempt or may be another one, which the client is told by its DUP flag.
//!
//! No record says that a message of QoS 1 was sent, or each would cost a write. What came to a
//! session before its connection ended may have been; what came later was not. QoS 2 needs none
//! of this: the log has its packet ids.

use std::collections::HashMap;

use ringtide_codec::QoS;
use ringtide_session::Delivery;

use crate::session::Stored;

/// The clocks of shards are looked at once a turn: a message may seem to be later than the end of
/// a connection over which it went.
const MARGIN_MS: u64 = 1000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    /// The last place that an earlier run gave to what waits.
    last_seq: u64,
    /// Until when each session may have been sent what came, in milliseconds since the epoch; of
    /// sessions for which something of an earlier run waits.
    until_ms: HashMap<u32, u64>,
}

impl Earlier {
    pub(crate) fn new(last_seq: u64) -> Earlier {
        Earlier { last_seq, until_ms: HashMap::new() }
    }

    /// A session for which something waits was connected until then, in milliseconds since the
    /// epoch.
    pub(crate) fn was_connected(&mut self, session: u32, until_ms: u64) {
        self.until_ms.insert(session, until_ms.saturating_add(MARGIN_MS));
    }

    /// A session has ended, or has been sent all that waited.
    pub(crate) fn forget(&mut self, session: u32) {
        if !self.until_ms.is_empty() {
            self.until_ms.remove(&session);
        }
    }

    /// True if a message that waited for a session may have been sent to it by an earlier run.
    pub(crate) fn may_have_sent(&self, session: u32, delivery: &Delivery<Stored>) -> bool {
        let Stored { message, seq, .. } = &delivery.message;
        if *seq == 0 || *seq > self.last_seq || delivery.qos != QoS::AtLeastOnce {
            return false;
        }
        let Some(until_ms) = self.until_ms.get(&session) else { return false };
        message.message().is_none_or(|message| message.view().header.ingress_ms <= *until_ms)
    }
}
