//! The end of a shard that was asked to end.

use crate::harness::{World, quiet};
use crate::packets::*;

#[test]
fn a_shutdown_that_is_done_in_time_is_no_failure() {
    let mut world = World::new(1, quiet());
    world.accept(0, 1, &connect_lasting("a", None));
    world.turns(5);
    world.drain();
    world.turns(2);
    assert!(world.is_closed(0, 1));
    assert_eq!(world.last_turn(0), None);
}

#[test]
fn a_shutdown_that_is_cut_short_is_a_failure() {
    let mut world = World::new(1, quiet());
    world.shelf.held.set(true);
    world.accept(0, 1, &connect_lasting("a", None));
    world.turns(5);
    world.drain();
    world.turns(2);
    world.pass_ms(quiet().drain_ms - 1);
    world.turns(2);
    world.pass_ms(1);
    let failure = world.last_turn(0).expect("a failure");
    assert!(failure.contains("was cut short"), "{failure}");
    assert!(failure.contains("not on the disk"), "{failure}");
}
