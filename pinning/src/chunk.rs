// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A [`Chunk`] is the unit of hand-out, ledger and undo.

use std::fmt;

/// A non-empty piece of one range of a job.
///
/// Made by the engine only: it lies inside one range, and its ends are the range's own or absolute multiples of the
/// plan's cut. [`Work::run`](crate::Work::run) is also given the slices of a chunk in this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    range: usize,
    start: u64,
    size: u64,
    ordinal: u32,
}

impl Chunk {
    pub(crate) fn new(range: usize, start: u64, end: u64, ordinal: u32) -> Self {
        debug_assert!(start < end, "chunk {start:#x}..{end:#x} is empty");
        Self {
            range,
            start,
            size: end - start,
            ordinal,
        }
    }

    /// Which range of the job this lies in, counted from 0.
    #[must_use]
    pub fn range(&self) -> usize {
        self.range
    }

    /// First address, in the coordinates of the job's ranges.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes, never zero.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First address behind the chunk.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Ordinal of the first cut cell that the chunk covers: unique among the chunks of one run, and less than
    /// [`Plan::cells`](crate::Plan::cells), so that a work can keep what it knows of a chunk in a table made beforehand.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal as usize
    }
}

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end())
    }
}
