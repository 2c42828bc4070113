//! What the tests of the program share: the broker, a folder of their own, how a run ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ringtide-perf");

/// The broker beside this test's program; built if there is none.
pub(crate) fn broker() -> &'static Path {
    static BROKER: OnceLock<PathBuf> = OnceLock::new();
    BROKER.get_or_init(|| {
        let folder = Path::new(PROGRAM).parent().unwrap();
        let broker = folder.join("ringtide");
        if !broker.exists() {
            // A program of the profile `dev` lies in the folder `debug`.
            let profile = folder.file_name().unwrap().to_str().unwrap().replace("debug", "dev");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--locked", "-p", "ringtide", "--profile", &profile]);
            cargo.env("CARGO_TARGET_DIR", folder.parent().unwrap()).current_dir(root());
            assert!(cargo.status().unwrap().success());
        }
        broker
    })
}

/// The root of the sources.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A folder of one test's own, removed when dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        let name = format!("perf-{}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// The report of the one run whose results are here, as JSON and as a page.
    pub(crate) fn report(&self) -> (Value, String) {
        let read = |extension: &str| {
            let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
            let mut named = entries.filter(|path| path.extension().is_some_and(|e| e == extension));
            let path = named.next().unwrap();
            assert!(named.next().is_none(), "one run leaves one file");
            fs::read_to_string(path).unwrap()
        };
        (serde_json::from_str(&read("json")).unwrap(), read("html"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Asserts how a run has ended; what it said.
#[track_caller]
pub(crate) fn ended(code: i32, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}
