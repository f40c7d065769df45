// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pages`]: a batch of pages of one source, and the loop over it.
//!
//! ```text
//!  i + FAR          i                                 the one before that passed
//! ┌─────────┐      ┌────────────────────────┐ all 0   ┌──────────────────────────────────────┐
//! │ fetch a │ ───► │ three sampled words    │ ──────► │ Kernel over all of it ─► bit         │
//! │ sample  │      │ one is not 0: it is    │         │ fetches page i meanwhile             │
//! └─────────┘      │ data, after one miss   │         └──────────────────────────────────────┘
//!                  └────────────────────────┘
//! ```
//!
//! Out of the cache the time goes to misses, of which only so many can be under way at a time. So a page of data should cost
//! one, and half a one where pages follow each other: the word that is sampled first is the last one of every other page and
//! the first one of the next, whose lines lie side by side in memory. And while a page is read to its end, the next one that
//! will be is fetched, because prefetchers of the hardware stop where a page ends.

use idxd::Source;

use super::{Kernel, zero_portable::load_word};
use crate::{PageBitmap, ScanError};

/// Pages in front of the one that is looked at, whose first sample is fetched while there is data: with 32 to 192 a page of
/// data takes about 5 ns, with none 10.
const FAR: usize = 64;
/// The same, after a page that has passed its samples: there the time goes to reading pages, which lines of pages far behind
/// only disturb.
const NEAR: usize = 2;
/// Smallest page: an aligned word lies whole in each of the places that are sampled.
const SMALLEST: u64 = 64;
/// Largest page.
const LARGEST: u64 = 1 << 30;
/// How far in front a page larger than this is fetched; smaller ones are fetched as a whole.
const STRIDE: usize = 4096;

/// Pages that lie inside of their source: checked once, here, and relied on by the loads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages<'a> {
    source: &'a Source,
    size: usize,
    offsets: &'a [u64],
}

/// What the batch before has fetched of pages behind its end, in case that this one goes on there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fetched {
    /// Where the first one begins.
    address: usize,
    pages: usize,
}

impl<'a> Pages<'a> {
    /// Pages of `size` bytes from each of `offsets` on.
    pub(crate) fn new(
        source: &'a Source,
        size: u64,
        offsets: &'a [u64],
    ) -> Result<Self, ScanError> {
        let length = usize::try_from(size)
            .ok()
            .filter(|_| (SMALLEST..=LARGEST).contains(&size))
            .ok_or(ScanError::PageSize { page_size: size })?;
        let last = source.len().checked_sub(size);
        let outside = |&offset: &u64| last.is_none_or(|last| last < offset);
        match offsets.iter().position(outside) {
            Some(index) => Err(ScanError::Outside {
                index,
                offset: offsets[index],
                page_size: size,
                len: source.len(),
            }),
            None => Ok(Self {
                source,
                size: length,
                offsets,
            }),
        }
    }

    /// Sets the bits of those pages that are zero; pages whose bit is set already are not looked at.
    pub(crate) fn scan(&self, kernel: Kernel, before: &mut Fetched, zero: &mut PageBitmap) {
        let some_are_known = zero.count() > 0;
        let mut fetched = match self.offsets.first() {
            Some(_) if self.at(0).addr() == before.address => before.pages,
            Some(_) => 0,
            None => return,
        };
        let mut ahead = FAR;
        // Passed its samples, and is not read yet.
        let mut waiting = None;
        for index in 0..self.offsets.len() {
            while fetched < index + ahead {
                prefetch(self.first_sample(self.beyond(fetched)));
                fetched += 1;
            }
            if some_are_known && zero.get(index) {
                continue;
            }
            if self.has_data(index) {
                ahead = FAR;
                continue;
            }
            ahead = NEAR;
            if let Some(last) = waiting.replace(index) {
                self.finish(kernel, last, self.at(index), zero);
            }
        }
        if let Some(last) = waiting {
            // Likely the one that the next batch begins with.
            self.finish(kernel, last, self.beyond(self.offsets.len()), zero);
        }
        *before = Fetched {
            address: self.beyond(self.offsets.len()).addr(),
            pages: fetched.saturating_sub(self.offsets.len()),
        };
    }

    /// Whether page `index` shows data in one word. For pages that are asked about in order: a later one's is fetched.
    #[inline]
    pub(crate) fn shows_data(&self, index: usize) -> bool {
        prefetch(self.first_sample(self.beyond(index + FAR)));
        // SAFETY: as in `has_data`.
        unsafe { load_word(self.first_sample(self.at(index))) != 0 }
    }

    /// Whether page `index` shows data in one of three words, as almost every page with data does.
    #[inline]
    fn has_data(&self, index: usize) -> bool {
        let page = self.at(index);
        let is_data = |word: *const u8| {
            // SAFETY: an aligned word of the page (`aligned`), which `new` has checked to lie inside of its source, whose
            // bytes are readable whatever others write to them (`Source::new`).
            unsafe { load_word(word) != 0 }
        };
        is_data(self.first_sample(page))
            || is_data(aligned(page.wrapping_add(self.size / 2)))
            || is_data(aligned(page))
            || is_data(aligned(page.wrapping_add(self.size - 15)))
    }

    /// Sets the bit of page `index` if all of it is zero, and fetches the one at `next` meanwhile.
    fn finish(&self, kernel: Kernel, index: usize, next: *const u8, zero: &mut PageBitmap) {
        let page = self.at(index);
        let ahead = if self.size <= STRIDE {
            next.addr().wrapping_sub(page.addr())
        } else {
            STRIDE
        };
        // SAFETY: `new` has checked that the page lies inside of its source, whose bytes are readable whatever others write
        // to them (`Source::new`).
        if unsafe { kernel.is_zero_at(page, self.size, ahead) } {
            zero.set(index);
        }
    }

    /// Where page `index` begins.
    #[inline]
    fn at(&self, index: usize) -> *const u8 {
        // `new` has checked that it lies inside of the source, whose length is a `usize`.
        let offset = usize::try_from(self.offsets[index]).unwrap_or(0);
        self.source.as_ptr().wrapping_add(offset)
    }

    /// Where page `index` begins, or would begin if the batch went on behind its end.
    #[inline]
    fn beyond(&self, index: usize) -> *const u8 {
        let last = self.offsets.len() - 1;
        let behind = index.saturating_sub(last);
        let page = self.at(index.min(last));
        page.wrapping_add(behind.wrapping_mul(self.size))
    }

    /// The word of a page that is looked at first: its last one, or its first one if it is an odd page.
    #[inline]
    fn first_sample(&self, page: *const u8) -> *const u8 {
        let is_odd = page.addr() >> self.size.trailing_zeros() & 1;
        aligned(page.wrapping_add((self.size - 15) & is_odd.wrapping_sub(1)))
    }
}

/// The first aligned word at `place` or behind it: 7 bytes behind at most, so that 15 bytes from `place` on hold it.
#[inline]
fn aligned(place: *const u8) -> *const u8 {
    place.wrapping_add(place.addr().wrapping_neg() % 8)
}

/// Asks for the cache line at `address`. One that is not mapped is passed over: nothing faults, and no page is mapped.
#[inline]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, for any address. To the second level: more misses can be under way there than at the first.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, for any address.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
