//! The shape of a filter, its key in the interest table, and a topic cut into hashed levels.
//!
//! A wildcard filter is its *shape* (which levels are literal, how many there are, whether it ends
//! in `#`) and its literal levels, so one hash over both stands for the filter. A topic is looked
//! up by computing, for each shape in use, the hash that a filter of that shape would need.
//! Hashes only: whoever must be exact compares the text as well.

use crate::TenantId;
use crate::hash::{Cut, fold, level_hash, tenant_state, topic_hash};

/// How many levels a shape tells apart. A deeper filter counts as one that ends in `#` here, so
/// its key finds too many topics and never too few.
pub const SHAPE_LEVELS_MAX: usize = 32;

const MULTI: u64 = 1 << 40;
const WILDCARD: u64 = 1 << 41;

/// Which levels of a filter are literal, how many levels it has and whether it ends in `#`.
///
/// `a/+/b/#` has levels `a`, `+` and `b`, of which the first and third are literal, and a
/// multi-level end. Fits in 42 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape(u64);

impl Shape {
    /// A filter without wildcards.
    pub const EXACT: Self = Self(0);

    /// The shape of a wildcard filter: bit n of `literal` says that level n is literal.
    /// Levels above [`SHAPE_LEVELS_MAX`] are cut off and make the end a multi-level one.
    #[must_use]
    pub fn wildcard(literal: u32, levels: usize, multi: bool) -> Self {
        let multi = multi || levels > SHAPE_LEVELS_MAX;
        let levels = levels.min(SHAPE_LEVELS_MAX);
        let literal = literal & low_bits(levels);
        let end = if multi { MULTI } else { 0 };
        Self(u64::from(literal) | (levels as u64) << 32 | end | WILDCARD)
    }

    /// Whether this is the shape of a filter without wildcards.
    #[inline]
    #[must_use]
    pub fn is_exact(self) -> bool {
        self.0 == 0
    }

    /// Bit n is set when level n is literal. 0 for [`Shape::EXACT`].
    #[inline]
    #[must_use]
    pub fn literal(self) -> u32 {
        self.0 as u32
    }

    /// Levels before the `#`, or all levels; 0 to 32. 0 for [`Shape::EXACT`] and for `#`.
    #[inline]
    #[must_use]
    pub fn levels(self) -> usize {
        (self.0 >> 32) as usize & 0xFF
    }

    /// Whether the filter ends in `#` (or is deeper than [`SHAPE_LEVELS_MAX`]).
    #[inline]
    #[must_use]
    pub fn is_multi(self) -> bool {
        self.0 & MULTI != 0
    }

    /// Whether the first level is a wildcard: such a filter matches no topic that begins with `$`.
    #[inline]
    #[must_use]
    pub fn leads_with_wildcard(self) -> bool {
        !self.is_exact() && self.literal() & 1 == 0
    }

    /// The wider shape that stands in when too many shapes are in use: the literal levels up to
    /// the first wildcard, and then `#`. At most 33 of these exist. [`Shape::EXACT`] is its own.
    #[must_use]
    pub fn fallback(self) -> Self {
        if self.is_exact() {
            return self;
        }
        let levels = self.literal().trailing_ones() as usize;
        Self::wildcard(low_bits(levels), levels, true)
    }

    /// The shape as a number, for an atomic. Never 0 for a wildcard shape.
    #[inline]
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The shape that [`Shape::bits`] made.
    #[inline]
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether a topic with so many levels can match.
    #[inline]
    #[must_use]
    pub fn fits(self, levels: usize, dollar: bool) -> bool {
        let count = if self.is_multi() { levels >= self.levels() } else { levels == self.levels() };
        count && !(dollar && self.leads_with_wildcard())
    }
}

fn low_bits(count: usize) -> u32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

