// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Taking completed chunks back in parallel: the reverse of a job, as a job.

use std::sync::{Mutex, PoisonError};

use crate::{
    Budget, Chunk, Crew, Jobs, LeftPinned, Plan, Report, RunErrorKind, UndoFailure, Watch, Work,
    run,
    unwind::{halt_unwinding, message},
};

/// Bytes that are worth a thread of their own when chunks are taken back: that is some fifty times faster than pinning.
pub const RELEASE_CHUNK: u64 = 1 << 30;

/// What [`release`] did.
#[derive(Debug)]
#[must_use = "chunks may have stayed"]
pub struct Released<E> {
    /// Threads, time and bytes; `None` where the chunks were too many for a plan and were taken back one by one.
    pub report: Option<Report>,
    /// Chunks that could not be taken back.
    pub left_pinned: Vec<LeftPinned<E>>,
}

/// Calls [`Work::undo`] for each of `chunks`, which an earlier run of the same `work` completed, on the calling thread
/// and on helpers of `crew`, beside the other `jobs` of the process.
///
/// A chunk that cannot be taken back, or whose `undo` panics, does not keep the others from being taken back. Called
/// from inside a job of `crew`, all of it happens on the calling thread.
pub fn release<W: Work>(
    chunks: &[Chunk],
    budget: &dyn Budget,
    crew: Option<&Crew>,
    jobs: Option<&Jobs>,
    work: &W,
) -> Released<W::Error> {
    let reverse = Reverse {
        work,
        chunks,
        left: Mutex::new(Vec::new()),
    };
    let report = Plan::of_chunks(chunks, RELEASE_CHUNK, budget)
        .ok()
        .and_then(|plan| {
            let watch = || Watch {
                budget: Some(budget),
                jobs,
                ..Watch::default()
            };
            run(&plan, crew, &reverse, watch())
                .or_else(|error| match error.kind {
                    RunErrorKind::Reentered => run(&plan, None, &reverse, watch()),
                    _ => Err(error),
                })
                .ok()
                .map(|finished| finished.report)
        });
    if report.is_none() {
        for chunk in chunks {
            reverse.take_back(*chunk);
        }
    }
    let left_pinned = reverse
        .left
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Released {
        report,
        left_pinned,
    }
}

/// A work whose `run` is the `undo` of another one, and which never fails.
struct Reverse<'a, W: Work> {
    work: &'a W,
    chunks: &'a [Chunk],
    left: Mutex<Vec<LeftPinned<W::Error>>>,
}

impl<W: Work> Reverse<'_, W> {
    fn take_back(&self, chunk: Chunk) {
        let reason = match halt_unwinding(|| self.work.undo(chunk)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => UndoFailure::Failed(error),
            Err(payload) => UndoFailure::Panicked(message(&payload)),
        };
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(LeftPinned { chunk, reason });
    }
}

impl<W: Work> Work for Reverse<'_, W> {
    type Error = std::convert::Infallible;

    fn run(&self, chunk: Chunk, _worker: usize) -> Result<(), Self::Error> {
        self.take_back(self.chunks[chunk.ordinal()]);
        Ok(())
    }

    fn undo(&self, _chunk: Chunk) -> Result<(), Self::Error> {
        Ok(())
    }
}
