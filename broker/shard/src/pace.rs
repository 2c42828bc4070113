//! Clients that may send so many bytes and messages a second: one that sends more is not read from
//! until it is within its rates again. Nothing is dropped, and nothing here runs for clients of
//! listeners without such rates.

use std::collections::HashMap;

use ringtide_codec::{FixedHeader, PacketType, fixed_header};
use ringtide_storage::Store;

use crate::conn::{Conn, Held, Phase};
use crate::core::{Core, Due};
use crate::counters::Counter;
use crate::rate::{Bucket, Rate};
use crate::timer::TimerId;

/// Shortest rest of a client, in milliseconds: one that is just above a high rate does not wake
/// the shard for every packet.
const REST_MS_LEAST: u64 = 10;

/// What each client of a listener may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes of MQTT a second.
    pub bytes: Rate,
    /// PUBLISH packets a second.
    pub messages: Rate,
}

impl Pace {
    /// Whether there is any bound.
    fn is_bounded(self) -> bool {
        self.bytes.is_bounded() || self.messages.is_bounded()
    }
}

/// What one client has left of its rates.
#[derive(Debug)]
struct Meter {
    bytes: Bucket,
    messages: Bucket,
    /// Ends the client's rest.
    timer: Option<TimerId>,
}

/// Meters of the connections that have one, by index.
#[derive(Debug, Default)]
pub(crate) struct Meters(HashMap<u32, Meter>);

impl<S: Store> Core<S> {
    fn pace(&self, index: u32) -> Pace {
        let listener = self.clients.conns.at(index).map_or(0, |conn| conn.listener);
        self.limits.listener(listener).pace
    }

    /// A client's connection is open: if its listener has rates, it is held to them.
    pub(crate) fn start_meter(&mut self, index: u32) {
        let pace = self.pace(index);
        if let Some(conn) = self.clients.conns.at_mut(index).filter(|_| pace.is_bounded()) {
            conn.metered = true;
            let meter = Meter { bytes: Bucket::full(), messages: Bucket::full(), timer: None };
            self.clients.meters.0.insert(index, meter);
        }
    }

    /// A metered client's connection ends.
    pub(crate) fn end_meter(&mut self, index: u32) {
        let meter = self.clients.meters.0.remove(&index);
        if let Some(timer) = meter.and_then(|meter| meter.timer) {
            self.timers.cancel(timer);
        }
    }

    /// A metered client has sent so many bytes.
    pub(crate) fn charge_bytes(&mut self, index: u32, bytes: usize) {
        if let Some(meter) = self.clients.meters.0.get_mut(&index) {
            meter.bytes.charge(bytes as u64);
        }
    }

    /// A metered client's packet is about to be handled.
    pub(crate) fn charge_packet(&mut self, index: u32, header: &FixedHeader) {
        if header.packet_type == PacketType::Publish
            && let Some(meter) = self.clients.meters.0.get_mut(&index)
        {
            meter.messages.charge(1);
        }
    }

    /// Handles the whole packets in `bytes` as far as a metered client's rates go; the rest waits.
    pub(crate) fn consume_metered(&mut self, index: u32, mut bytes: &[u8]) {
        let max = self.promised(index).packet_bytes_max;
        while !bytes.is_empty() && !self.must_rest(index) {
            let whole = match fixed_header(bytes, max) {
                Ok(Some(header)) if header.total_len() <= bytes.len() => {
                    self.charge_bytes(index, header.total_len());
                    self.charge_packet(index, &header);
                    header.total_len()
                }
                // A packet that has been cut pays when it is whole, or for each piece.
                Ok(_) | Err(_) => bytes.len(),
            };
            let (packet, rest) = bytes.split_at(whole);
            bytes = rest;
            self.consume_all(index, max, packet);
            let stops = |conn: &Conn| conn.phase != Phase::Open || conn.waits();
            if self.clients.conns.at(index).is_none_or(stops) {
                break;
            }
        }
        self.keep(index, bytes);
    }

    /// Whether a metered client has used its rates up: then it rests, and the rest of what it has
    /// sent waits.
    pub(crate) fn must_rest(&mut self, index: u32) -> bool {
        let (pace, now_ms) = (self.pace(index), self.clients.now_ms);
        let Some(meter) = self.clients.meters.0.get_mut(&index) else { return false };
        let dry_ms = meter.bytes.dry_for_ms(pace.bytes, now_ms);
        let dry_ms = dry_ms.max(meter.messages.dry_for_ms(pace.messages, now_ms));
        if dry_ms == 0 {
            return false;
        }
        if meter.timer.is_none() {
            let wake_ms = now_ms + dry_ms.max(REST_MS_LEAST);
            meter.timer = Some(self.timers.set(wake_ms, Due::Rested(index)));
            self.clients.counters.add(Counter::RateDelays, 1);
        }
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.hold(Held::Resting);
        }
        self.pause_receive(index);
        true
    }

    /// A client's rest is over.
    pub(crate) fn rested(&mut self, index: u32) {
        let Some(meter) = self.clients.meters.0.get_mut(&index) else { return };
        meter.timer = None;
        if let Some(conn) = self.clients.conns.at_mut(index) {
            conn.let_go(Held::Resting);
            self.resume(index);
        }
    }
}
