//! The trie of the wildcard filters whose shape has no place of its own in the table.
//!
//! It holds hashes of levels and ids of filters, no text: what it finds are candidates, and the
//! table compares their text. All edges sit in one index, so a node costs 32 bytes and a slot.

use crate::TenantId;
use crate::hash::{fold, level_hash};
use crate::index::Index;
use crate::shapes::Levels;
use crate::slab::Slab;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    /// The level's hash; for a root the tenant's number; 0 for a `+`.
    level: u64,
    /// `NONE` for a root.
    parent: u32,
    plus: u32,
    /// Literal children.
    children: u32,
    /// The filter that ends at this level.
    end: u32,
    /// The filter that ends in `#` below this level.
    multi: u32,
}

impl Node {
    fn new(parent: u32, level: u64) -> Self {
        Self { level, parent, plus: NONE, children: 0, end: NONE, multi: NONE }
    }

    fn is_unused(&self) -> bool {
        self.children == 0 && self.plus == NONE && self.end == NONE && self.multi == NONE
    }
}

#[derive(Debug, Default)]
pub(crate) struct Trie {
    nodes: Slab<Node>,
    edges: Index,
    /// Filters whose place was taken by another with the same hashes; as good as never.
    strays: Vec<u32>,
    len: usize,
}

fn edge(parent: u32, level: u64) -> u64 {
    fold(level, u64::from(parent) + 1)
}

impl Trie {
    /// The number of filters.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a filter that is not in it.
    pub(crate) fn insert(&mut self, tenant: TenantId, filter: &str, id: u32) {
        self.len += 1;
        let mut node = self.child_or_new(NONE, u64::from(tenant.0));
        for level in filter.split('/') {
            if level == "#" {
                break;
            }
            node = if level == "+" {
                self.plus_or_new(node)
            } else {
                self.child_or_new(node, level_hash(level.as_bytes()))
            };
        }
        match self.nodes.get_mut(node).map(|node| place(node, filter)) {
            Some(place) if *place == NONE => *place = id,
            _ => self.strays.push(id),
        }
    }

    /// The filter's id, if `is` accepts it.
    pub(crate) fn find(
        &self,
        tenant: TenantId,
        filter: &str,
        is: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let node = self.node_of(tenant, filter).and_then(|node| self.nodes.get(node));
        let id = node.map_or(NONE, |n| if filter.ends_with('#') { n.multi } else { n.end });
        let placed = (id != NONE).then_some(id).into_iter();
        placed.chain(self.strays.iter().copied()).find(|id| is(*id))
    }

    /// Removes a filter that is in it.
    pub(crate) fn remove(&mut self, tenant: TenantId, filter: &str, id: u32) {
        if let Some(at) = self.strays.iter().position(|stray| *stray == id) {
            self.strays.swap_remove(at);
            self.len -= 1;
            return;
        }
        let Some(node) = self.node_of(tenant, filter) else { return };
        let Some(place) = self.nodes.get_mut(node).map(|node| place(node, filter)) else { return };
        if *place == id {
            *place = NONE;
            self.len -= 1;
            self.prune(node);
        }
    }

    /// Pushes the ids of all filters that may match the topic.
    pub(crate) fn candidates(
        &self,
        tenant: TenantId,
        topic: &Levels,
        stack: &mut Vec<(u32, u32)>,
        found: &mut Vec<u32>,
    ) {
        found.extend_from_slice(&self.strays);
        let Some(root) = self.child(NONE, u64::from(tenant.0)) else { return };
        stack.clear();
        stack.push((root, 0));
        while let Some((at, depth)) = stack.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            //= [MQTT-4.7.2-1]
            let wild = depth > 0 || !topic.begins_with_dollar();
            if wild && node.multi != NONE {
                found.push(node.multi);
            }
            if depth as usize == topic.len() {
                found.extend((node.end != NONE).then_some(node.end));
                continue;
            }
            if wild && node.plus != NONE {
                stack.push((node.plus, depth + 1));
            }
            if node.children > 0 {
                let child = self.child(at, topic.hash(depth as usize));
                stack.extend(child.map(|child| (child, depth + 1)));
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.nodes.memory_bytes() + self.edges.memory_bytes()
    }

    fn child(&self, parent: u32, level: u64) -> Option<u32> {
        self.edges.find(edge(parent, level), |id| {
            self.nodes.get(id).is_some_and(|node| node.parent == parent && node.level == level)
        })
    }

    fn child_or_new(&mut self, parent: u32, level: u64) -> u32 {
        if let Some(child) = self.child(parent, level) {
            return child;
        }
        let child = self.nodes.insert(Node::new(parent, level));
        self.edges.insert(edge(parent, level), child);
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children += 1;
        }
        child
    }

