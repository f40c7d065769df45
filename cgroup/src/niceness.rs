// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whom does the niceness of a thread count against? Only the threads of its own task group (sched(7)).
//!
//! ```text
//!  CPU group of the thread    autogroup    niceness counts against
//!  any but the root one       —            the threads of this group
//!  root                       on           the threads of the same session, as setsid(2) makes them
//!  root                       off          every thread of the root group, and every other group
//! ```
//!
//! # Gotchas
//!
//! In a cgroup namespace of its own a container sees the path `/`, and is in another group all the same.

use std::path::Path;

use crate::{
    error::ReadError,
    hierarchy::{Controller, Group, Membership},
    keyed::number,
    mountinfo::Version,
    root::Root,
};

const AUTOGROUP: &str = "/proc/sys/kernel/sched_autogroup_enabled";

const NAMESPACE: &str = "/proc/self/ns/cgroup";
/// The initial cgroup namespace; its number is fixed in the kernel (`PROC_CGROUP_INIT_INO`).
const INITIAL: &str = "cgroup:[4026531835]";

/// Whom the niceness of the calling thread, and of threads that it starts, counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NiceScope {
    /// Everybody: as far as CPUs go, the thread is in the root group.
    Everybody,
    /// Threads of the same session: the thread is in the root group, which the kernel divides by session (autogroup).
    Session,
    /// Threads of the same control group.
    Group,
}

impl NiceScope {
    /// Whom the niceness of the calling thread counts against now.
    ///
    /// # Errors
    ///
    /// A file that tells it cannot be read or makes no sense.
    pub fn current() -> Result<Self, ReadError> {
        Self::read(&Root::live())
    }

    /// The same, as the files below `root` describe it.
    ///
    /// # Errors
    ///
    /// A file that tells it cannot be read or makes no sense.
    pub fn read(root: &Root) -> Result<Self, ReadError> {
        let membership = Membership::read(root)?;
        // A group that is guessed to be at the mount point has no root's path, which is enough to know.
        let group = Group::of(root, &membership, Controller::Cpu, &mut Vec::new())?;
        if !is_initial_namespace(root) || is_grouped(root, &group) {
            return Ok(Self::Group);
        }
        Ok(if is_autogrouped(root)? {
            Self::Session
        } else {
            Self::Everybody
        })
    }
}

/// Whether the group, or one above it, divides the CPUs.
fn is_grouped(root: &Root, group: &Group) -> bool {
    match group.version {
        Version::V1 => group.path != Path::new("/"),
        // A group without the controller belongs to the nearest above that has it; the root group has no weight.
        Version::V2 => group.levels.iter().any(|level| {
            let weight = root.text(&level.join("cpu.weight"));
            !weight.is_err_and(|error| error.is_missing())
        }),
    }
}

/// Kernels before 4.6 have no such namespaces.
fn is_initial_namespace(root: &Root) -> bool {
    let link = root.link(Path::new(NAMESPACE));
    link.map_or(true, |target| target.as_os_str() == INITIAL)
}

fn is_autogrouped(root: &Root) -> Result<bool, ReadError> {
    let path = Path::new(AUTOGROUP);
    match root.text(path) {
        Ok(text) => match number(text.trim()) {
            Some(enabled) => Ok(enabled != 0),
            None => Err(ReadError::garbled(path, &text, "no number")),
        },
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{File, Scratch};

    const V1: [File; 2] = [
        (
            "proc/self/mountinfo",
            "30 1 0:2 / /cpu rw - cgroup c rw,cpu\n",
        ),
        ("cpu/cpu.shares", "1024\n"),
    ];
    const V2: [File; 1] = [(
        "proc/self/mountinfo",
        "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw\n",
    )];
    const INITIAL: File = ("proc/self/ns/cgroup", "-> cgroup:[4026531835]");
    const OTHER: File = ("proc/self/ns/cgroup", "-> cgroup:[4026532500]");
    const ON: File = ("proc/sys/kernel/sched_autogroup_enabled", "1\n");
    const OFF: File = ("proc/sys/kernel/sched_autogroup_enabled", "0\n");
    const WEIGHT: File = ("sys/fs/cgroup/a/cpu.weight", "100\n");

    #[test]
    fn groups_first_then_sessions() {
        use NiceScope::{Everybody, Group, Session};
        let v1_root = ("proc/self/cgroup", "4:cpu:/\n0::/a\n");
        let v1_group = ("proc/self/cgroup", "4:cpu:/a\n0::/\n");
        let v2_root = ("proc/self/cgroup", "0::/\n");
        let v2_group = ("proc/self/cgroup", "0::/a/b\n");
        let cases: [(&[File], &[File], NiceScope); 12] = [
            (&V1, &[v1_root, INITIAL, OFF], Everybody),
            (&V1, &[v1_root, INITIAL, ON], Session),
            (&V1, &[v1_root, OTHER, ON], Group),
            (&V1, &[v1_group, INITIAL, ON], Group),
            (&V1, &[v1_root], Everybody),
            (&V2, &[v2_root, INITIAL, OFF, WEIGHT], Everybody),
            (&V2, &[v2_root, INITIAL, ON], Session),
            (&V2, &[v2_root, OTHER, OFF], Group),
            // No level has the controller, so that all groups are one to the scheduler.
            (&V2, &[v2_group, INITIAL, OFF], Everybody),
            (&V2, &[v2_group, INITIAL, ON], Session),
            (&V2, &[v2_group, INITIAL, ON, WEIGHT], Group),
            (&V2, &[v2_group, WEIGHT], Group),
        ];
        for (mounts, files, expected) in cases {
            let tree = Scratch::new(&[mounts, files]);
            assert_eq!(NiceScope::read(&tree.root()), Ok(expected), "{files:?}");
        }
    }

    #[test]
    fn what_does_not_tell_is_an_error() {
        let root = ("proc/self/cgroup", "0::/\n");
        let garbage = ("proc/sys/kernel/sched_autogroup_enabled", "on\n");
        let cases: [(&[File], &str); 3] = [
            (&[], "/proc/thread-self/cgroup"),
            (&[("proc/self/cgroup", "x")], "/proc/self/cgroup"),
            (&[root, garbage], "/proc/sys/kernel/sched_autogroup_enabled"),
        ];
        for (files, path) in cases {
            let tree = Scratch::new(&[&V2, files]);
            let error = NiceScope::read(&tree.root()).unwrap_err();
            assert_eq!(error.path(), Path::new(path));
        }
    }
}
