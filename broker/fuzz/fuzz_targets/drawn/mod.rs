//! Inputs for the targets whose laws are those of property tests.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Bytes behind the input: some strategies ask for ever when all they get is zeros.
const TAIL_BYTES: usize = 64 << 10;

/// A value of the strategy, chosen by the input's bytes in place of random ones, and by random ones
/// that follow from these when it needs more.
pub fn drawn<S: Strategy>(bytes: &[u8], strategy: &S) -> Option<S::Value> {
    let mut state = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut all = bytes.to_vec();
    while all.len() < bytes.len() + TAIL_BYTES {
        // xorshift64, which never becomes 0.
        state = state.max(1);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, &all);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}
