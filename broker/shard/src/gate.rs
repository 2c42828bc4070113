//! Who may come to a listener at all: judged by the client's own address before anything of MQTT
//! is read, and what a trusted proxy tells of the client that it connects for.
//!
//! ```text
//! accept --direct--> networks --> TLS, WebSocket, CONNECT --> networks again --> session
//!    +--by a proxy--> PROXY header --> networks --^
//! ```
//!
//! Networks are asked again at CONNECT, since a WebSocket's request may have told another address,
//! and a proxy that only looks whether somebody is here is no client.

use std::mem;
use std::net::{IpAddr, SocketAddr};

use ringtide_codec::Connect;
use ringtide_driver::Token;
use ringtide_filter::proxy::{Client, Told};
use ringtide_filter::{Class, Fault, Filter, Networks};
use ringtide_storage::Store;

use crate::conn::Peer;
use crate::core::{Command, Core, Due};

/// Who may connect to a listener, and whose word counts for where they come from. The default lets
/// everybody in.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// The only networks that clients may come from, unless there are none.
    pub allow: Networks,
    /// Networks that no client may come from, whatever `allow` says.
    pub deny: Networks,
    /// Proxies whose word for the client's address is taken.
    pub proxies: Networks,
    /// Connections come from these proxies alone, or over a Unix socket, and begin with a PROXY
    /// header; `None`: they have none.
    pub proxied: Option<Proxied>,
}

/// Connections through a proxy that speaks the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Milliseconds from accept until the header must have come whole.
    pub header_timeout_ms: u64,
    /// The name in the client's certificate, as the proxy has verified it, is the user name, and
    /// CONNECT's own is not believed.
    pub names_user: bool,
}

impl Gate {
    /// Whether clients are let in from anywhere.
    fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a client with this address is let in; one without comes over a Unix socket.
    fn lets_in(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else { return self.allow.is_empty() };
        !self.deny.contain(address) && (self.allow.is_empty() || self.allow.contain(address))
    }

    /// Judges a socket that has just been accepted.
    fn admit(&self, peer: Option<IpAddr>) -> Result<(), Fault> {
        let from_proxy = peer.is_none_or(|peer| self.proxies.contain(peer));
        match &self.proxied {
            Some(_) if from_proxy => Ok(()),
            Some(_) => Err(Fault::new(
                Class::ProxyUntrusted,
                "the listener is for proxies alone (proxy_protocol), and this address is not in \
                 its trusted_proxies",
            )),
            // Such a client may be told of by a header of HTTP.
            None if peer.is_some() && from_proxy => Ok(()),
            None => self.judge(peer),
        }
    }

    /// Judges a client's own address.
    fn judge(&self, client: Option<IpAddr>) -> Result<(), Fault> {
        match self.lets_in(client) {
            true => Ok(()),
            false => Err(Fault::new(
                Class::Address,
                "the listener's `allow` and `deny` do not let this address in",
            )),
        }
    }
}

impl<S: Store> Core<S> {
    /// Judges a connection that has just been accepted, and puts it behind what its listener's
    /// connections go through.
    pub(crate) fn judge_accepted(&mut self, index: u32, listener: u16) -> Result<(), Fault> {
        let Some(gate) = self.limits.gate(listener) else { return Ok(()) };
        let Some(conn) = self.clients.conns.at_mut(index) else { return Ok(()) };
        gate.admit(conn.peer.address().map(|peer| peer.ip()))?;
        let Some(proxied) = gate.proxied else {
            return self.filter_by_listener(index, listener);
        };
        conn.filter = Some(Filter::behind_proxy());
        let connect_ms = self.limits.listener(listener).connect_timeout_ms;
        self.arm_connecting(index, proxied.header_timeout_ms.min(connect_ms));
        Ok(())
    }

    /// Sets the timer of a connection without a session to so many milliseconds after its accept.
    fn arm_connecting(&mut self, index: u32, after_ms: u64) {
        let Some(conn) = self.clients.conns.at_mut(index) else { return };
        if let Some(timer) = conn.timer.take() {
            self.timers.cancel(timer);
        }
        conn.timer = Some(self.timers.set(conn.heard_ms + after_ms, Due::Conn(index)));
    }

    /// A PROXY header has come whole; `rest` is what followed it.
    pub(crate) fn on_proxied(&mut self, index: u32, token: Token, told: Told, rest: &mut [u8]) {
        if let Err(fault) = self.take_proxied(index, token, told) {
            return self.on_fault(index, &fault);
        }
        if rest.is_empty() {
            self.commands.push(Command::ReceiveOnce(index));
        } else {
            self.on_wire(index, token, rest);
        }
    }

