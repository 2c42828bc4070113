//! How often the log tells of one thing that peers can bring about at will.

use std::mem;

/// Milliseconds between two lines.
const PACE_MS: u64 = 1000;

/// At most one line a second; those that are left out are counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogPace {
    next_ms: u64,
    silent: u64,
}

impl LogPace {
    /// How many others a line that is due now also stands for; `None` if none is due.
    pub(crate) fn due(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms < self.next_ms {
            self.silent += 1;
            return None;
        }
        self.next_ms = now_ms + PACE_MS;
        Some(mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_stands_for_all() {
        let mut pace = LogPace::default();
        let told: Vec<_> = [5, 6, 900, 1004, 1005, 3000].map(|ms| pace.due(ms)).to_vec();
        assert_eq!(told, [Some(0), None, None, None, Some(3), Some(0)]);
    }
}
