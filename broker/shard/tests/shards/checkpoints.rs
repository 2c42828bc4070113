//! Checkpoints: what a shard writes again is what it has, each message once.

use ringtide_codec::QoS;
use ringtide_shard::message::topic_of;
use ringtide_storage::state::SessionPart;
use ringtide_storage::{Lsn, RecordKind, State};

use crate::harness::{World, quiet};
use crate::packets::*;

const CLIENTS: u32 = 10;

/// The sessions that a replay of the last checkpoint, and of what came since, gives.
fn replayed(world: &World) -> Vec<SessionPart> {
    let mut state = State::new(0, topic_of);
    for (lsn, (kind, body)) in (1..).zip(world.shelf.since_begin.borrow().iter()) {
        // The positions are those that the store gave.
        state.apply(Lsn(lsn + world.shelf.begin.get()), *kind, body).expect("a good record");
    }
    state.into_parts().sessions
}

fn count(world: &World, wanted: RecordKind) -> usize {
    world.shelf.since_begin.borrow().iter().filter(|(kind, _)| *kind == wanted).count()
}

/// Clients that are away, for all of whom `messages` messages of 2 KB wait.
fn fleet(world: &mut World, messages: u16) {
    for number in 1..=CLIENTS {
        world.accept(0, number, &connect_lasting(&format!("away-{number}"), None));
        world.send(0, number, &subscribe(1, "all/#", options(QoS::AtLeastOnce)));
        world.turns(3);
        world.end(0, number);
    }
    world.accept(0, 1000, &connect("publisher"));
    for number in 1..=messages {
        let payload = format!("{number:2000}");
        world.send(0, 1000, &publish("all/1", QoS::AtLeastOnce, number, payload.as_bytes()));
    }
    world.turns(20);
}

#[test]
fn a_message_for_many_sessions_is_written_once_and_is_one_again() {
    let mut world = World::new(1, quiet());
    fleet(&mut world, 3);
    world.shelf.wants_checkpoint.set(true);
    world.turns(100);
    assert_eq!(count(&world, RecordKind::CheckpointEnd), 1, "the checkpoint is over");
    assert_eq!(count(&world, RecordKind::Checkpoint), 3);
    assert_eq!(count(&world, RecordKind::Queue), 3 * (CLIENTS as usize - 1));
    let sessions = replayed(&world);
    assert_eq!(sessions.len(), CLIENTS as usize);
    let first = &sessions[0].waiting;
    assert_eq!(first.len(), 3);
    for session in &sessions {
        let own = session.waiting.iter().map(|one| one.message.bytes().as_ptr());
        assert!(own.eq(first.iter().map(|one| one.message.bytes().as_ptr())));
    }
}

/// A turn writes 256 KiB of a checkpoint: the first client's messages, most of which it has done
/// with before the checkpoint comes to the second.
#[test]
fn what_a_client_acknowledges_during_a_checkpoint_still_waits_for_the_others() {
    let mut world = World::new(1, quiet());
    fleet(&mut world, 200);
    world.accept(0, 2000, &connect_lasting("away-1", None));
    world.turns(10);
    let got = read(&world.sent(0, 2000));
    let ids: Vec<u16> = got
        .iter()
        .filter_map(|one| if let Got::Publish { id, .. } = one { Some(*id) } else { None })
        .collect();
    assert_eq!(ids.len(), 200);
    world.shelf.wants_checkpoint.set(true);
    world.turn(0);
    ids.iter().for_each(|id| world.send(0, 2000, &puback(*id)));
    world.turn(0);
    assert_eq!(count(&world, RecordKind::CheckpointEnd), 0, "others are still to come");
    world.turns(100);
    assert_eq!(count(&world, RecordKind::CheckpointEnd), 1, "the checkpoint is over");
    let sessions = replayed(&world);
    assert_eq!(sessions.len(), CLIENTS as usize);
    for session in &sessions {
        let expected = if session.record.client_id == "away-1" { 0 } else { 200 };
        assert_eq!(session.waiting.len(), expected, "{}", session.record.client_id);
    }
}

/// What came while it was to outlive its connection stands in the log, what came later does not:
/// the queue holds both.
#[test]
fn a_session_resumed_to_end_with_its_connection_keeps_what_it_had_and_holds_nothing_up() {
    for (before, after) in [(200, 180), (60, 300)] {
        let mut world = World::new(1, quiet());
        fleet(&mut world, before);
        let mut resumed = connect_as("away-1");
        resumed.properties.receive_maximum = Some(1);
        world.accept(0, 2000, &bytes_of(&resumed));
        world.turns(10);
        for number in 1..=after {
            let payload = format!("{number:2000}");
            world.send(0, 1000, &publish("all/1", QoS::AtLeastOnce, number, payload.as_bytes()));
        }
        world.turns(20);
        world.shelf.wants_checkpoint.set(true);
        world.turns(300);
        assert_eq!(count(&world, RecordKind::CheckpointEnd), 1, "the checkpoint is over");
        for session in replayed(&world) {
            let own = session.record.client_id == "away-1";
            let waiting = if own { before } else { before + after };
            assert_eq!(session.waiting.len(), usize::from(waiting), "{}", session.record.client_id);
        }
    }
}
