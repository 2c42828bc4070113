//! Hand-overs of direct descriptors that the kernel has not answered yet. Owns their numbering.

/// A hand-over of a direct descriptor that the kernel has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandOver {
    pub(super) slot: u32,
    pub(super) tag: u64,
}

/// Hand-overs by the index that their completions carry.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    places: Vec<HandOver>,
    free: Vec<u32>,
}

impl HandOvers {
    pub(super) fn add(&mut self, handover: HandOver) -> u64 {
        let index = self.free.pop().unwrap_or(self.places.len() as u32);
        match self.places.get_mut(index as usize) {
            Some(place) => *place = handover,
            None => self.places.push(handover),
        }
        u64::from(index)
    }

    pub(super) fn remove(&mut self, index: u64) -> Option<HandOver> {
        let handover = *self.places.get(index as usize)?;
        self.free.push(index as u32);
        Some(handover)
    }
}
