// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`SoftwareScanner`]: zero pages found by the calling thread.

use super::{ScanError, ShortcutError, untouched::Untouched};
use crate::{
    Kernel, PageBitmap, RamBlock,
    sys::{Fetched, Pages},
};

/// Finds zero pages on the calling thread, by the widest loads that the CPU has. One for each thread.
///
/// The answer for a page is true for some moment of the call in every part of it: writes during the call may be missed, as
/// by any reader. A migration learns of them from its dirty log.
#[derive(Debug)]
pub struct SoftwareScanner {
    kernel: Kernel,
    /// `None`: every page is read.
    untouched: Option<Untouched>,
    fetched: Fetched,
}

/// What was found in a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scanned {
    /// Pages of the batch.
    pub pages: usize,
    /// Those of them that are zero because they were never touched, and that were not touched now.
    pub untouched: usize,
    /// Those of them that were read.
    pub read: usize,
    /// Those of them that are zero, the untouched ones included.
    pub zero: usize,
}

impl SoftwareScanner {
    /// With [`Kernel::best`], and looking for untouched pages in blocks that tell them
    /// ([`RamBlock::backing`]).
    ///
    /// Opens `/proc/self/pagemap`, so that a process that gives up its privileges makes its scanners before.
    #[must_use]
    pub fn new() -> Self {
        Self {
            kernel: Kernel::best(),
            untouched: Some(Untouched::new()),
            fetched: Fetched::default(),
        }
    }

    /// With another kernel.
    #[must_use]
    pub fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Reads every page, whatever is known of its block.
    #[must_use]
    pub fn reading_all(mut self) -> Self {
        self.untouched = None;
        self
    }

    /// The kernel in use.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Why untouched pages are not looked for any more in some kind of block, if that has failed. They are read instead.
    #[must_use]
    pub fn shortcut_error(&self) -> Option<&ShortcutError> {
        self.untouched.as_ref().and_then(Untouched::error)
    }

    /// Makes `zero` one bit for each page of `page_size` bytes that begins at one of `offsets` in `block`, set if the page
    /// is zero.
    ///
    /// Pages may have any size from 64 bytes to 1 GiB, lie anywhere, in any order, and overlap. It is fastest where they are
    /// in ascending order, and the block's untouched ones are found by whole base pages. Allocates nothing, once `zero` has
    /// been as long before.
    ///
    /// # Errors
    ///
    /// If there can be no such pages, or one does not lie inside of the block. Nothing was read then, and `zero` is as it
    /// was.
    pub fn scan(
        &mut self,
        block: &RamBlock,
        page_size: u64,
        offsets: &[u64],
        zero: &mut PageBitmap,
    ) -> Result<Scanned, ScanError> {
        let (pages, untouched) = self.mark_untouched(block, page_size, offsets, zero)?;
        pages.scan(self.kernel, &mut self.fetched, zero);
        Ok(Scanned {
            pages: offsets.len(),
            untouched,
            read: offsets.len() - untouched,
            zero: zero.count(),
        })
    }

    /// Makes `zero` as [`scan`](Self::scan) does, but reads no page: only untouched ones are found. Returns how many.
    pub(super) fn mark_untouched<'a>(
        &mut self,
        block: &'a RamBlock,
        page_size: u64,
        offsets: &'a [u64],
        zero: &mut PageBitmap,
    ) -> Result<(Pages<'a>, usize), ScanError> {
        let pages = Pages::new(block.source(), page_size, offsets)?;
        zero.reset(offsets.len());
        let untouched = match &mut self.untouched {
            Some(untouched) => untouched.mark(block, page_size, offsets, zero),
            None => 0,
        };
        Ok((pages, untouched))
    }
}

impl Default for SoftwareScanner {
    fn default() -> Self {
        Self::new()
    }
}
