// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Untouched`]: pages that are zero because nobody has ever touched them, found without touching them.
//!
//! ```text
//! private anonymous:  runs of pages ─► one pread of /proc/self/pagemap each ─► no page, none in swap ─► zero
//! memfd, tmpfs:       runs of pages ─► SEEK_DATA, then SEEK_HOLE, …         ─► inside of a hole      ─► zero
//! ```
//!
//! Reading an untouched page of private anonymous memory costs a fault, a part of a page table, and maps the kernel's zero
//! page. Reading one of a memfd *allocates* a page. So where looking has found nothing it is done ever more rarely for the
//! former, and always for the latter.
//!
//! # The page map
//!
//! An entry of 0, the soft-dirty bit aside, is what the kernel writes where there is no page table entry at all
//! (`pagemap_pte_hole` and `pte_to_pagemap_entry`, fs/proc/task_mmu.c): not for a page that is there (bit 63), in swap,
//! under migration, poisoned, or has a marker of a userfaultfd or of a guard region (all of these: bit 62). In private
//! anonymous memory the next read of such a page gives zeroes.
//!
//! Before Linux 6.5, where a huge page vanishes during the read, the kernel leaves its entries out and goes on behind them
//! (`pmd_trans_unstable`), and older ones make up for it with entries of pages behind those that were asked for: pages of data would
//! look untouched. There the page map is not used.
//!
//! # Holes
//!
//! A page in swap is data to SEEK_DATA (`folio_seek_hole_data`, mm/filemap.c), unlike to mincore(2). The kernel steps through
//! every page of the extent that it measures: through those of data once, because the end found is kept (an end that is out
//! of date makes us read pages that have become holes, no worse); through those that fallocate(2) has reserved and that
//! nobody has written at every call, so that after a slow one some batches are read without looking, which allocates nothing
//! where pages are reserved.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use idxd::Process;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
    param::page_size,
    system::uname,
    time::{ClockId, clock_gettime},
};
use thiserror::Error;

use crate::{PageBitmap, RamBlock, ram::Shortcut};

/// Bytes of an entry of the page map.
const ENTRY: usize = 8;
/// Entries that are read at a time, at most.
const ENTRIES: u64 = 2048;
/// Base pages between two pages of a batch that are read over rather than begin another read: an entry takes about as many
/// nanoseconds as a system call takes hundreds.
const GAP: u64 = 16;
/// The soft-dirty bit of an entry, which says nothing about the page.
const SOFT_DIRTY: u64 = 1 << 55;
/// Batches that are read without looking, at most, after looking has found nothing.
const MOST_SKIPPED: u32 = 64;
/// What finding the next data in a file may take.
const SLOW: Duration = Duration::from_micros(100);
/// Batches that are read without looking for each [`SLOW`] that it took, so that it takes a small part of the time.
const SKIPPED_PER_SLOW: u128 = 16;
/// The most of them.
const MOST_SKIPPED_FOR_SLOW: u32 = 4096;
/// Bytes of data in a file whose end is worth keeping: measuring takes some 40 ns for each page.
const WORTH_KEEPING: u64 = 64 << 12;
/// Extents that are kept, at most.
const KEPT: usize = 32;

/// Finds untouched pages. Where it cannot, it says so once and finds none.
#[derive(Debug)]
pub(super) struct Untouched {
    page_map: Result<PageMap, ShortcutError>,
    seeking: Result<(), ShortcutError>,
    entries: Vec<u8>,
}

/// The first kernel whose page map leaves nothing out.
const SOUND_SINCE: (u32, u32) = (6, 5);

/// Why untouched pages are not looked for. They are read instead, which is right, and slower.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShortcutError {
    /// No page map: no /proc, or not permitted.
    #[error(
        "untouched pages of private anonymous memory cannot be told: /proc/self/pagemap cannot be read"
    )]
    PageMap {
        /// The reason.
        source: io::Error,
    },
    /// The kernel's page map can be wrong.
    #[error(
        "untouched pages of private anonymous memory are not told by the page map of Linux {release}, which leaves entries out: that \
         takes Linux 6.5"
    )]
    Kernel {
        /// Its release.
        release: String,
    },
    /// Holes of a file cannot be found.
    #[error("untouched pages of a file cannot be told: seeking for holes fails")]
    Seek {
        /// The reason.
        source: io::Error,
    },
}

impl Untouched {
    pub(super) fn new() -> Self {
        Self {
            page_map: sound_kernel()
                .and_then(|()| PageMap::open().map_err(|source| ShortcutError::PageMap { source })),
            seeking: Ok(()),
            entries: Vec::new(),
        }
    }

    pub(super) fn error(&self) -> Option<&ShortcutError> {
        let page_map = self.page_map.as_ref().err();
        page_map.or(self.seeking.as_ref().err())
    }

