//! One stored password: the forms that `mosquitto_passwd` writes, of which the first is also ours.
//!
//! ```text
//! $7$ITERATIONS$SALT$HASH      PBKDF2 with HMAC-SHA512
//! $6$SALT$HASH                 SHA-512 of password and salt
//! ```
//!
//! Salt and hash are in base64. A hash is 64 bytes long.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};

/// Iterations of PBKDF2 in what we write, unless others are asked for: what OWASP recommends for
/// HMAC-SHA512.
pub const ITERATIONS_DEFAULT: u32 = 210_000;
/// Most iterations: one check takes some seconds then.
pub const ITERATIONS_MAX: u32 = 10_000_000;
/// Most bytes of a user name, and of a password: what is longer is nobody's.
pub(super) const FIELD_BYTES_MAX: usize = 4096;

/// Bytes of the salt in what we write: mosquitto reads no other length.
const SALT_BYTES: usize = 12;
/// Most bytes of a salt.
const SALT_BYTES_MAX: usize = 1024;
const HASH_BYTES: usize = digest::SHA512_OUTPUT_LEN;

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredHash {
    kind: Kind,
    salt: Box<[u8]>,
    hash: [u8; HASH_BYTES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pbkdf2(NonZeroU32),
    Sha512,
}

/// Why a text is no stored password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashError {
    /// It is a password as it is, or something else without a `$` at its beginning.
    Plain,
    /// It begins with `$`, but not with `$6$` or `$7$`.
    UnknownKind,
    /// Something is missing, or too much, or no base64, or no number.
    Malformed(&'static str),
}

impl StoredHash {
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<StoredHash, HashError> {
        let mut parts = text.strip_prefix('$').ok_or(HashError::Plain)?.split('$');
        let kind = match parts.next() {
            Some("6") => Kind::Sha512,
            Some("7") => {
                let iterations = parts.next().and_then(|number| number.parse().ok());
                let valid = iterations.filter(|count: &NonZeroU32| count.get() <= ITERATIONS_MAX);
                let text = "the iterations are not a number from 1 to 10000000";
                Kind::Pbkdf2(valid.ok_or(HashError::Malformed(text))?)
            }
            _ => return Err(HashError::UnknownKind),
        };
        let decoded = |part: Option<&str>| BASE64.decode(part?).ok();
        let salt = decoded(parts.next())
            .filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()))
            .ok_or(HashError::Malformed("the salt is missing, or no base64"))?;
        let hash = decoded(parts.next())
            .and_then(|hash| hash.try_into().ok())
            .ok_or(HashError::Malformed("the hash is not 64 bytes in base64"))?;
        if parts.next().is_some() {
            return Err(HashError::Malformed("something follows the hash"));
        }
        Ok(StoredHash { kind, salt: salt.into(), hash })
    }

    /// The stored form of a password, with a salt of its own. `None` if the system gives no random
    /// numbers.
    pub(crate) fn of(password: &[u8], iterations: NonZeroU32) -> Option<StoredHash> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).ok()?;
        let mut hash = [0; HASH_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, password, &mut hash);
        Some(StoredHash { kind: Kind::Pbkdf2(iterations), salt: salt.into(), hash })
    }

    /// Whether it is this password's. Takes as long for every password of one length.
    pub(crate) fn verify(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Pbkdf2(iterations) => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, iterations, &self.salt, password, &self.hash).is_ok()
            }
            Kind::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                same(context.finish().as_ref(), &self.hash)
            }
        }
    }

    /// What no other stored password has.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.hash
    }
}

/// Whether two texts of bytes are the same, in a time that does not depend on where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |found, (one, other)| found | (one ^ other));
    one.len() == other.len() && differences == 0
}

impl fmt::Display for StoredHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Pbkdf2(iterations) => write!(out, "$7${iterations}")?,
            Kind::Sha512 => out.write_str("$6")?,
        }
        write!(out, "${}${}", BASE64.encode(&self.salt), BASE64.encode(self.hash))
    }
}

