//! A password file: `USER:HASH` a line, comments, blank lines. Also what the broker has learnt
//! about its users: which password each has come with and was right.
//!
//! **What is known.** To hash a password takes long on purpose. So a user whose password was found
//! right has a tag: a keyed digest of user name, password and stored hash, under a key that this
//! process has made up. A client that comes back with the same password is let in by comparing
//! tags, which takes a microsecond. There is at most one tag of 32 bytes per user of the file. A
//! user whose line has changed is another [`User`], without a tag; one whose line has not goes on
//! from file to file.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use ring::hmac;

use super::hash::{FIELD_BYTES_MAX, HashError, StoredHash, same};

/// The digest by which a password is known again.
type KnownTag = [u8; 32];

/// One user.
#[derive(Debug)]
pub(crate) struct User {
    hash: StoredHash,
    known: OnceLock<KnownTag>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct PasswordFile {
    users: HashMap<Box<str>, Arc<User>>,
    /// Users again, for those who ask for one that does not exist.
    stand_ins: Vec<Arc<User>>,
    names: RandomState,
}

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineError {
    /// Its number, from 1.
    pub(crate) line: usize,
    /// What is wrong with it, and what to do.
    pub(crate) text: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.text)
    }
}

/// What a line holds: nothing, or a user and what follows the colon, without blanks around them.
pub(crate) fn split(line: &str) -> Option<(&str, Option<&str>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(match line.split_once(':') {
        Some((user, stored)) => (user.trim_end(), Some(stored.trim_start())),
        None => (line, None),
    })
}

impl PasswordFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first line that is neither a user, a comment nor blank.
    pub(crate) fn parse(text: &str) -> Result<PasswordFile, LineError> {
        let mut file = PasswordFile::default();
        for (line, content) in (1..).zip(text.lines()) {
            let Some((user, stored)) = split(content) else { continue };
            let fail = |text: String| LineError { line, text };
            let hash = read_user(user, stored).map_err(fail)?;
            let own = Arc::new(User { hash, known: OnceLock::new() });
            file.stand_ins.push(Arc::clone(&own));
            if file.users.insert(user.into(), own).is_some() {
                return Err(fail(format!("the user {user:?} is there twice: remove one line")));
            }
        }
        Ok(file)
    }

    /// Users.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Takes over what `before` has learnt about users whose line is the same. True if any line is
    /// not.
    pub(crate) fn learn_from(&mut self, before: &PasswordFile) -> bool {
        let mut changed = self.users.len() != before.users.len();
        for (name, own) in &mut self.users {
            match before.users.get(name) {
                Some(known) if known.hash == own.hash => *own = Arc::clone(known),
                _ => changed = true,
            }
        }
        changed
    }

    /// Whether this password was found right before: quick.
    pub(crate) fn knows(&self, key: &hmac::Key, username: &str, password: &[u8]) -> bool {
        self.users.get(username).is_some_and(|user| {
            let known = user.known.get();
            known.is_some_and(|known| same(known, &user.tag(key, username, password)))
        })
    }

    /// Whether this password is right, by its hash: slow. For a user who does not exist it takes as
    /// long as for one who does: the password is compared with that of another user, who follows
    /// from the name, so that in a file with hashes of different cost each name has its own time.
    pub(crate) fn verify(&self, key: &hmac::Key, username: &str, password: &[u8]) -> bool {
        let Some(user) = self.users.get(username) else {
            let count = self.stand_ins.len().max(1);
            let other = self.names.hash_one(username) as usize % count;
            if let Some(other) = self.stand_ins.get(other) {
                std::hint::black_box(other.hash.verify(password));
            }
            return false;
        };
        let right = user.hash.verify(password);
        if right {
            // Somebody else may have been as quick.
            let _ = user.known.set(user.tag(key, username, password));
        }
        right
    }
}

