// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which process this is, without asking the kernel, and whether it has forked.
//!
//! A work queue belongs to the address space that opened it (its PASID). In a child, portals are not mapped, and the
//! driver refuses its writes. Here a page is wiped by the kernel in every child: its number is 0 there, or a new one if
//! the child opens queues of its own.

use std::{
    io,
    ptr::{self, NonNull},
    sync::{
        Once, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous},
    param::page_size,
};

/// A process, told from its children without a system call.
///
/// Compare with what was remembered: after a fork, [`is_current`](Self::is_current) is false in the child, also where the child has the
/// same process id in another namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u64);

/// Numbers given to processes: copied by a fork, so that a child's is a new one.
static NUMBERS: AtomicU64 = AtomicU64::new(0);
/// Twice the times that this process has forked; odd while it does.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

impl Process {
    /// This one.
    ///
    /// # Errors
    ///
    /// If the kernel has no page that it wipes in children (before Linux 4.14).
    pub fn current() -> io::Result<Self> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let count = Some(count_fork as unsafe extern "C" fn());
            // SAFETY: the handler only counts.
            let _ = unsafe { libc::pthread_atfork(count, count, count) };
        });
        let cell = cell()?;
        let mut number = cell.load(Ordering::SeqCst);
        while number == 0 {
            let new = NUMBERS.fetch_add(1, Ordering::SeqCst) + 1;
            number = match cell.compare_exchange(0, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => new,
                Err(another) => another,
            };
        }
        Ok(Self(number))
    }

    /// Whether this code runs in it, and not in a child.
    #[must_use]
    pub fn is_current(self) -> bool {
        // Relaxed: the number never changes in a process that has one, and a child begins with one thread.
        cell().is_ok_and(|cell| cell.load(Ordering::Relaxed) == self.0)
    }

    /// How often this process has called `fork`; none while it does. Children made by `vfork` or `posix_spawn` are not counted;
    /// they give up what they inherit within milliseconds.
    pub(crate) fn forks() -> Option<u64> {
        let count = FORKS.load(Ordering::SeqCst);
        (count % 2 == 0).then_some(count)
    }
}

/// A number in a page that is wiped in children.
fn cell() -> io::Result<&'static AtomicU64> {
    static CELL: OnceLock<&'static AtomicU64> = OnceLock::new();
    if let Some(cell) = CELL.get() {
        return Ok(cell);
    }
    let size = page_size();
    // SAFETY: a new mapping at an address that the kernel chooses.
    let page = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: the page is ours.
    unsafe { madvise(page, size, Advice::LinuxWipeOnFork) }?;
    let page = NonNull::new(page.cast::<AtomicU64>()).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: it is never unmapped, and zeroes are a valid atomic.
    Ok(CELL.get_or_init(|| unsafe { page.as_ref() }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_process() {
        let here = Process::current().unwrap();
        assert!(here.is_current());
        assert_eq!(Process::current().unwrap(), here);
        let forks = Process::forks();
        // SAFETY: the child only reads and writes atomics, and leaves without destructors.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let differs = !here.is_current()
                && Process::current().is_ok_and(|new| new != here && new.is_current());
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!differs)) };
        }
        let mut status = 0;
        // SAFETY: `status` is written to.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(here.is_current());
        assert!(Process::forks() > forks);
    }
}