/// What a shard announces for a filter in the interest table.
///
/// Filters of equal key match the same topics, save filters deeper than [`SHAPE_LEVELS_MAX`] and,
/// by accident, two whose hashes are equal: a table must then hold the key twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterestKey {
    /// The filter's shape.
    pub shape: Shape,
    /// For [`Shape::EXACT`] the [`topic_hash`]; else tenant, shape and all literal levels, so that
    /// the hash alone tells keys apart.
    pub hash: u64,
    /// The hash for [`Shape::fallback`] of `shape`, as [`key_for_topic`] gives it for that shape.
    /// Equal to `hash` for [`Shape::EXACT`]. Many keys share one.
    pub fallback: u64,
}

/// The key of a filter (without `$share/NAME/`), which must be a valid one.
#[must_use]
pub fn interest_key(tenant: TenantId, filter: &str) -> InterestKey {
    let shape = shape_of(filter);
    if shape.is_exact() {
        let hash = topic_hash(tenant, filter);
        return InterestKey { shape, hash, fallback: hash };
    }
    let wide = shape.fallback();
    let mut hash = start(tenant, shape);
    let mut fallback = start(tenant, wide);
    for (at, level) in filter.split('/').take(shape.levels()).enumerate() {
        if shape.literal() >> at & 1 == 1 {
            let level = level_hash(level.as_bytes());
            hash = fold(hash, level);
            if at < wide.levels() {
                fallback = fold(fallback, level);
            }
        }
    }
    InterestKey { shape, hash, fallback }
}

/// The shape of a valid filter (without `$share/NAME/`).
#[must_use]
pub fn shape_of(filter: &str) -> Shape {
    let (mut literal, mut levels, mut multi, mut plus) = (0u32, 0usize, false, false);
    for level in filter.split('/') {
        match level {
            "#" => {
                multi = true;
                break;
            }
            "+" => plus = true,
            _ if levels < SHAPE_LEVELS_MAX => literal |= 1 << levels,
            _ => {}
        }
        levels += 1;
    }
    if plus || multi { Shape::wildcard(literal, levels, multi) } else { Shape::EXACT }
}

/// The hash that a filter of that shape must have to match this topic; `None` when no filter of
/// that shape can: the number of levels does not fit, or the topic begins with `$` and the shape
/// with a wildcard. For [`Shape::EXACT`] use [`topic_hash`]; this gives `None`.
#[inline]
#[must_use]
pub fn key_for_topic(tenant: TenantId, topic: &Levels, shape: Shape) -> Option<u64> {
    if shape.is_exact() || !shape.fits(topic.len(), topic.begins_with_dollar()) {
        return None;
    }
    let mut hash = start(tenant, shape);
    let mut literal = shape.literal();
    while literal != 0 {
        hash = fold(hash, topic.hash(literal.trailing_zeros() as usize));
        literal &= literal - 1;
    }
    Some(hash)
}

#[inline]
fn start(tenant: TenantId, shape: Shape) -> u64 {
    fold(tenant_state(tenant), shape.bits())
}

/// One topic, cut into levels, each hashed. Reusable: filling it again allocates nothing in the
/// steady state, and filling it with the topic it holds does nothing.
#[derive(Debug, Default)]
pub struct Levels {
    text: String,
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    hash: u64,
    /// Where it ends in the text.
    end: u32,
}

impl Levels {
    /// No topic yet: zero levels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a topic. Levels are hashed alike in every tenant; the tenant is in the keys.
    pub fn fill(&mut self, topic: &str) {
        if self.text == topic && !self.levels.is_empty() {
            return;
        }
        let Self { text, levels } = self;
        text.clear();
        text.push_str(topic);
        levels.clear();
        // Reads the caller's text: the copy was written too lately to be read by the word.
        let cut = Cut::new(topic.as_bytes());
        let mut begin = 0;
        for at in (0..topic.len()).step_by(8) {
            let mut marks = separators(cut.word(at));
            while marks != 0 {
                let end = at + marks.trailing_zeros() as usize / 8;
                levels.push(Level { hash: cut.level_hash(begin, end), end: end as u32 });
                begin = end + 1;
                marks &= marks - 1;
            }
        }
        levels.push(Level { hash: cut.level_hash(begin, topic.len()), end: topic.len() as u32 });
    }

