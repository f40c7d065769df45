// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Portal`]: the page of a work queue that descriptors are written to.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{
    Process,
    instructions::{self, Instructions},
};
use crate::{Descriptor, Mode};

/// What the driver maps: one page, whatever was asked for (`drivers/dma/idxd/cdev.c`).
const SIZE: usize = 4096;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Portal {
    page: NonNull<u8>,
    /// Whose address space it is mapped in: the kernel leaves it out of a child's, where anything may be in its place.
    process: Process,
    mode: Mode,
    /// Where in the page the next descriptor goes: any multiple of 64 is the same queue, and writes to different
    /// addresses may be under way together.
    next: AtomicUsize,
}

// SAFETY: the page may be written to by any thread of the process that opened the queue.
unsafe impl Send for Portal {}
// SAFETY: as for `Send`; every write is one instruction.
unsafe impl Sync for Portal {}

impl Portal {
    /// Maps the portal of the queue that `node` is.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the CPU lacks the instruction for that mode; `EPERM` without `CAP_SYS_RAWIO` on devices that the
    /// driver does not call safe; what else `mmap` says.
    pub(crate) fn map(node: BorrowedFd<'_>, mode: Mode) -> io::Result<Self> {
        let found = Instructions::detect();
        let able = match mode {
            Mode::Shared => found.enqcmd,
            Mode::Dedicated => found.movdir64b,
        };
        if !able {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let process = Process::current()?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                SIZE,
                ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                node,
                0,
            )
        }?;
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            page,
            process,
            mode,
            next: AtomicUsize::new(0),
        })
    }

    /// Offers descriptors. Returns how many at the front were taken; of a dedicated queue, all.
    ///
    /// # Safety
    ///
    /// The addresses in them stay valid until the device is done with them. A dedicated queue has room for all of them.
    /// This is the process that mapped the portal.
    pub(crate) unsafe fn submit(&self, descriptors: &[Descriptor]) -> usize {
        instructions::store_fence();
        for (index, descriptor) in descriptors.iter().enumerate() {
            // Relaxed: it only spreads addresses.
            let offset = self.next.fetch_add(Descriptor::SIZE, Ordering::Relaxed) % SIZE;
            // SAFETY: inside the page.
            let line = unsafe { self.page.byte_add(offset) };
            match self.mode {
                Mode::Shared => {
                    // SAFETY: by contract; `map` saw that the CPU has the instruction.
                    if !unsafe { instructions::enqcmd(line, descriptor) } {
                        return index;
                    }
                }
                Mode::Dedicated => {
                    // SAFETY: as above.
                    unsafe { instructions::movdir64b(line, descriptor) }
                }
            }
        }
        descriptors.len()
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        // SAFETY: mapped by `map` in this process, and nothing refers to it any more.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), SIZE) };
    }
}
