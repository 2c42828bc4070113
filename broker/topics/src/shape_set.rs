//! The wildcard shapes that a table looks up directly, each with one probe per publish.

use crate::shapes::{SHAPE_LEVELS_MAX, Shape};

/// One bit each in a word; more would make every publish pay for them.
pub(crate) const SHAPES_MAX: usize = 64;

/// Row of the topics that are deeper than any shape.
const DEEPER: usize = SHAPE_LEVELS_MAX + 1;

#[derive(Debug)]
pub(crate) struct ShapeSet {
    /// Shape and number of filters by place; a place with no filter is free.
    places: Vec<(Shape, u32)>,
    places_max: usize,
    /// The places whose shape fits a topic, by the topic's number of levels.
    fitting: [u64; DEEPER + 1],
    /// The places whose shape begins with a literal level.
    literal_first: u64,
    /// The places with a shape.
    used: u64,
}

impl ShapeSet {
    pub(crate) fn new(places_max: usize) -> Self {
        let places_max = places_max.min(SHAPES_MAX);
        let fitting = [0; DEEPER + 1];
        Self { places: Vec::new(), places_max, fitting, literal_first: 0, used: 0 }
    }

    /// The place of a shape in use.
    pub(crate) fn find(&self, shape: Shape) -> Option<u8> {
        let at = self.places.iter().position(|(other, count)| *other == shape && *count > 0);
        at.map(|at| at as u8)
    }

    /// Counts one more filter of a shape, which gets a place if one is free.
    pub(crate) fn add(&mut self, shape: Shape) -> Option<u8> {
        if let Some(place) = self.find(shape) {
            self.places[usize::from(place)].1 += 1;
            return Some(place);
        }
        let place = match self.places.iter().position(|(_, count)| *count == 0) {
            Some(place) => place,
            None if self.places.len() < self.places_max => {
                self.places.push((shape, 0));
                self.places.len() - 1
            }
            None => return None,
        };
        self.places[place] = (shape, 1);
        self.mark(place, shape, true);
        Some(place as u8)
    }

    /// Counts one filter less at a place.
    pub(crate) fn release(&mut self, place: u8) {
        let Some((shape, count)) = self.places.get_mut(usize::from(place)) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            let shape = *shape;
            self.mark(usize::from(place), shape, false);
        }
    }

    /// A bit for each place whose shape may match such a topic.
    #[inline]
    pub(crate) fn fitting(&self, levels: usize, dollar: bool) -> u64 {
        let fitting = self.fitting[levels.min(DEEPER)];
        //= [MQTT-4.7.2-1]
        if dollar { fitting & self.literal_first } else { fitting }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    #[inline]
    pub(crate) fn shape(&self, place: u8) -> Shape {
        self.places.get(usize::from(place)).map_or(Shape::EXACT, |(shape, _)| *shape)
    }

    fn mark(&mut self, place: usize, shape: Shape, used: bool) {
        let bit = 1 << place;
        for (levels, row) in self.fitting.iter_mut().enumerate() {
            *row &= !bit;
            if used && shape.fits(levels, false) {
                *row |= bit;
            }
        }
        self.used = if used { self.used | bit } else { self.used & !bit };
        self.literal_first &= !bit;
        if used && !shape.leads_with_wildcard() {
            self.literal_first |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::shape_of;

    #[test]
    fn places_are_counted_and_used_again() {
        let mut set = ShapeSet::new(2);
        let [a, b, c] = ["a/+", "#", "+/x/#"].map(shape_of);
        assert_eq!(
            (set.add(a), set.add(b), set.add(c), set.add(a)),
            (Some(0), Some(1), None, Some(0))
        );
        assert_eq!(
            (set.fitting(2, false), set.fitting(2, true), set.fitting(40, false)),
            (3, 1, 2)
        );
        set.release(0);
        assert_eq!(set.find(a), Some(0));
        set.release(0);
        assert_eq!((set.find(a), set.fitting(2, true), set.add(c)), (None, 0, Some(0)));
        assert_eq!((set.fitting(1, false), set.fitting(2, false)), (2, 3));
        set.release(0);
        set.release(1);
        assert!(set.is_empty());
    }
}
