//! TLS handshakes cost as much as hundreds of packets: a turn does a few of them, and whoever is
//! connected waits for none.

use ringtide_filter::Layers;
use ringtide_shard::access::Access;
use ringtide_shard::counters::Counter;
use ringtide_shard::{Limits, Transport};
use rustls::ClientConnection;

use crate::harness::{World, quiet};
use crate::packets::*;
use crate::tls::authority::Authority;
use crate::tls::{BOTH, ClientSide, NAME, acceptor, material};

const STORM: u32 = 200;
const BYSTANDER: u32 = 1_000_000;
/// The first byte of a record with a ServerHello, and that of one with an alert.
const HANDSHAKE_RECORD: u8 = 22;

fn secured(authority: &Authority) -> Limits {
    let layers = Layers { tls: Some(acceptor(&material(authority))), ..Layers::default() };
    let transport = Transport { name: "secured".to_owned(), layers, ..Transport::default() };
    Limits { transports: vec![transport], ..quiet() }
}

/// What a client has to send.
fn flight(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a vector takes it");
    }
    bytes
}

/// A world in which a bystander is connected and the listener speaks TLS from now on.
fn world(authority: &Authority) -> World {
    let mut world = World::new(1, quiet());
    let name = world.name_at(0, "by");
    world.accept(0, BYSTANDER, &connect(&name));
    world.turns(4);
    world.sent(0, BYSTANDER);
    world.reload(secured(authority), || Access::Open);
    world.turns(1);
    world
}

#[test]
fn a_storm_of_handshakes_holds_up_nobody_who_is_connected() {
    let authority = Authority::new("test");
    let side = ClientSide::new(&authority, BOTH, None);
    let mut world = world(&authority);
    world.reload(Limits { handshake_budget_us: 0, ..secured(&authority) }, || Access::Open);
    let hello = flight(&mut side.connect(NAME));
    (0..STORM).for_each(|socket| world.accept(0, socket, &hello));
    // They are accepted; what they have sent comes with the next turn, which does one.
    world.turns(2);
    assert_eq!(world.count(Counter::TlsWaiting), u64::from(STORM) - 1);
    world.reload(secured(&authority), || Access::Open);
    // Each look at the clock takes so long that a turn's handshakes are five.
    world.look_takes_us(100);
    let mut turns = 0;
    while turns == 0 || world.count(Counter::TlsWaiting) > 0 {
        world.send(0, BYSTANDER, &ping());
        world.turn(0);
        assert_eq!(read(&world.sent(0, BYSTANDER)), [Got::Pong], "turn {turns}");
        turns += 1;
        let waiting = world.count(Counter::TlsWaiting);
        assert!(waiting == 0 || world.polls(0), "turn {turns} left work: no sleep");
        assert!(waiting + 6 * turns >= STORM.into(), "{waiting} wait after {turns} turns");
    }
    for socket in 0..STORM {
        assert_eq!(world.sent(0, socket).first(), Some(&HANDSHAKE_RECORD), "socket {socket}");
    }
}

#[test]
fn a_turn_does_one_handshake_however_little_time_it_has() {
    let authority = Authority::new("test");
    let side = ClientSide::new(&authority, BOTH, None);
    let mut world = world(&authority);
    world.reload(Limits { handshake_budget_us: 0, ..secured(&authority) }, || Access::Open);
    let hello = flight(&mut side.connect(NAME));
    (0..3).for_each(|socket| world.accept(0, socket, &hello));
    world.turn(0);
    for left in [2, 1, 0] {
        world.turn(0);
        assert_eq!(world.count(Counter::TlsWaiting), left);
    }
}

#[test]
fn who_goes_while_its_handshake_waits_is_forgotten() {
    let authority = Authority::new("test");
    let side = ClientSide::new(&authority, BOTH, None);
    let mut world = world(&authority);
    world.reload(Limits { handshake_budget_us: 0, ..secured(&authority) }, || Access::Open);
    let hello = flight(&mut side.connect(NAME));
    (0..3).for_each(|socket| world.accept(0, socket, &hello));
    world.turns(2);
    assert_eq!(world.count(Counter::TlsWaiting), 2);
    let timeout_ms = quiet().listener(0).connect_timeout_ms;
    world.pass_ms(timeout_ms);
    world.turns(4);
    assert!((0..3).all(|socket| world.is_closed(0, socket)), "by the listener's deadline");
    assert_eq!(world.count(Counter::TlsWaiting), 0);
    assert_eq!(world.count(Counter::ConnectionsOpen), 1);
}

/// In one queue, a storm of more clients than one deadline can serve would let none finish.
#[test]
fn a_handshake_that_has_begun_is_finished_before_others_begin() {
    let authority = Authority::new("test");
    let side = ClientSide::new(&authority, BOTH, None);
    let mut world = world(&authority);
    world.reload(Limits { handshake_budget_us: 0, ..secured(&authority) }, || Access::Open);
    let mut first = side.connect(NAME);
    world.accept(0, 0, &flight(&mut first));
    let hello = flight(&mut side.connect(NAME));
    (1..STORM).for_each(|socket| world.accept(0, socket, &hello));
    world.turns(2);
    let answer = world.sent(0, 0);
    first.read_tls(&mut &answer[..]).expect("a slice can be read");
    first.process_new_packets().expect("a good answer");
    world.send(0, 0, &flight(&mut first));
    world.turns(3);
    assert_eq!(world.count(Counter::TlsHandshakes), 1, "the first is done");
    assert!(world.count(Counter::TlsWaiting) > u64::from(STORM) - 10, "the others wait");
    // Half of their time has passed: what is left would not do.
    let timeout_ms = quiet().listener(0).connect_timeout_ms;
    world.pass_ms(timeout_ms / 2 + 1);
    world.turns(STORM as usize);
    assert_eq!(world.count(Counter::TlsWaiting), 0);
    assert!(world.is_closed(0, STORM - 1), "it is not begun any more");
    assert!(!world.is_closed(0, 0));
}
