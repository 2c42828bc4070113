//! Clients that break the protocol. Each attack must end with its connection, and with nothing
//! else.

use ringtide_codec::{Connect, ConnectProperties, Version};

use crate::net::{LinkId, Net};
use crate::random::Random;
use crate::trace::Trace;

/// Microseconds after which an attacked connection must be closed.
const PATIENCE_US: u64 = 30_000_000;

/// What follows a good CONNECT: none of it may be answered but by the end of the connection.
const ATTACKS: &[&[u8]] = &[
    // Reserved types and flags.
    &[0x00, 0x00],
    &[0xf1, 0x00],
    &[0xc1, 0x00],
    &[0x61, 0x02, 0x00, 0x01],
    // QoS 3, DUP with QoS 0, a wildcard in the topic, packet id 0, no topic.
    &[0x36, 0x06, 0x00, 0x01, b'e', 0x00, 0x01, 0x00],
    &[0x38, 0x04, 0x00, 0x01, b'e', 0x00],
    &[0x30, 0x04, 0x00, 0x01, b'#', 0x00],
    &[0x32, 0x06, 0x00, 0x01, b'e', 0x00, 0x00, 0x00],
    &[0x30, 0x03, 0x00, 0x00, 0x00],
    // No UTF-8, a cut string.
    &[0x30, 0x04, 0x00, 0x01, 0xff, 0x00],
    &[0x30, 0x03, 0x00, 0x09, b'e'],
    // SUBSCRIBE without filters, with bad options, with packet id 0.
    &[0x82, 0x03, 0x00, 0x01, 0x00],
    &[0x82, 0x07, 0x00, 0x01, 0x00, 0x00, 0x01, b'e', 0xff],
    &[0x82, 0x07, 0x00, 0x00, 0x00, 0x00, 0x01, b'e', 0x00],
    // What only a server sends.
    &[0x20, 0x03, 0x00, 0x00, 0x00],
    &[0x90, 0x04, 0x00, 0x01, 0x00, 0x00],
    &[0xd0, 0x00],
    // Larger than the broker takes; a length that never ends.
    &[0x30, 0xff, 0xff, 0xff, 0x7f],
    &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
    // A property twice, an unknown property, alias 0.
    &[0x30, 0x0e, 0x00, 0x01, b'e', 0x0a, 0x02, 0, 0, 0, 9, 0x02, 0, 0, 0, 9],
    &[0x30, 0x06, 0x00, 0x01, b'e', 0x02, 0x7f, 0x00],
    &[0x30, 0x07, 0x00, 0x01, b'e', 0x03, 0x23, 0x00, 0x00],
];

/// How many of them are attacks in every version.
const PLAIN: usize = 2;

#[derive(Debug)]
struct Attack {
    link: LinkId,
    since_us: u64,
    /// The attack has been sent: the end must come.
    struck: bool,
    /// The attacks that are none in any version of the protocol.
    plain: bool,
    /// It claims to be somebody else: nothing but a refusal may come back.
    impostor: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Hostile {
    no: usize,
    random: Random,
    /// Clients whose password it guesses.
    victims: usize,
    attack: Option<Attack>,
}

impl Hostile {
    pub(crate) fn new(seed: u64, no: usize, victims: usize) -> Hostile {
        let random = Random::stream(seed, &format!("hostile {no}"));
        Hostile { no, random, victims, attack: None }
    }

    /// One go.
    pub(crate) fn act(&mut self, net: &mut Net, shards: u16, now_us: u64, trace: &Trace) {
        let Some(attack) = &mut self.attack else {
            let link = net.connect(self.random.below(u64::from(shards)) as u16);
            let impostor = self.victims > 0 && self.random.chance(700);
            let (bytes, struck, plain) = match self.random.below(10) {
                _ if impostor => (self.claim(), true, false),
                0 => (self.flipped(), false, true),
                1..=3 => (self.garbage(), true, false),
                _ => (self.connect(), false, false),
            };
            net.write(link, &bytes);
            let numbers = [41, self.no as u64, u64::from(link.0), bytes.len() as u64];
            trace.event(numbers, format_args!("link {}: opens with {bytes:02x?}", link.0));
            self.attack = Some(Attack { link, since_us: now_us, struck, plain, impostor });
            return;
        };
        let mut came = Vec::new();
        let end = net.read(attack.link, usize::MAX, &mut came);
        // The fourth byte of a CONNACK is its code.
        if attack.impostor && came.get(3).is_some_and(|code| *code == 0) {
            trace.fail(format_args!("an impostor on link {} is let in", attack.link.0));
        }
        if end.is_some() {
            net.leave(attack.link, false);
            self.attack = None;
        } else if !attack.struck {
            attack.struck = true;
            attack.since_us = now_us;
            let attacks = if attack.plain { &ATTACKS[..PLAIN] } else { ATTACKS };
            let bytes = *self.random.pick(attacks);
            net.write(attack.link, bytes);
            trace.event([40, self.no as u64, 0, 0], format_args!("attack {bytes:02x?}"));
        } else if now_us > attack.since_us + PATIENCE_US {
            trace.fail(format_args!("an attacker on link {} is not closed", attack.link.0));
        } else if self.random.chance(50) {
            net.leave(attack.link, true);
            self.attack = None;
        }
    }

    /// Lets go of what it has.
    pub(crate) fn leave(&mut self, net: &mut Net) {
        if let Some(attack) = self.attack.take() {
            net.leave(attack.link, true);
        }
    }

    /// A CONNECT; sometimes with a second one behind it.
    fn connect(&mut self) -> Vec<u8> {
        let mut bytes = self.one_connect();
        if self.random.chance(100) {
            bytes.extend_from_within(..);
        }
        bytes
    }

    /// A CONNECT in another client's name that would take its session away, without its password;
    /// a publish and a DISCONNECT that would make itself felt come behind it.
    fn claim(&mut self) -> Vec<u8> {
        let victim = format!("client-{}", self.random.below(self.victims as u64));
        let guess = self.random.chance(800).then_some(&b"guess"[..]);
        let packet = Connect {
            version: *self.random.pick(&[Version::V3_1_1, Version::V5]),
            bridge: false,
            clean_start: self.random.chance(500),
            keep_alive_s: 0,
            client_id: &victim,
            will: None,
            username: Some(&victim),
            password: guess,
            properties: ConnectProperties::default(),
        };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        if self.random.chance(500) {
            bytes.extend([0x30, 0x0d, 0x00, 0x06]);
            bytes.extend(b"will/0\0lie!");
        }
        bytes
    }

    fn one_connect(&self) -> Vec<u8> {
        let name = format!("hostile-{}", self.no);
        let packet = Connect {
            version: Version::V5,
            bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_id: &name,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        bytes
    }

    /// A CONNECT with one bit changed, which may still be one.
    fn flipped(&mut self) -> Vec<u8> {
        let mut bytes = self.connect();
        let at = self.random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << self.random.below(8);
        bytes
    }

    /// Bytes that are no CONNECT.
    fn garbage(&mut self) -> Vec<u8> {
        let mut bytes = self.one_connect();
        match self.random.below(3) {
            0 => bytes.truncate(self.random.below(bytes.len() as u64) as usize),
            1 => bytes = b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            _ => {
                let len = self.random.range(1, 60);
                bytes = (0..len).map(|_| self.random.word() as u8).collect();
            }
        }
        bytes
    }
}
