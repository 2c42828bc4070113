//! A step's share of a turn. Every step of the loop may do a little in each turn, so that none
//! starves, and more as long as the turn has time: no step holds up the others for long.

/// See the module's documentation.
pub(crate) struct Share<'a> {
    /// True when the turn's time is used up.
    over: &'a dyn Fn() -> bool,
    /// Pieces of work until the clock is looked at, which costs as much as a small piece.
    every: u32,
    done: u32,
}

impl<'a> Share<'a> {
    /// At least `every` pieces, and as many again as often as time is left.
    pub(crate) fn new(over: &'a dyn Fn() -> bool, every: u32) -> Share<'a> {
        Share { over, every, done: 0 }
    }

    /// Counts a piece of work that is done. True if another may follow.
    pub(crate) fn go_on(&mut self) -> bool {
        self.done += 1;
        !self.done.is_multiple_of(self.every) || !(self.over)()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_step_does_its_least_however_late_it_is_and_looks_at_the_clock_rarely() {
        let looks = Cell::new(0);
        let late = || {
            looks.set(looks.get() + 1);
            looks.get() > 3
        };
        let mut share = Share::new(&late, 8);
        let mut pieces = 1;
        while share.go_on() {
            pieces += 1;
        }
        assert_eq!((pieces, looks.get()), (32, 4));
        let always = || true;
        let mut share = Share::new(&always, 8);
        assert_eq!((0..8).filter(|_| share.go_on()).count(), 7);
    }
}
