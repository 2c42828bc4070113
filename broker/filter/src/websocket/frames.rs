//! Frames: taken apart as they come, in any pieces, and put around what is sent.

use std::io::Cursor;
use std::mem;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::{Stage, WebSocket};
use crate::fault::{Class, Fault};

/// Most bytes of a control frame's payload.
const CONTROL_BYTES_MAX: usize = 125;
/// Most bytes of a frame's header.
const HEADER_BYTES_MAX: usize = 14;
/// Most bytes that are held of one frame: a control frame as a whole, or a header.
const HELD_BYTES_MAX: usize = HEADER_BYTES_MAX + CONTROL_BYTES_MAX;

/// A breach of the protocol: the code that the peer is told, and the words for it and for the log.
struct Breach(CloseCode, &'static str);

impl WebSocket {
    /// Takes frames apart.
    pub(super) fn frames(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        self.take_apart(bytes, plain, wire).map_err(|Breach(code, text)| {
            close(Some(code), text, wire);
            Fault::new(Class::Frames, text)
        })
    }

    fn take_apart(
        &mut self,
        mut bytes: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<(), Breach> {
        while !bytes.is_empty() && self.stage == Stage::Open {
            if self.left > 0 {
                let here = bytes.len().min(self.left as usize);
                let (payload, rest) = bytes.split_at_mut(here);
                unmask(payload, &mut self.mask);
                plain.extend_from_slice(payload);
                self.left -= here as u32;
                bytes = rest;
            } else if self.held.is_empty() {
                let Some(used) = self.unit(bytes, wire)? else {
                    self.held.extend_from_slice(bytes);
                    return Ok(());
                };
                bytes = &mut bytes[used..];
            } else {
                let mut held = mem::take(&mut self.held);
                let before = held.len();
                held.extend_from_slice(&bytes[..bytes.len().min(HELD_BYTES_MAX - before)]);
                let Some(used) = self.unit(&mut held, wire)? else {
                    // It would have been enough: all bytes have been taken.
                    self.held = held;
                    return Ok(());
                };
                bytes = &mut bytes[used - before..];
            }
        }
        Ok(())
    }

    /// Takes the header of a data frame, or a control frame as a whole: how many bytes it had,
    /// `None` if it is cut.
    fn unit(&mut self, bytes: &mut [u8], wire: &mut Vec<u8>) -> Result<Option<usize>, Breach> {
        let mut cursor = Cursor::new(&*bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| {
            // A slice has no other errors.
            Breach(CloseCode::Protocol, "a WebSocket frame has an opcode that is not defined")
        })?;
        let Some((header, length)) = parsed else { return Ok(None) };
        let start = cursor.position() as usize;
        let mut mask = check(&header, length, start)?;
        match header.opcode {
            OpCode::Data(data) => {
                self.begin_data(data, header.is_final, length)?;
                self.mask = mask;
                Ok(Some(start))
            }
            OpCode::Control(control) => {
                let end = start + length as usize;
                let Some(payload) = bytes.get_mut(start..end) else { return Ok(None) };
                unmask(payload, &mut mask);
                self.control(control, payload, wire)?;
                Ok(Some(end))
            }
        }
    }

    /// A data frame begins.
    //= [MQTT-6.0.0-1]
    //= 3.1.1 [MQTT-6.0.0-1]
    //= [MQTT-6.0.0-2]
    //= 3.1.1 [MQTT-6.0.0-2]
    fn begin_data(&mut self, data: Data, last: bool, length: u64) -> Result<(), Breach> {
        let protocol = |text| Err(Breach(CloseCode::Protocol, text));
        match (data, self.fragmented) {
            (Data::Continue, false) => {
                return protocol("a WebSocket frame continues a message that has not begun");
            }
            (Data::Text | Data::Binary, true) => {
                return protocol("a WebSocket message begins inside of another");
            }
            (Data::Text, false) => {
                let text = "a WebSocket text message: MQTT needs binary ones";
                return Err(Breach(CloseCode::Unsupported, text));
            }
            (Data::Binary, false) => self.message_bytes = 0,
            (Data::Continue, true) => {}
            (Data::Reserved(_), _) => {
                return protocol("a WebSocket frame has an opcode that is not defined");
            }
        }
        let message = u64::from(self.message_bytes).saturating_add(length);
        if message > u64::from(self.settings.message_bytes_max) {
            let text = "a WebSocket message is larger than packets may be";
            return Err(Breach(CloseCode::Size, text));
        }
        self.message_bytes = message as u32;
        self.left = length as u32;
        self.fragmented = !last;
        Ok(())
    }

    fn control(
        &mut self,
        control: Control,
        payload: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Breach> {
        match control {
            Control::Ping => {
                put_control(Control::Pong, payload, wire);
                Ok(())
            }
            Control::Pong => Ok(()),
            Control::Close => {
                let code = close_code(payload)?;
                close(code, "", wire);
                self.stage = Stage::Closed;
                Ok(())
            }
            Control::Reserved(_) => {
                let text = "a WebSocket frame has an opcode that is not defined";
                Err(Breach(CloseCode::Protocol, text))
            }
        }
    }
}

/// Checks what every frame must keep to; its mask.
fn check(header: &FrameHeader, length: u64, header_bytes: usize) -> Result<[u8; 4], Breach> {
    let breach = |text| Err(Breach(CloseCode::Protocol, text));
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return breach("a WebSocket frame has a reserved bit set, and no extension was agreed on");
    }
    let Some(mask) = header.mask else {
        return breach("a WebSocket frame of a client is not masked");
    };
    if header.len(length) != header_bytes || length > i64::MAX as u64 {
        return breach("a WebSocket frame's length is not in its shortest form");
    }
    if matches!(header.opcode, OpCode::Control(_)) {
        if !header.is_final {
            return breach("a WebSocket control frame is fragmented");
        }
        if length > CONTROL_BYTES_MAX as u64 {
            return breach("a WebSocket control frame has more than 125 bytes");
        }
    }
    Ok(mask)
}

/// The code of a Close that was received, `None` if it has none.
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Breach> {
    match payload {
        [] => Ok(None),
        [high, low, reason @ ..] => {
            let code = CloseCode::from(u16::from_be_bytes([*high, *low]));
            if !code.is_allowed() {
                let text = "a WebSocket Close has a code that must not be sent";
                return Err(Breach(CloseCode::Protocol, text));
            }
            if str::from_utf8(reason).is_err() {
                let text = "a WebSocket Close has a reason that is not UTF-8";
                return Err(Breach(CloseCode::Invalid, text));
            }
            Ok(Some(code))
        }
        [_] => Err(Breach(CloseCode::Protocol, "a WebSocket Close has half a code")),
    }
}

/// Takes the mask away, in place, and turns it to where the next bytes begin.
pub(super) fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, own) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= own;
    }
    mask.rotate_left(rest.len() % 4);
}