    fn take_proxied(&mut self, index: u32, token: Token, told: Told) -> Result<(), Fault> {
        let Some(conn) = self.clients.conns.at_mut(index) else { return Ok(()) };
        let listener = conn.listener;
        let own = match told.client {
            Client::Proxy => conn.peer.clone(),
            Client::Address(client) => Peer::new(Some(client)),
            Client::Unix => Peer::new(None),
        };
        let proxy = mem::replace(&mut conn.peer, own);
        let peer = conn.peer.address();
        tracing::debug!(
            listener = self.limits.listener_name(listener),
            peer = %conn.peer,
            %proxy,
            unique_id = told.unique_id.as_deref().map(shown),
            server_name = told.server_name.as_deref(),
            protocol = told.protocol.as_deref(),
            tls = told.tls_version.as_deref(),
            certificate = told.common_name.as_deref(),
            "PROXY header"
        );
        if let Some(gate) = self.limits.gate(listener) {
            let asks_again = |peer: SocketAddr| gate.proxies.contain(peer.ip());
            if told.client != Client::Proxy && !peer.is_some_and(asks_again) {
                gate.judge(peer.map(|peer| peer.ip()))?;
            }
            if let Some(name) = told.common_name
                && gate.proxied.is_some_and(|proxied| proxied.names_user)
            {
                self.clients.filtering.name(token, name);
            }
        }
        self.filter_by_listener(index, listener)?;
        self.arm_connecting(index, self.limits.listener(listener).connect_timeout_ms);
        Ok(())
    }

    /// The address of a connection whose CONNECT has come is final.
    pub(crate) fn judge_client(&self, index: u32) -> Result<(), Fault> {
        let Some(conn) = self.clients.conns.at(index) else { return Ok(()) };
        match self.limits.gate(conn.listener) {
            Some(gate) if !gate.is_open() => gate.judge(conn.peer.address().map(|peer| peer.ip())),
            _ => Ok(()),
        }
    }

    /// A client's user name: CONNECT's, or the one that the proxy vouches for where that counts.
    pub(crate) fn user_name<'a>(
        &self,
        index: u32,
        connect: &Connect<'a>,
        vouched: Option<&'a str>,
    ) -> Option<&'a str> {
        match self.is_named_by_proxy(index) {
            true => vouched,
            false => connect.username,
        }
    }

    /// True if only a proxy may say what the connection's user is called.
    pub(crate) fn is_named_by_proxy(&self, index: u32) -> bool {
        let listener = self.clients.conns.at(index).map_or(0, |conn| conn.listener);
        let proxied = self.limits.gate(listener).and_then(|gate| gate.proxied);
        proxied.is_some_and(|proxied| proxied.names_user)
    }
}

/// An id as a log shows it.
fn shown(id: &[u8]) -> String {
    match str::from_utf8(id) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => id.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        let parsed = list.iter().map(|network| network.parse().expect("a network"));
        Networks::from(parsed.collect::<Vec<_>>())
    }

    #[test]
    fn deny_wins_over_allow_and_a_list_of_neither_lets_everybody_in() {
        let lets_in = |allow: &[&str], deny: &[&str], address: &str| {
            let gate = Gate { allow: networks(allow), deny: networks(deny), ..Gate::default() };
            gate.lets_in(address.parse().ok())
        };
        assert!(lets_in(&[], &[], "192.0.2.7"));
        assert!(lets_in(&["192.0.2.0/24"], &[], "::ffff:192.0.2.7"));
        assert!(!lets_in(&["192.0.2.0/24"], &[], "2001:db8::1"));
        assert!(!lets_in(&["192.0.2.0/24"], &["192.0.2.7/32"], "192.0.2.7"));
        assert!(lets_in(&["192.0.2.0/24"], &["192.0.2.7/32"], "192.0.2.8"));
        assert!(lets_in(&[], &["0.0.0.0/0"], "2001:db8::1"));
        assert!(lets_in(&[], &["0.0.0.0/0"], "no address"));
        assert!(!lets_in(&["0.0.0.0/0"], &[], "no address"), "a list is for what is on it");
    }

    #[test]
    fn a_listener_for_proxies_admits_nobody_else() {
        let proxied = Some(Proxied { header_timeout_ms: 1, names_user: false });
        let gate = Gate {
            proxies: networks(&["10.0.0.0/8"]),
            deny: networks(&["10.0.0.0/8"]),
            proxied,
            ..Gate::default()
        };
        assert_eq!(gate.admit("10.0.0.1".parse().ok()), Ok(()), "a proxy is no client");
        assert_eq!(gate.admit(None), Ok(()), "the socket's mode says who connects");
        let fault = gate.admit("192.0.2.7".parse().ok()).expect_err("a fault");
        assert_eq!(fault.class, Class::ProxyUntrusted);
        let open = Gate { proxied: None, ..gate };
        assert_eq!(open.admit("10.0.0.1".parse().ok()), Ok(()), "it may tell of another client");
        assert_eq!(open.admit("192.0.2.7".parse().ok()), Ok(()));
    }

    #[test]
    fn an_id_is_shown_as_text_if_it_is_text() {
        assert_eq!(shown(b"0A-1"), "0A-1");
        assert_eq!(shown(b"\x00\xFF"), "00ff");
    }
}
