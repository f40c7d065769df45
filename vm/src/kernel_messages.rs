// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's log, read record by record.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, Result};
use nix::{errno::Errno, fcntl::OFlag};

const PATH: &str = "/dev/kmsg";

/// A place in the kernel's log; begins at its first record.
#[derive(Debug)]
pub(crate) struct KernelMessages {
    file: File,
}

impl KernelMessages {
    pub(crate) fn open() -> Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(PATH);
        Ok(Self {
            file: file.with_context(|| format!("cannot open {PATH}"))?,
        })
    }

    /// Everything that was said since the last call. What is said only once a boot may be said again.
    pub(crate) fn new_ones(&mut self) -> Vec<String> {
        // As long as the kernel's longest record.
        let mut record = vec![0; 8192];
        let mut messages = Vec::new();
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    messages.push(parapin_vm::message(&record));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {
                    messages.push(parapin_vm::LOST.to_owned());
                }
                Err(_) => break,
            }
        }
        let _ = fs::write("/sys/kernel/debug/clear_warn_once", "1");
        messages
    }
}
