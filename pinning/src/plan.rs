// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A [`Plan`] is a job after all limits were looked at: how many threads, where it is cut, and why.
//!
//! ```text
//!  Job ────────┐
//!  Constraints ├──► Plan { threads, limited_by, chunk, cells, slices } ──► run
//!  Budget ─────┘
//! ```
//!
//! The rule is that of `padata_do_multithreaded()` (kernel/padata.c, Linux 6.12):
//!
//! ```text
//!  threads = min(max(size / max(min_chunk, align), 1), max_threads)
//!  chunk   = roundup(max(size / (threads * 4), min_chunk), align)
//! ```
//!
//! with three departures. `max_chunk` bounds the chunk, because a progress bar, a cancel and a slow helper all wait for
//! whole chunks. A target with few map entries raises the cut until the worst case fits. And what is handed out is
//! not always `chunk`: the plan fixes the *cell*, the smallest chunk; how many cells a thread gets at a time is
//! decided while the job runs, by that thread's own rate.

use std::num::{NonZeroU64, NonZeroUsize};

use thiserror::Error;

use crate::{
    Allowance, Budget, Chunk, Job, Limit, Range, Sealing,
    layout::{Cuts, Layout, cells_of, round_up},
    place::Places,
};

/// padata's `load_balance_factor`: chunks a thread can expect.
const CHUNKS_PER_THREAD: u64 = 4;

/// Bytes of a first piece where work cannot be divided: a few milliseconds even where pages have to be zeroed.
const PROBE: u64 = 2 << 20;

/// Most cells that a plan has, so that its ledger stays at a few MiB; the cut is raised beyond that.
const MAX_CELLS: u64 = 1 << 20;

/// Most slices that a plan has; the slices are raised beyond that.
const MAX_SLICES: u64 = 1 << 24;

/// What the place where the work happens asks of a plan; `Default` asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Constraints {
    /// Bytes after which a chunk can be interrupted and continued by another thread; `None` where it is one system
    /// call.
    pub slice: Option<NonZeroU64>,
    /// Most bytes that one call takes.
    pub max_chunk: Option<NonZeroU64>,
    /// Most chunks that can exist at a time.
    pub entries: Option<u64>,
    /// Most threads that gain anything.
    pub max_threads: Option<NonZeroUsize>,
    /// Whether chunks have a second step. Every chunk is then one cell: what keeps threads equally busy are its
    /// slices.
    pub sealing: Sealing,
}

/// How a job will run. Immutable; made before any thread works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    layout: Layout,
    places: Places,
    threads: NonZeroUsize,
    limited_by: Limit,
    /// Everything that was asked how many threads there may be.
    bounds: Vec<(Limit, NonZeroUsize)>,
    /// Threads that the budget allowed when this was made.
    budget: NonZeroUsize,
    chunk: u64,
    sealing: Sealing,
}

impl Plan {
    /// Plans `job` within `constraints` and `budget`.
    ///
    /// # Errors
    /// [`PlanError`] where the constraints cannot be kept.
    pub fn new(
        job: &Job,
        constraints: &Constraints,
        budget: &dyn Budget,
    ) -> Result<Self, PlanError> {
        let ranges = job.ranges();
        let align = ranges.iter().map(Range::align).max().unwrap_or(1);
        let hard_max = constraints.max_chunk.map_or(u64::MAX, NonZeroU64::get);
        if align > hard_max {
            return Err(PlanError::AlignmentOverMaximum {
                align,
                max_chunk: hard_max,
            });
        }
        let hard_max = hard_max / align * align;
        let max_chunk = job.max_chunk.clamp(1, hard_max);
        let min_chunk = job.min_chunk.clamp(1, max_chunk);
        // What cannot be divided is begun with a small piece, whoever begins it: a starved helper holds it for long.
        // Where sealing comes last, nothing is gained by small chunks.
        let first = match (constraints.slice, constraints.sealing) {
            (_, Sealing::Last) => max_chunk,
            (Some(_), _) | (None, Sealing::Following) => min_chunk,
            (None, Sealing::None) => min_chunk.min(PROBE),
        };

        let entries = constraints.entries.unwrap_or(u64::MAX);
        let cell = cell_within(ranges, first, hard_max, entries)?;
        let allowance = budget.allowance();
        let bounds = bounds(job, min_chunk, constraints, &allowance);
        let (threads, limited_by) = least(&bounds);
        let share = job.size() / (threads.get() as u64).saturating_mul(CHUNKS_PER_THREAD);
        let share = match constraints.sealing {
            Sealing::None => share.clamp(min_chunk, max_chunk),
            Sealing::Following | Sealing::Last => cell,
        };
        let slice = constraints
            .slice
            .map(|slice| slice.get().max(job.size() / MAX_SLICES));
        let cuts = Cuts {
            cell,
            chunk: share.max(cell),
            slice,
        };
        let places = Places::of_caller(job, threads.get());
        let layout = Layout::new(ranges, &places, cuts).ok_or(PlanError::TooManyPieces)?;
        let chunk = round_up(share, align).min(hard_max).max(cell);
        Ok(Self {
            chunk,
            layout,
            places,
            threads,
            limited_by,
            bounds: bounds.into(),
            budget: allowance.threads,
            sealing: constraints.sealing,
        })
    }

