//! Shared groups: membership, and the choice of a member under each strategy.

use std::collections::{HashMap, HashSet};

use ringtide_topics::SessionRef;
use ringtide_topics::shared::{BACKLOG_COMPARED_MAX, ChoiceState, Group, Member, Strategy};

fn member(shard: u16, session: u32) -> Member {
    Member {
        shard,
        session: SessionRef(session),
        generation: 1,
        options: 1,
        id: 0,
        online: true,
        backlog: 0,
    }
}

/// Members (0, 0), (0, 1), (1, 2), (1, 3), ... two per shard, all online.
fn group(strategy: Strategy, members: u32) -> Group {
    let mut group = Group::new(strategy);
    for session in 0..members {
        assert!(group.join(member((session / 2) as u16, session)));
    }
    group
}

/// How often each session is chosen in `rounds` messages, publisher and topic changing.
fn counts(group: &mut Group, state: &mut ChoiceState, rounds: u64) -> HashMap<u32, u64> {
    let snapshot = group.snapshot();
    let mut counts = HashMap::new();
    for round in 0..rounds {
        let chosen = snapshot.choose(state, 1, round, round, &[]).expect("somebody is online");
        assert!(chosen.online);
        *counts.entry(chosen.session.0).or_default() += 1;
    }
    counts
}

#[test]
fn strategies_have_the_names_of_the_configuration() {
    for strategy in Strategy::ALL {
        assert_eq!(strategy.name().parse(), Ok(strategy));
    }
    assert_eq!("hash_clientid".parse(), Ok(Strategy::HashClientId));
    let error = "Random".parse::<Strategy>().unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("random round_robin sticky local hash_clientid hash_topic least_backlog")
    );
}

#[test]
fn every_change_is_an_epoch_and_nothing_else_is() {
    let mut group = group(Strategy::Random, 2);
    assert_eq!(group.epoch(), 2);
    let first = group.snapshot();
    assert!(!group.join(member(0, 0)), "nothing new");
    assert!(group.set_online(0, SessionRef(0), true));
    assert!(!group.set_online(0, SessionRef(9), true), "no such member");
    assert!(group.leave(1, SessionRef(0)).is_none());
    assert_eq!(group.epoch(), 2);
    assert!(std::sync::Arc::ptr_eq(&first, &group.snapshot()));

    assert!(!group.join(Member { options: 2, id: 7, ..member(0, 0) }), "replaced");
    assert_eq!(group.member(0, SessionRef(0)).unwrap().options, 2);
    assert!(group.set_online(0, SessionRef(0), false));
    assert!(group.set_backlog(0, SessionRef(1), 5));
    group.set_strategy(Strategy::Sticky);
    assert_eq!(group.leave(0, SessionRef(1)).unwrap().backlog, 5);
    assert_eq!(group.epoch(), 7);
    assert_eq!((group.len(), first.members.len()), (1, 2), "a snapshot does not change");
}

#[test]
fn members_online_stand_first() {
    let mut group = group(Strategy::Random, 6);
    group.set_online(0, SessionRef(1), false);
    group.set_online(1, SessionRef(3), false);
    let snapshot = group.snapshot();
    let order: Vec<u32> = snapshot.members.iter().map(|m| m.session.0).collect();
    assert_eq!((order, snapshot.online), (vec![0, 2, 4, 5, 1, 3], 4));
}

#[test]
fn nobody_is_chosen_from_nobody() {
    for strategy in Strategy::ALL {
        let mut group = Group::new(strategy);
        let mut state = ChoiceState::new(1);
        assert!(group.snapshot().choose(&mut state, 0, 1, 2, &[]).is_none());
        assert!(group.snapshot().choose_offline(&mut state, 1, 2, &[]).is_none());
        group.join(Member { online: false, ..member(0, 4) });
        let snapshot = group.snapshot();
        assert!(snapshot.choose(&mut state, 0, 1, 2, &[]).is_none());
        let queued = snapshot.choose_offline(&mut state, 1, 2, &[]).unwrap();
        assert_eq!(queued.session, SessionRef(4));
        assert!(snapshot.choose_offline(&mut state, 1, 2, &[(0, SessionRef(4))]).is_none());
    }
}

#[test]
fn offline_members_are_passed_by_while_one_is_online() {
    for strategy in Strategy::ALL {
        let mut group = group(strategy, 8);
        for session in (0..8).filter(|&session| session != 5) {
            group.set_online((session / 2) as u16, SessionRef(session), false);
        }
        let counts = counts(&mut group, &mut ChoiceState::new(3), 100);
        assert_eq!(counts, HashMap::from([(5, 100)]), "{strategy}");
    }
}

#[test]
fn who_refused_is_passed_by_until_all_have() {
    for strategy in Strategy::ALL {
        let mut group = group(strategy, 6);
        let snapshot = group.snapshot();
        let mut state = ChoiceState::new(11);
        let mut refused = Vec::new();
        for _ in 0..6 {
            let chosen = snapshot.choose(&mut state, 1, 77, 88, &refused).unwrap();
            assert!(!refused.contains(&chosen.place()), "{strategy}");
            refused.push(chosen.place());
        }
        assert!(snapshot.choose(&mut state, 1, 77, 88, &refused).is_none(), "{strategy}");
    }
}

#[test]
fn round_robin_gives_each_the_same() {
    let mut group = group(Strategy::RoundRobin, 7);
    let counts = counts(&mut group, &mut ChoiceState::new(5), 700);
    assert!((0..7).all(|session| counts[&session] == 100), "{counts:?}");
}

#[test]
fn shards_begin_their_round_at_different_members() {
    let mut group = group(Strategy::RoundRobin, 16);
    let snapshot = group.snapshot();
    let begin = |seed| snapshot.choose(&mut ChoiceState::new(seed), 0, 0, 0, &[]).unwrap().session;
    assert!((0..32).map(begin).collect::<HashSet<_>>().len() > 8);
}

