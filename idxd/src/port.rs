// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Port`]: the one way in which descriptors reach a device, whatever is behind it.
//!
//! ```text
//!                  ┌─► portal: ENQCMD (shared), MOVDIR64B (dedicated)   CAP_SYS_RAWIO when it is mapped; batches
//!  Queue ──► Port ─┼─► write() to the queue's node                      what an unprivileged process has; no batches
//!                  └─► a model of a device (feature `model`)
//! ```

#![expect(
    unsafe_code,
    reason = "what a descriptor names must stay valid, which only the caller can see to"
)]

use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
};

use thiserror::Error;

use crate::{
    Descriptor, Mode,
    sys::{Portal, as_bytes},
};

/// Takes descriptors for a device.
///
/// # Safety
///
/// When [`Port::close`] returned true, nothing that was submitted is read or written any more.
pub unsafe trait Port: fmt::Debug + Send + Sync {
    /// Offers descriptors, in order. Returns how many at the front were taken; fewer than all if the queue is full.
    ///
    /// # Safety
    ///
    /// Every address in them, of records, sources, destinations and lists, stays valid for what the descriptor does with it
    /// until its completion record is written, or the port is closed and said that it is drained. Completion records are
    /// aligned as the device demands, and written to by nobody else. A dedicated queue has room for all of them.
    ///
    /// # Errors
    ///
    /// If none was taken for a reason other than a full queue.
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError>;

    /// How descriptors get there, for people.
    fn way(&self) -> String;

    /// Gives the queue up, called once. Returns whether the device is known to be done with everything.
    fn close(&mut self) -> bool;
}

/// Why a port does not take descriptors.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PortError {
    /// The driver refused them.
    #[error(
        "the idxd driver refused descriptors; what each errno means is in docs/accelerators.md"
    )]
    Refused {
        /// The driver's reason.
        source: io::Error,
    },
    /// The port is closed.
    #[error("the work queue is closed")]
    Closed,
}

/// The node of a queue, with its portal mapped.
#[derive(Debug)]
pub(crate) struct PortalPort {
    node: Option<File>,
    portal: Option<Portal>,
}

impl PortalPort {
    /// Maps the portal, or gives the node back with the reason.
    pub(crate) fn map(node: File, mode: Mode) -> Result<Self, (File, io::Error)> {
        match Portal::map(node.as_fd(), mode) {
            Ok(portal) => Ok(Self {
                node: Some(node),
                portal: Some(portal),
            }),
            Err(why) => Err((node, why)),
        }
    }
}

// SAFETY: the mapping holds the node open too; with both gone, the driver's release drains the PASID before it returns
// (`idxd_file_dev_release` in drivers/dma/idxd/cdev.c). Forks, which hold it open longer, are the queue's concern.
unsafe impl Port for PortalPort {
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError> {
        let portal = self.portal.as_ref().ok_or(PortError::Closed)?;
        // SAFETY: by contract; the queue checked that this is the process that opened it.
        Ok(unsafe { portal.submit(descriptors) })
    }

    fn way(&self) -> String {
        "portal".to_owned()
    }

    fn close(&mut self) -> bool {
        self.portal = None;
        self.node = None;
        true
    }
}

/// The node of a queue, written to.
#[derive(Debug)]
pub(crate) struct WritePort {
    node: Option<File>,
    /// Why it is not a portal.
    why: String,
}

impl WritePort {
    pub(crate) fn new(node: File, why: String) -> Self {
        Self {
            node: Some(node),
            why,
        }
    }
}

// SAFETY: as for `PortalPort`.
unsafe impl Port for WritePort {
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError> {
        let mut node = self.node.as_ref().ok_or(PortError::Closed)?;
        loop {
            match node.write(as_bytes(descriptors)) {
                // The driver takes whole descriptors.
                Ok(bytes) => return Ok(bytes / Descriptor::SIZE),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PortError::Refused { source }),
            }
        }
    }

    fn way(&self) -> String {
        format!("write, without batches: {}", self.why)
    }

    fn close(&mut self) -> bool {
        self.node = None;
        true
    }
}
