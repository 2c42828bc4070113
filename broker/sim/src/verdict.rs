//! What can be judged only when a run is over: that everything came which had to come.

use crate::model::{Message, MessageNo, Model, Outcome, Session, Step, Subscription};

/// Bytes that a PUBLISH may have besides topic and payload.
const OVERHEAD_MAX: usize = 80;

/// What the broker says that it dropped; so much may be missing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dropped {
    /// QoS 1 and 2, for full queues.
    pub(crate) queued: u64,
    /// QoS 0, for slow clients.
    pub(crate) slow: u64,
}

impl Model {
    /// Every message that had to reach a session has reached it.
    pub(crate) fn check_all_came(&self, dropped: Dropped) {
        let (mut queued, mut slow) = (0, 0);
        for session in self.sessions.iter().filter(|session| session.ending.is_none()) {
            for (index, message) in self.messages.iter().enumerate() {
                let no = MessageNo(index as u32);
                if session.got.contains_key(&no) {
                    continue;
                }
                let must = self.must(session, message);
                if let Some(qos) = must {
                    let client = session.client;
                    self.trace.event(
                        [52, client as u64, u64::from(no.0), u64::from(qos)],
                        format_args!("client {client} lacks message {}, QoS {qos}", no.0),
                    );
                }
                match must {
                    None => {}
                    Some(0) => {
                        // A SUBSCRIBE that was not answered yet may have made it one of QoS 1.
                        slow += 1;
                        if slow > dropped.slow + dropped.queued {
                            self.missing(session, no);
                        }
                    }
                    Some(_) => {
                        queued += 1;
                        if queued > dropped.queued {
                            self.missing(session, no);
                        }
                    }
                }
            }
        }
    }

    fn missing(&self, session: &Session, no: MessageNo) {
        let Message { topic, qos, publisher, sends, .. } = self.message(no);
        self.trace.fail(format_args!(
            "client {} never got message {} of client {publisher} on {topic}, QoS {qos}, which \
             was acknowledged (sent {sends} times)",
            session.client, no.0
        ));
    }

    /// The QoS with which a message had to come to a session, if it had to.
    fn must(&self, session: &Session, message: &Message) -> Option<u8> {
        let accepted = message.accepted()?;
        if message.payload.is_empty() || message.expiry_s.is_some() || message.will {
            return None;
        }
        let len = message.payload.len() + message.topic.len() + OVERHEAD_MAX;
        if len > session.packet_max as usize {
            return None;
        }
        let granted = session
            .subscriptions
            .iter()
            .filter(|own| !own.shared && own.matches(&message.topic))
            .filter(|own| !(own.no_local && message.publisher == session.client))
            .filter(|own| own.certain(message.sent, accepted))
            .filter_map(|own| own.granted.map(|(_, qos)| qos))
            .max()?;
        let qos = granted.min(message.qos);
        // QoS 0 is for those who are there from first to last.
        let steady = session.connected.is_some_and(|since| since < message.sent);
        (qos > 0 || steady).then_some(qos)
    }

    /// Shared groups: each message to one member of each group, no more.
    pub(crate) fn check_groups(&self, dropped: Dropped) {
        if dropped.queued > 0 {
            return;
        }
        for (index, message) in self.messages.iter().enumerate() {
            let no = MessageNo(index as u32);
            if let Some(accepted) = message.accepted().filter(|_| message.qos > 0) {
                self.check_groups_of(no, message, accepted);
            }
        }
    }

