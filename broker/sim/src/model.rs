//! The reference model: what was published, who subscribed to what and when, and what came. It
//! knows only what clients have seen, in the order in which they saw it; where the standard leaves
//! room or the network hides the truth, it allows every outcome that is possible.
//!
//! Checks that need one delivery only are made as it comes (`check.rs`), those that need the
//! whole run at its end (`verdict.rs`).

use std::collections::BTreeMap;

use crate::net::FORGETS_US;
use crate::trace::Trace;

/// A moment as the clients see it: everything they do or see has one of its own.
pub(crate) type Step = u64;

/// A message, numbered as it was first sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MessageNo(pub(crate) u32);

/// One life of a session: from the CONNECT that made it to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionNo(pub(crate) u32);

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not known yet, or never: the connection ended before the answer.
    Unknown,
    /// The broker took it, as the publisher knew at this step.
    Accepted(Step),
    /// The broker refused it: nobody may get it.
    Refused,
}

/// A publish.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) publisher: usize,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) will: bool,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) sent: Step,
    /// Times that its PUBLISH was sent.
    pub(crate) sends: u32,
    pub(crate) outcome: Outcome,
    pub(crate) accepted_us: u64,
    /// A QoS 0 message that was handled so shortly before a crash that it may be forgotten.
    pub(crate) shaky: bool,
}

impl Message {
    pub(crate) fn accepted(&self) -> Option<Step> {
        match self.outcome {
            Outcome::Accepted(step) => Some(step),
            Outcome::Unknown | Outcome::Refused => None,
        }
    }
}

/// One SUBSCRIBE of one filter.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The whole filter.
    pub(crate) filter: String,
    /// What topics are matched against.
    pub(crate) plain: String,
    pub(crate) shared: bool,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// 0: send retained; 1: if new; 2: never.
    pub(crate) retain_handling: u8,
    /// Nothing but this SUBSCRIBE can have subscribed to this filter before.
    pub(crate) is_new: bool,
    pub(crate) id: Option<u32>,
    pub(crate) asked: Step,
    /// SUBACK with this QoS.
    pub(crate) granted: Option<(Step, u8)>,
    pub(crate) refused: bool,
    /// When it may have ended: UNSUBSCRIBE or another SUBSCRIBE was sent.
    pub(crate) leaving: Option<Step>,
    /// When it had ended: UNSUBACK, or SUBACK of what replaced it.
    pub(crate) left: Option<Step>,
}

impl Subscription {
    pub(crate) fn matches(&self, topic: &str) -> bool {
        covers(&self.plain, topic)
    }

    /// True if it may have been in force at some moment from `from` to `until`.
    pub(crate) fn possible(&self, from: Step, until: Step) -> bool {
        !self.refused && self.asked <= until && self.left.is_none_or(|left| left >= from)
    }

    /// True if it was in force from `from` to `until` for certain.
    pub(crate) fn certain(&self, from: Step, until: Step) -> bool {
        self.granted.is_some_and(|(step, _)| step < from)
            && self.leaving.is_none_or(|leaving| leaving > until)
    }
}

/// What a session got of one message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Got {
    /// Deliveries that were no repetition of an unfinished one.
    pub(crate) fresh: u32,
    /// Those of them with the RETAIN flag set.
    pub(crate) flagged: u32,
    pub(crate) last: Step,
    /// The QoS with which it came.
    pub(crate) seen: [bool; 3],
    /// Copies whose acknowledgements the broker need not have handled.
    pub(crate) open: u32,
    /// When the broker had handled the last acknowledgement for certain.
    pub(crate) settled_us: Option<u64>,
    /// Times that it may come once more because a crash may have lost what became of it.
    pub(crate) again: u32,
}

/// One life of a session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: usize,
    pub(crate) begun: Step,
    /// From here on it may have ended.
    pub(crate) ending: Option<Step>,
    /// Since when its present connection stands.
    pub(crate) connected: Option<Step>,
    pub(crate) packet_max: u32,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) got: BTreeMap<MessageNo, Got>,
    /// Last message by publisher, topic, published and delivered QoS.
    pub(crate) order: BTreeMap<(usize, String, u8, u8), MessageNo>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) step: Step,
    pub(crate) now_us: u64,
    pub(crate) messages: Vec<Message>,
    pub(crate) sessions: Vec<Session>,
    /// Topics with publishes that set or clear the retained message.
    pub(crate) retained: BTreeMap<String, Vec<MessageNo>>,
    /// Topics that nobody may publish or subscribe to begin so.
    pub(crate) denied: Option<&'static str>,
    /// When the broker crashed.
    pub(crate) crashed: Vec<Step>,
    /// Disks may be full: then the broker may refuse what it would have to keep.
    pub(crate) full_disks: bool,
    /// Clients may be told that too many passwords wait to be checked.
    pub(crate) busy_judges: bool,
    pub(crate) trace: Trace,
}

