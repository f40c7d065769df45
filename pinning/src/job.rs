// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A [`Job`] says what is to be done: which ranges, and the caller's bounds.

use std::num::NonZeroUsize;

use thiserror::Error;

use crate::{Node, Range};

/// What is to be worked on, after the kernel's `struct padata_mt_job` (include/linux/padata.h).
///
/// The kernel's `start`, `size` and `align` stand in each [`Range`], because a guest has several regions and a chunk
/// never crosses from one into another; `min_chunk` and `max_threads` are the job's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    ranges: Box<[Range]>,
    size: u64,
    /// Least bytes that are worth a thread of their own. The weakest bound: everything else may override it.
    pub min_chunk: u64,
    /// Most bytes that one chunk may have, unless the alignment or the number of entries asks for more.
    pub max_chunk: u64,
    /// Most threads, the caller included; `None`: as many as the budget allows.
    pub max_threads: Option<NonZeroUsize>,
    /// The memory nodes that ranges may be on. Helpers are brought to the CPUs of the nodes that have most to do.
    pub nodes: Vec<Node>,
    /// The node that the calling thread runs on, where that is known.
    pub home: Option<u32>,
    /// Whether each helper is put on a CPU of its own, in the order of the caller's mask. Off by default: the
    /// scheduler then moves helpers away from busy neighbours.
    pub spread: bool,
}

impl Job {
    /// [`min_chunk`](Self::min_chunk) of a new job: 32 MiB.
    pub const MIN_CHUNK: u64 = 32 << 20;
    /// [`max_chunk`](Self::max_chunk) of a new job: 256 MiB.
    pub const MAX_CHUNK: u64 = 256 << 20;

    /// A job over `ranges`, which keep their order, with the default bounds.
    ///
    /// # Errors
    /// [`JobError::NoRanges`], [`JobError::Overlap`] or [`JobError::TooLarge`].
    pub fn new(ranges: impl Into<Box<[Range]>>) -> Result<Self, JobError> {
        let ranges = ranges.into();
        if ranges.is_empty() {
            return Err(JobError::NoRanges);
        }
        let mut sorted: Vec<&Range> = ranges.iter().collect();
        sorted.sort_unstable_by_key(|range| range.start());
        for pair in sorted.windows(2) {
            if pair[0].end() > pair[1].start() {
                return Err(JobError::Overlap {
                    first: *pair[0],
                    second: *pair[1],
                });
            }
        }
        let size = ranges
            .iter()
            .try_fold(0u64, |sum, range| sum.checked_add(range.size()))
            .ok_or(JobError::TooLarge)?;
        Ok(Self {
            ranges,
            size,
            min_chunk: Self::MIN_CHUNK,
            max_chunk: Self::MAX_CHUNK,
            max_threads: None,
            nodes: Vec::new(),
            home: None,
            spread: false,
        })
    }

    /// The ranges, in the order in which they are worked on.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Bytes of all ranges together.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Why ranges do not make a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// There is nothing to do.
    #[error("a job needs at least one range")]
    NoRanges,
    /// A range of no bytes.
    #[error("range at {start:#x} has no bytes")]
    EmptyRange {
        /// First address.
        start: u64,
    },
    /// A range that runs past the end of the address space.
    #[error("range at {start:#x} of {size:#x} bytes wraps around the address space")]
    WrappingRange {
        /// First address.
        start: u64,
        /// Length in bytes.
        size: u64,
    },
    /// An alignment that is no power of two.
    #[error("alignment {align:#x} of the range at {start:#x} is not a power of two")]
    Alignment {
        /// First address.
        start: u64,
        /// The alignment in bytes.
        align: u64,
    },
    /// Two ranges share addresses.
    #[error(
        "ranges {:#x}..{:#x} and {:#x}..{:#x} overlap",
        first.start(), first.end(), second.start(), second.end()
    )]
    Overlap {
        /// The lower one.
        first: Range,
        /// The one that begins inside it.
        second: Range,
    },
    /// All ranges together exceed 2⁶⁴ bytes.
    #[error("the ranges have more than 2^64 bytes together")]
    TooLarge,
}
