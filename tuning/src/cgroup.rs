//! Bounds of the control group that this process is in, and of those above it.

use std::path::Path;

use crate::root::Root;

/// The smallest value met on the way from this process's group up to the root, for controller
/// `controller` of version 1 (`cpu`, `memory`) or for the one tree of version 2.
pub(crate) fn tightest<T: PartialOrd>(
    root: &Root,
    controller: &str,
    read_v2: fn(&Path) -> Option<T>,
    read_v1: fn(&Path) -> Option<T>,
) -> Option<T> {
    let membership = root.read("proc/self/cgroup").ok()?;
    let top = root.path("sys/fs/cgroup");
    let mut least = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let group = group.trim_start_matches('/');
        if controllers.is_empty() {
            tighten(&mut least, &top.join(group), &top, read_v2);
        } else if controllers.split(',').any(|name| name == controller) {
            let top = top.join(controller);
            tighten(&mut least, &top.join(group), &top, read_v1);
        }
    }
    least
}

/// Walks from a group up to the root and keeps the smallest value met.
fn tighten<T: PartialOrd>(
    least: &mut Option<T>,
    group: &Path,
    top: &Path,
    read: fn(&Path) -> Option<T>,
) {
    for directory in group.ancestors().take_while(|directory| directory.starts_with(top)) {
        if let Some(value) = read(directory)
            && least.as_ref().is_none_or(|known| value < *known)
        {
            *least = Some(value);
        }
    }
}