    /// Plans to work through chunks that an earlier run made, each as a whole: for taking them back.
    ///
    /// `min_chunk` has its padata meaning, bytes that are worth a thread.
    ///
    /// # Errors
    /// [`PlanError::TooManyPieces`] for more than 2³² − 1 chunks.
    pub(crate) fn of_chunks(
        chunks: &[Chunk],
        min_chunk: u64,
        budget: &dyn Budget,
    ) -> Result<Self, PlanError> {
        let ranges: Vec<Range> = chunks
            .iter()
            .filter_map(|chunk| Range::new(chunk.start(), chunk.size(), 1).ok())
            .collect();
        let whole = Cuts {
            cell: u64::MAX,
            chunk: u64::MAX,
            slice: None,
        };
        let places = Places::default();
        let layout = Layout::new(&ranges, &places, whole).ok_or(PlanError::TooManyPieces)?;
        let allowance = budget.allowance();
        let by_size = (layout.size() / min_chunk.max(1)).min(chunks.len() as u64);
        let bounds = [
            (Limit::Budget(allowance.limited_by), allowance.threads),
            (Limit::Size, to_threads(by_size)),
        ];
        let (threads, limited_by) = least(&bounds);
        Ok(Self {
            layout,
            places,
            threads,
            limited_by,
            bounds: bounds.into(),
            budget: allowance.threads,
            chunk: u64::MAX,
            sealing: Sealing::None,
        })
    }

    /// Threads that shall work, the caller included.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// What decided [`threads`](Self::threads).
    #[must_use]
    pub fn limited_by(&self) -> Limit {
        self.limited_by
    }

    /// Everything that was asked how many threads may work, and its answer; `NonZeroUsize::MAX` where it sets no bound.
    #[must_use]
    pub fn bounds(&self) -> &[(Limit, NonZeroUsize)] {
        &self.bounds
    }

    /// Bytes of a full-sized chunk, a multiple of every range's alignment.
    #[must_use]
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Number of cells, the most chunks that a run of this plan can make.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.layout.cells() as usize
    }

    /// Bytes of the whole job.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// Whether chunks have a second step, and when.
    #[must_use]
    pub fn sealing(&self) -> Sealing {
        self.sealing
    }

    /// The memory node to whose CPUs `worker` (0: the caller) is brought; `None` for who works anywhere.
    #[must_use]
    pub fn node_of(&self, worker: usize) -> Option<u32> {
        self.places.node(worker)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn budget(&self) -> NonZeroUsize {
        self.budget
    }
}

/// Everything that bounds the number of threads; that of the job's size is padata's.
fn bounds(
    job: &Job,
    min_chunk: u64,
    constraints: &Constraints,
    allowance: &Allowance,
) -> [(Limit, NonZeroUsize); 5] {
    let worth = job.ranges().iter().fold(0u128, |sum, range| {
        sum + (u128::from(range.size()) << 32) / u128::from(min_chunk.max(range.align()))
    }) >> 32;
    let by_size = u64::try_from(worth).unwrap_or(u64::MAX);
    let unbounded = NonZeroUsize::MAX;
    [
        (Limit::Budget(allowance.limited_by), allowance.threads),
        (Limit::MaxThreads, job.max_threads.unwrap_or(unbounded)),
        (Limit::Size, to_threads(by_size)),
        (Limit::Target, constraints.max_threads.unwrap_or(unbounded)),
        (
            Limit::Entries,
            constraints.entries.map_or(unbounded, to_threads),
        ),
    ]
}

/// The smallest number, and the first limit that gives it.
fn least(bounds: &[(Limit, NonZeroUsize)]) -> (NonZeroUsize, Limit) {
    bounds
        .iter()
        .map(|&(limit, threads)| (threads, limit))
        .min()
        .unwrap_or((NonZeroUsize::MIN, Limit::Size))
}

fn to_threads(number: u64) -> NonZeroUsize {
    usize::try_from(number)
        .ok()
        .and_then(NonZeroUsize::new)
        .unwrap_or(if number == 0 {
            NonZeroUsize::MIN
        } else {
            NonZeroUsize::MAX
        })
}

/// The smallest cut from `at_least` on, by doubling, with which `ranges` need no more than `entries` chunks.
fn cell_within(
    ranges: &[Range],
    at_least: u64,
    hard_max: u64,
    entries: u64,
) -> Result<u64, PlanError> {
    let needed = |cell: u64| {
        ranges
            .iter()
            .map(|range| cells_of(range, round_up(cell, range.align())))
            .fold(0, u64::saturating_add)
    };
    let mut cell = at_least;
    while needed(cell) > entries.min(MAX_CELLS) {
        if cell >= hard_max {
            let needed = needed(hard_max);
            return Err(if entries < needed {
                PlanError::Entries { needed, entries }
            } else {
                PlanError::TooManyPieces
            });
        }
        cell = cell.saturating_mul(2).min(hard_max);
    }
    Ok(cell)
}

/// Why a job cannot be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Even the largest chunks are more than the target has entries for.
    #[error(
        "{needed} map entries are needed even with the largest chunks, {entries} are available"
    )]
    Entries {
        /// Entries that the largest possible chunks need.
        needed: u64,
        /// Entries that the target has left.
        entries: u64,
    },
    /// A page is larger than the largest piece that the target takes.
    #[error(
        "the backing pages have {align:#x} bytes, and the target takes at most {max_chunk:#x} bytes at once"
    )]
    AlignmentOverMaximum {
        /// Alignment in bytes.
        align: u64,
        /// The target's maximum in bytes.
        max_chunk: u64,
    },
    /// The job would have more pieces than the ledger holds.
    #[error("the job has more than {MAX_CELLS} pieces even with the largest chunks")]
    TooManyPieces,
}
