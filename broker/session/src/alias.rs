//! Topic aliases, one table per direction. Each belongs to one connection and dies with it, also
//! when the session is carried on; neither knows what a topic means.

use core::fmt;

use ringtide_codec::ReasonCode;

/// Most aliases towards one client, whatever it allows: a table that is searched in a line.
const OUT_MAX: u16 = 16;

/// A topic shorter than this gains nothing from an alias, which takes three bytes.
const TOPIC_BYTES_MIN: usize = 4;

/// How many messages, per alias, a topic must have been silent for before another takes its alias.
/// Without it a client with many topics would be sent a new mapping in every packet.
const SILENCE_PER_ALIAS: u32 = 4;

/// Why a client's use of an alias is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AliasError {
    /// Alias 0.
    Zero,
    /// An alias above the maximum that the server announced.
    AboveMaximum,
    /// No topic in the packet and none set for the alias.
    Unknown,
}

impl AliasError {
    /// The code for the DISCONNECT that the client is sent.
    pub fn reason(self) -> ReasonCode {
        match self {
            AliasError::Zero | AliasError::AboveMaximum => ReasonCode::TopicAliasInvalid,
            AliasError::Unknown => ReasonCode::ProtocolError,
        }
    }
}

impl fmt::Display for AliasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AliasError::Zero => "topic alias 0 is not allowed",
            AliasError::AboveMaximum => "the topic alias is above the announced maximum",
            AliasError::Unknown => "the topic alias has no topic yet",
        })
    }
}

impl core::error::Error for AliasError {}

/// What a client's aliases stand for.
//= [MQTT-3.3.2-7]
#[derive(Clone, Debug)]
pub struct AliasIn {
    /// Sorted by alias; holds what was set, however high the maximum is.
    set: Vec<(u16, Box<str>)>,
    maximum: u16,
}

impl AliasIn {
    /// No alias set. `maximum` is the Topic Alias Maximum that the server announced; 0 refuses
    /// every alias.
    pub const fn new(maximum: u16) -> AliasIn {
        AliasIn { set: Vec::new(), maximum }
    }

    /// Lets `alias` stand for `topic`, whatever it stood for before.
    ///
    /// # Errors
    /// [`AliasError::Zero`] or [`AliasError::AboveMaximum`]; nothing has changed then.
    //= [MQTT-3.3.2-12]
    pub fn set(&mut self, alias: u16, topic: &str) -> Result<(), AliasError> {
        self.check(alias)?;
        match self.find(alias) {
            Ok(place) => {
                if let Some((_, old)) = self.set.get_mut(place)
                    && **old != *topic
                {
                    *old = topic.into();
                }
            }
            Err(place) => self.set.insert(place, (alias, topic.into())),
        }
        Ok(())
    }

    /// The topic that `alias` stands for.
    pub fn topic(&self, alias: u16) -> Option<&str> {
        let place = self.find(alias).ok()?;
        self.set.get(place).map(|(_, topic)| &**topic)
    }

    /// The topic of a PUBLISH with this alias and this topic field, which sets the alias unless it
    /// is empty.
    ///
    /// # Errors
    /// Any [`AliasError`]; nothing has changed then.
    //= [MQTT-3.3.2-8]
    //= [MQTT-3.3.2-9]
    //= [MQTT-3.2.2-17]
    //= [MQTT-3.2.2-18]
    pub fn resolve<'a>(&'a mut self, alias: u16, topic: &'a str) -> Result<&'a str, AliasError> {
        if topic.is_empty() {
            self.check(alias)?;
            return self.topic(alias).ok_or(AliasError::Unknown);
        }
        self.set(alias, topic)?;
        Ok(topic)
    }

    fn check(&self, alias: u16) -> Result<(), AliasError> {
        match alias {
            0 => Err(AliasError::Zero),
            _ if alias > self.maximum => Err(AliasError::AboveMaximum),
            _ => Ok(()),
        }
    }

    /// Where the alias is, or where it belongs. Clients take aliases in turn from 1, so its place
    /// is mostly its number.
    fn find(&self, alias: u16) -> Result<usize, usize> {
        let guess = usize::from(alias).wrapping_sub(1);
        if self.set.get(guess).is_some_and(|(at, _)| *at == alias) {
            return Ok(guess);
        }
        self.set.binary_search_by(|(at, _)| at.cmp(&alias))
    }

