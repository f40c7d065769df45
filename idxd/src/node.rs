// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Node`]: what is at the path of a queue, and whether this process may open it.

use std::{
    fmt, fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::fs::{Access, access, major, minor};

/// What is at a path where the node of a queue belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Whether it is a character device.
    pub is_device: bool,
    /// The major and the minor number of the device.
    pub number: (u32, u32),
    /// Whether this process may open it for reading and writing. A device cgroup can still forbid it.
    pub may_open: bool,
}

/// Tells what is at a path.
///
/// [`LiveNodes`] asks the kernel; for a tree of files somebody else has to answer.
pub trait Nodes: fmt::Debug {
    /// What is at `path`, symbolic links followed. Nothing is opened: a dedicated queue can be opened but once.
    ///
    /// # Errors
    ///
    /// There is nothing, or it cannot be looked at.
    fn node(&self, path: &Path) -> io::Result<Node>;
}

/// The file system that this process sees.
#[derive(Debug, Clone, Copy, Default)]
pub struct LiveNodes;

impl Nodes for LiveNodes {
    fn node(&self, path: &Path) -> io::Result<Node> {
        let metadata = fs::metadata(path)?;
        let number = metadata.rdev();
        Ok(Node {
            is_device: metadata.file_type().is_char_device(),
            number: (major(number), minor(number)),
            may_open: access(path, Access::READ_OK | Access::WRITE_OK).is_ok(),
        })
    }
}
