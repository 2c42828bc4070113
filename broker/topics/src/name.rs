//! Topic names: what a client may publish to.

use std::fmt;

/// Why a topic name or a topic filter was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// No character at all.
    Empty,
    /// More levels than the configured maximum.
    TooManyLevels,
    /// `+` or `#` in a topic name.
    WildcardInName,
    /// `#` that is not a level of its own, or not the last level.
    MisplacedMultiLevel,
    /// `+` that is not a level of its own.
    MisplacedSingleLevel,
    /// `$share` with an empty group name.
    ShareNameEmpty,
    /// `$share` with `+` or `#` in the group name.
    ShareNameInvalid,
    /// `$share` with no filter behind the group name.
    ShareFilterMissing,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a topic needs at least one character",
            Self::TooManyLevels => "more levels than allowed",
            Self::WildcardInName => "a topic name holds + or #",
            Self::MisplacedMultiLevel => "# is not alone in the last level",
            Self::MisplacedSingleLevel => "+ is not alone in its level",
            Self::ShareNameEmpty => "$share with an empty group name",
            Self::ShareNameInvalid => "$share with + or # in the group name",
            Self::ShareFilterMissing => "$share without a filter",
        })
    }
}

impl std::error::Error for TopicError {}

/// Checks a topic name: not empty, no wildcards, at most `levels_max` levels (1 to 65 535).
/// That it is UTF-8 without U+0000 was checked by whoever took it off the wire.
pub fn valid_name(topic: &str, levels_max: u16) -> Result<(), TopicError> {
    //= [MQTT-4.7.3-1]
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    let mut levels = 1usize;
    for byte in topic.bytes() {
        //= [MQTT-3.3.2-2]
        //= [MQTT-4.7.0-1]
        //= 3.1.1 [MQTT-4.7.1-1]
        match byte {
            b'+' | b'#' => return Err(TopicError::WildcardInName),
            b'/' => levels += 1,
            _ => {}
        }
    }
    if levels > usize::from(levels_max) { Err(TopicError::TooManyLevels) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a/b/c", Ok(())),
            ("a/b/c/d", Err(TopicError::TooManyLevels)),
            ("$SYS/x", Ok(())),
            ("\u{FEFF}a b", Ok(())),
            ("", Err(TopicError::Empty)),
            ("a/+", Err(TopicError::WildcardInName)),
            ("a+", Err(TopicError::WildcardInName)),
            ("#", Err(TopicError::WildcardInName)),
        ] {
            assert_eq!(valid_name(name, 3), expected, "{name}");
        }
    }
}
