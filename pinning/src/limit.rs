// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What bounds the number of threads: the caller's [`Budget`], and the name of the [`Limit`] that decided.

use std::num::NonZeroUsize;

/// How many threads a job may use now, the caller included.
///
/// Asked on the thread that starts the job: when its plan is made, and, through
/// [`Watch::budget`](crate::Watch::budget), about ten times a second while it runs.
pub trait Budget {
    /// The present answer.
    fn allowance(&self) -> Allowance;
}

/// An answer of a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Threads, the caller included.
    pub threads: NonZeroUsize,
    /// Name of the limit that gave this number, as it shall stand in the report.
    pub limited_by: &'static str,
}

impl Budget for Allowance {
    fn allowance(&self) -> Allowance {
        *self
    }
}

/// What decided the number of threads of a job.
///
/// Of several limits with the same number the first in this order is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// The budget, under the name it gave.
    Budget(&'static str),
    /// The caller's own maximum.
    MaxThreads,
    /// The job is too small for more.
    Size,
    /// The crew is at work for another job, or other jobs of the process use what the budget allows.
    Jobs,
    /// Threads could not be started, or not be brought under the caller's CPU mask.
    ThreadsUnavailable,
    /// The target works with no more at once.
    Target,
    /// The target has no more map entries.
    Entries,
}

impl Limit {
    /// The name in reports and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Budget(name) => name,
            Self::MaxThreads => "max-threads",
            Self::Size => "size",
            Self::Jobs => "jobs",
            Self::ThreadsUnavailable => "threads-unavailable",
            Self::Target => "target",
            Self::Entries => "entries",
        }
    }
}
