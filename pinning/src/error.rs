// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why a run failed, and what of it could not be taken back.

use std::{error::Error, fmt};

use crate::{Chunk, Report};

/// A job that was stopped; everything that could be undone is undone.
#[derive(Debug)]
pub struct RunError<E> {
    /// What stopped it.
    pub kind: RunErrorKind,
    /// The piece that failed, for [`RunErrorKind::Work`].
    pub at: Option<Chunk>,
    /// Why it failed, for [`RunErrorKind::Work`].
    pub source: Option<E>,
    /// What is still done, because it could not be undone; empty where all went well.
    pub left_pinned: Vec<LeftPinned<E>>,
    /// Completed chunks that were undone.
    pub chunks_undone: u64,
    /// What had been done before the stop; `None` where the job never started.
    pub report: Option<Box<Report>>,
}

/// What stops a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunErrorKind {
    /// [`Work::run`](crate::Work::run) failed; this was the first failure in time.
    Work,
    /// The [`CancelToken`](crate::CancelToken) was raised.
    Cancelled,
    /// The crew was used from inside a job of its own, which would wait for itself for ever.
    Reentered,
}

/// A chunk that could not be undone.
#[derive(Debug)]
pub struct LeftPinned<E> {
    /// Where.
    pub chunk: Chunk,
    /// Why.
    pub reason: UndoFailure<E>,
}

/// Why a chunk could not be undone.
#[derive(Debug)]
pub enum UndoFailure<E> {
    /// [`Work::undo`](crate::Work::undo) failed.
    Failed(E),
    /// [`Work::undo`](crate::Work::undo) panicked with this text.
    Panicked(String),
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.at) {
            (RunErrorKind::Work, Some(chunk)) => write!(f, "the chunk at {chunk} failed")?,
            (RunErrorKind::Work, None) => write!(f, "a chunk failed")?,
            (RunErrorKind::Cancelled, _) => write!(f, "the job was cancelled")?,
            (RunErrorKind::Reentered, _) => {
                write!(f, "the crew is already at work for the job that called it")?;
            }
        }
        for (index, left) in self.left_pinned.iter().enumerate() {
            let separator = if index == 0 {
                "; could not be undone: "
            } else {
                ", "
            };
            write!(f, "{separator}{} ({})", left.chunk, left.reason)?;
        }
        Ok(())
    }
}

impl<E: Error + 'static> Error for RunError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl<E: fmt::Display> fmt::Display for UndoFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}
