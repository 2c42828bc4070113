//! `ringtide passwd`: adds, replaces and deletes users of a password file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::edit::{Edited, edit};
use super::hash::{FIELD_BYTES_MAX, StoredHash};
use crate::args::PasswdCommand;
use crate::exit::{Exit, Failure};
use crate::program;

/// The terminal, whatever standard input and output are.
const TERMINAL: &str = "/dev/tty";

/// Does what was asked for.
pub(crate) fn run(command: &PasswdCommand) -> Exit {
    match change(command) {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            Exit::Done
        }
        Err(failure) => program::complain(&failure),
    }
}

fn change(command: &PasswdCommand) -> Result<String, Failure> {
    let PasswdCommand { file, user, delete, stdin, iterations } = command;
    check_user(user)?;
    let stored = match delete {
        true => None,
        false => {
            let password = if *stdin { from_stdin() } else { from_terminal(user) }?;
            let stored = StoredHash::of(&password, *iterations);
            let stored = stored.ok_or_else(|| Failure::host("the system gives no random numbers"));
            Some(stored?.to_string())
        }
    };
    let edited = edit(file, user, stored.as_deref()).map_err(Failure::host)?;
    let file = file.display();
    let done = match edited {
        Edited::Added => "added",
        Edited::Replaced => "has a new password",
        Edited::Deleted => "deleted",
        Edited::Unknown => {
            return Err(Failure::usage(format!("{file}: there is no user {user:?}")));
        }
    };
    Ok(format!("{file}: {user} {done}; a broker that runs takes it over at SIGHUP\n"))
}

/// A name that a line can hold and that is read again as it is.
fn check_user(user: &str) -> Result<(), Failure> {
    let wrong = if user.is_empty() {
        "is empty"
    } else if user.len() > FIELD_BYTES_MAX {
        "is longer than 4096 bytes"
    } else if user.starts_with('#') {
        "begins with #, as a comment does"
    } else if user.contains(':') {
        "has a colon, which ends the name in the file"
    } else if user.trim() != user || user.contains(char::is_control) {
        "has blanks at an end, or control characters"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("the user name {user:?} {wrong}")))
}

/// The first line, without its end.
fn from_stdin() -> Result<Vec<u8>, Failure> {
    let line = read_line(&mut io::stdin().lock());
    let line = line.map_err(|error| Failure::host(format!("standard input: {error}")))?;
    check_password(line)
}

/// Asked for twice, since it is not to be seen.
fn from_terminal(user: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| {
        let advice = "without a terminal give the password as a line with --stdin";
        Failure::host(format!("{TERMINAL}: {error}; {advice}"))
    };
    let terminal = OpenOptions::new().read(true).write(true).open(TERMINAL).map_err(failed)?;
    let silent = Silent::make(&terminal).map_err(failed)?;
    let password = check_password(silent.ask(&format!("Password for {user}: ")).map_err(failed)?)?;
    let again = silent.ask("The same again: ").map_err(failed)?;
    if password != again {
        return Err(Failure::usage("the two passwords are not the same: nothing has changed"));
    }
    Ok(password)
}

fn check_password(password: Vec<u8>) -> Result<Vec<u8>, Failure> {
    match password.len() {
        0 => Err(Failure::usage("the password is empty: nothing has changed")),
        1..=FIELD_BYTES_MAX => Ok(password),
        _ => Err(Failure::usage("the password is longer than 4096 bytes: nothing has changed")),
    }
}

/// One line without its end, and no more of it than can be wrong.
fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(FIELD_BYTES_MAX as u64 + 3).read_until(b'\n', &mut line)?;
    for end in [b'\n', b'\r'] {
        if line.last() == Some(&end) {
            line.pop();
        }
    }
    Ok(line)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Silent<'_> {
    fn make(terminal: &File) -> io::Result<Silent<'_>> {
        let before = tcgetattr(terminal)?;
        let mut after = before.clone();
        after.local_modes.remove(LocalModes::ECHO);
        after.local_modes.insert(LocalModes::ECHONL);
        restore_at_signals(terminal.try_clone()?, before.clone())?;
        tcsetattr(terminal, OptionalActions::Flush, &after)?;
        Ok(Silent { terminal, before })
    }

    fn ask(&self, prompt: &str) -> io::Result<Vec<u8>> {
        let mut terminal = self.terminal;
        terminal.write_all(prompt.as_bytes())?;
        // A terminal gives one line at a time: nothing of the next is lost in the buffer.
        read_line(&mut BufReader::new(terminal))
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Whoever ends the program at the prompt gets the terminal back as it was.
fn restore_at_signals(terminal: File, before: Termios) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
            std::process::exit(Exit::Runtime as i32);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_line_cannot_hold_are_refused() {
        for good in ["alice", "bob b", "ü", "a#b", "$7$"] {
            assert_eq!(check_user(good), Ok(()), "{good}");
        }
        for bad in ["", "#a", "a:b", " a", "a ", "a\nb", "a\tb", &"a".repeat(4097)] {
            assert!(check_user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_ends_where_it_ends() {
        let read = |text: &[u8]| read_line(&mut { text }).unwrap();
        assert_eq!(read(b"secret\nmore\n"), b"secret");
        assert_eq!(read(b"secret\r\n"), b"secret");
        assert_eq!(read(b" with blanks "), b" with blanks ");
        assert_eq!(read(b"\xff\0\n"), b"\xff\0");
        let long = vec![b'x'; 10_000];
        assert!(check_password(read(&long)).is_err());
        assert!(check_password(read(&[&long[..4096], b"\r\n"].concat())).is_ok());
        assert!(check_password(read(b"\n")).is_err() && check_password(read(b"")).is_err());
    }
}
