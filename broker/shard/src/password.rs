//! The password of a CONNECT. To judge one takes milliseconds, so that is done elsewhere: a shard
//! asks its [`Passwords`] and goes on; the CONNECT waits in its connection, with all that came
//! behind it, until the answer comes or the time that its listener gives to a handshake is over.
//!
//! Nothing is known of the client before: no session is looked for, no will is judged.

use std::mem;
use std::net::IpAddr;

use ringtide_codec::{Connect, ReasonCode, fixed_header};
use ringtide_session::Refusal;
use ringtide_storage::Store;

use crate::access::Ticket;
use crate::conn::{Cause, Phase};
use crate::core::Core;
use crate::counters::Counter;
use crate::log_pace::LogPace;
use crate::share::Share;

/// Answers that are acted on before a step looks at the clock: each lets a client in or sends a
/// CONNACK.
const ANSWERS_LEAST: u32 = 4;
/// Characters of a user name that the log shows: it is the peer's to choose.
const LOGGED_NAME_MAX: usize = 64;

/// What a CONNECT claims.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The user name.
    pub username: &'a str,
    /// The password, if one was given.
    pub password: Option<&'a [u8]>,
    /// Where the client is; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// Milliseconds until its connection is closed for want of an answer.
    pub patience_ms: u64,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The password is the user's, or passwords are not checked.
    Right,
    /// It is not, or there is no such user.
    Wrong,
    /// Too many wait already.
    Busy,
}

/// Who judges passwords for one shard. Neither call may block.
pub trait Passwords {
    /// Asks. `None`: the answer comes later, exactly once, by [`Passwords::answer`], and the shard
    /// is woken for it.
    fn ask(&mut self, ticket: Ticket, question: &Question<'_>) -> Option<Answer>;

    /// An answer that has come since.
    fn answer(&mut self) -> Option<(Ticket, Answer)>;
}

/// Passwords are not checked: whoever gives a user name is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked;

impl Passwords for Unchecked {
    fn ask(&mut self, _: Ticket, _: &Question<'_>) -> Option<Answer> {
        Some(Answer::Right)
    }

    fn answer(&mut self) -> Option<(Ticket, Answer)> {
        None
    }
}

/// One shard's way to those who judge.
pub(crate) struct Desk {
    judges: Box<dyn Passwords>,
    /// Answers that have not come: without any a turn asks for none.
    waiting: u64,
    refused: LogPace,
}

impl Desk {
    pub(crate) fn new(judges: Box<dyn Passwords>) -> Desk {
        Desk { judges, waiting: 0, refused: LogPace::default() }
    }
}

/// Names a connection in the question about it.
fn ticket(index: u32, generation: u32) -> Ticket {
    Ticket(u64::from(generation) << 32 | u64::from(index))
}

impl<S: Store> Core<S> {
    /// Whether a client is who it says it is, by an answer that has come, else by asking. `None`:
    /// the answer comes later, and the connection waits for it.
    pub(crate) fn check_password(
        &mut self,
        index: u32,
        connect: &Connect<'_>,
        answer: Option<Answer>,
    ) -> Option<Result<(), Refusal>> {
        let Some(username) = connect.username else { return Some(Ok(())) };
        if self.is_named_by_proxy(index) {
            // The name in CONNECT counts for nothing.
            return Some(Ok(()));
        }
        if let Some(answer) = answer {
            return Some(self.password_judged(index, username, answer));
        }
        let conn = self.clients.conns.at_mut(index)?;
        let timeout_ms = self.limits.listener(conn.listener).connect_timeout_ms;
        let address = conn.peer.address().map(|address| address.ip());
        let patience_ms = (conn.heard_ms + timeout_ms).saturating_sub(self.clients.now_ms);
        let question = Question { username, password: connect.password, address, patience_ms };
        let asked = ticket(index, conn.generation);
        match self.passwords.judges.ask(asked, &question) {
            Some(answer) => Some(self.password_judged(index, username, answer)),
            None => {
                conn.phase = Phase::Checking;
                self.passwords.waiting += 1;
                self.clients.counters.add(Counter::PasswordsHashed, 1);
                self.clients.counters.add(Counter::PasswordsWaiting, 1);
                None
            }
        }
    }

    /// Acts on the answers that have come. True if more may be there.
    pub(crate) fn take_passwords(&mut self, over: &dyn Fn() -> bool) -> bool {
        let mut share = Share::new(over, ANSWERS_LEAST);
        while self.passwords.waiting > 0
            && let Some((Ticket(asked), answer)) = self.passwords.judges.answer()
        {
            self.passwords.waiting -= 1;
            self.clients.counters.sub(Counter::PasswordsWaiting, 1);
            let (index, generation) = (asked as u32, (asked >> 32) as u32);
            if let Some(conn) = self.clients.conns.at_mut(index)
                && conn.generation == generation
                && conn.phase == Phase::Checking
            {
                conn.phase = Phase::Connecting;
                let held = mem::take(&mut conn.partial);
                self.on_password(index, held, answer);
            }
            if !share.go_on() {
                return true;
            }
        }
        false
    }

    /// The password of a CONNECT has been judged: it is looked at as if it had just come, since the
    /// settings may have changed meanwhile.
    fn on_password(&mut self, index: u32, held: Vec<u8>, answer: Answer) {
        match fixed_header(&held, u32::MAX) {
            Ok(Some(header)) => self.on_connect(index, &header, held, Some(answer)),
            Ok(None) | Err(_) => self.close(index, Cause::Lost),
        }
    }

    /// What a password's answer means for its CONNECT.
    fn password_judged(
        &mut self,
        index: u32,
        username: &str,
        answer: Answer,
    ) -> Result<(), Refusal> {
        let (counter, reason, text) = match answer {
            Answer::Right => return Ok(()),
            Answer::Wrong => {
                let text = "the user name or the password is wrong";
                (Counter::PasswordsRefused, ReasonCode::BadUserNameOrPassword, text)
            }
            Answer::Busy => {
                let text = "too many passwords wait to be checked, try again later";
                (Counter::PasswordsBusy, ReasonCode::ServerBusy, text)
            }
        };
        self.clients.counters.add(counter, 1);
        if let Some(silent) = self.passwords.refused.due(self.clients.now_ms)
            && let Some(conn) = self.clients.conns.at(index)
        {
            let listener = self.limits.listener_name(conn.listener);
            let peer = conn.peer.address().map(tracing::field::display);
            let not_logged = (silent > 0).then_some(silent);
            let user: String = username.chars().take(LOGGED_NAME_MAX).collect();
            tracing::warn!(listener, peer, ?user, not_logged, "client refused: {text}");
        }
        Err(Refusal { reason, text })
    }
}
