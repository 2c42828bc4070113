//! WebSocket (RFC 6455), the client's side, for MQTT: the upgrade, masked frames out, frames in.
//! Without I/O. Frame headers are tungstenite's; the broker's own frames are the server's side, and
//! are not shared, so that the two check each other.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Cursor;

use bytes::Bytes;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::tls::SERVER_NAME;

/// Most bytes of an answer to the upgrade.
const ANSWER_BYTES_MAX: usize = 8192;
const HEADERS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 14;
const CONTROL_BYTES_MAX: u64 = 125;
/// Most bytes of one message: brokers bound it, and MQTT may be cut anywhere.
const MESSAGE_BYTES_MAX: usize = (1 << 20) + 1024;
const BINARY: OpCode = OpCode::Data(Data::Binary);

/// One connection.
#[derive(Debug)]
pub(crate) struct WebSocket {
    stage: Stage,
    /// The answer so far; later a header, with a control frame's payload, that is cut.
    held: Vec<u8>,
    /// Bytes of the data frame under way that have not come.
    left: u64,
    masks: Masks,
}

#[derive(Debug)]
enum Stage {
    /// The answer is to come, with this `Sec-WebSocket-Accept`.
    Upgrading(String),
    Open,
    Closed,
}

/// Where the masks of frames come from.
#[derive(Debug)]
enum Masks {
    Zero,
    /// The state of xorshift64*, begun from the system's randomness.
    Random(u64),
}

impl Masks {
    fn next(&mut self) -> [u8; 4] {
        let Self::Random(state) = self else { return [0; 4] };
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((word >> 32) as u32).to_ne_bytes()
    }
}

impl WebSocket {
    /// A connection, and the request that it begins with.
    pub(crate) fn new(path: &str, zero_mask: bool) -> (WebSocket, Vec<u8>) {
        let key = generate_key();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        let seed = RandomState::new().build_hasher().finish() | 1;
        let websocket = WebSocket {
            stage: Stage::Upgrading(derive_accept_key(key.as_bytes())),
            held: Vec::new(),
            left: 0,
            masks: if zero_mask { Masks::Zero } else { Masks::Random(seed) },
        };
        (websocket, request.into_bytes())
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Takes bytes in; true if the peer has ended.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        if self.held.is_empty() && self.is_open() {
            self.frames(bytes, plain, out)?;
        } else {
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(bytes);
            let used = match &self.stage {
                Stage::Upgrading(accept) => answer(&all, accept)?,
                Stage::Open => Some(0),
                Stage::Closed => return Ok(true),
            };
            match used {
                None => self.held = all,
                Some(used) => {
                    self.stage = Stage::Open;
                    self.frames(&all[used..], plain, out)?;
                }
            }
        }
        Ok(matches!(self.stage, Stage::Closed))
    }

    fn frames(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        while !bytes.is_empty() && self.is_open() {
            if self.left > 0 {
                let here = bytes.len().min(self.left as usize);
                plain.extend_from_slice(&bytes[..here]);
                self.left -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            let mut cursor = Cursor::new(bytes);
            let parsed = FrameHeader::parse(&mut cursor).map_err(|error| error.to_string())?;
            let Some((header, length)) = parsed else { break };
            let start = cursor.position() as usize;
            if header.mask.is_some() || header.rsv1 || header.rsv2 || header.rsv3 {
                return Err("a frame of the broker is masked, or has reserved bits".to_owned());
            }
            match header.opcode {
                OpCode::Data(Data::Binary | Data::Continue) => {
                    self.left = length;
                    bytes = &bytes[start..];
                }
                OpCode::Control(control) => {
                    if length > CONTROL_BYTES_MAX {
                        return Err("a control frame of the broker is too long".to_owned());
                    }
                    let end = start + length as usize;
                    let Some(payload) = bytes.get(start..end) else { break };
                    self.control(control, payload, out)?;
                    bytes = &bytes[end..];
                }
                OpCode::Data(_) => return Err("a message of the broker is not binary".to_owned()),
            }
        }
        if self.is_open() {
            self.held.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn control(
        &mut self,
        control: Control,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        match control {
            Control::Ping => self.put(OpCode::Control(Control::Pong), payload, out),
            Control::Pong => {}
            Control::Close => {
                self.put(OpCode::Control(Control::Close), payload, out);
                self.stage = Stage::Closed;
            }
            Control::Reserved(_) => {
                return Err("a frame of the broker has no known kind".to_owned());
            }
        }
        Ok(())
    }

    /// Appends messages that hold `head` with the `shared` parts spliced in.
    pub(crate) fn wrap(&mut self, head: &[u8], shared: &[(u32, Bytes)], out: &mut Vec<u8>) {
        let parts: usize = shared.iter().map(|(_, part)| part.len()).sum();
        let length = head.len() + parts;
        if length <= MESSAGE_BYTES_MAX {
            let mask = self.put_header(BINARY, length, out);
            let from = out.len();
            splice(head, shared, out);
            apply(mask, &mut out[from..]);
        } else {
            let mut whole = Vec::with_capacity(length);
            splice(head, shared, &mut whole);
            whole.chunks(MESSAGE_BYTES_MAX).for_each(|part| self.put(BINARY, part, out));
        }
    }

    fn put(&mut self, opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
        let mask = self.put_header(opcode, payload.len(), out);
        let from = out.len();
        out.extend_from_slice(payload);
        apply(mask, &mut out[from..]);
    }

    fn put_header(&mut self, opcode: OpCode, length: usize, out: &mut Vec<u8>) -> [u8; 4] {
        let mask = self.masks.next();
        let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
        out.reserve(HEADER_BYTES_MAX + length);
        // Writing to a vector cannot fail.
        let written = header.format(length as u64, out);
        debug_assert!(written.is_ok());
        mask
    }
}

/// Appends `head` with the `shared` parts in their places.
pub(crate) fn splice(head: &[u8], shared: &[(u32, Bytes)], out: &mut Vec<u8>) {
    let mut done = 0;
    for (position, part) in shared {
        let until = (*position as usize).clamp(done, head.len());
        out.extend_from_slice(&head[done..until]);
        out.extend_from_slice(part);
        done = until;
    }
    out.extend_from_slice(&head[done..]);
}

fn apply(mask: [u8; 4], payload: &mut [u8]) {
    if mask == [0; 4] {
        return;
    }
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, own) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= own;
    }
}

/// How many bytes the answer to the upgrade has; `None` if it is not whole.
fn answer(bytes: &[u8], accept: &str) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|e| format!("the upgrade's answer: {e}"))?;
    let httparse::Status::Complete(used) = parsed else {
        let whole = bytes.len() > ANSWER_BYTES_MAX;
        return if whole { Err("the upgrade's answer is too long".to_owned()) } else { Ok(None) };
    };
    let code = response.code.unwrap_or(0);
    if code != 101 {
        let reason = response.reason.unwrap_or("");
        return Err(format!("the upgrade was answered with {code} {reason}"));
    }
    let is = |name: &str, value: &str| {
        let mut headers = response.headers.iter();
        headers.any(|h| h.name.eq_ignore_ascii_case(name) && h.value == value.as_bytes())
    };
    if !is("Sec-WebSocket-Accept", accept) || !is("Sec-WebSocket-Protocol", "mqtt") {
        return Err("the upgrade's answer lacks the key's answer, or the protocol mqtt".to_owned());
    }
    Ok(Some(used))
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