    fn plus_or_new(&mut self, parent: u32) -> u32 {
        if let Some(plus) = self.nodes.get(parent).map(|n| n.plus).filter(|plus| *plus != NONE) {
            return plus;
        }
        let plus = self.nodes.insert(Node::new(parent, 0));
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.plus = plus;
        }
        plus
    }

    fn node_of(&self, tenant: TenantId, filter: &str) -> Option<u32> {
        let mut node = self.child(NONE, u64::from(tenant.0))?;
        for level in filter.split('/') {
            match level {
                "#" => break,
                "+" => node = self.nodes.get(node).map(|n| n.plus).filter(|id| *id != NONE)?,
                _ => node = self.child(node, level_hash(level.as_bytes()))?,
            }
        }
        Some(node)
    }

    /// Frees a node that leads to nothing, and then its parents likewise.
    fn prune(&mut self, mut at: u32) {
        while let Some(node) = self.nodes.get(at).filter(|node| node.is_unused()) {
            let (parent, level) = (node.parent, node.level);
            self.nodes.remove(at);
            match self.nodes.get_mut(parent) {
                Some(above) if above.plus == at => above.plus = NONE,
                above => {
                    self.edges.remove(edge(parent, level), at);
                    if let Some(above) = above {
                        above.children -= 1;
                    }
                }
            }
            at = parent;
        }
    }
}

/// Where a filter that leads to this node is kept.
fn place<'a>(node: &'a mut Node, filter: &str) -> &'a mut u32 {
    if filter.ends_with('#') { &mut node.multi } else { &mut node.end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::matches;

    const T: TenantId = TenantId(1);
    const FILTERS: [&str; 9] = ["#", "+", "a/#", "a/+", "+/b", "a/+/c", "+/+/#", "$S/#", "/+"];

    fn found(trie: &Trie, topic: &str) -> Vec<u32> {
        let (mut levels, mut stack, mut found) = (Levels::new(), Vec::new(), Vec::new());
        levels.fill(topic);
        trie.candidates(T, &levels, &mut stack, &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn finds_what_matches_and_frees_every_node() {
        let mut trie = Trie::default();
        for (id, filter) in FILTERS.iter().enumerate() {
            trie.insert(T, filter, id as u32);
        }
        trie.insert(TenantId(2), "#", 99);
        for topic in ["a", "a/b", "a/b/c", "b", "$S/x", "/a", "a/", "x/b/c/d"] {
            let all = FILTERS.iter().enumerate().filter(|(_, filter)| matches(filter, topic));
            assert_eq!(found(&trie, topic), all.map(|(id, _)| id as u32).collect::<Vec<_>>());
        }
        for (id, filter) in FILTERS.iter().enumerate() {
            let id = id as u32;
            assert_eq!(trie.find(T, filter, |other| other == id), Some(id));
            trie.remove(T, filter, id);
            assert_eq!(trie.find(T, filter, |other| other == id), None);
        }
        trie.remove(TenantId(2), "#", 99);
        assert_eq!((trie.nodes.len(), trie.edges.len(), trie.len()), (0, 0, 0));
    }

    #[test]
    fn a_taken_place_makes_a_stray_that_is_a_candidate_always() {
        let mut trie = Trie::default();
        trie.insert(T, "a/+", 1);
        trie.insert(T, "a/+", 2);
        assert_eq!(trie.find(T, "a/+", |id| id == 2), Some(2));
        assert_eq!((found(&trie, "a/b"), found(&trie, "zzz")), (vec![1, 2], vec![2]));
        trie.remove(T, "a/+", 2);
        assert_eq!((found(&trie, "a/b"), trie.len()), (vec![1], 1));
    }
}
