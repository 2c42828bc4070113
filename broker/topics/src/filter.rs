//! Topic filters: parsed with their `$share` part, and matched one against one.
//!
//! `matches` is the meaning of matching; every structure here is tested against it.

use crate::name::TopicError;
use crate::shapes::shape_of;

/// A valid topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    text: &'a str,
    share: Option<&'a str>,
    filter: &'a str,
    exact: bool,
}

impl<'a> Filter<'a> {
    /// Parses a filter as a client gives it, `$share/NAME/` included. The filter itself may have
    /// at most `levels_max` levels, a closing `#` counted.
    ///
    /// # Errors
    /// Each maps to reason code 0x8F (topic filter invalid).
    pub fn parse(text: &'a str, levels_max: u16) -> Result<Self, TopicError> {
        let (share, filter) = split_share(text)?;
        //= [MQTT-4.7.3-1]
        if filter.is_empty() {
            return Err(if share.is_some() {
                TopicError::ShareFilterMissing
            } else {
                TopicError::Empty
            });
        }
        check_levels(filter, levels_max)?;
        Ok(Self { text, share, filter, exact: shape_of(filter).is_exact() })
    }

    /// The shared group's name, for `$share/NAME/...`.
    #[must_use]
    pub fn share(&self) -> Option<&'a str> {
        self.share
    }

    /// The filter that topics are matched with, without `$share/NAME/`.
    #[must_use]
    pub fn filter(&self) -> &'a str {
        self.filter
    }

    /// Whether it has no wildcard.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The filter as it was given.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.text
    }
}

//= [MQTT-4.8.2-1]
//= [MQTT-4.8.2-2]
fn split_share(text: &str) -> Result<(Option<&str>, &str), TopicError> {
    let Some(rest) = text.strip_prefix("$share") else { return Ok((None, text)) };
    if rest.is_empty() {
        return Err(TopicError::ShareFilterMissing);
    }
    let Some(rest) = rest.strip_prefix('/') else { return Ok((None, text)) };
    let (name, filter) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() {
        return Err(TopicError::ShareNameEmpty);
    }
    if name.contains(['+', '#']) {
        return Err(TopicError::ShareNameInvalid);
    }
    Ok((Some(name), filter))
}

fn check_levels(filter: &str, levels_max: u16) -> Result<(), TopicError> {
    let mut ended = false;
    for (at, level) in filter.split('/').enumerate() {
        //= [MQTT-4.7.1-1]
        //= 3.1.1 [MQTT-4.7.1-2]
        if ended || (level.len() > 1 && level.contains('#')) {
            return Err(TopicError::MisplacedMultiLevel);
        }
        //= [MQTT-4.7.1-2]
        //= 3.1.1 [MQTT-4.7.1-3]
        if level.len() > 1 && level.contains('+') {
            return Err(TopicError::MisplacedSingleLevel);
        }
        if at >= usize::from(levels_max) {
            return Err(TopicError::TooManyLevels);
        }
        ended = level == "#";
    }
    Ok(())
}

/// Whether a valid filter (without `$share/NAME/`) matches a topic name.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    //= [MQTT-4.7.2-1]
    //= 3.1.1 [MQTT-4.7.2-1]
    //= [MQTT-3.3.2-3]
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        // `a/#` matches `a` too, so `#` needs no level of the topic.
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        use TopicError as E;
        for (text, expected) in [
            ("a/b", Ok((None, "a/b", true))),
            ("#", Ok((None, "#", false))),
            ("+/+/#", Ok((None, "+/+/#", false))),
            ("/", Ok((None, "/", true))),
            ("$share/g/a/+", Ok((Some("g"), "a/+", false))),
            ("$share/g//", Ok((Some("g"), "/", true))),
            ("$share/g/$SYS/#", Ok((Some("g"), "$SYS/#", false))),
            ("$shared/a", Ok((None, "$shared/a", true))),
            ("", Err(E::Empty)),
            ("a#", Err(E::MisplacedMultiLevel)),
            ("a/#/b", Err(E::MisplacedMultiLevel)),
            ("##", Err(E::MisplacedMultiLevel)),
            ("#/", Err(E::MisplacedMultiLevel)),
            ("a+/b", Err(E::MisplacedSingleLevel)),
            ("++", Err(E::MisplacedSingleLevel)),
            ("a/b/c/d/e", Err(E::TooManyLevels)),
            ("$share", Err(E::ShareFilterMissing)),
            ("$share/", Err(E::ShareNameEmpty)),
            ("$share//a", Err(E::ShareNameEmpty)),
            ("$share/g", Err(E::ShareFilterMissing)),
            ("$share/g/", Err(E::ShareFilterMissing)),
            ("$share/g+/a", Err(E::ShareNameInvalid)),
            ("$share/#/a", Err(E::ShareNameInvalid)),
            ("$share/g/a#", Err(E::MisplacedMultiLevel)),
        ] {
            let parsed = Filter::parse(text, 4);
            assert_eq!(parsed.map(|f| (f.share(), f.filter(), f.is_exact())), expected, "{text}");
            assert!(parsed.is_err() || parsed.is_ok_and(|f| f.as_str() == text));
        }
    }

    #[test]
    fn matching() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/B", false),
            ("a/b", "a/b/", false),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/c", true),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "/", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/+", "$SYS/a", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