/// Writes a header of ours into `space`: how many bytes it has.
fn put_header(opcode: OpCode, length: usize, space: &mut [u8; HEADER_BYTES_MAX]) -> usize {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let mut rest = space.as_mut_slice();
    // A slice with room for the longest header takes any.
    let written = header.format(length as u64, &mut rest);
    debug_assert!(written.is_ok());
    header.len(length as u64)
}

fn put_control(control: Control, payload: &[u8], wire: &mut Vec<u8>) {
    let mut space = [0; HEADER_BYTES_MAX];
    let len = put_header(OpCode::Control(control), payload.len(), &mut space);
    wire.extend_from_slice(&space[..len]);
    wire.extend_from_slice(payload);
}

/// Writes a Close.
pub(super) fn close(code: Option<CloseCode>, text: &str, wire: &mut Vec<u8>) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&u16::from(code).to_be_bytes());
        payload.extend_from_slice(text.as_bytes());
    }
    put_control(Control::Close, &payload, wire);
}

/// Puts a header before what is sent, so that all of it is one frame.
pub(super) fn wrap(head: &mut Vec<u8>, shared: &mut [(u32, Bytes)]) {
    let parts: usize = shared.iter().map(|(_, part)| part.len()).sum();
    let length = head.len() + parts;
    if length == 0 {
        return;
    }
    let mut space = [0; HEADER_BYTES_MAX];
    let len = put_header(OpCode::Data(Data::Binary), length, &mut space);
    let end = head.len();
    head.resize(end + len, 0);
    head.copy_within(..end, len);
    head[..len].copy_from_slice(&space[..len]);
    for (position, _) in shared {
        *position += len as u32;
    }
}
