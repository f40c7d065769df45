// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What cannot be read from files: who may open a device node, and what system calls are let through.

use std::{
    fmt, fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::fs::{Access, access};

/// Asks the kernel what no file tells.
///
/// [`Live`] asks it for this process; a tree of files needs somebody who answers instead.
pub trait Probe: fmt::Debug {
    /// What is at `path`, symbolic links followed. Nothing is opened: that could load a module, or claim a device.
    ///
    /// # Errors
    ///
    /// There is nothing, or it cannot be looked at.
    fn node(&self, path: &Path) -> io::Result<Node>;

    /// Whether an io_uring can be set up.
    ///
    /// # Errors
    ///
    /// What the kernel says against it.
    fn io_uring(&self) -> io::Result<()>;
}

/// What is at a path where a device node belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Whether it is a character device.
    pub is_device: bool,
    /// Its device number: the same for two names of one device.
    pub number: u64,
    /// Whether this process may open it for reading and writing. A device cgroup can still forbid it.
    pub may_open: bool,
}

/// The kernel that this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Live;

impl Probe for Live {
    fn node(&self, path: &Path) -> io::Result<Node> {
        let metadata = fs::metadata(path)?;
        Ok(Node {
            is_device: metadata.file_type().is_char_device(),
            number: metadata.rdev(),
            may_open: access(path, Access::READ_OK | Access::WRITE_OK).is_ok(),
        })
    }

    fn io_uring(&self) -> io::Result<()> {
        io_uring::IoUring::new(1).map(drop)
    }
}
