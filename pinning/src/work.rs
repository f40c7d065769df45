// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Work`] that is done on each chunk; its consumer, the engine, owns the trait.

use crate::{Chunk, task::SystemCallFilters};

/// Whether chunks of a work are completed by a second step, [`Work::seal`], and when.
///
/// The second step is for what only one thread can do: type1 maps under one mutex, while pages are faulted in by many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sealing {
    /// There is no second step: a chunk is complete when `run` has done all of it.
    #[default]
    None,
    /// The calling thread seals a chunk when all of it is run, between pieces of its own.
    Following,
    /// The calling thread seals all chunks when all of them are run and the helpers have left.
    Last,
}

/// A helper that begins its part of a job; only given to a call on its own thread.
#[derive(Debug)]
pub struct Helper {
    pub(crate) worker: usize,
    pub(crate) filters: SystemCallFilters,
}

impl Helper {
    /// Which worker it is: 1, 2, …
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Whether it is under no more system call filters than when its crew was made, so that calls which were possible
    /// then do not kill the process now.
    #[must_use]
    pub fn is_unfiltered(&self) -> bool {
        SystemCallFilters::of_caller() == self.filters
    }
}

/// What a job does with a chunk, and how it takes that back.
///
/// ```text
///             ┌── Ok ──► ledger ──┬── job done ──► the caller keeps it
///  run(chunk)─┤    (after seal)   └── job failed ─► undo(chunk)
///             └── Err: nothing of this chunk is left
/// ```
///
/// Lifecycle: for every byte of the job `run` is called at most once. If the job fails, all threads are first joined;
/// then `undo` is called on the calling thread for what `run` completed, highest ordinal first, and for nothing else.
pub trait Work: Sync {
    /// Why a chunk could not be done or taken back.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Does `chunk`.
    ///
    /// Called from the calling thread (`worker` 0) and from helpers (1, 2, …) at once, never for two chunks of one
    /// `worker` at the same time. With a plan that has slices, `chunk` is one slice.
    ///
    /// A panic stops the job and resumes on the caller after the undo.
    ///
    /// # Errors
    /// Whatever prevented it. A `run` that fails or unwinds has already taken back its own part: the engine will not
    /// call [`undo`](Self::undo) for it.
    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), Self::Error>;

    /// Called on a helper before its first piece of the job. Returns whether it may take part.
    ///
    /// For what belongs to a thread and has to be that of the calling one, such as a memory policy.
    fn enter(&self, helper: &Helper) -> bool {
        let _ = helper;
        true
    }

    /// Completes a chunk that is run, where the plan was made with a [`Sealing`]; by default there is nothing to do.
    ///
    /// Called on the calling thread only, once for a chunk, in any order, after every `run` for the chunk's slices has
    /// returned (what they did happens before it).
    ///
    /// # Errors
    /// Whatever prevented it. A `seal` that fails or unwinds has already taken back its own part.
    fn seal(&self, chunk: Chunk) -> Result<(), Self::Error> {
        let _ = chunk;
        Ok(())
    }

    /// Takes back a completed chunk, or a run of completed slices of a chunk that was not completed.
    ///
    /// With a [`Sealing`] only what was sealed is taken back: `run` alone then leaves nothing behind.
    ///
    /// # Errors
    /// What prevented it. The chunk is then listed in [`RunError::left_pinned`](crate::RunError::left_pinned), and the
    /// rest is undone all the same.
    fn undo(&self, chunk: Chunk) -> Result<(), Self::Error>;
}