#[test]
fn random_and_the_hashes_are_fair() {
    for strategy in [Strategy::Random, Strategy::HashClientId, Strategy::HashTopic] {
        let mut group = group(strategy, 8);
        let counts = counts(&mut group, &mut ChoiceState::new(9), 8000);
        assert!((0..8).all(|session| (850..1150).contains(&counts[&session])), "{counts:?}");
    }
}

#[test]
fn a_hash_names_the_same_member_on_every_shard() {
    let mut by_client = group(Strategy::HashClientId, 8);
    let mut by_topic = group(Strategy::HashTopic, 8);
    let (by_client, by_topic) = (by_client.snapshot(), by_topic.snapshot());
    for hash in 0..100 {
        let (mut one, mut other) = (ChoiceState::new(1), ChoiceState::new(2));
        assert_eq!(
            by_client.choose(&mut one, 0, hash, 5, &[]),
            by_client.choose(&mut other, 3, hash, 6, &[]),
        );
        assert_eq!(
            by_topic.choose(&mut one, 0, 5, hash, &[]),
            by_topic.choose(&mut other, 3, 6, hash, &[]),
        );
    }
}

#[test]
fn local_keeps_to_the_shard_while_it_has_a_member() {
    let mut group = group(Strategy::Local, 8);
    let mut state = ChoiceState::new(4);
    assert_eq!(counts(&mut group, &mut state, 100), HashMap::from([(2, 50), (3, 50)]));
    group.set_online(1, SessionRef(2), false);
    assert_eq!(counts(&mut group, &mut state, 100), HashMap::from([(3, 100)]));
    group.leave(1, SessionRef(3));
    assert_eq!(counts(&mut group, &mut state, 600).len(), 6);
}

#[test]
fn local_goes_elsewhere_when_its_members_refuse() {
    let mut group = group(Strategy::Local, 4);
    let refused = [(1, SessionRef(2)), (1, SessionRef(3))];
    let snapshot = group.snapshot();
    let chosen = snapshot.choose(&mut ChoiceState::new(4), 1, 0, 0, &refused).unwrap();
    assert_eq!(chosen.shard, 0);
}

#[test]
fn sticky_stays_through_changes_of_others() {
    let mut group = group(Strategy::Sticky, 6);
    let mut state = ChoiceState::new(8);
    let held = *counts(&mut group, &mut state, 50).keys().next().unwrap();
    for session in 0..6 {
        if session != held {
            group.set_online((session / 2) as u16, SessionRef(session), false);
            assert_eq!(counts(&mut group, &mut state, 5), HashMap::from([(held, 5)]));
        }
    }
    group.join(member(9, 99));
    assert_eq!(counts(&mut group, &mut state, 5), HashMap::from([(held, 5)]));
    group.set_online((held / 2) as u16, SessionRef(held), false);
    assert_eq!(counts(&mut group, &mut state, 5), HashMap::from([(99, 5)]));
    group.set_online((held / 2) as u16, SessionRef(held), true);
    assert_eq!(counts(&mut group, &mut state, 5), HashMap::from([(99, 5)]), "and stays there");
}

#[test]
fn sticky_lets_go_of_who_refuses_and_of_a_number_used_again() {
    let mut group = group(Strategy::Sticky, 2);
    let mut state = ChoiceState::new(8);
    let held = group.snapshot().choose(&mut state, 0, 0, 0, &[]).unwrap().place();
    let next = group.snapshot().choose(&mut state, 0, 0, 0, &[held]).unwrap().place();
    assert_ne!(held, next);
    assert_eq!(group.snapshot().choose(&mut state, 0, 0, 0, &[]).unwrap().place(), next);

    // Another session under the same number is another member: the pick is made anew, so over
    // many groups it does not stay with the number.
    let mut moved = 0;
    for seed in 0..64 {
        let mut state = ChoiceState::new(seed);
        let held = *group.snapshot().choose(&mut state, 0, 0, 0, &[]).unwrap();
        group.join(Member { generation: held.generation + 1, ..held });
        let chosen = group.snapshot().choose(&mut state, 0, 0, 0, &[]).unwrap().place();
        moved += u32::from(chosen != held.place());
    }
    assert!((16..48).contains(&moved), "{moved} of 64 moved");
}

#[test]
fn least_backlog_takes_the_shortest_queue_and_alternates_between_equals() {
    let mut group = group(Strategy::LeastBacklog, 4);
    for (session, backlog) in [(0, 5), (1, 2), (2, 2), (3, 9)] {
        group.set_backlog((session / 2) as u16, SessionRef(session), backlog);
    }
    let mut state = ChoiceState::new(8);
    let mut counts = counts(&mut group, &mut state, 400);
    assert_eq!(counts.remove(&1).unwrap() + counts.remove(&2).unwrap(), 400);
    assert!(counts.is_empty());
    group.set_backlog(1, SessionRef(3), 0);
    let chosen = group.snapshot().choose(&mut state, 0, 0, 0, &[]).unwrap().session;
    assert_eq!(chosen, SessionRef(3));
}

#[test]
fn least_backlog_compares_a_bounded_number() {
    let size = BACKLOG_COMPARED_MAX as u32 * 4;
    let mut group = group(Strategy::LeastBacklog, size);
    for session in 1..size {
        group.set_backlog((session / 2) as u16, SessionRef(session), 1);
    }
    let counts = counts(&mut group, &mut ChoiceState::new(8), u64::from(size));
    assert_eq!(counts[&0], BACKLOG_COMPARED_MAX as u64, "chosen whenever it is compared");
}
