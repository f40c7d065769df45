// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Mapping`]: memory that this library maps itself, for the command line, tests and benches.
//!
//! ```text
//! │ a page that cannot be read │ size bytes │ a page that cannot be read │
//! ```

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    ptr::{NonNull, null_mut},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use super::copy_page;
use idxd::{Destination, Source, SourceError};
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
    param::page_size,
};

/// What is behind a [`Mapping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backed {
    /// Private anonymous memory of base pages, and no transparent huge pages.
    Small,
    /// Private anonymous memory of transparent huge pages, where the kernel gives them.
    Transparent,
    /// Shared memory from a new memfd.
    Memfd,
}

/// Readable and writable memory between two pages that are neither; unmapped on drop.
///
/// It gives out no references, so that its bytes can be written to while they are scanned.
#[derive(Debug)]
pub struct Mapping {
    /// The page in front.
    outer: NonNull<u8>,
    outer_size: usize,
    start: NonNull<u8>,
    size: NonZeroUsize,
    file: Option<Arc<File>>,
}

// SAFETY: the memory belongs to the mapping, and this process accesses it only by operations that are atomic byte by byte.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

/// Transparent huge pages begin at multiples of their size.
const HUGE: usize = 2 << 20;

impl Mapping {
    /// `size` bytes, rounded up to base pages.
    ///
    /// # Errors
    ///
    /// If the kernel has no memory or no address for it.
    pub fn new(size: u64, backed: Backed) -> io::Result<Arc<Self>> {
        let file = match backed {
            Backed::Small | Backed::Transparent => None,
            Backed::Memfd => {
                let file = File::from(memfd_create(c"parapin", MemfdFlags::CLOEXEC)?);
                ftruncate(&file, rounded(size)?.get() as u64)?;
                Some(Arc::new(file))
            }
        };
        let flags = match backed {
            Backed::Small | Backed::Transparent => MapFlags::PRIVATE,
            Backed::Memfd => MapFlags::SHARED,
        };
        let align = match backed {
            Backed::Transparent => HUGE,
            Backed::Small | Backed::Memfd => page_size(),
        };
        let mapping = Self::reserve(size, align, file)?;
        mapping.map(0, mapping.size.get(), flags, mapping.file.as_deref(), 0)?;
        let advice = match backed {
            Backed::Small => Some(Advice::LinuxNoHugepage),
            Backed::Transparent => Some(Advice::LinuxHugepage),
            Backed::Memfd => None,
        };
        if let Some(advice) = advice {
            // EINVAL: a kernel without transparent huge pages gives small ones, which is all that can be had.
            match mapping.advise(0, mapping.size(), advice) {
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
                _ => {}
            }
        }
        Ok(Arc::new(mapping))
    }