    /// Heap bytes held.
    pub fn bytes(&self) -> usize {
        let topics: usize = self.set.iter().map(|(_, topic)| topic.len()).sum();
        topics + self.set.capacity() * size_of::<(u16, Box<str>)>()
    }
}

/// How to name a topic in a PUBLISH to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AliasUse {
    /// By the topic alone.
    None,
    /// By topic and alias: the client learns the alias. Then [`AliasOut::commit`] if the packet
    /// goes out, [`AliasOut::abort`] if it does not.
    First(u16),
    /// By the alias alone.
    Known(u16),
}

#[derive(Clone, Debug)]
struct Named {
    topic: String,
    /// When the topic was last chosen, in calls of [`AliasOut::choose`].
    used_at: u32,
    /// Whether a packet with topic and alias went out.
    known: bool,
}

/// The aliases that a client has been told, for the topics used most recently.
///
/// ```text
///            choose: First            commit
///   (free) ───────────────► offered ───────────► known ──► choose: Known
///                            │   ▲                 │
///                     abort, │   └─────────────────┘ choose: First, for another topic, when this
///                  or nothing│                       one has been silent for long
///                            ▼
///                       choose: First again
/// ```
#[derive(Clone, Debug)]
pub struct AliasOut {
    /// Alias n is at place n - 1.
    named: Vec<Named>,
    maximum: u16,
    now: u32,
}

impl AliasOut {
    /// No alias told. `maximum` is the client's Topic Alias Maximum; 0, also when it sent none,
    /// uses no alias.
    //= [MQTT-3.1.2-26]
    //= [MQTT-3.1.2-27]
    //= [MQTT-3.3.2-11]
    //= [MQTT-3.3.2-7]
    pub fn new(maximum: u16) -> AliasOut {
        AliasOut { named: Vec::new(), maximum: maximum.min(OUT_MAX), now: 0 }
    }

    /// How to name `topic` in the next PUBLISH.
    //= [MQTT-3.3.2-8]
    pub fn choose(&mut self, topic: &str) -> AliasUse {
        if self.maximum == 0 || topic.len() < TOPIC_BYTES_MIN {
            return AliasUse::None;
        }
        self.now = self.now.wrapping_add(1);
        if let Some(place) = self.named.iter().position(|named| named.topic == topic) {
            return self.use_again(place);
        }
        if self.named.len() < usize::from(self.maximum) {
            self.named.push(Named { topic: topic.into(), used_at: self.now, known: false });
            return first(self.named.len() - 1);
        }
        self.replace_silent(topic)
    }

    fn use_again(&mut self, place: usize) -> AliasUse {
        let Some(named) = self.named.get_mut(place) else {
            return AliasUse::None;
        };
        named.used_at = self.now;
        match first(place) {
            AliasUse::First(alias) if named.known => AliasUse::Known(alias),
            not_known => not_known,
        }
    }

    fn replace_silent(&mut self, topic: &str) -> AliasUse {
        let now = self.now;
        let silence = SILENCE_PER_ALIAS * u32::from(self.maximum);
        let ages = self.named.iter_mut().enumerate();
        let oldest = ages.max_by_key(|(_, named)| now.wrapping_sub(named.used_at));
        match oldest {
            Some((place, named)) if now.wrapping_sub(named.used_at) >= silence => {
                named.topic.clear();
                named.topic.push_str(topic);
                named.used_at = now;
                named.known = false;
                first(place)
            }
            _ => AliasUse::None,
        }
    }

    /// The packet that told the client this alias went out.
    pub fn commit(&mut self, alias: u16) {
        if let Some(named) = self.at(alias) {
            named.known = true;
        }
    }

    /// The packet that would have told the client this alias was dropped.
    pub fn abort(&mut self, alias: u16) {
        if let Some(named) = self.at(alias) {
            named.known = false;
        }
    }

    fn at(&mut self, alias: u16) -> Option<&mut Named> {
        self.named.get_mut(usize::from(alias).checked_sub(1)?)
    }

    /// Heap bytes held.
    pub fn bytes(&self) -> usize {
        let topics: usize = self.named.iter().map(|named| named.topic.capacity()).sum();
        topics + self.named.capacity() * size_of::<Named>()
    }
}