    fn check_groups_of(&self, no: MessageNo, message: &Message, accepted: Step) {
        if message.payload.is_empty() || message.expiry_s.is_some() || message.will {
            return;
        }
        let member =
            |own: &&Subscription| own.shared && own.matches(&message.topic) && !own.refused;
        let with = |session: &&Session| session.subscriptions.iter().any(|own| member(&own));
        let members: Vec<&Session> = self.sessions.iter().filter(with).collect();
        // Copies of a member's own subscriptions cannot be told from the group's.
        let muddled = members.iter().any(|session| {
            session.subscriptions.iter().any(|own| !own.shared && own.matches(&message.topic))
                || message.payload.len() + message.topic.len() + OVERHEAD_MAX
                    > session.packet_max as usize
        });
        if muddled {
            return;
        }
        let all = members.iter().flat_map(|session| {
            session.subscriptions.iter().filter(member).map(move |own| (*session, own))
        });
        let mut groups: Vec<&str> = all.clone().map(|(_, own)| &*own.filter).collect();
        groups.sort_unstable();
        groups.dedup();
        let steady = |group: &&&str| {
            all.clone().any(|(session, own)| {
                own.filter == **group
                    && session.ending.is_none()
                    && own.certain(message.sent, accepted)
                    && own.leaving.is_none()
                    && own.granted.is_some_and(|(_, qos)| qos > 0)
            })
        };
        let needed = groups.iter().filter(steady).count() as u32;
        // QoS 2 that a member had begun to take dies with that member; and a member that was
        // given only QoS 0 may lose it.
        let lossy = all.clone().any(|(session, own)| {
            own.qos == 0
                || ((session.ending.is_some() || own.leaving.is_some()) && message.qos == 2)
        });
        let settled =
            all.clone().all(|(session, own)| session.ending.is_none() && own.leaving.is_none());
        let got: u32 =
            members.iter().filter_map(|session| session.got.get(&no)).map(|got| got.fresh).sum();
        let topic = &message.topic;
        if got < needed && !lossy {
            self.trace.fail(format_args!(
                "message {} on {topic} reached {got} of {needed} shared groups",
                no.0
            ));
        }
        // What a member was given with QoS 1 another may be given after a crash.
        let low =
            |session: &&Session| session.got.get(&no).is_some_and(|got| got.seen[0] || got.seen[1]);
        let crashed = self.crashed.iter().any(|step| *step > message.sent)
            && members.iter().copied().any(|session| low(&session));
        if settled && !crashed && message.sends == 1 && got > groups.len() as u32 {
            self.trace.fail(format_args!(
                "message {} on {topic} came {got} times to {} shared groups",
                no.0,
                groups.len()
            ));
        }
    }

    /// What may be retained on a topic now; `None` among them: perhaps nothing.
    pub(crate) fn retained_candidates(&self, topic: &str) -> Vec<Option<MessageNo>> {
        let Some(all) = self.retained.get(topic) else { return vec![None] };
        let alive = |no: &&MessageNo| self.message(**no).outcome != Outcome::Refused;
        let all: Vec<MessageNo> = all.iter().filter(alive).copied().collect();
        let overwritten = |no: MessageNo| {
            let own = self.message(no);
            let Some(accepted) = own.accepted() else { return false };
            all.iter().any(|&other| {
                let later = self.message(other);
                // A QoS 1 message that was sent again may come once more behind a later one.
                let steady = own.qos != 1 || own.sends == 1 || later.qos == 1;
                let same = later.publisher == own.publisher && other > no && steady;
                let ordered = later.sent > accepted || same;
                other != no
                    && later.accepted().is_some()
                    && !later.shaky
                    && ordered
                    && !own.will
                    && !later.will
            })
        };
        let mut candidates: Vec<Option<MessageNo>> = all
            .iter()
            .filter(|&&no| !overwritten(no))
            .map(|&no| Some(no).filter(|no| !self.message(*no).payload.is_empty()))
            .collect();
        let certain = |no: &MessageNo| {
            let message = self.message(*no);
            message.accepted().is_some() && !message.shaky
        };
        if !all.iter().any(certain) {
            candidates.push(None);
        }
        candidates
    }

    /// Compares what a new subscriber of everything was given with what must be retained.
    pub(crate) fn check_retained(&self, held: &[(String, MessageNo)]) {
        for (topic, no) in held {
            if !self.retained_candidates(topic).contains(&Some(*no)) {
                self.trace.fail(format_args!(
                    "message {} is retained on {topic}, which it cannot be",
                    no.0
                ));
            }
        }
        for topic in self.retained.keys().filter(|topic| !self.is_denied(topic)) {
            let candidates = self.retained_candidates(topic);
            let found = held.iter().any(|(own, _)| own == topic);
            if !found && !candidates.contains(&None) {
                self.trace.fail(format_args!(
                    "nothing is retained on {topic}, one of {candidates:?} must be"
                ));
            }
        }
    }
}
