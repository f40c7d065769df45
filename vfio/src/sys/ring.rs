// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Ring`]: an io_uring that is used for nothing but the pins of its buffer table.

use std::{io, mem, sync::Mutex, sync::PoisonError};

use io_uring::IoUring;

use crate::Region;

/// The most buffers of a ring: `IORING_MAX_REG_BUFFERS` (io_uring/rsrc.c).
pub(crate) const MAX_SLOTS: u32 = 1 << 14;

/// The most bytes of a buffer (io_uring/rsrc.c: a longer `iov_len` is `EFAULT`).
pub(crate) const MAX_BUFFER: u64 = 1 << 30;

/// A ring with a sparse buffer table. No request is ever submitted to it.
///
/// The kernel holds `uring_lock` for the whole of a registration, so that a ring does one at a time anyhow.
pub(crate) struct Ring(Mutex<Table>);

struct Table {
    uring: IoUring,
    /// Slots without a buffer; its capacity is that of the table.
    free: Vec<u32>,
}

impl Ring {
    /// A ring with `slots` buffers, at most [`MAX_SLOTS`].
    pub(crate) fn new(slots: u32) -> io::Result<Self> {
        let uring = IoUring::new(1)?;
        uring.submitter().register_buffers_sparse(slots)?;
        Ok(Self(Mutex::new(Table {
            uring,
            free: (0..slots).rev().collect(),
        })))
    }

    /// Pins a part of `region`, and gives the slot that holds it.
    ///
    /// `ENOSPC` when no slot is free; the kernel's error otherwise, after which nothing of the part is pinned
    /// (io_uring/rsrc.c: io_pin_pages() releases what a short pin had got).
    pub(crate) fn pin(&self, region: &Region, offset: u64, size: u64) -> io::Result<u32> {
        let buffer = [region.iovec(offset, size)];
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = table
            .free
            .pop()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        // SAFETY: `Region::new` promises that this memory stays mapped and may be written by a device at any time
        // until it is unpinned. No request ever names the buffer, so nothing but the pin itself happens to it.
        let pinned = unsafe {
            table
                .uring
                .submitter()
                .register_buffers_update(slot, &buffer, None)
        };
        if pinned.is_err() {
            table.free.push(slot);
        }
        pinned.map(|()| slot)
    }

    /// Unpins what `slot` holds, before it returns.
    pub(crate) fn unpin(&self, slot: u32) -> io::Result<()> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }];
        // SAFETY: an empty buffer names no memory.
        unsafe {
            table
                .uring
                .submitter()
                .register_buffers_update(slot, &nothing, None)
        }?;
        table.free.push(slot);
        Ok(())
    }

    /// Leaves the ring, and with it all its pins, to the process.
    pub(crate) fn keep(self) {
        mem::forget(self);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing the ring would release the pins too, but some time later, on a worker of the kernel. On kernels
        // before 6.4 that also holds for slots that were emptied one by one, so even an empty table is taken down.
        // If this is interrupted, the later release is what remains.
        let table = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = table.uring.submitter().unregister_buffers();
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}