/// How a publish is to be.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) publisher: usize,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) len: usize,
    pub(crate) will: bool,
    pub(crate) expiry_s: Option<u32>,
}

impl Model {
    pub(crate) fn new(trace: Trace, denied: Option<&'static str>) -> Model {
        Model {
            step: 0,
            now_us: 0,
            messages: Vec::new(),
            sessions: Vec::new(),
            retained: BTreeMap::new(),
            denied,
            crashed: Vec::new(),
            full_disks: false,
            busy_judges: false,
            trace,
        }
    }

    /// The next moment.
    pub(crate) fn tick(&mut self) -> Step {
        self.step += 1;
        self.step
    }

    pub(crate) fn message(&self, no: MessageNo) -> &Message {
        &self.messages[no.0 as usize]
    }

    pub(crate) fn session(&mut self, no: SessionNo) -> &mut Session {
        &mut self.sessions[no.0 as usize]
    }

    /// True if the rules refuse this topic.
    pub(crate) fn is_denied(&self, topic: &str) -> bool {
        self.denied.is_some_and(|prefix| topic.starts_with(prefix))
    }

    /// A message is sent for the first time. A length of 0 makes an empty payload; any other is
    /// at least what tells the message from all others.
    pub(crate) fn publish(&mut self, draft: Draft) -> MessageNo {
        let no = MessageNo(self.messages.len() as u32);
        let sent = self.tick();
        let Draft { publisher, topic, qos, retain, len, will, expiry_s } = draft;
        if retain {
            self.retained.entry(topic.clone()).or_default().push(no);
        }
        self.messages.push(Message {
            publisher,
            topic,
            qos,
            retain,
            payload: payload(no, len),
            will,
            expiry_s,
            sent,
            sends: 1,
            outcome: Outcome::Unknown,
            accepted_us: 0,
            shaky: false,
        });
        no
    }

    pub(crate) fn sent_again(&mut self, no: MessageNo) {
        self.tick();
        self.messages[no.0 as usize].sends += 1;
    }

    pub(crate) fn accepted(&mut self, no: MessageNo) {
        let step = self.tick();
        let denied = self.is_denied(&self.message(no).topic.clone());
        let message = &mut self.messages[no.0 as usize];
        // A client before version 5 gets a plain acknowledgement for what is refused.
        let outcome = if denied { Outcome::Refused } else { Outcome::Accepted(step) };
        if message.outcome == Outcome::Unknown {
            message.outcome = outcome;
            message.accepted_us = self.now_us;
            // The answer may be one from before a crash.
            let crashed = self.crashed.iter().any(|crash| *crash > message.sent);
            // Or it is retained, and there was no space for it.
            message.shaky |= message.qos == 0 && (crashed || self.full_disks);
        }
    }

    pub(crate) fn refused(&mut self, no: MessageNo) {
        self.tick();
        if !self.is_denied(&self.message(no).topic.clone()) {
            let topic = &self.message(no).topic;
            self.trace.fail(format_args!("message {} to {topic} was refused", no.0));
        }
        self.messages[no.0 as usize].outcome = Outcome::Refused;
    }

    /// A message was refused because a disk had no space. Sent once before, it may have been
    /// routed then.
    pub(crate) fn refused_for_space(&mut self, no: MessageNo) {
        self.tick();
        let message = &mut self.messages[no.0 as usize];
        if message.sends == 1 {
            message.outcome = Outcome::Refused;
        }
    }

    /// The broker has crashed. What was delivered with QoS 0 or 1 comes again unless its
    /// acknowledgement was kept, and its publisher knew: to hold such deliveries back until the
    /// log has them would make all others late. QoS 2 comes once whatever happens.
    pub(crate) fn crash(&mut self, at_us: u64) {
        let step = self.tick();
        self.crashed.push(step);
        let messages = &mut self.messages;
        for message in messages.iter_mut().filter(|message| message.qos == 0) {
            let fresh = message.accepted_us + FORGETS_US >= at_us;
            message.shaky |= message.accepted().is_some() && fresh;
        }
        for session in &mut self.sessions {
            for (no, got) in &mut session.got {
                let message = &messages[no.0 as usize];
                let known = message.accepted().is_some() && !message.shaky;
                let settled = got.settled_us.filter(|_| got.open == 0);
                let kept = settled.is_some_and(|settled| settled + FORGETS_US < at_us);
                got.open = 0;
                let routed_again = !known || message.accepted_us + FORGETS_US >= at_us;
                let sent_again = !kept || (!known && message.qos != 1);
                let again = (got.seen[0] && routed_again) || (got.seen[1] && sent_again);
                got.again += u32::from(again);
            }
        }
    }

    /// The broker has handled a session's acknowledgement of a message.
    pub(crate) fn settled(&mut self, no: SessionNo, message: MessageNo) {
        let now_us = self.now_us;
        if let Some(got) = self.session(no).got.get_mut(&message) {
            got.open = got.open.saturating_sub(1);
            got.settled_us = Some(now_us);
        }
    }

