// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Mapping`]: memory that this library maps itself, for the command line, tests and benches.

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU8, atomic::Ordering},
};

use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
    },
    unistd::ftruncate,
};
use thiserror::Error;

use crate::PageSize;

/// Which pages a [`Mapping`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pages {
    /// Base pages, and no transparent huge pages.
    Small,
    /// Transparent huge pages, where the kernel gives them.
    Transparent,
    /// Pages of the hugetlb pool of this size.
    Hugetlb(PageSize),
}

/// Readable and writable memory, unmapped on drop.
///
/// It gives out no references and no pointers, so that a device may write to it at any time.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    size: NonZeroUsize,
    file: Option<Arc<File>>,
}

// SAFETY: the memory belongs to the mapping, and this process accesses it only by operations that are atomic byte by byte;
// what others do to a memfd they were given, or a device to pinned pages, is not visible as a Rust access.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private anonymous memory of `size` bytes, a multiple of the page size.
    ///
    /// # Errors
    /// [`MappingError`].
    pub fn anonymous(size: u64, pages: Pages) -> Result<Self, MappingError> {
        Self::map(size, pages, None)
    }

    /// Shared memory of `size` bytes, a multiple of the page size, from a new memfd.
    ///
    /// # Errors
    /// [`MappingError`].
    pub fn memfd(size: u64, pages: Pages) -> Result<Self, MappingError> {
        let failed = |call| move |errno: Errno| MappingError::new(call, size, pages, errno);
        let mut flags = MFdFlags::MFD_CLOEXEC;
        if let Pages::Hugetlb(page) = pages {
            flags |= MFdFlags::MFD_HUGETLB;
            flags |=
                MFdFlags::from_bits_retain(page.bytes().trailing_zeros() << libc::MAP_HUGE_SHIFT);
        }
        let fd = memfd_create(c"parapin", flags).map_err(failed("memfd_create"))?;
        let length = i64::try_from(size).map_err(|_| failed("ftruncate")(Errno::EFBIG))?;
        ftruncate(&fd, length).map_err(failed("ftruncate"))?;
        Self::map(size, pages, Some(Arc::new(File::from(fd))))
    }

    fn map(size: u64, pages: Pages, file: Option<Arc<File>>) -> Result<Self, MappingError> {
        let failed = |errno| MappingError::new("mmap", size, pages, errno);
        let page = match pages {
            Pages::Hugetlb(page) => page,
            Pages::Small | Pages::Transparent => PageSize::base(),
        };
        let length = usize::try_from(size).ok().and_then(NonZeroUsize::new);
        let (true, Some(length)) = (size % page.bytes() == 0, length) else {
            return Err(MappingError::Size { size, page });
        };
        // Transparent huge pages need aligned addresses: some more is mapped, and the ends are given back.
        let spare = match pages {
            Pages::Transparent => usize::try_from(PageSize::SIZE_2M.bytes()).unwrap_or(0),
            Pages::Small | Pages::Hugetlb(_) => 0,
        };
        let whole = length
            .checked_add(spare)
            .ok_or_else(|| failed(Errno::ENOMEM))?;
        let start = map_somewhere(whole, pages, file.as_deref()).map_err(failed)?;
        let mapping = Self {
            start: trim(start, whole, length, spare).map_err(failed)?,
            size: length,
            file,
        };
        let advice = match pages {
            Pages::Small => Some(MmapAdvise::MADV_NOHUGEPAGE),
            Pages::Transparent => Some(MmapAdvise::MADV_HUGEPAGE),
            Pages::Hugetlb(_) => None,
        };
        if let Some(advice) = advice {
            // SAFETY: a hint about memory that belongs to `mapping`.
            let advised = unsafe { madvise(mapping.start.cast(), length.get(), advice) };
            // EINVAL: a kernel without transparent huge pages gives small ones, which is all that can be had.
            if advised.is_err_and(|errno| errno != Errno::EINVAL) {
                return Err(failed(advised.err().unwrap_or(Errno::EINVAL)));
            }
        }
        Ok(mapping)
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.get() as u64
    }

    /// The file behind it, for a memfd.
    #[must_use]
    pub fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }

    /// Reads the byte at `offset`; `None` outside of the mapping. Touches the page.
    #[must_use]
    pub fn load(&self, offset: u64) -> Option<u8> {
        // Relaxed: a single byte, and no other memory is read through it.
        self.byte(offset).map(|byte| byte.load(Ordering::Relaxed))
    }

    /// Writes the byte at `offset`; false outside of the mapping.
    pub fn store(&self, offset: u64, value: u8) -> bool {
        // Relaxed: as in `load`.
        self.byte(offset)
            .map(|byte| byte.store(value, Ordering::Relaxed))
            .is_some()
    }

    /// Sets bytes, on the calling thread, as fast as `memset` does: the limit that populating is held against.
    ///
    /// Others may read and write the same bytes meanwhile: each byte is stored on its own. What lies outside of the
    /// mapping is left out.
    pub fn fill(&self, offset: u64, size: u64, value: u8) {
        let end = offset.saturating_add(size).min(self.size());
        let start = offset.min(end);
        let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(end - start)) else {
            return;
        };
        // SAFETY: the part lies inside the mapping, which is one piece.
        let from = unsafe { self.start.add(start) };
        // SAFETY: `length` bytes from there are mapped writable for as long as `self`, and only accessed atomically.
        unsafe { store_bytes(from, length, value) };
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn byte(&self, offset: u64) -> Option<&AtomicU8> {
        let offset = usize::try_from(offset)
            .ok()
            .filter(|&offset| offset < self.size.get())?;
        // SAFETY: the offset lies inside the mapping, which is one piece.
        let pointer = unsafe { self.start.add(offset) };
        // SAFETY: mapped readable and writable for as long as `self`, and accessed only by atomic operations.
        Some(unsafe { AtomicU8::from_ptr(pointer.as_ptr()) })
    }
}

