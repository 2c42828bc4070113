//! `ringtide passwd`: the users of a password file.

use std::num::NonZeroU32;
use std::path::PathBuf;

use argh::FromArgs;

use crate::passwords::{ITERATIONS_DEFAULT, ITERATIONS_MAX};

/// Give a user of a password file a password, which is asked for on the terminal; the file is made
/// if it is not there. A broker that runs takes it over at SIGHUP.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "passwd",
    note = "A password is never an argument: others on this machine could see it."
)]
pub(super) struct Passwd {
    /// password file
    #[argh(positional, arg_name = "FILE")]
    file: PathBuf,
    /// name of the user
    #[argh(positional, arg_name = "USER")]
    user: String,
    /// read the password from standard input: one line
    #[argh(switch)]
    stdin: bool,
    /// delete the user
    #[argh(switch)]
    delete: bool,
    /// iterations of the hash, 1 to 10000000; default: 210000
    #[argh(option, arg_name = "N", from_str_fn(iterations), default = "default_iterations()")]
    iterations: NonZeroU32,
}

fn iterations(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse().ok().filter(|count: &NonZeroU32| count.get() <= ITERATIONS_MAX);
    count.ok_or_else(|| format!("must be a whole number from 1 to {ITERATIONS_MAX}"))
}

fn default_iterations() -> NonZeroU32 {
    NonZeroU32::new(ITERATIONS_DEFAULT).unwrap_or(NonZeroU32::MIN)
}

/// What is to be done with a password file.
#[derive(Clone, Debug, PartialEq)]
pub struct PasswdCommand {
    /// The file.
    pub file: PathBuf,
    /// Whose line it is about.
    pub user: String,
    /// Take the line away.
    pub delete: bool,
    /// Read the password from standard input instead of asking on the terminal.
    pub stdin: bool,
    /// Iterations of the hash, 1 to 10 000 000.
    pub iterations: NonZeroU32,
}

impl From<Passwd> for PasswdCommand {
    fn from(given: Passwd) -> PasswdCommand {
        let Passwd { file, user, stdin, delete, iterations } = given;
        PasswdCommand { file, user, delete, stdin, iterations }
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{Command, parse};

    #[test]
    fn a_password_is_no_argument() {
        let Ok(Command::Passwd(command)) = parse(&["passwd", "users", "alice"]) else {
            panic!("a command");
        };
        assert_eq!((command.user.as_str(), command.iterations.get()), ("alice", 210_000));
        assert!(!command.delete && !command.stdin);
        assert!(parse(&["passwd", "users", "alice", "secret"]).is_err());
        assert!(parse(&["passwd", "users"]).is_err());
        for wrong in ["0", "10000001", "many", "-1"] {
            let failure = parse(&["passwd", "users", "alice", "--iterations", wrong]).unwrap_err();
            assert!(failure.text.contains("1 to 10000000"), "{failure}");
        }
        let few = parse(&["passwd", "users", "alice", "--iterations", "101", "--stdin"]);
        assert!(
            matches!(few, Ok(Command::Passwd(one)) if one.stdin && one.iterations.get() == 101)
        );
    }
}
