// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`ModelPort`]: how a queue reaches a device of the model.

#![expect(
    unsafe_code,
    reason = "implements `Port`, and reads the list of a batch to know how long it takes"
)]

use std::{io, sync::Arc};

use super::{bus, door::Answer, host::Host};
use crate::{Descriptor, Opcode, Port, PortError, sys::Process};

/// One opening of a device's queue.
#[derive(Debug)]
pub(super) struct ModelPort {
    host: Arc<Host>,
    station: usize,
    /// Which opening this is.
    id: u64,
    process: Process,
    closed: bool,
}

impl ModelPort {
    pub(super) fn new(host: Arc<Host>, station: usize, id: u64, process: Process) -> Self {
        Self {
            host,
            station,
            id,
            process,
            closed: false,
        }
    }
}

// SAFETY: `Host::close` forgets everything that came through this port, and waits for what is being worked on.
unsafe impl Port for ModelPort {
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError> {
        if self.closed {
            return Err(PortError::Closed);
        }
        // SAFETY: by contract.
        let weigh = |descriptor: &Descriptor| unsafe { weigh(descriptor) };
        match self.host.offer(self.station, self.id, descriptors, weigh) {
            (0, Answer::Invalid) => Err(PortError::Refused {
                source: io::Error::from_raw_os_error(libc::EINVAL),
            }),
            (taken, _) => Ok(taken),
        }
    }

    fn way(&self) -> String {
        "a model, no device".to_owned()
    }

    fn close(&mut self) -> bool {
        self.closed = true;
        // The devices are in the parent, and so may be the thread that has the mutex.
        if self.process.is_current() {
            self.host.close(self.station, self.id);
        }
        true
    }
}

/// Bytes that a descriptor names (of a decompression, those that it may write), and descriptors that it stands for. Members of a batch are taken to be alike.
///
/// # Safety
///
/// The descriptor is being submitted: its list is there.
unsafe fn weigh(descriptor: &Descriptor) -> (u64, u32) {
    let size = match descriptor.opcode() {
        opcode if opcode == Opcode::Decompress as u8 => descriptor.max_dst_size(),
        _ => descriptor.xfer_size(),
    };
    if descriptor.opcode() != Opcode::Batch as u8 {
        return (u64::from(size), 1);
    }
    let list = descriptor.src_addr();
    if size < 2 || list % Descriptor::SIZE as u64 != 0 {
        return (0, 1);
    }
    // SAFETY: by contract, and aligned.
    let first = unsafe { bus::descriptor(list) };
    let bytes = first.map_or(0, |first| u64::from(first.xfer_size()));
    (bytes * u64::from(size), size)
}
