// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The cgroup mounts among the lines of `/proc/…/mountinfo`.
//!
//! ```text
//! 33 24 0:29 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct
//!            │          │                                              │               │
//!            root       point                                          type            options
//! ```
//!
//! `root` is the group that appears at `point`. Both escape white space and backslashes in octal.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Longest path that the kernel knows, in bytes.
pub(crate) const PATH_MAX: usize = 4096;

/// The two interfaces of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// One hierarchy for each set of controllers.
    V1,
    /// One hierarchy for all.
    V2,
}

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) version: Version,
    /// The group that is seen at the mount point.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Options of the hierarchy; in version 1 its controllers are among them.
    options: Vec<u8>,
}

impl Mount {
    /// Whether the hierarchy was mounted with this option.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.options
            .split(|&b| b == b',')
            .any(|o| o == option.as_bytes())
    }

    /// Where `group` is seen through this mount, relative to its point.
    ///
    /// None if the group is not below the root of the mount, as far as this process can tell: a `..`
    /// in either leads out of its cgroup namespace.
    pub(crate) fn below(&self, group: &Path) -> Option<PathBuf> {
        let leads_out = |path: &Path| path.components().any(|c| c.as_os_str() == "..");
        if leads_out(&self.root) || leads_out(group) {
            return None;
        }
        group.strip_prefix(&self.root).ok().map(Path::to_owned)
    }
}

/// All cgroup mounts, in the order of the file; other lines are skipped.
pub(crate) fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo
        .split(|&b| b == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    // Any number of optional fields ends with a lone hyphen.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let version = match fields.next()? {
        b"cgroup" => Version::V1,
        b"cgroup2" => Version::V2,
        _ => return None,
    };
    let options = fields.nth(1)?;
    Some(Mount {
        version,
        root: path(root)?,
        point: path(point)?,
        options: options.to_owned(),
    })
}

fn path(field: &[u8]) -> Option<PathBuf> {
    let bytes = unescape(field);
    let sound = bytes.starts_with(b"/") && bytes.len() <= PATH_MAX;
    sound.then(|| PathBuf::from(OsString::from_vec(bytes)))
}

/// Replaces `\040` and its like by the byte they stand for.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b"/a", b"/a"),
            (b"/a\\040b", b"/a b"),
            (b"/a\\134x2d", b"/a\\x2d"),
            (b"/a\\04", b"/a\\04"),
            (b"/\\377\\400", b"/\xff\\400"),
            (b"\\", b"\\"),
        ];
        for (field, expected) in cases {
            assert_eq!(unescape(field), expected);
        }
    }

    #[test]
    fn only_cgroup_lines_count() {
        let text = b"\
            22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            short\n\
            30 22 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n\
            33 22 0:29 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
            34 22 0:30 relative /sys rw - cgroup cgroup rw,memory\n\
            35 22 0:31 / /no/options rw - cgroup cgroup\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].version, Version::V2);
        assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup"));
        assert_eq!(mounts[1].version, Version::V1);
        assert_eq!(mounts[1].root, Path::new("/docker/ab"));
        assert!(mounts[1].has("cpu") && mounts[1].has("cpuacct"));
        assert!(!mounts[1].has("cpuset") && !mounts[1].has("pu"));
    }

    #[test]
    fn groups_below_a_mount() {
        let cases = [
            ("/", "/a/b", Some("a/b")),
            ("/", "/", Some("")),
            ("/a", "/a/b", Some("b")),
            ("/a", "/a", Some("")),
            ("/a", "/ab", None),
            ("/a", "/", None),
            ("/", "/../other", None),
            ("/..", "/", None),
        ];
        for (root, group, expected) in cases {
            let mount = Mount {
                version: Version::V2,
                root: root.into(),
                point: "/sys/fs/cgroup".into(),
                options: Vec::new(),
            };
            let found = mount.below(Path::new(group));
            assert_eq!(
                found.as_deref(),
                expected.map(Path::new),
                "{group} below {root}"
            );
        }
    }
}
