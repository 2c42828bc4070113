//! Who may connect under which name: the password file in force, and the checks of CONNECTs
//! against it.
//!
//! A shard asks through [`ShardPasswords`]: whether a password was found right before is known at
//! once (`file.rs`), everything else is hashed by the threads of `pool.rs`. Nothing here is on the
//! path of a message, and nothing that a shard calls waits for anybody.

mod command;
mod edit;
mod file;
mod hash;
mod pool;
mod queue;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use arc_swap::ArcSwapOption;
use ring::hmac;
use ring::rand::SystemRandom;
use ringtide_driver::Waker;
use ringtide_shard::access::Ticket;
use ringtide_shard::password::{Answer, Question};

use crate::config::{Access, ConfigError, KeyPath, Problem};
use crate::exit::Failure;

pub(crate) use command::run;
pub use hash::{ITERATIONS_DEFAULT, ITERATIONS_MAX};

use file::PasswordFile;
use hash::FIELD_BYTES_MAX;
use pool::{Door, Job, Message, WAITING_MAX};
use queue::Origin;

/// A password file that can be used, not in force yet.
#[derive(Debug)]
pub struct Users(PasswordFile);

/// The users in force, and those who check passwords against them.
pub struct Passwords {
    /// `None`: passwords are not checked.
    users: ArcSwapOption<PasswordFile>,
    /// Of what is known, see `file.rs`.
    key: hmac::Key,
    messages: SyncSender<Message>,
    /// For the pool, until it is started: a broker without a password file has none.
    pool: Mutex<Option<Receiver<Message>>>,
}

impl Passwords {
    /// Nobody's password is checked yet.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> Result<Arc<Passwords>, Failure> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Failure::host("the system gives no random numbers (getrandom)"))?;
        let (messages, for_pool) = mpsc::sync_channel(WAITING_MAX);
        Ok(Arc::new(Passwords {
            users: ArcSwapOption::empty(),
            key,
            messages,
            pool: Mutex::new(Some(for_pool)),
        }))
    }

    /// Puts users in force from now on; clients that are connected stay. What changed, in words, if
    /// anything has.
    ///
    /// # Errors
    /// The threads that check passwords cannot be started; then nothing has changed.
    pub fn put_in_force(self: &Arc<Self>, users: Option<Users>) -> io::Result<Option<String>> {
        let before = self.users.load_full();
        let Some(Users(mut file)) = users else {
            self.users.store(None);
            return Ok(before.map(|_| "passwords are not checked any more".to_owned()));
        };
        if let Some(messages) = self.pool.lock().unwrap_or_else(PoisonError::into_inner).take() {
            pool::start(self, messages)?;
        }
        let changed = match &before {
            Some(before) => file.learn_from(before),
            None => true,
        };
        let told = changed.then(|| format!("password file: {} users now", file.len()));
        self.users.store(Some(Arc::new(file)));
        Ok(told)
    }

    /// One shard's way to ask; `waker` is the shard's own.
    pub fn for_shard(self: &Arc<Self>, waker: Option<Arc<dyn Waker>>) -> ShardPasswords {
        let (answers, incoming) = mpsc::channel();
        let door = Arc::new(Door { answers, waker });
        ShardPasswords { passwords: Arc::clone(self), door, incoming }
    }

    /// Hashes a password and compares it with the user's.
    fn verify(&self, username: &str, password: &[u8]) -> Answer {
        loop {
            let Some(users) = self.users.load_full() else { return Answer::Right };
            let right = users.verify(&self.key, username, password);
            let now = self.users.load();
            if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &users)) {
                return if right { Answer::Right } else { Answer::Wrong };
            }
            // Other users have been put in force meanwhile: only they count.
        }
    }
}

/// See [`Passwords::for_shard`].
pub struct ShardPasswords {
    passwords: Arc<Passwords>,
    door: Arc<Door>,
    incoming: Receiver<(Ticket, Answer)>,
}

