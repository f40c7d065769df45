// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pinned`]: the guard that a pin call returns.

use std::sync::Arc;

use pinning::{Budget, Chunk, Crew, RELEASE_CHUNK, Released, SystemCallFilters};
use thiserror::Error;
use vfio::{Iova, PinFault, Placed, Regions, Session, Target};

use crate::{
    ChunkTable, CutChunk, PinReport,
    budget::{JOBS, LiveAllowance},
};

/// Memory that is pinned for as long as this exists.
///
/// Dropping it unpins, in parallel, on the calling thread and on helpers; [`unpin`](Self::unpin) does the same and
/// says how it went; [`keep`](Self::keep) leaves everything pinned. It may be sent to and dropped on any thread.
///
/// Without a crew of the VMM's, and under a system call filter that was not there when the memory was pinned, no helpers
/// are started for it: the filter may kill the process for what that takes.
#[derive(Debug)]
#[must_use = "dropping it unpins the memory at once"]
pub struct Pinned<T: Target> {
    /// `None` once it is unpinned or kept.
    session: Option<T::Session>,
    regions: Regions,
    chunks: Vec<Chunk>,
    addressing: vfio::Addressing,
    crew: Option<Arc<Crew>>,
    /// Those of the thread that pinned.
    filters: SystemCallFilters,
    report: PinReport,
}

impl<T: Target> Pinned<T> {
    pub(crate) fn new(
        target: &T,
        session: T::Session,
        regions: Regions,
        chunks: Vec<Chunk>,
        (crew, filters): (Option<Arc<Crew>>, SystemCallFilters),
        report: PinReport,
    ) -> Self {
        Self {
            session: Some(session),
            regions,
            chunks,
            addressing: target.addressing(),
            crew,
            filters,
            report,
        }
    }

    /// What was done, and what bound it.
    #[must_use]
    pub fn report(&self) -> &PinReport {
        &self.report
    }

    /// The chunk table, in IOVA order: for those who later unmap parts, read dirty bitmaps or move addresses, which
    /// all have to respect these borders.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Placed> + '_ {
        self.chunks
            .iter()
            .map(|chunk| self.regions.locate(chunk, self.addressing))
    }

    /// The chunks as a table that answers which of them a range covers.
    #[must_use]
    pub fn table(&self) -> ChunkTable {
        ChunkTable::new(self.chunks())
    }

    /// Unpins the chunks in the `size` bytes from `iova` on, as when memory is hot-removed; the others stay pinned.
    ///
    /// # Errors
    /// [`UnpinError`] where the range cuts a chunk in two, and then nothing was unpinned, or where chunks could not be
    /// unpinned, and then they are still pinned.
    pub fn unpin_range(&mut self, iova: Iova, size: u64) -> Result<Unpinned, UnpinError> {
        self.table().covered(iova, size).map_err(|cut| UnpinError {
            reasons: cut.to_string(),
            left_pinned: Vec::new(),
            cut: Some(cut),
        })?;
        let (taken, rest): (Vec<Chunk>, Vec<Chunk>) = self.chunks.iter().partition(|chunk| {
            let at = self.regions.locate(chunk, self.addressing).iova;
            at >= iova && at.0 - iova.0 < size
        });
        let Some(session) = self.session.take() else {
            return Ok(Unpinned::default());
        };
        let released = self.release(&session, &taken);
        self.session = Some(session);
        self.chunks = rest;
        // What resisted is still this guard's.
        self.chunks
            .extend(released.left_pinned.iter().map(|left| left.chunk));
        self.outcome(&released)
    }

    /// Unpins everything now.
    ///
    /// # Errors
    /// [`UnpinError`] where chunks could not be unpinned; the others are.
    pub fn unpin(mut self) -> Result<Unpinned, UnpinError> {
        let Some(session) = self.session.take() else {
            return Ok(Unpinned::default());
        };
        let released = self.release(&session, &self.chunks);
        self.outcome(&released)
    }

    fn outcome(&self, released: &Released<PinFault>) -> Result<Unpinned, UnpinError> {
        if released.left_pinned.is_empty() {
            return Ok(released
                .report
                .as_ref()
                .map_or_else(Unpinned::default, |report| Unpinned {
                    bytes: report.bytes,
                    seconds: report.time.as_secs_f64(),
                    threads: report.threads,
                }));
        }
        let reasons: Vec<String> = released
            .left_pinned
            .iter()
            .map(|left| format!("{} ({})", left.chunk, left.reason))
            .collect();
        Err(UnpinError {
            reasons: reasons.join(", "),
            cut: None,
            left_pinned: released
                .left_pinned
                .iter()
                .map(|left| self.regions.locate(&left.chunk, self.addressing))
                .collect(),
        })
    }

    /// Leaves everything pinned until the process ends or the VMM removes it by other means, and gives the chunk table.
    ///
    /// For targets that are the VMM's own (a container, an IOAS) nothing is leaked; `io_uring` rings stay open.
    pub fn keep(mut self) -> ChunkTable {
        let table = self.table();
        if let Some(session) = self.session.take() {
            session.keep();
        }
        table
    }

    /// Takes `chunks` back.
    fn release(&self, session: &T::Session, chunks: &[Chunk]) -> Released<PinFault> {
        // The limits may have changed since the memory was pinned.
        let live = LiveAllowance::new();
        // Making a crew under a filter that has come since may kill the process.
        let unfiltered = SystemCallFilters::of_caller() == self.filters;
        let own_crew;
        let crew = match &self.crew {
            _ if !session.unpins_in_parallel() => None,
            Some(crew) => Some(&**crew),
            None if !unfiltered => None,
            None => {
                let bytes: u64 = chunks.iter().map(Chunk::size).sum();
                let worth = usize::try_from(bytes / RELEASE_CHUNK).unwrap_or(usize::MAX);
                let allowed = live.allowance().threads.get();
                let threads = allowed.min(self.report.job.threads).min(worth);
                own_crew =
                    (threads > 1).then(|| Crew::new(threads - 1, self.report.nice).detached());
                own_crew.as_ref()
            }
        };
        pinning::release(chunks, &live, crew, Some(&JOBS), session)
    }
}

impl<T: Target> Drop for Pinned<T> {
    fn drop(&mut self) {
        // Chunks that resist are released when the session is dropped; who wants to know calls `unpin`.
        if let Some(session) = self.session.take() {
            let _ = self.release(&session, &self.chunks);
        }
    }
}

/// What unpinning did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Unpinned {
    /// Bytes unpinned.
    pub bytes: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Threads that worked, the caller included.
    pub threads: usize,
}

/// Chunks that could not be unpinned.
#[derive(Debug, Error)]
#[error("could not be unpinned: {reasons}")]
pub struct UnpinError {
    reasons: String,
    left_pinned: Vec<Placed>,
    cut: Option<CutChunk>,
}

impl UnpinError {
    /// Where.
    #[must_use]
    pub fn left_pinned(&self) -> &[Placed] {
        &self.left_pinned
    }

    /// The chunk that a range would have cut in two; nothing was unpinned then.
    #[must_use]
    pub fn cut(&self) -> Option<&CutChunk> {
        self.cut.as_ref()
    }
}
