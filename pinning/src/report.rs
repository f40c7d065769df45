// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Report`] of a finished job.

use std::{num::NonZeroUsize, time::Duration};

use crate::{Chunk, Limit};

/// What a job did, and what bound it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Bytes done, of a failed job those done before the undo.
    pub bytes: u64,
    /// Most threads that were allowed to work at a time, the caller included.
    pub threads: usize,
    /// Fewest threads that were, after a quota or mask had become smaller, or when other jobs came.
    pub fewest_threads: usize,
    /// What decided that number.
    pub limited_by: Limit,
    /// Everything that was asked how many threads may work when the job was planned; `NonZeroUsize::MAX` where it set no
    /// bound.
    pub bounds: Vec<(Limit, NonZeroUsize)>,
    /// Helpers that the plan asked for.
    pub helpers_wanted: usize,
    /// Helpers that the crew could give.
    pub helpers_started: usize,
    /// How the job keeps a starved helper from delaying the caller.
    pub priority: Priority,
    /// Smallest and largest chunk in bytes; 0 where no chunk was completed.
    pub chunk_bytes: (u64, u64),
    /// Completed chunks.
    pub chunks: u64,
    /// Wall time from the start to the join of the last helper and the last seal, without an undo.
    pub time: Duration,
    /// The part of it until everything was run; all of it where chunks have no second step.
    pub run_time: Duration,
    /// Time that the calling thread spent sealing chunks, also while others still ran pieces.
    pub seal_time: Duration,
    /// What each thread did, the caller first.
    pub workers: Vec<WorkerReport>,
}

/// What one thread of a job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerReport {
    /// Bytes it did.
    pub bytes: u64,
    /// Pieces (chunks or slices) it did.
    pub pieces: u64,
    /// How many of them were slices of another thread's chunk.
    pub taken_over: u64,
    /// CPU time that it used for the job.
    pub cpu_time: Duration,
    /// Its nice value when it began.
    pub nice: i32,
    /// The memory node to whose CPUs it was brought.
    pub node: Option<u32>,
}

/// How a job keeps a starved helper from delaying the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Helpers hold only as much as their rate deserves, and what they have not begun is taken over.
    SmallChunks,
    /// Beside that, when the caller has run out of work it raises one helper at a time to its own nice value, and waits
    /// for that one.
    OneByOne,
}

impl Priority {
    /// The name in reports and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SmallChunks => "small-chunks",
            Self::OneByOne => "one-by-one",
        }
    }
}

/// A job that was completed: its report, and the chunks that now exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What was done.
    pub report: Report,
    /// Every chunk, in the order of the job's ranges; together they are the whole job.
    pub chunks: Vec<Chunk>,
}
