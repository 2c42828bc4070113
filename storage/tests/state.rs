//! The replayed state against a model that writes a log: the whole log, every end of it that holds
//! a whole checkpoint, and logs that a crash cut anywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::collections::BTreeMap;

use common::shard::{Op, Shard, comparable, found, replayed};
use proptest::collection::vec;
use proptest::prelude::*;
use ringtide_storage::RecordKind;
use ringtide_storage::record::CheckpointEndRecord;

pub(crate) fn ops(len: usize) -> impl Strategy<Value = Vec<Op>> {
    vec((0..120_u8, any::<u16>(), any::<u16>(), any::<u16>()), 0..len)
}

pub(crate) fn run(ops: &[Op]) -> Shard {
    let mut shard = Shard::default();
    for op in ops {
        shard.step(*op);
    }
    shard
}

/// A log gives what wrote it wherever a crash cuts it; shared with the fuzz target.
pub(crate) fn check_cuts(shard: &Shard) {
    for (len, truth) in &shard.history {
        let state = replayed(&shard.log, 0, *len);
        assert_eq!(found(state, &truth.taken), comparable(truth));
    }
}

/// Any end that holds a whole checkpoint is enough; shared with the fuzz target.
pub(crate) fn check_ends(shard: &Shard, cuts: &[prop::sample::Index]) {
    for (begin, end) in &shard.checkpoints {
        let behind: Vec<_> = shard.history.iter().filter(|(len, _)| len >= end).collect();
        for cut in cuts {
            let (len, truth) = behind[cut.index(behind.len())];
            for from in [cut.index(begin + 1), *begin] {
                let state = replayed(&shard.log, from, *len);
                assert_eq!(found(state, &truth.taken), comparable(truth), "from {from}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_log_gives_what_wrote_it_wherever_a_crash_cuts_it(ops in ops(150)) {
        check_cuts(&run(&ops));
    }

    #[test]
    fn any_end_that_holds_a_whole_checkpoint_is_enough(
        ops in ops(250),
        cuts in vec(any::<prop::sample::Index>(), 1..4),
    ) {
        check_ends(&run(&ops), &cuts);
    }

    #[test]
    fn a_checkpoint_written_at_once_gives_the_same_state(ops in ops(150)) {
        let shard = run(&ops);
        let state = replayed(&shard.log, 0, shard.log.len());
        let mut log = Vec::new();
        state.write_checkpoint(&mut |kind, parts| log.push((kind, parts.concat())));
        let again = replayed(&log, 0, log.len());
        prop_assert_eq!(again.ignored(), 0);
        let taken = BTreeMap::new();
        let (mut again, mut truth) = (found(again, &taken), found(state, &taken));
        // Who had what is under way and has done with it cannot be written.
        prop_assert_eq!(again.jobs.len(), truth.jobs.len());
        again.jobs.clear();
        truth.jobs.clear();
        prop_assert_eq!(again, truth);
    }

    #[test]
    fn records_without_their_context_do_no_harm(
        ops in ops(150),
        missing in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut log = run(&ops).log;
        for index in missing {
            if !log.is_empty() {
                let at = index.index(log.len());
                log.remove(at);
            }
        }
        // What a checkpoint that was cut short holds goes with the next one's end.
        let mut end = Vec::new();
        CheckpointEndRecord.encode(&mut end);
        log.push((RecordKind::CheckpointEnd, end));
        let state = replayed(&log, 0, log.len());
        let messages = state.messages();
        let parts = state.into_parts();
        for session in &parts.sessions {
            for exchange in &session.record.exchanges {
                let at = |seq| session.waiting.binary_search_by_key(&seq, |one| one.seq);
                prop_assert!(exchange.seq.is_none_or(|seq| at(seq).is_ok()));
            }
        }
        // Nothing is held that nobody needs.
        let waiting = parts.sessions.iter().flat_map(|one| &one.waiting);
        let needed: std::collections::BTreeSet<u64> = waiting
            .map(|one| one.message.lsn)
            .chain(parts.retained.iter().map(|one| one.message.lsn))
            .chain(parts.pending.iter().map(|one| one.message.lsn))
            .collect();
        prop_assert!(messages >= needed.len());
        prop_assert!(!parts.under_way.is_empty() || messages == needed.len());
    }
}
