//! The layers of one connection, the nearest to the socket first: TLS, then WebSocket.

use bytes::Bytes;

use super::link::Link;
use super::tls::{ServerSide, Tls};
use super::websocket::{WebSocket, splice};

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    tls: Option<Tls>,
    websocket: Option<WebSocket>,
    /// What was received of a TLS record that is not complete.
    held: Vec<u8>,
    /// MQTT bytes that wait until the layers have come up; later always empty.
    waiting: Vec<u8>,
    /// The upgrade's request, until TLS has come up.
    request: Vec<u8>,
    link: Option<Link>,
}

fn of_tls(error: impl std::fmt::Display) -> String {
    format!("TLS: {error}")
}

fn of_websocket(error: String) -> String {
    format!("WebSocket: {error}")
}

impl Line {
    /// A client's, and what it begins with.
    pub(crate) fn client(link: &Link, out: &mut Vec<u8>) -> Result<Line, String> {
        let tls = link.tls.as_ref().map(|side| side.connection()).transpose().map_err(of_tls)?;
        let upgrade =
            link.transport.has_websocket().then(|| WebSocket::new(&link.path, link.zero_mask));
        let (websocket, request) = upgrade.unzip();
        let mut line = Line {
            tls,
            websocket,
            held: Vec::new(),
            waiting: Vec::new(),
            request: request.unwrap_or_default(),
            link: link.tls.is_some().then(|| link.clone()),
        };
        match &mut line.tls {
            Some(tls) => {
                tls.receive(&mut [], &mut Vec::new(), out).map_err(of_tls)?;
            }
            None => out.append(&mut line.request),
        }
        Ok(line)
    }

    /// A server's.
    pub(crate) fn server(side: &ServerSide) -> Result<Line, String> {
        Ok(Line {
            tls: Some(side.connection().map_err(of_tls)?),
            websocket: None,
            held: Vec::new(),
            waiting: Vec::new(),
            request: Vec::new(),
            link: None,
        })
    }

    /// Moves what [`Line::receive`] has left over before the bytes that follow it.
    pub(crate) fn give_held(&mut self, raw: &mut Vec<u8>) {
        raw.append(&mut self.held);
        self.held = Vec::new();
    }

    /// Takes in what has arrived; true if the peer has ended.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn receive(
        &mut self,
        raw: &mut [u8],
        plain: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        let Some(tls) = &mut self.tls else { return self.above(raw, plain, out) };
        let was_open = tls.is_open();
        scratch.clear();
        let into = if self.websocket.is_some() { &mut *scratch } else { &mut *plain };
        let (used, mut ended) = tls.receive(raw, into, out).map_err(of_tls)?;
        self.held.extend_from_slice(&raw[used..]);
        if !was_open && tls.is_open() {
            if let Some(link) = self.link.take() {
                link.agreed(|| tls.agreed());
            }
            let request = std::mem::take(&mut self.request);
            self.below(&request, out)?;
            if self.websocket.is_none() {
                let waiting = std::mem::take(&mut self.waiting);
                self.below(&waiting, out)?;
            }
        }
        if self.websocket.is_some() && !scratch.is_empty() {
            let mut answers = Vec::new();
            ended |= self.above(scratch, plain, &mut answers)?;
            self.below(&answers, out)?;
        }
        Ok(ended)
    }

    /// Bytes for WebSocket; what it has to say is in its own form.
    fn above(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        let Some(websocket) = &mut self.websocket else {
            plain.extend_from_slice(bytes);
            return Ok(false);
        };
        let was_open = websocket.is_open();
        let ended = websocket.receive(bytes, plain, out).map_err(of_websocket)?;
        if !was_open && websocket.is_open() && !self.waiting.is_empty() {
            websocket.wrap(&std::mem::take(&mut self.waiting), &[], out);
        }
        Ok(ended)
    }

    /// Seals bytes, if there is TLS.
    fn below(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match &mut self.tls {
            _ if bytes.is_empty() => Ok(()),
            Some(tls) => tls.seal(bytes, &mut self.held, out).map_err(of_tls),
            None => {
                out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Appends what goes on the wire for `head` with the `shared` parts spliced in; nothing while
    /// the layers come up.
    ///
    /// # Errors
    /// If nothing can be sent any more.
    pub(crate) fn send(
        &mut self,
        head: &[u8],
        shared: &[(u32, Bytes)],
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let up = self.tls.as_ref().is_none_or(Tls::is_open)
            && self.websocket.as_ref().is_none_or(WebSocket::is_open);
        if !up {
            splice(head, shared, &mut self.waiting);
            return Ok(());
        }
        let Some(websocket) = &mut self.websocket else {
            if shared.is_empty() {
                return self.below(head, out);
            }
            let mut done = 0;
            for (position, part) in shared {
                let until = (*position as usize).clamp(done, head.len());
                self.below(&head[done..until], out)?;
                self.below(part, out)?;
                done = until;
            }
            return self.below(&head[done..], out);
        };
        if self.tls.is_none() {
            websocket.wrap(head, shared, out);
            return Ok(());
        }
        scratch.clear();
        websocket.wrap(head, shared, scratch);
        self.below(scratch, out)
    }
}
