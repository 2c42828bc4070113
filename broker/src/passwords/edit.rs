//! Changes of a password file: one user's line is added, replaced or taken away, every other line
//! stays as it is, and whoever reads meanwhile sees the file as it was or as it is.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use super::file::split;

/// What has become of the user's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edited {
    Added,
    Replaced,
    Deleted,
    /// There was none to be deleted.
    Unknown,
}

/// The text with this user's line, or without one. Where there are several, one is left.
pub(super) fn with_user(text: &str, user: &str, stored: Option<&str>) -> (String, Edited) {
    let mut out = String::with_capacity(text.len() + 160);
    let mut new = stored.map(|stored| format!("{user}:{stored}\n"));
    let mut found = false;
    for line in text.split_inclusive('\n') {
        if split(line).is_some_and(|(name, _)| name == user) {
            found = true;
            out.extend(new.take());
        } else {
            out.push_str(line);
        }
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out.extend(new);
    let edited = match (stored, found) {
        (Some(_), true) => Edited::Replaced,
        (Some(_), false) => Edited::Added,
        (None, true) => Edited::Deleted,
        (None, false) => Edited::Unknown,
    };
    (out, edited)
}

/// Changes one user's line in a file, which is made if it is not there and the user is not to be
/// deleted. The file belongs to whom it belonged before and has mode 0600.
///
/// # Errors
/// Says what could not be done; the file is as it was.
pub(super) fn edit(path: &Path, user: &str, stored: Option<&str>) -> Result<Edited, String> {
    let fail = |what: &str, error: io::Error| format!("{}: {what}: {error}", path.display());
    // What a link points to is changed, not the link.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(fail("cannot be found", error)),
    };
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let dir = File::open(dir).map_err(|error| fail("its folder cannot be opened", error))?;
    // Two of these commands at once: the second sees what the first has done.
    dir.lock().map_err(|error| fail("its folder cannot be locked", error))?;
    let (text, owner) = match fs::read_to_string(&target) {
        Ok(text) => {
            let about = fs::metadata(&target).map_err(|error| fail("cannot be read", error))?;
            (text, Some((about.uid(), about.gid())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), None),
        Err(error) => return Err(fail("cannot be read", error)),
    };
    let (text, edited) = with_user(&text, user, stored);
    if edited == Edited::Unknown {
        return Ok(edited);
    }
    replace(&target, &text, owner).map_err(|error| fail("cannot be written", error))?;
    dir.sync_all().map_err(|error| fail("its folder cannot be synced", error))?;
    Ok(edited)
}

/// Puts a file with this text in the place of another, in one step.
fn replace(target: &Path, text: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let path = target.with_file_name(name);
    let new = New(&path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.0)?;
    let own = file.metadata()?;
    if let Some((user, group)) = owner.filter(|owner| *owner != (own.uid(), own.gid())) {
        chown(new.0, Some(user), Some(group))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new.0, target)
}

/// The file until it has its name; taken away when something fails before.
struct New<'a>(&'a PathBuf);

impl Drop for New<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn other_lines_stay_as_they_are() {
        let text = "# ours\n\n alice : old \nbob:plain text\n  # end";
        let (added, what) = with_user(text, "carol", Some("$7$x"));
        assert_eq!((added, what), (format!("{text}\ncarol:$7$x\n"), Edited::Added));
        let (replaced, what) = with_user(text, "alice", Some("$7$y"));
        assert_eq!(what, Edited::Replaced);
        assert_eq!(replaced, "# ours\n\nalice:$7$y\nbob:plain text\n  # end\n");
        let (deleted, what) = with_user(text, "bob", None);
        assert_eq!(what, Edited::Deleted);
        assert_eq!(deleted, "# ours\n\n alice : old \n  # end\n");
        assert_eq!(with_user(text, "dave", None).1, Edited::Unknown);
        assert_eq!(with_user("a:1\na:2\nb:3\n", "a", Some("4")).0, "a:4\nb:3\n");
        assert_eq!(with_user("", "a", Some("1")), ("a:1\n".to_owned(), Edited::Added));
    }

    #[test]
    fn a_file_is_made_replaced_and_never_left_half_done() {
        let dir = std::env::temp_dir().join(format!("ringtide-edit-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, link) = (dir.join("users"), dir.join("link"));
        assert_eq!(edit(&path, "a", None), Ok(Edited::Unknown));
        assert!(!path.exists());
        assert_eq!(edit(&path, "a", Some("1")), Ok(Edited::Added));
        symlink(&path, &link).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(edit(&link, "b", Some("2")), Ok(Edited::Added));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a:1\nb:2\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = edit(&dir.join("missing/users"), "a", Some("1")).unwrap_err();
        assert!(error.contains("missing/users: its folder cannot be opened"), "{error}");
        fs::create_dir(dir.join("folder")).unwrap();
        assert!(edit(&dir.join("folder"), "a", Some("1")).is_err());
        let mut left: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["folder", "link", "users"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