impl User {
    fn tag(&self, key: &hmac::Key, username: &str, password: &[u8]) -> KnownTag {
        let mut context = hmac::Context::with_key(key);
        for part in [username.as_bytes(), password, self.hash.bytes()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut tag = KnownTag::default();
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// The stored password of a line.
fn read_user(user: &str, stored: Option<&str>) -> Result<StoredHash, String> {
    const WANTED: &str = "`ringtide passwd FILE USER` writes such lines";
    if user.is_empty() || user.len() > FIELD_BYTES_MAX {
        return Err(format!("the user name is empty or too long: {WANTED}"));
    }
    let Some(stored) = stored else {
        return Err(format!("expected USER:HASH; {WANTED}"));
    };
    StoredHash::parse(stored).map_err(|error| match error {
        HashError::Plain => format!(
            "the password of {user:?} is not hashed: give it again with `ringtide passwd FILE \
             USER`, or hash the whole file with `mosquitto_passwd -U FILE`"
        ),
        HashError::UnknownKind => format!(
            "the hash of {user:?} is of a kind that is not known here ($6$ and $7$ are): {WANTED}"
        ),
        HashError::Malformed(what) => {
            format!("the hash of {user:?} is damaged ({what}): {WANTED}")
        }
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    fn hashed(password: &str, iterations: u32) -> String {
        let iterations = NonZeroU32::new(iterations).unwrap();
        StoredHash::of(password.as_bytes(), iterations).unwrap().to_string()
    }

    fn error(text: &str) -> String {
        PasswordFile::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn users_comments_and_blank_lines() {
        let (a, b) = (hashed("one", 1), hashed("two", 2));
        let text = format!("# users\n\nalice:{a}\r\n  bob b : {b} \n   # more\n");
        let file = PasswordFile::parse(&text).unwrap();
        assert_eq!(file.len(), 2);
        let key = key(1);
        assert!(file.verify(&key, "alice", b"one") && file.verify(&key, "bob b", b"two"));
        assert!(!file.verify(&key, "alice", b"two") && !file.verify(&key, "bob", b"two"));
        assert!(!file.verify(&key, "# users", b"") && !file.verify(&key, "", b""));
        let nobody = PasswordFile::parse("# nobody\n").unwrap();
        assert!(!nobody.verify(&key, "alice", b"one") && !nobody.knows(&key, "alice", b"one"));
    }

    #[test]
    fn a_line_that_cannot_be_used_is_named_and_its_password_is_not() {
        let good = format!("alice:{}\n", hashed("one", 1));
        let text = error(&format!("{good}\nbob:geheim\n"));
        assert!(text.starts_with("line 3: the password of \"bob\" is not hashed: "), "{text}");
        assert!(text.contains("ringtide passwd") && !text.contains("geheim"), "{text}");
        assert!(error("bob:$2b$12$geheim").contains("is of a kind that is not known here"));
        assert!(error("bob:$7$x$y$z").contains("is damaged (the iterations"));
        assert!(error("bob").contains("line 1: expected USER:HASH"));
        assert!(
            error("geheim geheim\n").contains("expected") && !error("geheim").contains("geheim")
        );
        assert!(error(&format!(":{}", hashed("x", 1))).contains("user name is empty"));
        let twice = error(&format!("{good}{good}"));
        assert!(twice.starts_with("line 2: the user \"alice\" is there twice"), "{twice}");
    }

    #[test]
    fn a_password_is_known_after_it_was_right_once() {
        let file = PasswordFile::parse(&format!("alice:{}\n", hashed("one", 1))).unwrap();
        let (key, of_another_process) = (key(1), key(2));
        assert!(!file.knows(&key, "alice", b"one"));
        assert!(!file.verify(&key, "alice", b"two"));
        assert!(!file.knows(&key, "alice", b"two") && !file.knows(&key, "alice", b"one"));
        assert!(file.verify(&key, "alice", b"one"));
        assert!(file.knows(&key, "alice", b"one"));
        assert!(!file.knows(&of_another_process, "alice", b"one"));
        for (user, password) in [("alice", "two"), ("alice", "on"), ("bob", "one"), ("", "one")] {
            assert!(!file.knows(&key, user, password.as_bytes()), "{user} {password}");
        }
    }

    #[test]
    fn what_is_known_of_a_user_ends_with_the_line() {
        let (alice, bob) = (hashed("one", 1), hashed("two", 1));
        let parse = |text: String| PasswordFile::parse(&text).unwrap();
        let first = parse(format!("alice:{alice}\nbob:{bob}\n"));
        let key = key(1);
        assert!(first.verify(&key, "alice", b"one") && first.verify(&key, "bob", b"two"));
        let mut same = parse(format!("bob:{bob}\n# moved\nalice:{alice}\n"));
        assert!(!same.learn_from(&first), "nobody's line has changed");
        assert!(same.knows(&key, "alice", b"one"));
        let mut second = parse(format!("alice:{alice}\nbob:{}\n", hashed("two", 1)));
        assert!(second.learn_from(&first));
        assert!(second.knows(&key, "alice", b"one"));
        assert!(!second.knows(&key, "bob", b"two"), "the same password, but another line");
        let mut third = parse(format!("alice:{alice}\n"));
        assert!(third.learn_from(&second));
        assert!(!third.knows(&key, "bob", b"two") && !third.verify(&key, "bob", b"two"));
        assert!(third.knows(&key, "alice", b"one"));
    }
}