    /// A session begins with a CONNECT that is being sent.
    pub(crate) fn begin_session(&mut self, client: usize, packet_max: u32) -> SessionNo {
        let begun = self.tick();
        self.sessions.push(Session {
            client,
            begun,
            ending: None,
            connected: None,
            packet_max,
            subscriptions: Vec::new(),
            got: BTreeMap::new(),
            order: BTreeMap::new(),
        });
        SessionNo(self.sessions.len() as u32 - 1)
    }

    /// From now on the session may end.
    pub(crate) fn end_session(&mut self, no: SessionNo) {
        let step = self.tick();
        self.session(no).ending.get_or_insert(step);
        self.session(no).connected = None;
    }

    /// A SUBSCRIBE is being sent; the number names it in [`Model::granted`].
    pub(crate) fn subscribe(&mut self, no: SessionNo, mut subscription: Subscription) -> usize {
        let step = self.tick();
        subscription.asked = step;
        let session = self.session(no);
        let mut is_new = true;
        for old in &mut session.subscriptions {
            if old.filter == subscription.filter && !old.refused && old.left.is_none() {
                old.leaving.get_or_insert(step);
                is_new = false;
            }
        }
        subscription.is_new = is_new;
        session.subscriptions.push(subscription);
        session.subscriptions.len() - 1
    }

    /// A SUBACK has come for one filter.
    pub(crate) fn granted(&mut self, no: SessionNo, index: usize, code: u8) {
        let step = self.tick();
        let own = self.session(no).subscriptions[index].clone();
        let denied = self.is_denied(&own.plain);
        let no_space = self.full_disks && matches!(code, 0x80 | 0x97);
        let right = if denied { code >= 0x80 } else { code == own.qos || no_space };
        if !right {
            let filter = &own.filter;
            self.trace.fail(format_args!("SUBACK {code:#x} for {filter}, QoS {}", own.qos));
        }
        let session = self.session(no);
        if code >= 0x80 {
            session.subscriptions[index].refused = true;
            return;
        }
        session.subscriptions[index].granted = Some((step, code));
        for old in &mut session.subscriptions[..index] {
            if old.filter == own.filter && old.asked < own.asked {
                old.left.get_or_insert(step);
            }
        }
    }

    /// An UNSUBSCRIBE is being sent.
    pub(crate) fn leaving(&mut self, no: SessionNo, filter: &str) -> Step {
        let step = self.tick();
        for own in &mut self.session(no).subscriptions {
            if own.filter == filter {
                own.leaving.get_or_insert(step);
            }
        }
        step
    }

    /// The UNSUBACK for what was sent at `asked` has come.
    pub(crate) fn left(&mut self, no: SessionNo, filter: &str, asked: Step, code: Option<u8>) {
        let step = self.tick();
        let mut existed = false;
        let mut certain = false;
        for own in &mut self.session(no).subscriptions {
            if own.filter == filter && own.asked < asked && own.left.is_none() && !own.refused {
                own.left = Some(step);
                existed = true;
                certain |= own.granted.is_some_and(|(granted, _)| granted < asked)
                    && own.leaving == Some(asked);
            }
        }
        let wrong = match code {
            Some(0x00) => !existed,
            Some(0x11) => certain,
            Some(_) => true,
            None => false,
        };
        if wrong {
            self.trace.fail(format_args!("UNSUBACK {code:x?} for {filter}"));
        }
    }
}

/// The bytes of a message: its number twice, then bytes that follow from it.
fn payload(no: MessageNo, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&no.0.to_le_bytes());
    bytes.extend_from_slice(&(!no.0).to_le_bytes());
    let mut state = no.0 | 1;
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.push(state as u8);
    }
    bytes
}

/// The message that a payload is of.
pub(crate) fn number(payload: &[u8]) -> Option<MessageNo> {
    let (head, _) = payload.split_first_chunk::<8>()?;
    let no = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let check = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    (check == !no).then_some(MessageNo(no))
}

/// Whether a filter matches a topic, by section 4.7.
pub(crate) fn covers(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('#') || filter.starts_with('+')) {
        return false;
    }
    let (mut filters, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (filters.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(filter), Some(level)) if filter == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_matches_as_the_standard_says() {
        for (filter, topic, matches) in [
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/+", "a", false),
            ("+/b", "a/b", true),
            ("+", "/", false),
            ("/+", "/", true),
            ("#", "$x/y", false),
            ("+/y", "$x/y", false),
            ("$x/#", "$x/y", true),
        ] {
            assert_eq!(covers(filter, topic), matches, "{filter} {topic}");
        }
    }

    #[test]
    fn a_payload_tells_its_message() {
        for len in [8, 9, 1000] {
            let bytes = payload(MessageNo(77), len);
            assert_eq!((bytes.len(), number(&bytes)), (len, Some(MessageNo(77))));
        }
        assert_eq!(number(b"12345678"), None);
    }
}
