// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From the calling thread to the directories of its control group and of all visible ancestors.
//!
//! ```text
//!  /proc/thread-self/cgroup    4:cpu,cpuacct:/docker/ab/job      group of the thread
//!  /proc/thread-self/mountinfo /docker/ab on /sys/fs/cgroup/cpu  where the hierarchy is seen
//!                                        │
//!                                        ▼
//!  levels   /sys/fs/cgroup/cpu/job, /sys/fs/cgroup/cpu           own group first, mount point last
//! ```
//!
//! # Gotchas
//!
//! The controllers for CPUs are threaded in version 2: threads of one process can be in different
//! groups, so `/proc/thread-self` is asked before `/proc/self`.
//!
//! A hybrid system mounts version 2 beside version 1. A controller belongs to the version 1 hierarchy
//! that names it, and to version 2 only if none does.
//!
//! Containers often see their own group at the mount point while `/proc` tells its path on the host,
//! or a path with `..`. Where the path is not below the mount, the mount point is taken for the group.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    error::ReadError,
    mountinfo::{self, Mount, PATH_MAX, Version},
    root::Root,
};

/// A controller whose limits we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Cpu,
    Memory,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    pub(crate) fn none_assumed(self) -> &'static str {
        match self {
            Self::Cpu => "no CFS quota is assumed",
            Self::Memory => "no memory cgroup limit is assumed",
        }
    }
}

/// The calling thread's groups in all hierarchies, as its own file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    path: PathBuf,
    lines: Vec<u8>,
}

impl Membership {
    pub(crate) fn read(root: &Root) -> Result<Self, ReadError> {
        let (path, lines) = root.own_bytes("cgroup")?;
        Ok(Self { path, lines })
    }

    fn garbled(&self, why: &'static str) -> ReadError {
        let content = String::from_utf8_lossy(&self.lines);
        ReadError::garbled(&self.path, &content, why)
    }
}

/// The control group of the calling thread, in the hierarchy of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) version: Version,
    /// The group as the thread's own file has it: seen from the root of its cgroup namespace.
    pub(crate) path: PathBuf,
    /// Directories of the group and its ancestors; the mount point comes last.
    pub(crate) levels: Vec<PathBuf>,
}

impl Group {
    /// Finds the calling thread's group, and notes as a problem what is in the way.
    pub(crate) fn find(
        root: &Root,
        controller: Controller,
        problems: &mut Vec<ReadError>,
    ) -> Option<Self> {
        let membership = Membership::read(root);
        match membership.and_then(|found| Self::of(root, &found, controller, problems)) {
            Ok(group) => Some(group),
            Err(error) => {
                problems.push(error.fall_back(controller.none_assumed()));
                None
            }
        }
    }

    /// Where the group is seen that a thread of these groups is in.
    pub(crate) fn of(
        root: &Root,
        thread: &Membership,
        controller: Controller,
        problems: &mut Vec<ReadError>,
    ) -> Result<Self, ReadError> {
        let (version, path) = membership(&thread.lines, controller)
            .ok_or_else(|| thread.garbled("no usable line"))?;
        let (mounts_path, mountinfo) = root.own_bytes("mountinfo")?;
        let mounts = mountinfo::parse(&mountinfo);
        let mount = choose(&mounts, version, controller, &path).ok_or_else(|| {
            let why = match version {
                Version::V1 => format!("no cgroup mount with the {} controller", controller.name()),
                Version::V2 => "no cgroup2 mount".to_owned(),
            };
            ReadError::garbled(&mounts_path, "", why)
        })?;
        let below = mount.below(&path).unwrap_or_else(|| {
            let why = "the group is outside what is mounted here";
            let guess = "the mount point is taken for the group";
            problems.push(
                ReadError::garbled(&thread.path, &path.to_string_lossy(), why).fall_back(guess),
            );
            PathBuf::new()
        });
        let levels = levels(&mount.point, &below);
        Ok(Self {
            version,
            path,
            levels,
        })
    }
}

