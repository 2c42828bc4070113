//! The mesh's wiring, sleeping, turns and grace periods, on one thread.
#![cfg(not(loom))]

use ringtide_ring::{Shared, mesh};

#[test]
fn every_pair_is_joined_each_way() {
    let mut ports = mesh::<(u16, u16)>(4, 4096);
    for me in 0..4_u16 {
        let port = &mut ports[usize::from(me)];
        assert_eq!(port.me, me);
        assert!(port.to[usize::from(me)].is_none());
        assert!(port.from[usize::from(me)].is_none());
        for target in (0..4_u16).filter(|&target| target != me) {
            let lane = port.to[usize::from(target)].as_mut().unwrap();
            lane.try_push((me, target), &[]).unwrap();
            assert_eq!(lane.capacity_bytes(), 4096);
            lane.publish(0);
        }
    }
    for me in 0..4_u16 {
        let port = &mut ports[usize::from(me)];
        for source in (0..4_u16).filter(|&source| source != me) {
            let record = port.from[usize::from(source)].as_mut().unwrap().pop().unwrap();
            assert_eq!(record.item, (source, me));
        }
    }
}

#[test]
fn one_shard_has_no_lanes() {
    let ports = mesh::<u8>(1, 4096);
    assert_eq!(ports.len(), 1);
    assert!(ports[0].to[0].is_none() && ports[0].from[0].is_none());
    assert_eq!(ports[0].shared.shards(), 1);
}

#[test]
fn a_sleeper_is_woken_once_per_sleep() {
    let shared = Shared::new(3);
    assert!(!shared.must_wake(1));
    shared.going_to_sleep(1);
    assert!(!shared.must_wake(0));
    assert!(shared.must_wake(1));
    assert!(!shared.must_wake(1));
    shared.awake(1);
    shared.going_to_sleep(1);
    shared.awake(1);
    assert!(!shared.must_wake(1));
}

#[test]
fn a_grace_period_waits_for_the_turns_under_way() {
    let shared = Shared::new(3);
    assert!(shared.grace().passed(&shared), "nobody is inside a turn");
    shared.begin_turn(0);
    shared.begin_turn(2);
    let mut grace = shared.grace();
    shared.begin_turn(1);
    assert!(!grace.passed(&shared));
    shared.end_turn(0);
    assert!(!grace.passed(&shared));
    shared.begin_turn(0);
    shared.end_turn(2);
    assert!(grace.passed(&shared), "shard 1 and the new turn of shard 0 began later");
    assert!(grace.passed(&shared), "and stays so");
}

#[test]
fn turns_may_be_opened_and_ended_twice() {
    let shared = Shared::new(1);
    shared.end_turn(0);
    assert!(shared.grace().passed(&shared));
    shared.begin_turn(0);
    let mut grace = shared.grace();
    shared.begin_turn(0);
    assert!(!grace.passed(&shared));
    shared.end_turn(0);
    shared.end_turn(0);
    assert!(grace.passed(&shared));
    assert!(shared.grace().passed(&shared));
}