    /// `size` bytes of `file` from `offset` on, which must both be multiples of the page size; private or shared.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn of_file(
        file: Arc<File>,
        offset: u64,
        size: u64,
        private: bool,
    ) -> io::Result<Arc<Self>> {
        let flags = if private {
            MapFlags::PRIVATE
        } else {
            MapFlags::SHARED
        };
        let mapping = Self::reserve(size, page_size(), Some(file))?;
        mapping.map(
            0,
            mapping.size.get(),
            flags,
            mapping.file.as_deref(),
            offset,
        )?;
        Ok(Arc::new(mapping))
    }

    /// Maps other bytes of its file over a part of it, shared. All three are multiples of the page size.
    ///
    /// # Errors
    ///
    /// If it has no file, the part does not lie inside, or the kernel refuses.
    pub fn remap(&self, offset: u64, size: u64, file_offset: u64) -> io::Result<()> {
        let (at, size) = self.part(offset, size)?;
        let file = self.file.as_deref();
        let file = Some(file.ok_or(io::ErrorKind::Unsupported)?);
        self.map(at, size, MapFlags::SHARED, file, file_offset)
    }

    /// Addresses for `size` bytes and a page on either side, of which none can be accessed yet.
    fn reserve(size: u64, align: usize, file: Option<Arc<File>>) -> io::Result<Self> {
        let size = rounded(size)?;
        let outer_size = size
            .checked_add(2 * page_size() + align)
            .ok_or(io::ErrorKind::OutOfMemory)?
            .get();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let outer = unsafe { mmap_anonymous(null_mut(), outer_size, ProtFlags::empty(), flags) }?;
        let outer = NonNull::new(outer.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let after_guard = outer.addr().get() + page_size();
        let skip = after_guard.next_multiple_of(align) - outer.addr().get();
        // SAFETY: `skip` is less than a page and `align`, and the mapping is that much and a page longer than `size`.
        let start = unsafe { outer.add(skip) };
        Ok(Self {
            outer,
            outer_size,
            start,
            size,
            file,
        })
    }

    /// Replaces what is mapped over a part of it.
    fn map(
        &self,
        offset: usize,
        size: usize,
        flags: MapFlags,
        file: Option<&File>,
        file_offset: u64,
    ) -> io::Result<()> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = flags | MapFlags::FIXED;
        let at = self.start.as_ptr().wrapping_add(offset).cast();
        match file {
            // SAFETY: all callers check that the part lies inside of this mapping, to whose bytes no reference exists.
            Some(file) => unsafe { mmap(at, size, protection, flags, file, file_offset) },
            // SAFETY: as above.
            None => unsafe { mmap_anonymous(at, size, protection, flags) },
        }?;
        Ok(())
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.get() as u64
    }

    /// The file behind it, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// All of it, as memory to scan, which keeps it mapped.
    ///
    /// # Errors
    ///
    /// Never, because it is not empty; the type is that of [`part_source`](Self::part_source).
    pub fn source(self: &Arc<Self>) -> Result<Source, SourceError> {
        self.part_source(0, self.size())
    }

    /// The `len` bytes from `offset` on, as memory to scan, which keeps all of it mapped.
    ///
    /// # Errors
    ///
    /// If the part is empty, or does not lie inside.
    pub fn part_source(self: &Arc<Self>, offset: u64, len: u64) -> Result<Source, SourceError> {
        let (at, len) = self.part(offset, len).unwrap_or((0, 0));
        // SAFETY: the offset lies inside of the mapping, which is one piece.
        let start = unsafe { self.start.add(at) };
        let keep = Arc::<Self>::clone(self);
        // SAFETY: `part` has checked that it lies inside; it stays mapped until the last clone of the `Arc` is dropped,
        // and it is written to by atomic operations only.
        unsafe { Source::new(start, len, keep) }
    }

    /// All of it, as memory that pages are restored to, which keeps it mapped.
    ///
    /// # Errors
    ///
    /// Never, because it is not empty; the type is that of [`part_source`](Self::part_source).
    pub fn destination(self: &Arc<Self>) -> Result<Destination, SourceError> {
        let keep = Arc::<Self>::clone(self);
        // SAFETY: it stays mapped and writable until the last clone of the `Arc` is dropped; nobody has a reference to it, and this
        // process accesses it by operations only that are atomic byte by byte.
        unsafe { Destination::new(self.start, self.size.get(), keep) }
    }

    /// A copy of all its bytes, each as it was at some moment of the call.
    #[must_use]
    pub fn to_vec(self: &Arc<Self>) -> Vec<u8> {
        let mut bytes = vec![0; self.size.get()];
        // It is not empty, and all of it is inside.
        if let Ok(source) = self.source() {
            copy_page(&source, 0, &mut bytes);
        }
        bytes
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

    /// Writes `bytes` from `offset` on, one by one; what lies outside of the mapping is left out.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (at, &byte) in (offset..).zip(bytes) {
            self.store(at, byte);
        }
    }

    /// Sets bytes, each on its own, so that others may access them meanwhile; what lies outside of the mapping is left out.
    pub fn fill(&self, offset: u64, size: u64, value: u8) {
        let end = offset.saturating_add(size).min(self.size());
        if let Ok((at, size)) = self.part(offset.min(end), end - offset.min(end)) {
            // SAFETY: the part lies inside of the mapping, which is one piece.
            let start = unsafe { self.start.add(at) };
            // SAFETY: mapped writable for as long as `self`, and accessed only by operations that are atomic byte by byte.
            unsafe { store_bytes(start, size, value) };
        }
    }

    /// Gives pages back (`MADV_DONTNEED`): private anonymous ones are zero afterwards, those of a file what the file holds.
    ///
    /// # Errors
    ///
    /// If the part does not lie inside, or the kernel refuses.
    pub fn discard(&self, offset: u64, size: u64) -> io::Result<()> {
        self.advise(offset, size, Advice::LinuxDontNeed)
    }

    /// Makes pages be there and writable (`MADV_POPULATE_WRITE`, Linux 5.14).
    ///
    /// # Errors
    ///
    /// If the part does not lie inside, the kernel is older, or has no memory.
    pub fn populate(&self, offset: u64, size: u64) -> io::Result<()> {
        self.advise(offset, size, Advice::LinuxPopulateWrite)
    }

    fn advise(&self, offset: u64, size: u64, advice: Advice) -> io::Result<()> {
        let (at, size) = self.part(offset, size)?;
        let at = self.start.as_ptr().wrapping_add(at).cast();
        // SAFETY: the part lies inside of this mapping, to whose bytes no reference exists.
        unsafe { madvise(at, size, advice) }?;
        Ok(())
    }

    fn part(&self, offset: u64, size: u64) -> io::Result<(usize, usize)> {
        let end = offset
            .checked_add(size)
            .filter(|&end| end <= self.size())
            .and_then(|end| usize::try_from(end).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok((end - size, size))
    }

    fn byte(&self, offset: u64) -> Option<&AtomicU8> {
        let (at, _) = self.part(offset, 1).ok()?;
        // SAFETY: the offset lies inside of the mapping, which is one piece.
        let pointer = unsafe { self.start.add(at) };
        // SAFETY: mapped readable and writable for as long as `self`, and accessed only by atomic operations.
        Some(unsafe { AtomicU8::from_ptr(pointer.as_ptr()) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to `self`, and every source of it holds an `Arc` of `self`.
        // It cannot fail for a whole mapping of ours; if it did, memory would be lost.
        let _ = unsafe { munmap(self.outer.as_ptr().cast(), self.outer_size) };
    }
}

/// Stores `value` to each of `size` bytes, like that many relaxed atomic stores.
///
/// # Safety
///
/// The bytes are mapped writable, and no Rust reference to them exists.
#[cfg(target_arch = "x86_64")]
unsafe fn store_bytes(start: NonNull<u8>, size: usize, value: u8) {
    // SAFETY: the instruction stores `al` to `rcx` bytes from `rdi` upwards (the ABI keeps the direction flag clear), to
    // memory that may be written (the caller's promise), and the compiler does not see into it.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") size => _,
            inout("rdi") start.as_ptr() => _,
            in("al") value,
            options(nostack, preserves_flags)
        );
    }
}

/// As above, byte by byte.
///
/// # Safety
///
/// The bytes are mapped writable, and no Rust reference to them exists.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn store_bytes(start: NonNull<u8>, size: usize, value: u8) {
    for at in 0..size {
        // SAFETY: inside of the part that the caller promises to be mapped.
        let pointer = unsafe { start.add(at) };
        // SAFETY: mapped writable, and only accessed atomically (the caller's promise).
        let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
        // Relaxed: single bytes, and no other memory is read through them.
        byte.store(value, Ordering::Relaxed);
    }
}

fn rounded(size: u64) -> io::Result<NonZeroUsize> {
    usize::try_from(size)
        .ok()
        .and_then(|size| size.checked_next_multiple_of(page_size()))
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