/// The hierarchy that the controller is in, and the thread's group there.
fn membership(cgroup: &[u8], controller: Controller) -> Option<(Version, PathBuf)> {
    let mut unified = None;
    for line in cgroup.split(|&b| b == b'\n') {
        let mut fields = line.splitn(3, |&b| b == b':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !path.starts_with(b"/") || PATH_MAX < path.len() {
            continue;
        }
        let path = || PathBuf::from(OsStr::from_bytes(path));
        let mut controllers = controllers.split(|&b| b == b',');
        if controllers.any(|c| c == controller.name().as_bytes()) {
            return Some((Version::V1, path()));
        }
        if id == b"0" && unified.is_none() {
            unified = Some((Version::V2, path()));
        }
    }
    unified
}

/// The mount through which most of the group's ancestors are seen.
///
/// A later mount may hide an earlier one, so of equal ones the last is taken.
fn choose<'a>(
    mounts: &'a [Mount],
    version: Version,
    controller: Controller,
    group: &Path,
) -> Option<&'a Mount> {
    let candidates = mounts.iter().filter(|mount| {
        mount.version == version && (version == Version::V2 || mount.has(controller.name()))
    });
    candidates.max_by_key(|mount| mount.below(group).map(|below| below.components().count()))
}

fn levels(point: &Path, below: &Path) -> Vec<PathBuf> {
    below.ancestors().map(|level| point.join(level)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships() {
        let hybrid = "4:cpu,cpuacct:/a\n3:memory:/b:c\n1:name=cpu:/x\n0::/u\n";
        let cases = [
            ("0::/u\n", Controller::Cpu, Some((Version::V2, "/u"))),
            (hybrid, Controller::Cpu, Some((Version::V1, "/a"))),
            (hybrid, Controller::Memory, Some((Version::V1, "/b:c"))),
            (
                "2:cpuset:/a\n0::/u",
                Controller::Cpu,
                Some((Version::V2, "/u")),
            ),
            ("2:cpuset:/a\n", Controller::Cpu, None),
            ("0::relative\n", Controller::Cpu, None),
            ("", Controller::Cpu, None),
        ];
        for (text, controller, expected) in cases {
            let expected = expected.map(|(version, path)| (version, PathBuf::from(path)));
            assert_eq!(membership(text.as_bytes(), controller), expected, "{text}");
        }
    }

    #[test]
    fn endless_paths_are_refused() {
        let mut line = b"0::".to_vec();
        line.extend(b"/a".repeat(1 << 18));
        assert_eq!(membership(&line, Controller::Cpu), None);
    }

    #[test]
    fn the_mount_that_shows_most_ancestors_is_chosen() {
        let mounts = mountinfo::parse(
            b"1 0 0:1 /a/b /narrow rw - cgroup2 c rw\n\
              2 0 0:1 / /wide rw - cgroup2 c rw\n\
              3 0 0:1 /z /elsewhere rw - cgroup2 c rw\n\
              4 0 0:2 / /v1 rw - cgroup c rw,cpu\n",
        );
        let chosen = |version, group: &str| {
            let mount = choose(&mounts, version, Controller::Cpu, Path::new(group));
            mount.map(|mount| mount.point.clone())
        };
        assert_eq!(chosen(Version::V2, "/a/b/c"), Some("/wide".into()));
        assert_eq!(chosen(Version::V2, "/../x"), Some("/elsewhere".into()));
        assert_eq!(chosen(Version::V1, "/a"), Some("/v1".into()));
    }

    #[test]
    fn levels_end_at_the_mount_point() {
        let point = Path::new("/sys/fs/cgroup");
        let paths = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"];
        assert_eq!(levels(point, Path::new("a/b")), paths.map(PathBuf::from));
        assert_eq!(
            levels(point, Path::new("")),
            [PathBuf::from("/sys/fs/cgroup/")]
        );
    }
}