/// Stores `value` to each of `length` bytes, like that many relaxed atomic stores.
///
/// # Safety
/// The bytes are mapped writable, and no Rust reference to them exists.
#[cfg(target_arch = "x86_64")]
unsafe fn store_bytes(start: NonNull<u8>, length: usize, value: u8) {
    // SAFETY: the instruction stores `al` to `rcx` bytes from `rdi` upwards (the ABI keeps the direction flag clear), to
    // memory that may be written (the caller's promise). `memset` would be a data race in Rust's model where others
    // access the same bytes; stores of an instruction that the compiler does not see into are what atomic ones would be.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") length => _,
            inout("rdi") start.as_ptr() => _,
            in("al") value,
            options(nostack, preserves_flags)
        );
    }
}

/// As above, byte by byte.
///
/// # Safety
/// The bytes are mapped writable, and no Rust reference to them exists.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn store_bytes(start: NonNull<u8>, length: usize, value: u8) {
    for index in 0..length {
        // SAFETY: inside the part that the caller promises to be mapped.
        let pointer = unsafe { start.add(index) };
        // SAFETY: mapped writable, and only accessed atomically (the caller's promise).
        let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
        // Relaxed: single bytes, and no other memory is read through them.
        byte.store(value, Ordering::Relaxed);
    }
}

fn map_somewhere(
    length: NonZeroUsize,
    pages: Pages,
    file: Option<&File>,
) -> Result<NonNull<u8>, Errno> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let start = match file {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        Some(file) => unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) },
        None => {
            let mut flags = MapFlags::MAP_PRIVATE;
            if let Pages::Hugetlb(page) = pages {
                let shift = i32::try_from(page.bytes().trailing_zeros()).unwrap_or(0);
                flags |= MapFlags::MAP_HUGETLB;
                flags |= MapFlags::from_bits_retain(shift << libc::MAP_HUGE_SHIFT);
            }
            // SAFETY: as above.
            unsafe { mmap_anonymous(None, length, protection, flags) }
        }
    }?;
    Ok(start.cast())
}

/// Gives back what is in front of the first multiple of `align` (if it is not 0) and behind `length` bytes from there.
fn trim(
    start: NonNull<u8>,
    whole: NonZeroUsize,
    length: NonZeroUsize,
    align: usize,
) -> Result<NonNull<u8>, Errno> {
    let address = start.addr().get();
    let front = match align {
        0 => 0,
        _ => address.next_multiple_of(align) - address,
    };
    let back = whole.get() - length.get() - front;
    // SAFETY: `front` is less than `align`, and the mapping is `align` longer than `length`.
    let inner = unsafe { start.add(front) };
    if front > 0 {
        // SAFETY: the first `front` bytes belong to this new mapping, and nobody has seen them.
        unsafe { munmap(start.cast(), front) }?;
    }
    if back > 0 {
        // SAFETY: what follows `length` bytes is still inside the mapping, or its end.
        let behind = unsafe { inner.add(length.get()) };
        // SAFETY: as for the front.
        unsafe { munmap(behind.cast(), back) }?;
    }
    Ok(inner)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value; regions over it hold it alive, and pins hold the pages themselves.
        let unmapped = unsafe { munmap(self.start.cast(), self.size.get()) };
        debug_assert_eq!(unmapped, Ok(()), "munmap of a whole own mapping");
    }
}

/// Why memory could not be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MappingError {
    /// The size is 0 or not a multiple of the page.
    #[error("{size:#x} bytes are not a multiple of pages of {page}")]
    Size {
        /// Bytes asked for.
        size: u64,
        /// The page.
        page: PageSize,
    },
    /// The hugetlb pool has too few free pages.
    #[error("the hugetlb pool of {page} pages has fewer than {} free", size / page.bytes())]
    Hugetlb {
        /// Bytes asked for.
        size: u64,
        /// The page.
        page: PageSize,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{call} of {size:#x} bytes failed")]
    Refused {
        /// The system call.
        call: &'static str,
        /// Bytes asked for.
        size: u64,
        /// The kernel's error.
        source: io::Error,
    },
}

impl MappingError {
    fn new(call: &'static str, size: u64, pages: Pages, errno: Errno) -> Self {
        match pages {
            // ENOMEM: the reservation failed (hugetlb_reserve_pages()); EINVAL and ENOENT: there is no such pool.
            Pages::Hugetlb(page)
                if matches!(errno, Errno::ENOMEM | Errno::EINVAL | Errno::ENOENT) =>
            {
                Self::Hugetlb {
                    size,
                    page,
                    source: errno.into(),
                }
            }
            _ => Self::Refused {
                call,
                size,
                source: errno.into(),
            },
        }
    }
}