impl ringtide_shard::password::Passwords for ShardPasswords {
    fn ask(&mut self, ticket: Ticket, question: &Question<'_>) -> Option<Answer> {
        let Question { username, password, address, patience_ms } = *question;
        let users = self.passwords.users.load();
        let Some(users) = &*users else { return Some(Answer::Right) };
        // What is too long is wrong by itself, whoever exists: nothing is told by a quick answer.
        let Some(password) = password.filter(|password| password.len() <= FIELD_BYTES_MAX) else {
            return Some(Answer::Wrong);
        };
        if username.len() > FIELD_BYTES_MAX {
            return Some(Answer::Wrong);
        }
        if users.knows(&self.passwords.key, username, password) {
            return Some(Answer::Right);
        }
        let job = Job {
            ticket,
            username: username.into(),
            password: password.into(),
            origin: Origin::new(address),
            until: Instant::now() + Duration::from_millis(patience_ms / 2),
            door: Arc::clone(&self.door),
        };
        match self.passwords.messages.try_send(Message::Ask(job)) {
            Ok(()) => None,
            Err(_) => Some(Answer::Busy),
        }
    }

    fn answer(&mut self) -> Option<(Ticket, Answer)> {
        self.incoming.try_recv().ok()
    }
}

/// Reads the password file that a configuration names, if it names one.
///
/// # Errors
/// Names the key, the file and the line.
pub fn read(access: &Access) -> Result<Option<Users>, ConfigError> {
    let Some(path) = access.password_file() else { return Ok(None) };
    let key = KeyPath::default().key("access").key("password_file");
    let problem = |what: &str, error: String| {
        let text = format!("named by `{key}`, {what}: {error}");
        ConfigError(vec![Problem { place: path.display().to_string(), text }])
    };
    let text = fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; give it to the user that the broker runs as (chown)"
            }
            io::ErrorKind::NotFound => "; `ringtide passwd FILE USER` makes one",
            _ => "",
        };
        problem("cannot be read", format!("{error}{advice}"))
    })?;
    let file = PasswordFile::parse(&text)
        .map_err(|error| problem("is not understood", error.to_string()))?;
    Ok(Some(Users(file)))
}

/// What should be told of the password file, but keeps nothing from working.
pub fn warnings(access: &Access) -> Vec<String> {
    let Some(path) = access.password_file() else { return Vec::new() };
    let unnamed = access.allow_anonymous.then(|| {
        "access.password_file is set and access.allow_anonymous is true: clients that give no user \
         name are let in without a password"
            .to_owned()
    });
    exposed(path).into_iter().chain(unnamed).collect()
}

