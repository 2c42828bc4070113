//! What can be judged of one delivery as it comes.

use crate::model::{Message, MessageNo, Model, Outcome, SessionNo, Step, Subscription, number};

/// A PUBLISH as a client got it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) ids: &'a [u32],
    pub(crate) expiry_s: Option<u32>,
    /// It is no repetition of a delivery that was not finished.
    pub(crate) fresh: bool,
    pub(crate) dup: bool,
    /// Crashes of the broker since its connection began.
    pub(crate) stale: u32,
    /// The client speaks version 5.
    pub(crate) v5: bool,
}

impl Model {
    /// Takes in a delivery and says which message it is.
    pub(crate) fn delivered(
        &mut self,
        no: SessionNo,
        delivery: &Delivery<'_>,
    ) -> Option<MessageNo> {
        let step = self.tick();
        if delivery.payload.is_empty() {
            self.delivered_empty(no, delivery, step);
            return None;
        }
        let found = number(delivery.payload).filter(|own| (own.0 as usize) < self.messages.len());
        let Some(message) = found else {
            self.trace.fail(format_args!("a payload that nobody sent, on {}", delivery.topic));
            return None;
        };
        if let Err(words) = self.check(no, message, delivery, step) {
            let client = self.session(no).client;
            self.trace.fail(format_args!(
                "client {client} got message {} on {} with QoS {}: {words}",
                message.0, delivery.topic, delivery.qos
            ));
        }
        Some(message)
    }

    /// An empty payload does not tell its message; that somebody sent one must do.
    fn delivered_empty(&mut self, no: SessionNo, delivery: &Delivery<'_>, step: Step) {
        let mut of_topic = self.messages.iter().filter(|message| {
            message.topic == delivery.topic && message.payload.is_empty() && message.retain
        });
        let sent = of_topic.any(|message| message.outcome != Outcome::Refused);
        let session = &self.sessions[no.0 as usize];
        let subscribed = session
            .subscriptions
            .iter()
            .any(|own| own.matches(delivery.topic) && own.possible(session.begun, step));
        if !sent || !subscribed {
            let topic = delivery.topic;
            self.trace.fail(format_args!("an empty message on {topic} that was not to come"));
        }
    }

    fn check(
        &mut self,
        no: SessionNo,
        message_no: MessageNo,
        delivery: &Delivery<'_>,
        step: Step,
    ) -> Result<(), String> {
        let message = self.messages[message_no.0 as usize].clone();
        let session = &self.sessions[no.0 as usize];
        check_contents(&message, delivery)?;
        let possible: Vec<&Subscription> = session
            .subscriptions
            .iter()
            .filter(|own| own.matches(&message.topic))
            .filter(|own| {
                // A retained message may have been sent long before the subscription.
                let from = if message.retain { session.begun } else { message.sent };
                own.possible(from, step)
            })
            .collect();
        if possible.is_empty() {
            return Err("it has no subscription for it".into());
        }
        check_options(&message, session.client, delivery, &possible)?;
        if !delivery.fresh {
            return Ok(());
        }
        let (allowed, copies) = allowance(&message, &possible);
        let has_group = possible.iter().any(|own| own.shared);
        let got = self.session(no).got.entry(message_no).or_default();
        got.fresh += 1;
        got.flagged += u32::from(delivery.retain);
        got.last = step;
        got.seen[usize::from(delivery.qos.min(2))] = true;
        got.open += u32::from(delivery.qos > 0);
        got.settled_us = None;
        // What the connection still held when the broker crashed came before the crash.
        got.again += if delivery.qos < 2 { delivery.stale } else { 0 };
        let allowed = allowed + got.again * copies;
        if got.fresh > allowed {
            return Err(format!("{} times, {allowed} are allowed", got.fresh));
        }
        // A QoS 1 message that was sent twice may reach a newer subscription by its second sending.
        let repeated = message.qos == 1 && message.sends > 1;
        if got.fresh > 1 || has_group || repeated || message.retain || message.will {
            return Ok(());
        }
        self.check_order(no, message_no, &message, delivery)
    }

    /// Messages of one publisher on one topic and QoS come in the order in which they were sent.
    fn check_order(
        &mut self,
        no: SessionNo,
        message_no: MessageNo,
        message: &Message,
        delivery: &Delivery<'_>,
    ) -> Result<(), String> {
        let key = (message.publisher, message.topic.clone(), message.qos, delivery.qos);
        match self.session(no).order.insert(key, message_no) {
            Some(before) if before > message_no => Err(format!("after message {}", before.0)),
            _ => Ok(()),
        }
    }
}

fn check_contents(message: &Message, delivery: &Delivery<'_>) -> Result<(), String> {
    if message.payload != delivery.payload {
        return Err("with another payload".into());
    }
    if message.topic != delivery.topic {
        return Err(format!("it was published on {}", message.topic));
    }
    if message.outcome == Outcome::Refused {
        return Err("it was refused".into());
    }
    if delivery.qos > message.qos {
        return Err(format!("it was published with QoS {}", message.qos));
    }
    match (message.expiry_s, delivery.expiry_s) {
        (_, _) if !delivery.v5 => Ok(()),
        (None, None) => Ok(()),
        // An exchange that has begun goes on after the message's time.
        (Some(sent_s), Some(left_s)) if left_s <= sent_s && (left_s > 0 || delivery.dup) => Ok(()),
        (sent_s, left_s) => Err(format!("expiry {sent_s:?} was sent, {left_s:?} came")),
    }
}

fn check_options(
    message: &Message,
    client: usize,
    delivery: &Delivery<'_>,
    possible: &[&Subscription],
) -> Result<(), String> {
    // Whether a will is its client's own message, the standard does not say.
    let own = message.publisher == client && !message.will;
    if own && possible.iter().all(|own| own.no_local) {
        return Err("its own message, with No Local".into());
    }
    let granted = possible.iter().map(|own| own.qos).max().unwrap_or(0);
    if delivery.qos > granted {
        return Err(format!("QoS {granted} at most was granted"));
    }
    let as_published = possible.iter().any(|own| own.retain_as_published);
    let replays = possible.iter().any(|own| own.retain_handling < 2 && !own.shared);
    if delivery.retain && !(message.retain && (as_published || replays)) {
        return Err("with RETAIN set".into());
    }
    if !delivery.v5 && !delivery.ids.is_empty() {
        return Err("with subscription identifiers before version 5".into());
    }
    for id in delivery.ids {
        if !possible.iter().any(|own| own.id == Some(*id)) {
            return Err(format!("with subscription identifier {id}"));
        }
    }
    Ok(())
}

/// How often a session may get a message afresh: once for all its own subscriptions and once for
/// each shared one, as often as it was sent (QoS 1; otherwise once); and once for each SUBSCRIBE
/// that asks for retained messages. And how many copies a crash may bring once more.
fn allowance(message: &Message, possible: &[&Subscription]) -> (u32, u32) {
    let mut groups: Vec<&str> =
        possible.iter().filter(|own| own.shared).map(|own| &*own.filter).collect();
    groups.sort_unstable();
    groups.dedup();
    let plain = possible.iter().any(|own| !own.shared);
    let times = if message.qos == 1 { message.sends } else { 1 };
    let replays = possible.iter().filter(|own| !own.shared && own.retain_handling < 2).count();
    let replays = if message.retain { replays as u32 } else { 0 };
    let copies = groups.len() as u32 + u32::from(plain);
    let all = copies * times + replays;
    (all, all)
}
