//! Named values: a text of a tenant and a value, by text and by id.
//!
//! The text sits inside its 64-byte entry where it is short, so that a look-up touches one line
//! of the index and one of the entry.

use crate::TenantId;
use crate::index::Index;
use crate::slab::Slab;

/// Texts up to this many bytes need no allocation of their own.
const SHORT_MAX: usize = 40;

#[derive(Debug)]
enum Text {
    Short { len: u8, tag: u8, tenant: TenantId, bytes: [u8; SHORT_MAX] },
    Long { tag: u8, tenant: TenantId, text: Box<str> },
}

/// One text with its value and a tag that means something to its owner.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    pub(crate) value: V,
    text: Text,
}

impl<V> Entry<V> {
    pub(crate) fn new(tenant: TenantId, text: &str, tag: u8, value: V) -> Self {
        let mut bytes = [0; SHORT_MAX];
        let text = match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Text::Short { len: text.len() as u8, tag, tenant, bytes }
            }
            None => Text::Long { tag, tenant, text: text.into() },
        };
        Self { value, text }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.text {
            Text::Short { len, bytes, .. } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Text::Long { text, .. } => text.as_bytes(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        match &self.text {
            // It was made from a str, so this never fails.
            Text::Short { .. } => str::from_utf8(self.bytes()).unwrap_or_default(),
            Text::Long { text, .. } => text,
        }
    }

    #[inline]
    pub(crate) fn tenant(&self) -> TenantId {
        match self.text {
            Text::Short { tenant, .. } | Text::Long { tenant, .. } => tenant,
        }
    }

    #[inline]
    pub(crate) fn tag(&self) -> u8 {
        match self.text {
            Text::Short { tag, .. } | Text::Long { tag, .. } => tag,
        }
    }

    #[inline]
    pub(crate) fn is(&self, tenant: TenantId, text: &str) -> bool {
        same(self.bytes(), text.as_bytes()) && self.tenant() == tenant
    }

    /// Bytes allocated outside of the entry for its text.
    fn outside_bytes(&self) -> usize {
        match &self.text {
            Text::Short { .. } => 0,
            Text::Long { text, .. } => text.len(),
        }
    }
}

/// Whether two texts are equal, by the word: most are too short to be worth a call.
#[inline]
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    fn ends<const N: usize>(one: &[u8], other: &[u8]) -> bool {
        one.first_chunk::<N>() == other.first_chunk() && one.last_chunk::<N>() == other.last_chunk()
    }
    if one.len() != other.len() {
        return false;
    }
    match one.len() {
        0..4 => one.iter().eq(other),
        4..8 => ends::<4>(one, other),
        8..=16 => ends::<8>(one, other),
        17..=32 => ends::<16>(one, other),
        _ => one == other,
    }
}

/// Entries by id, and an index of them by hash. An entry need not be in the index.
#[derive(Debug)]
pub(crate) struct Texts<V> {
    index: Index,
    entries: Slab<Entry<V>>,
    outside_bytes: usize,
}

impl<V> Default for Texts<V> {
    fn default() -> Self {
        Self { index: Index::default(), entries: Slab::default(), outside_bytes: 0 }
    }
}

impl<V> Texts<V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// One above the highest id ever used.
    pub(crate) fn end(&self) -> u32 {
        self.entries.end()
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(&Entry<V>) -> bool) -> Option<u32> {
        self.index.find(hash, |id| self.entries.get(id).is_some_and(&is))
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&Entry<V>> {
        self.entries.get(id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Entry<V>> {
        self.entries.get_mut(id)
    }

    /// Adds an entry that is found by its hash.
    pub(crate) fn insert(&mut self, hash: u64, entry: Entry<V>) -> u32 {
        let id = self.insert_unlisted(entry);
        self.index.insert(hash, id);
        id
    }

    /// Adds an entry that is found by its id only.
    pub(crate) fn insert_unlisted(&mut self, entry: Entry<V>) -> u32 {
        self.outside_bytes += entry.outside_bytes();
        self.entries.insert(entry)
    }

    /// Removes an entry; with its hash if it is in the index.
    pub(crate) fn remove(&mut self, hash: Option<u64>, id: u32) -> Option<Entry<V>> {
        if let Some(hash) = hash {
            self.index.remove(hash, id);
        }
        let entry = self.entries.remove(id)?;
        self.outside_bytes -= entry.outside_bytes();
        Some(entry)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.entries.memory_bytes() + self.outside_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_compared() {
        for length in 0..70 {
            let text = vec![b'x'; length];
            assert!(same(&text, &text.clone()) && !same(&text, &vec![b'x'; length + 1]));
            for at in 0..length {
                let mut other = text.clone();
                other[at] = b'y';
                assert!(!same(&text, &other), "{length} {at}");
            }
        }
    }

    #[test]
    fn a_listed_entry_is_one_cache_line() {
        let mut texts: Texts<[u64; 2]> = Texts::default();
        let long = "x".repeat(SHORT_MAX + 1);
        for (n, text) in ["", "a/b", &long[1..], &long].into_iter().enumerate() {
            let id = texts.insert(n as u64, Entry::new(TenantId(9), text, 5, [0; 2]));
            let entry = texts.get(id).unwrap();
            assert_eq!((entry.text(), entry.tenant(), entry.tag()), (text, TenantId(9), 5));
            assert!(entry.is(TenantId(9), text) && !entry.is(TenantId(8), text));
            assert_eq!(texts.find(n as u64, |e| e.is(TenantId(9), text)), Some(id));
        }
        assert_eq!(size_of::<Option<Entry<[u64; 2]>>>(), 64);
        assert_eq!(texts.outside_bytes, long.len());
        assert!(texts.remove(Some(3), 3).is_some() && texts.find(3, |_| true).is_none());
        assert_eq!(texts.outside_bytes, 0);
    }
}