/// Hashes that anybody may read can be guessed at leisure.
fn exposed(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0)
        .then(|| format!("{}: everybody may read it (mode {mode:o}): chmod 600 it", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use ringtide_shard::password::Passwords as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn hashed(password: &str) -> String {
        let iterations = std::num::NonZeroU32::MIN;
        hash::StoredHash::of(password.as_bytes(), iterations).unwrap().to_string()
    }

    fn users(lines: &[(&str, &str)]) -> Option<Users> {
        let line = |(user, stored): &(&str, &str)| format!("{user}:{stored}\n");
        let text: String = lines.iter().map(line).collect();
        Some(Users(PasswordFile::parse(&text).unwrap()))
    }

    fn question<'a>(username: &'a str, password: &'a str) -> Question<'a> {
        let password = Some(password.as_bytes());
        Question { username, password, address: None, patience_ms: PATIENCE.as_millis() as u64 }
    }

    struct Bell(AtomicU64);

    impl Waker for Bell {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Release);
        }
    }

    /// The answer, whenever it comes, and whether it came at once.
    fn judged(shard: &mut ShardPasswords, question: &Question<'_>) -> (Answer, bool) {
        if let Some(answer) = shard.ask(Ticket(7), question) {
            return (answer, true);
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some((ticket, answer)) = shard.answer() {
                assert_eq!(ticket, Ticket(7));
                return (answer, false);
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no answer to {question:?}");
    }

    #[test]
    fn the_first_time_takes_a_hash_and_the_next_does_not() {
        let passwords = Passwords::new().unwrap();
        let bell = Arc::new(Bell(AtomicU64::new(0)));
        let mut shard = passwords.for_shard(Some(Arc::clone(&bell) as Arc<dyn Waker>));
        let mut other = passwords.for_shard(None);
        let right = question("alice", "one");
        assert_eq!(judged(&mut shard, &right), (Answer::Right, true), "nothing is checked yet");
        let (alice, bob) = (hashed("one"), hashed("two"));
        let told = passwords.put_in_force(users(&[("alice", &alice), ("bob", &bob)])).unwrap();
        assert_eq!(told.as_deref(), Some("password file: 2 users now"));
        assert_eq!(judged(&mut shard, &right), (Answer::Right, false));
        assert_eq!(bell.0.load(Ordering::Acquire), 1);
        assert_eq!(judged(&mut other, &right), (Answer::Right, true), "another shard");
        for (user, password) in [("alice", "two"), ("bob", "one"), ("carol", "one")] {
            for _ in 0..2 {
                let wrong = question(user, password);
                assert_eq!(judged(&mut shard, &wrong), (Answer::Wrong, false), "{user}");
            }
        }
        let told = passwords.put_in_force(users(&[("alice", &alice), ("bob", &bob)])).unwrap();
        assert_eq!(told, None, "nothing has changed");
        assert_eq!(judged(&mut shard, &right), (Answer::Right, true));
        let told = passwords.put_in_force(users(&[("alice", &hashed("new"))])).unwrap();
        assert_eq!(told.as_deref(), Some("password file: 1 users now"));
        assert_eq!(judged(&mut shard, &right), (Answer::Wrong, false));
        assert_eq!(judged(&mut shard, &question("alice", "new")), (Answer::Right, false));
        assert!(passwords.put_in_force(None).unwrap().is_some());
        assert_eq!(judged(&mut shard, &question("alice", "x")), (Answer::Right, true));
    }

    #[test]
    fn what_cannot_be_right_is_wrong_at_once() {
        let passwords = Passwords::new().unwrap();
        passwords.put_in_force(users(&[("alice", &hashed("one"))])).unwrap();
        let mut shard = passwords.for_shard(None);
        let long = "x".repeat(FIELD_BYTES_MAX + 1);
        let none = Question { password: None, ..question("alice", "") };
        for question in [none, question("alice", &long), question(&long, "one")] {
            assert_eq!(judged(&mut shard, &question), (Answer::Wrong, true));
        }
    }

    #[test]
    fn who_is_too_late_or_too_many_is_told_that_the_broker_is_busy() {
        let passwords = Passwords::new().unwrap();
        let mut shard = passwords.for_shard(None);
        // Without the pool: nobody takes what is asked.
        let Some(Users(file)) = users(&[("alice", &hashed("one"))]) else { panic!("users") };
        passwords.users.store(Some(Arc::new(file)));
        for _ in 0..WAITING_MAX {
            assert_eq!(shard.ask(Ticket(1), &question("alice", "one")), None);
        }
        assert_eq!(shard.ask(Ticket(1), &question("alice", "one")), Some(Answer::Busy));
        let passwords = Passwords::new().unwrap();
        passwords.put_in_force(users(&[("alice", &hashed("one"))])).unwrap();
        let mut shard = passwords.for_shard(None);
        let late = Question { patience_ms: 0, ..question("alice", "one") };
        assert_eq!(judged(&mut shard, &late), (Answer::Busy, false));
    }

    #[test]
    fn the_threads_end_with_the_passwords() {
        let passwords = Passwords::new().unwrap();
        passwords.put_in_force(users(&[("alice", &hashed("one"))])).unwrap();
        let mut shard = passwords.for_shard(None);
        assert_eq!(judged(&mut shard, &question("alice", "one")).0, Answer::Right);
        let door = Arc::downgrade(&shard.door);
        let gone = Arc::downgrade(&passwords);
        drop((shard, passwords));
        let end = Instant::now() + PATIENCE;
        while gone.strong_count() + door.strong_count() > 0 {
            assert!(Instant::now() < end, "a thread keeps them");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_what_to_do() {
        let access = |path: &Path| Access { password_file: path.to_owned(), ..Access::default() };
        assert!(read(&Access::default()).unwrap().is_none());
        let error = read(&access(Path::new("/nonexistent/users"))).unwrap_err().to_string();
        assert!(
            error
                .starts_with("/nonexistent/users: named by `access.password_file`, cannot be read")
                && error.contains("`ringtide passwd FILE USER` makes one"),
            "{error}"
        );
        let path = std::env::temp_dir().join(format!("ringtide-users-{}", std::process::id()));
        fs::write(&path, "# users\nalice:secret\n").unwrap();
        let error = read(&access(&path)).unwrap_err().to_string();
        assert!(error.contains("is not understood: line 2: the password of \"alice\""), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let told = warnings(&access(&path)).join("\n");
        assert!(told.contains("everybody may read it (mode 644)"), "{told}");
        assert!(told.contains("clients that give no user name are let in"), "{told}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let strict = Access { allow_anonymous: false, ..access(&path) };
        assert_eq!(warnings(&strict), Vec::<String>::new());
        fs::remove_file(&path).unwrap();
    }
}