fn first(place: usize) -> AliasUse {
    u16::try_from(place + 1).map_or(AliasUse::None, AliasUse::First)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_set_any_alias_up_to_the_maximum_and_change_it() {
        let mut aliases = AliasIn::new(10);
        for alias in [3, 1, 10] {
            assert_eq!(
                aliases.resolve(alias, &format!("topic/{alias}")).unwrap().len(),
                if alias == 10 { 8 } else { 7 }
            );
        }
        assert_eq!(aliases.topic(3), Some("topic/3"));
        assert_eq!(aliases.resolve(10, ""), Ok("topic/10"));
        assert_eq!(aliases.resolve(3, "other"), Ok("other"));
        assert_eq!(aliases.resolve(3, ""), Ok("other"));
        assert_eq!(aliases.resolve(2, ""), Err(AliasError::Unknown));
        assert_eq!(aliases.topic(2), None);
        assert!(aliases.bytes() >= "topic/1othertopic/10".len());
    }

    #[test]
    fn zero_and_above_the_maximum_are_refused_with_their_codes() {
        let mut aliases = AliasIn::new(10);
        assert_eq!(aliases.resolve(0, "t"), Err(AliasError::Zero));
        assert_eq!(aliases.resolve(0, ""), Err(AliasError::Zero));
        assert_eq!(aliases.resolve(11, "t"), Err(AliasError::AboveMaximum));
        assert_eq!(aliases.resolve(11, ""), Err(AliasError::AboveMaximum));
        assert_eq!(AliasIn::new(0).set(1, "t"), Err(AliasError::AboveMaximum));
        assert_eq!(AliasError::Zero.reason(), ReasonCode::TopicAliasInvalid);
        assert_eq!(AliasError::AboveMaximum.reason(), ReasonCode::TopicAliasInvalid);
        assert_eq!(AliasError::Unknown.reason(), ReasonCode::ProtocolError);
    }

    #[test]
    fn a_high_alias_costs_no_more_than_a_low_one() {
        let mut aliases = AliasIn::new(u16::MAX);
        aliases.set(u16::MAX, "topic").unwrap();
        assert_eq!(aliases.topic(u16::MAX), Some("topic"));
        assert!(aliases.bytes() < 256);
    }

    #[test]
    fn a_topic_is_named_once_and_then_by_its_alias() {
        let mut aliases = AliasOut::new(2);
        assert_eq!(aliases.choose("topic/a"), AliasUse::First(1));
        aliases.commit(1);
        assert_eq!(aliases.choose("topic/a"), AliasUse::Known(1));
        assert_eq!(aliases.choose("topic/b"), AliasUse::First(2));
        assert_eq!(aliases.choose("topic/b"), AliasUse::First(2), "neither sent nor dropped yet");
        aliases.commit(2);
        assert_eq!(aliases.choose("topic/c"), AliasUse::None, "both are in use");
        assert_eq!(aliases.choose("topic/b"), AliasUse::Known(2));
        aliases.abort(2);
        assert_eq!(aliases.choose("topic/b"), AliasUse::First(2));
    }

    #[test]
    fn a_topic_silent_for_long_loses_its_alias() {
        let mut aliases = AliasOut::new(1);
        assert_eq!(aliases.choose("topic/a"), AliasUse::First(1));
        aliases.commit(1);
        let uses: Vec<AliasUse> = (0..5).map(|_| aliases.choose("topic/b")).collect();
        assert!(uses.contains(&AliasUse::First(1)));
        aliases.commit(1);
        assert_eq!(aliases.choose("topic/b"), AliasUse::Known(1));
        assert_eq!(aliases.choose("topic/a"), AliasUse::None);
    }

    #[test]
    fn no_alias_where_the_client_takes_none_or_it_gains_nothing() {
        assert_eq!(AliasOut::new(0).choose("topic"), AliasUse::None);
        assert_eq!(AliasOut::new(9).choose("a/b"), AliasUse::None);
    }

    #[test]
    fn never_above_the_clients_maximum_nor_the_servers_own() {
        for maximum in [1, 5, 16, 17, u16::MAX] {
            let mut aliases = AliasOut::new(maximum);
            for n in 0..1000 {
                match aliases.choose(&format!("topic/{}", n % 40)) {
                    AliasUse::First(alias) | AliasUse::Known(alias) => {
                        assert!((1..=maximum.min(OUT_MAX)).contains(&alias));
                        aliases.commit(alias);
                    }
                    AliasUse::None => {}
                }
            }
        }
    }
}
