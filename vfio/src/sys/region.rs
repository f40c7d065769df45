// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Region`]: guest memory that may be given to a device. Its constructor is the one unsafe promise of this library.

use std::{
    any::Any,
    fmt,
    fs::File,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::mman::{MmapAdvise, madvise},
};
use thiserror::Error;

use crate::{Backing, Hva, Iova, Mapping, PageSize};

/// A piece of this process's memory, and the address under which the device shall see it.
#[derive(Debug, Clone)]
pub struct Region {
    iova: Iova,
    start: NonNull<u8>,
    size: NonZeroUsize,
    backing: Option<Backing>,
    file: Option<(Arc<File>, u64)>,
    read_only: bool,
    node: Option<u32>,
    /// Keeps the memory alive.
    owner: Option<Owner>,
}

/// What must be dropped only after the region.
#[derive(Clone)]
struct Owner(Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

// SAFETY: the pointer is only an address for system calls and for atomic accesses, and the contract of `new` covers
// accesses from any thread.
unsafe impl Send for Region {}
// SAFETY: as for `Send`; no method gives out the pointer or a reference to what is behind it.
unsafe impl Sync for Region {}

impl Region {
    /// Memory of `size` bytes at `start`, which the device shall see at `iova`. All three are multiples of the base
    /// page.
    ///
    /// This is where the promise is made that this memory may be given to a device; nothing after it is unsafe.
    ///
    /// # Safety
    /// From now until the last clone of this region is dropped *and* everything pinned through it is unpinned
    /// (for [`Session::keep`](crate::Session::keep): for ever), the caller guarantees for `[start, start + size)`:
    ///
    /// 1. It is mapped, readable and writable ([`read_only`](Self::read_only) regions: readable), and is not unmapped,
    ///    remapped or replaced by another mapping.
    /// 2. No Rust reference (`&`, `&mut`, slice) to any byte of it exists: it is accessed only through raw pointers
    ///    with volatile or atomic operations, as `vm-memory` does, because a device may write to it at any time.
    /// 3. Nothing that must keep its value lies in it: a device may overwrite every byte, and
    ///    [`Discard`](crate::Discard) turns it to zero.
    ///
    /// # Errors
    /// [`RegionError`] where the numbers cannot be a region; that is checked before the memory is looked at.
    pub unsafe fn new(iova: Iova, start: *mut u8, size: u64) -> Result<Self, RegionError> {
        Self::checked(iova, start, size)
    }

    fn checked(iova: Iova, start: *mut u8, size: u64) -> Result<Self, RegionError> {
        let hva = Hva(start.addr() as u64);
        let page = PageSize::base().bytes();
        let length = usize::try_from(size).ok().and_then(NonZeroUsize::new);
        let (Some(start), Some(length)) = (NonNull::new(start), length) else {
            return Err(RegionError::Empty { iova, hva, size });
        };
        if (iova.0 | hva.0 | size) % page != 0 {
            return Err(RegionError::Misaligned {
                iova,
                hva,
                size,
                page,
            });
        }
        if iova.0.checked_add(size - 1).is_none() || hva.0.checked_add(size).is_none() {
            return Err(RegionError::Wraps { iova, hva, size });
        }
        Ok(Self {
            iova,
            start,
            size: length,
            backing: None,
            file: None,
            read_only: false,
            node: None,
            owner: None,
        })
    }

    /// A region over a whole mapping of this library, which lives as long as the region.
    ///
    /// # Errors
    /// [`RegionError`] where `iova` is not aligned or the region would wrap.
    pub fn of_mapping(mapping: Arc<Mapping>, iova: Iova) -> Result<Self, RegionError> {
        // The contract of `new` holds by construction: a `Mapping` stays mapped readable and writable until it is
        // dropped (1), and gives out neither references nor pointers to its memory (2, 3).
        let mut region = Self::checked(iova, mapping.start().as_ptr(), mapping.size())?;
        region.file = mapping.file().map(|file| (file, 0));
        region.owner = Some(Owner(mapping));
        Ok(region)
    }

    /// Says what is behind the region, so that it need not be looked up.
    ///
    /// Where it is wrong, pages may be cut in two and superpages be lost. What could do harm is never taken from here:
    /// touching and discarding look at the mapping itself.
    #[must_use]
    pub fn with_backing(mut self, backing: Backing) -> Self {
        self.backing = Some(backing);
        self
    }

    /// Names the file behind the region and where in it the region begins, so that discarding frees its pages, and
    /// that it can be mapped by file.
    ///
    /// # Safety
    /// What [`new`](Self::new) asks for the region's memory also holds for as many bytes of `file` from `offset` on:
    /// mapped by file, a device accesses these, whatever the region's addresses show.
    #[must_use]
    pub unsafe fn with_file(mut self, file: Arc<File>, offset: u64) -> Self {
        self.file = Some((file, offset));
        self
    }

    /// Keeps `owner`, such as the guest's memory, until the region and all pins through it are dropped; for ever, if they
    /// are kept ([`Session::keep`](crate::Session::keep)). Then it need not be declared before them.
    #[must_use]
    pub fn owned_by<O: Any + Send + Sync>(mut self, owner: Arc<O>) -> Self {
        self.owner = Some(match self.owner.take() {
            None => Owner(owner),
            // A mapping of this library must outlive the region in any case.
            Some(before) => Owner(Arc::new((before, owner))),
        });
        self
    }

    /// Lets the device only read the region, as for a guest's ROM. The mapping need not be writable then.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Whether the device may only read it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Says which memory node its pages land on, so that this need not be looked up and helpers near it do it first. It
    /// moves no page: that is mbind(2), or the thread's policy.
    #[must_use]
    pub fn on_node(mut self, node: u32) -> Self {
        self.node = Some(node);
        self
    }

    /// The memory node that its pages land on, where that is known.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        self.node
    }

    /// The file behind it and where in that it begins, where this is known.
    pub(crate) fn file(&self) -> Option<(&Arc<File>, u64)> {
        self.file.as_ref().map(|(file, offset)| (file, *offset))
    }

    /// The region that begins where this one ends, in every respect, joined with it; `None` if `next` is no such.
    pub(crate) fn joined(&self, next: &Self) -> Option<Self> {
        let follows = |end: Option<u64>, start: u64| end == Some(start);
        let same_file = match (&self.file, &next.file) {
            (None, None) => true,
            (Some((mine, offset)), Some((its, start))) => {
                Arc::ptr_eq(mine, its) && follows(offset.checked_add(self.size()), *start)
            }
            _ => false,
        };
        let same_owner = match (&self.owner, &next.owner) {
            (None, None) => true,
            (Some(mine), Some(its)) => Arc::ptr_eq(&mine.0, &its.0),
            _ => false,
        };
        let joins = follows(self.iova.0.checked_add(self.size()), next.iova.0)
            && follows(self.hva().0.checked_add(self.size()), next.hva().0)
            && self.backing == next.backing
            && self.read_only == next.read_only
            && self.node == next.node
            && same_file
            && same_owner;
        let size = self.size.checked_add(next.size.get())?;
        joins.then(|| Self {
            size,
            ..self.clone()
        })
    }

    /// First address for the device.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// First address in this process.
    #[must_use]
    pub fn hva(&self) -> Hva {
        Hva(self.start.addr().get() as u64)
    }

    /// Length in bytes, a multiple of the base page.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.get() as u64
    }

    /// What is behind it, where that is known.
    #[must_use]
    pub fn backing(&self) -> Option<Backing> {
        self.backing
    }

    /// The size of the pages behind it; the base page where that is not known.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.backing.unwrap_or_else(Backing::unknown).page_size
    }

    /// Asks for transparent huge pages, or for none. To be called before the first touch.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` where it was built without them or the memory cannot have them.
    pub fn advise_huge_pages(&self, wanted: bool) -> Result<(), Errno> {
        let advice = if wanted {
            MmapAdvise::MADV_HUGEPAGE
        } else {
            MmapAdvise::MADV_NOHUGEPAGE
        };
        self.advise(0, self.size(), advice)
    }

    /// `MADV_POPULATE_WRITE` for a part, or `MADV_POPULATE_READ` where only reading is allowed.
    pub(crate) fn populate(&self, offset: u64, size: u64) -> Result<(), Errno> {
        let advice = if self.read_only {
            MmapAdvise::MADV_POPULATE_READ
        } else {
            MmapAdvise::MADV_POPULATE_WRITE
        };
        self.advise(offset, size, advice)
    }

    /// Writes to each page of a part what is already there.
    ///
    /// On pages that cannot be had the process gets `SIGBUS`: only for anonymous memory.
    pub(crate) fn touch(&self, offset: u64, size: u64) {
        let page = PageSize::base().bytes();
        for at in (offset..offset + size).step_by(usize::try_from(page).unwrap_or(usize::MAX)) {
            let pointer = self.at(at, 1);
            // SAFETY: the pointer is not null and lies inside the region (`at` checks it), where memory is mapped
            // readable and writable and only accessed by volatile or atomic operations (clauses 1 and 2 of `new`);
            // a byte needs no alignment.
            let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
            // The first access has to be a write: a load would fault the zero page in, and the write after it would
            // fault again and flush that page from every CPU. A compare-exchange, because compilers turn an or with 0
            // into a load. Where it finds another value it may not have written; the second one does, unless somebody
            // else has in between, and then the page is there.
            // Relaxed: the value is not used.
            if let Err(value) = byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed) {
                let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Frees the pages of a part: out of the file where it is known to be shared, else out of this mapping.
    pub(crate) fn discard(&self, offset: u64, size: u64) -> Result<(), Errno> {
        let shared = self.backing.is_some_and(|backing| backing.shared);
        match &self.file {
            // Of a private mapping the file is somebody else's: a snapshot, an image.
            Some((file, start)) if shared => {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let from = start
                    .checked_add(offset)
                    .and_then(|from| i64::try_from(from).ok());
                let length = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
                fallocate(file, flags, from.ok_or(Errno::EFBIG)?, length)
            }
            _ => self.advise(offset, size, MmapAdvise::MADV_DONTNEED),
        }
    }

    /// Bytes of a part that are resident (mincore(2)); `None` where the kernel does not say.
    pub(crate) fn resident(&self, offset: u64, size: u64) -> Option<u64> {
        /// Pages that are asked for at a time.
        const PAGES: usize = 1 << 16;
        let page = PageSize::base().bytes();
        let step = page * PAGES as u64;
        let mut states = vec![0u8; PAGES];
        let mut resident = 0;
        for at in (offset..offset + size).step_by(usize::try_from(step).ok()?) {
            let bytes = step.min(offset + size - at);
            let length = usize::try_from(bytes).ok()?;
            let start = self.at(at, bytes).as_ptr();
            // SAFETY: mincore only looks at page tables, and writes one byte a page of `bytes` to `states`, which has
            // as many.
            if unsafe { libc::mincore(start.cast(), length, states.as_mut_ptr()) } != 0 {
                return None;
            }
            let pages = usize::try_from(bytes / page).ok()?;
            resident += states[..pages]
                .iter()
                .filter(|&state| state & 1 == 1)
                .count() as u64;
        }
        Some(resident * page)
    }

    /// A part as the kernel takes it.
    pub(super) fn iovec(&self, offset: u64, size: u64) -> libc::iovec {
        libc::iovec {
            iov_base: self.at(offset, size).as_ptr().cast(),
            iov_len: usize::try_from(size).unwrap_or(usize::MAX),
        }
    }

    fn advise(&self, offset: u64, size: u64, advice: MmapAdvise) -> Result<(), Errno> {
        let length = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the advices used here fault pages in, hint, or turn memory to zero. The part lies inside the region
        // (`at` checks it), where that is allowed: nothing that must keep its value is in it (clause 3 of `new`), and
        // no reference to it exists (clause 2).
        unsafe { madvise(self.at(offset, size).cast(), length, advice) }
    }

    /// The address of a part.
    ///
    /// # Panics
    /// If the part does not lie inside the region: a mistake of this crate, which must not reach the kernel.
    pub(super) fn at(&self, offset: u64, size: u64) -> NonNull<u8> {
        let inside = offset
            .checked_add(size)
            .is_some_and(|end| end <= self.size());
        assert!(
            inside,
            "{offset:#x} + {size:#x} is outside of a region of {:#x} bytes",
            self.size()
        );
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        // SAFETY: the offset is at most the region's size, which fits into memory that is mapped as one piece
        // (clause 1 of `new`), so neither the offset nor the address overflows.
        unsafe { self.start.add(offset) }
    }

    /// A region for tests that never look at the memory.
    #[cfg(test)]
    pub(crate) fn for_tests(hva: u64, size: u64) -> Self {
        let pointer = std::ptr::without_provenance_mut(usize::try_from(hva).expect("64 bits"));
        Self::checked(Iova(hva), pointer, size).expect("a valid region")
    }
}

/// Why numbers do not make a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegionError {
    /// No bytes, or at address 0, or more than this machine can address.
    #[error("region at iova {iova}, hva {hva} of {size:#x} bytes has no memory")]
    Empty {
        /// Address for the device.
        iova: Iova,
        /// Address in this process.
        hva: Hva,
        /// Length in bytes.
        size: u64,
    },
    /// An address or the length is not a multiple of the page.
    #[error(
        "region at iova {iova}, hva {hva} of {size:#x} bytes is not aligned to pages of {page:#x} bytes"
    )]
    Misaligned {
        /// Address for the device.
        iova: Iova,
        /// Address in this process.
        hva: Hva,
        /// Length in bytes.
        size: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// It runs past the end of an address space.
    #[error("region at iova {iova}, hva {hva} of {size:#x} bytes wraps around the address space")]
    Wraps {
        /// Address for the device.
        iova: Iova,
        /// Address in this process.
        hva: Hva,
        /// Length in bytes.
        size: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(iova: u64, hva: usize, size: u64) -> String {
        Region::checked(Iova(iova), std::ptr::without_provenance_mut(hva), size)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn bad_numbers_are_refused_in_hex() {
        assert_eq!(
            error(0x1000, 0x7000, 0),
            "region at iova 0x1000, hva 0x7000 of 0x0 bytes has no memory"
        );
        assert!(error(0, 0, 0x1000).ends_with("has no memory"));
        for (iova, hva, size) in [
            (1, 0x1000, 0x1000),
            (0, 0x1001, 0x1000),
            (0, 0x1000, 0x1001),
        ] {
            let text = error(iova, hva, size);
            assert!(
                text.ends_with("is not aligned to pages of 0x1000 bytes"),
                "{text}"
            );
        }
        assert_eq!(
            error(u64::MAX - 0xfff, 0x1000, 0x2000),
            "region at iova 0xfffffffffffff000, hva 0x1000 of 0x2000 bytes wraps around the address space"
        );
        assert!(error(0, usize::MAX - 0xfff, 0x1000).ends_with("wraps around the address space"));
        assert!(
            error(0, 0x1000, 0xffff_ffff_ffff_f000).ends_with("wraps around the address space")
        );
    }

    #[test]
    fn the_last_page_of_the_iova_space_is_a_region() {
        let start = std::ptr::without_provenance_mut(0x1000);
        assert!(Region::checked(Iova(u64::MAX - 0xfff), start, 0x1000).is_ok());
    }

    #[test]
    #[should_panic(expected = "0x1000 + 0x1000 is outside of a region of 0x1000 bytes")]
    fn a_part_outside_never_reaches_the_kernel() {
        Region::for_tests(0x1000, 0x1000).iovec(0x1000, 0x1000);
    }
}
