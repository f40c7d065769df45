// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Opens a work queue: through its portal if this process may map it, and by `write` if not.

use std::{
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
    sync::Arc,
};

use thiserror::Error;

use crate::{
    Limits, Mode, Port, Queue, QueueError, WorkQueue,
    port::{PortalPort, WritePort},
    queue::Birth,
};

impl Queue {
    /// Opens a work queue that was found in sysfs, or was named by the user.
    ///
    /// The portal is mapped if the CPU has the instruction for it and the kernel lets this process, which takes
    /// `CAP_SYS_RAWIO` for every device so far; the capability is not needed afterwards. Otherwise descriptors are written to
    /// the node, without batches. [`Queue::way`] tells.
    ///
    /// # Errors
    ///
    /// If the node cannot be opened.
    pub fn open(found: &WorkQueue) -> Result<Arc<Self>, OpenError> {
        let birth = Birth::now()?;
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&found.path)
            .map_err(|source| OpenError::Node {
                path: found.path.clone(),
                hint: hint(&source),
                source,
            })?;
        let (port, max_batch) = port(node, found.mode, found.max_batch().unwrap_or(1));
        let limits = Limits {
            kind: found.kind(),
            // What is counted is never too much.
            mode: found.mode.unwrap_or(Mode::Dedicated),
            size: room(found),
            max_batch,
            max_transfer: found.max_transfer(),
            node: found.numa_node(),
        };
        let name = found.name.to_string();
        let generates = found.device.generates_headers();
        Ok(Self::born(birth, name, limits, generates, port))
    }
}

/// Entries that this process may fill: of a shared queue no more than its threshold.
fn room(found: &WorkQueue) -> u32 {
    let size = found.size.unwrap_or(1);
    match (found.mode, found.threshold) {
        (Some(Mode::Shared), Some(threshold)) => size.min(threshold).max(1),
        _ => size,
    }
}

/// The best port for a node, and the largest batch through it.
fn port(node: File, mode: Option<Mode>, max_batch: u32) -> (Box<dyn Port>, u32) {
    let Some(mode) = mode else {
        let why = "sysfs does not tell whether the queue is shared or dedicated".to_owned();
        return (Box::new(WritePort::new(node, why)), 1);
    };
    match PortalPort::map(node, mode) {
        Ok(port) => (Box::new(port), max_batch),
        Err((node, why)) => {
            let why = match why.kind() {
                io::ErrorKind::Unsupported => {
                    format!("this CPU lacks the instruction for a {mode} queue")
                }
                io::ErrorKind::PermissionDenied => {
                    "mapping the portal takes CAP_SYS_RAWIO".to_owned()
                }
                _ => format!("the portal cannot be mapped: {why}"),
            };
            (Box::new(WritePort::new(node, why)), 1)
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "a dedicated queue has one user at a time, and somebody has it open",
        Some(libc::EACCES | libc::EPERM) => {
            "give this user rights to the node (chown or a udev rule)"
        }
        Some(libc::ENXIO | libc::ENODEV | libc::ENOENT) => {
            "the queue was disabled meanwhile: `accel-config enable-wq`"
        }
        Some(libc::EMFILE | libc::ENFILE) => "too many open files: raise RLIMIT_NOFILE",
        _ => "see docs/accelerators.md",
    }
}

/// Why a work queue cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its node.
    #[error("{path} cannot be opened: {hint}", path = path.display())]
    Node {
        /// The node.
        path: PathBuf,
        /// What can be done.
        hint: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Nothing can be opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
}