    /// The topic it holds; empty before the first.
    #[inline]
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.text
    }

    /// The number of levels; 0 only before the first topic.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.len()
    }

    /// Whether no topic was taken yet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The hash of a level; 0 for a level that the topic does not have.
    #[inline]
    #[must_use]
    pub fn hash(&self, level: usize) -> u64 {
        self.levels.get(level).map_or(0, |level| level.hash)
    }

    /// The text of the levels from `first` up to before `behind`, with the separators between
    /// them; empty if the topic does not have them all.
    #[inline]
    pub(crate) fn span(&self, first: usize, behind: usize) -> &[u8] {
        let begin = match first {
            0 => Some(0),
            _ => self.levels.get(first - 1).map(|level| level.end as usize + 1),
        };
        let end = self.levels.get(behind.wrapping_sub(1)).map(|level| level.end as usize);
        let (Some(begin), Some(end)) = (begin, end) else { return &[] };
        self.text.as_bytes().get(begin..end).unwrap_or_default()
    }

    /// Whether the topic begins with `$`: no filter with a leading wildcard matches it.
    #[inline]
    #[must_use]
    pub fn begins_with_dollar(&self) -> bool {
        self.text.as_bytes().first() == Some(&b'$')
    }
}

/// The top bit of each byte that is a `/`.
#[inline]
fn separators(word: u64) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let differing = word ^ 0x2F2F_2F2F_2F2F_2F2F;
    !(((differing & LOW) + LOW) | differing | LOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TenantId = TenantId(3);

    fn meets(filter: &str, topic: &str) -> bool {
        let key = interest_key(T, filter);
        let mut levels = Levels::new();
        levels.fill(topic);
        let direct = key_for_topic(T, &levels, key.shape) == Some(key.hash);
        let wide = key_for_topic(T, &levels, key.shape.fallback()) == Some(key.fallback);
        assert!(wide || !direct, "the fallback of {filter} misses {topic}");
        direct
    }

    #[test]
    fn shapes_of_filters() {
        assert_eq!(shape_of("a/b"), Shape::EXACT);
        assert_eq!(shape_of("#"), Shape::wildcard(0, 0, true));
        assert_eq!(shape_of("+"), Shape::wildcard(0, 1, false));
        assert_eq!(shape_of("w/12/+/x/#"), Shape::wildcard(0b1011, 4, true));
        assert_eq!(shape_of("/+/"), Shape::wildcard(0b101, 3, false));
        assert_eq!(shape_of("w/12/+/x/#").fallback(), shape_of("a/b/#"));
        assert_eq!(Shape::from_bits(shape_of("a/+").bits()), shape_of("a/+"));
    }

    #[test]
    fn keys_meet_exactly_the_topics_of_their_filter() {
        for (filter, topic, expected) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/b/#", "x/b", true),
            ("+/b/#", "x/c", false),
            ("#", "a//b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("/+", "/a", true),
            ("+/+", "/a", true),
        ] {
            assert_eq!(meets(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn deep_filters_find_too_much_rather_than_too_little() {
        let deep = vec!["a"; 40].join("/");
        assert!(meets(&format!("+/{}", &deep[2..]), &deep));
        assert!(meets(&format!("+/{deep}/#"), &format!("x/{deep}/b")));
        assert!(shape_of(&format!("+/{deep}")).is_multi());
    }

    #[test]
    fn levels_are_cut_at_every_offset() {
        let mut levels = Levels::new();
        for text in ["a", "", "/", "//", "abcdefg/abcdefgh/i", "01234567/", "a/bb/ccc/dddd/eeeee/"]
        {
            levels.fill(text);
            let expected: Vec<u64> = text.split('/').map(|l| level_hash(l.as_bytes())).collect();
            assert!(levels.levels.iter().map(|l| l.hash).eq(expected), "{text}");
            assert_eq!(levels.topic(), text);
        }
    }
}