    /// Sets the bits of pages of `block` that were never touched; returns how many. All of them lie inside of it.
    pub(super) fn mark(
        &mut self,
        block: &RamBlock,
        page_size: u64,
        offsets: &[u64],
        zero: &mut PageBitmap,
    ) -> usize {
        let looks = block.looks();
        match block.shortcut() {
            Shortcut::PageMap if self.page_map.is_ok() && looks.due() => {
                let start = block.source().address();
                let found = self.mark_by_page_map(start, page_size, offsets, zero);
                looks.found(found);
                found
            }
            Shortcut::Holes { file, offset } if self.seeking.is_ok() && looks.due() => {
                match mark_by_holes(file, looks, offset, page_size, offsets, zero) {
                    Ok(found) => found,
                    Err(errno) => {
                        self.seeking = Err(ShortcutError::Seek {
                            source: errno.into(),
                        });
                        // What was found before it is right.
                        zero.count()
                    }
                }
            }
            _ => 0,
        }
    }

    fn mark_by_page_map(
        &mut self,
        start: u64,
        size: u64,
        offsets: &[u64],
        zero: &mut PageBitmap,
    ) -> usize {
        let mut found = 0;
        let mut first = 0;
        while first < offsets.len() {
            let (run, number) = run(start, size, &offsets[first..]);
            let pages = first..first + number;
            first = pages.end;
            if ENTRIES < run.end - run.start {
                if self.reads_none(&run) {
                    zero.set(pages.start);
                    found += 1;
                }
            } else if self.read(&run) {
                for index in pages {
                    if self.has_none(&run, &base_pages(start + offsets[index], size)) {
                        zero.set(index);
                        found += 1;
                    }
                }
            }
        }
        found
    }

    /// Whether `page`, a part of `run`, whose entries have been read, has no page table entries.
    fn has_none(&self, run: &Range<u64>, page: &Range<u64>) -> bool {
        let from = usize::try_from(page.start - run.start).unwrap_or(usize::MAX);
        let number = usize::try_from(page.end - page.start).unwrap_or(usize::MAX);
        let entries = self.entries.chunks_exact(ENTRY).skip(from).take(number);
        entries.len() == number && entries.map(entry).all(|entry| entry & !SOFT_DIRTY == 0)
    }

    /// The same for a page of more entries than are read at a time.
    fn reads_none(&mut self, page: &Range<u64>) -> bool {
        let mut at = page.start;
        while at < page.end {
            let part = at..page.end.min(at + ENTRIES);
            if !self.read(&part) || !self.has_none(&part, &part) {
                return false;
            }
            at = part.end;
        }
        true
    }

    /// Reads the entries of `part`, of at most [`ENTRIES`] of them; false if that tells nothing.
    fn read(&mut self, part: &Range<u64>) -> bool {
        let number = usize::try_from((part.end - part.start).min(ENTRIES)).unwrap_or(0);
        self.entries.resize(number * ENTRY, 0);
        let Ok(page_map) = &mut self.page_map else {
            return false;
        };
        match page_map.read(part.start, &mut self.entries) {
            Ok(bytes) => bytes == self.entries.len(),
            Err(source) if source.kind() == io::ErrorKind::Interrupted => false,
            Err(source) => {
                self.page_map = Err(ShortcutError::PageMap { source });
                false
            }
        }
    }
}

/// The first pages of a batch that are worth one read: how many, and the base pages from the first to the last.
///
/// More than [`ENTRIES`] base pages only if they are one page.
fn run(start: u64, size: u64, offsets: &[u64]) -> (Range<u64>, usize) {
    let mut pages = offsets.iter().map(|at| base_pages(start + at, size));
    let mut run = pages.next().unwrap_or(0..0);
    let mut number = 1;
    for page in pages {
        let follows = (run.start..=run.end + GAP).contains(&page.start);
        if !follows || ENTRIES < page.end - run.start {
            break;
        }
        run.end = run.end.max(page.end);
        number += 1;
    }
    (run, number)
}

/// The base pages that `size` bytes at `address` lie on.
fn base_pages(address: u64, size: u64) -> Range<u64> {
    let base = page_size() as u64;
    address / base..(address + size).div_ceil(base)
}

fn entry(bytes: &[u8]) -> u64 {
    // An entry that were not eight bytes long would be one of a page that is there.
    bytes.try_into().map_or(u64::MAX, u64::from_ne_bytes)
}

/// Whether this kernel's page map can be relied on.
fn sound_kernel() -> Result<(), ShortcutError> {
    let name = uname();
    let release = name.release().to_string_lossy();
    if is_sound(&release) {
        return Ok(());
    }
    Err(ShortcutError::Kernel {
        release: release.into_owned(),
    })
}

/// Whether that release is new enough; one that is no number is not.
fn is_sound(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse::<u32>().ok();
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor) >= SOUND_SINCE,
        _ => false,
    }
}

/// `/proc/self/pagemap` of the process that it was opened by.
#[derive(Debug)]
struct PageMap {
    file: File,
    process: Process,
}

impl PageMap {
    fn open() -> io::Result<Self> {
        // Before the file: if this is another process afterwards, it is opened again.
        let process = Process::current()?;
        let file = File::open("/proc/self/pagemap")?;
        Ok(Self { file, process })
    }