impl fmt::Debug for StoredHash {
    /// Tells no hash: debug texts end up in logs.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "StoredHash({:?})", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Debian's `mosquitto_passwd` 2.0.11.
    const BY_MOSQUITTO: [(&str, &str); 3] = [
        (
            "secret",
            "$7$101$Zof/8xn0ZBjUEQoG$JlAVo+TI0XxbZu3fJK5l/ScuPxKmkhaf6KmLMWEeKyC/8LFsSeFyf6HIjvuSo\
             EuW/d7HriPH61nHsXcdTEcvow==",
        ),
        (
            "pass word",
            "$6$K39AAvCpMpvwuGdq$3dpBCTCn5DkC+BxwQww8RoNUzLEIotLxQ8Wb9Ze10rpBbtGXfM6lemrGXACVTtbz9\
             f5nPyyWA1EuDPp+KUMoLQ==",
        ),
        (
            "geheim",
            "$7$5000$LiGH3no0yzVg20v0$grVDUQ3CkssHZxSA+Md/5ulJPvey6vYUaX0PpbMlSNMwFof0dUCo3K7mLLvO\
             c0G3udmcgr7C5Ret1tQ0sZfqnw==",
        ),
    ];

    #[test]
    fn what_mosquitto_wrote_is_understood_and_written_the_same() {
        for (password, text) in BY_MOSQUITTO {
            let stored = StoredHash::parse(text).unwrap();
            assert!(stored.verify(password.as_bytes()), "{text}");
            for wrong in ["", "Secret", "secret ", "pass"] {
                assert!(!stored.verify(wrong.as_bytes()), "{text}: {wrong:?}");
            }
            assert_eq!(stored.to_string(), text);
        }
    }

    #[test]
    fn what_we_write_is_understood_and_never_the_same() {
        let iterations = NonZeroU32::new(10).unwrap();
        let one = StoredHash::of(b"pass\0word\xff", iterations).unwrap();
        let other = StoredHash::of(b"pass\0word\xff", iterations).unwrap();
        assert_ne!(one, other, "the salts differ");
        let text = one.to_string();
        assert!(text.starts_with("$7$10$"), "{text}");
        let again = StoredHash::parse(&text).unwrap();
        assert_eq!(again, one);
        assert!(again.verify(b"pass\0word\xff") && !again.verify(b"pass\0word"));
        assert!(!format!("{one:?}").contains(&BASE64.encode(one.hash)));
    }

    #[test]
    fn what_is_no_hash_is_told_from_what_is_a_broken_one() {
        let (_, good) = BY_MOSQUITTO[0];
        assert_eq!(StoredHash::parse("secret"), Err(HashError::Plain));
        assert_eq!(StoredHash::parse(""), Err(HashError::Plain));
        for kind in ["$2b$12$abc", "$argon2id$v=19$m=1", "$", "$8$1$a$b"] {
            assert_eq!(StoredHash::parse(kind), Err(HashError::UnknownKind), "{kind}");
        }
        let broken = [
            "$7$",
            "$7$0$AAAA$AAAA",
            "$7$-1$AAAA$AAAA",
            "$7$4294967296$AAAA$AAAA",
            "$7$10000001$AAAA$AAAA",
            "$7$101$$AAAA",
            "$7$101$AAAA",
            "$7$101$AAAA$AAAA",
            "$6$AAAA$AAAA",
            &good.replace("==", ""),
            &format!("{good}$x"),
            &format!("{good} "),
        ];
        for text in broken {
            let read = StoredHash::parse(text);
            assert!(matches!(read, Err(HashError::Malformed(_))), "{text}: {read:?}");
        }
    }

    #[test]
    fn texts_are_the_same_only_as_a_whole() {
        assert!(same(b"", b"") && same(b"ab", b"ab"));
        assert!(!same(b"ab", b"abc") && !same(b"ab", b"aB") && !same(b"", b"a"));
    }
}