    /// Reads entries from that of base page `first` on, by one call: what is left out is at the end.
    fn read(&mut self, first: u64, entries: &mut [u8]) -> io::Result<usize> {
        if !self.process.is_current() {
            // After a fork the file still shows the parent's memory.
            *self = Self::open()?;
        }
        self.file.read_at(entries, first * ENTRY as u64)
    }
}

/// Sets the bits of pages that lie inside of holes of `file`, at `start` and their offset; returns how many.
fn mark_by_holes(
    file: &File,
    looks: &Looks,
    start: u64,
    size: u64,
    offsets: &[u64],
    zero: &mut PageBitmap,
) -> Result<usize, Errno> {
    let mut found = 0;
    let mut hole = 0..0;
    let mut data = 0..0;
    for (index, offset) in offsets.iter().enumerate() {
        let page = start + offset..start + offset + size;
        let has_data = data.start < page.end && page.start < data.end;
        if has_data {
            continue;
        }
        if !contains(&hole, &page) {
            if let Some(known) = looks.known_data(page.start) {
                data = known;
                continue;
            }
            let next = looks.timed(|| seek_data(file, page.start))?;
            hole = page.start..next;
            if next == page.start {
                data = next..seek(file, SeekFrom::Hole(next))?;
                looks.know_data(&data);
            }
        }
        if contains(&hole, &page) {
            zero.set(index);
            found += 1;
        }
    }
    Ok(found)
}

fn contains(hole: &Range<u64>, page: &Range<u64>) -> bool {
    hole.start <= page.start && page.end <= hole.end
}

/// Where the next data begins, at `from` or behind it.
fn seek_data(file: &File, from: u64) -> Result<u64, Errno> {
    match seek(file, SeekFrom::Data(from)) {
        // No more data: the block ends inside the file, which was checked, and so does the hole.
        Err(Errno::NXIO) => Ok(u64::MAX),
        other => other,
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// When to look for untouched pages of a block; shared by all that scan it.
///
/// All of it is advice: a value that is out of date costs time or an allocation, and never a wrong answer. So its atomics are
/// relaxed: nothing is read through them.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Batches that are still to be read without looking.
    skip: AtomicU32,
    /// How many it were the last time.
    skipped: AtomicU32,
    /// Long extents of data in the file, which are not measured again.
    extents: Mutex<Vec<Range<u64>>>,
}

impl Looks {
    /// Whether to look in this batch.
    fn due(&self) -> bool {
        let less_one = |skip: u32| skip.checked_sub(1);
        self.skip
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less_one)
            .is_err()
    }

    /// Forgets what is known of a file, and looks again.
    pub(crate) fn forget(&self) {
        self.skip.store(0, Ordering::Relaxed);
        self.skipped.store(0, Ordering::Relaxed);
        // What is kept of a file that is another one now only makes pages be read.
        if let Ok(mut extents) = self.extents.lock() {
            extents.clear();
        }
    }

    /// Looking has found so many pages: after none, look half as often.
    fn found(&self, pages: usize) {
        let skip = match (pages, self.skipped.load(Ordering::Relaxed)) {
            (0, skipped) => (skipped * 2).clamp(1, MOST_SKIPPED),
            _ => 0,
        };
        self.skipped.store(skip, Ordering::Relaxed);
        self.skip.store(skip, Ordering::Relaxed);
    }

    /// Does `seek`, and lets some batches be read without looking if it was slow.
    fn timed<T>(&self, seek: impl FnOnce() -> T) -> T {
        // Time on the CPU: a thread that had to wait for one has not found a long extent.
        let begun = cpu_time();
        let outcome = seek();
        let slow = cpu_time().saturating_sub(begun).as_micros() / SLOW.as_micros();
        if slow > 0 {
            let skip = (slow * SKIPPED_PER_SLOW).min(u128::from(MOST_SKIPPED_FOR_SLOW));
            self.skip
                .store(u32::try_from(skip).unwrap_or(0), Ordering::Relaxed);
        }
        outcome
    }

    /// An extent around `at` that was data when it was measured.
    fn known_data(&self, at: u64) -> Option<Range<u64>> {
        let extents = self.extents.try_lock().ok()?;
        extents.iter().find(|extent| extent.contains(&at)).cloned()
    }

    fn know_data(&self, extent: &Range<u64>) {
        if extent.end - extent.start < WORTH_KEEPING {
            return;
        }
        if let Ok(mut extents) = self.extents.try_lock() {
            if extents.len() == KEPT {
                extents.remove(0);
            }
            extents.push(extent.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_from_new_ones() {
        for (release, sound) in [
            ("6.5.0", true),
            ("6.12.43+deb12-amd64", true),
            ("7.0-rc1", true),
            ("6.4.16", false),
            ("6.1.0-28-amd64", false),
            ("5.15.0", false),
            ("6", false),
            ("", false),
            ("linux", false),
        ] {
            assert_eq!(is_sound(release), sound, "{release}");
        }
    }
}
