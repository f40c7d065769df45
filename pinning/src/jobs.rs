// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Jobs`]: the jobs of one process, which share what its CPUs allow.
//!
//! ```text
//!  budget 4    job A wants 4 ──► 4            A looks again ──► 3
//!              job B wants 4 ──► 1 (itself)   B looks again ──► 1     A ends, B looks ──► 4
//! ```

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Counts the threads that work for any of the jobs that were started with it, their callers included.
///
/// The userspace form of the RFC's `padata_works_inuse`. A job gets what its own budget leaves beside the threads of
/// the others, and at least its own caller; it looks again while it runs, so that jobs make room for one another and
/// use what others have left. One such counter for a whole process is what makes sense: jobs in different ones do not
/// see each other.
#[derive(Debug, Default)]
pub struct Jobs {
    working: AtomicUsize,
}

impl Jobs {
    /// No jobs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            working: AtomicUsize::new(0),
        }
    }

    /// Threads that may work now for the jobs of this process, their callers included.
    #[must_use]
    pub fn working(&self) -> usize {
        // Relaxed: a number for display.
        self.working.load(Ordering::Relaxed)
    }

    /// A share of up to `wanted` threads for a new job whose `budget` allows so many.
    pub(crate) fn join(&self, budget: NonZeroUsize, wanted: usize) -> Share<'_> {
        let mut share = Share {
            jobs: self,
            threads: 0,
        };
        share.adjust(budget, wanted);
        share
    }
}

/// The threads of one job; drop gives them back.
#[derive(Debug)]
pub(crate) struct Share<'j> {
    jobs: &'j Jobs,
    threads: usize,
}

impl Share<'_> {
    /// Threads that the job may let work, its caller included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Takes or gives back threads, so that all jobs together stay within `budget`; this one keeps at least one.
    pub(crate) fn adjust(&mut self, budget: NonZeroUsize, wanted: usize) -> usize {
        let mine = self.threads;
        let next = |working: usize| {
            let others = working.saturating_sub(mine);
            budget.get().saturating_sub(others).clamp(1, wanted.max(1))
        };
        // Relaxed: the numbers hand out nothing but permission; uniqueness needs only that there is one order of them.
        let before = self
            .jobs
            .working
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |working| {
                Some(working - mine + next(working))
            })
            .unwrap_or_else(|working| working);
        self.threads = next(before);
        self.threads
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.jobs.working.fetch_sub(self.threads, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn budget(threads: usize) -> NonZeroUsize {
        NonZeroUsize::new(threads).unwrap()
    }

    #[test]
    fn late_jobs_have_their_own_thread_and_the_first_makes_room() {
        let jobs = Jobs::new();
        let mut first = jobs.join(budget(4), 4);
        assert_eq!(first.threads, 4);
        let mut second = jobs.join(budget(4), 4);
        assert_eq!(second.threads, 1, "there is nothing left but its own");
        assert_eq!(first.adjust(budget(4), 4), 3);
        assert_eq!(second.adjust(budget(4), 4), 1);
        assert_eq!(jobs.working(), 4);
        drop(first);
        assert_eq!(second.adjust(budget(4), 4), 4, "what the first one left");
        assert_eq!(second.adjust(budget(2), 4), 2, "a lower quota");
        assert_eq!(second.adjust(budget(9), 4), 4, "never more than wanted");
        drop(second);
        assert_eq!(jobs.working(), 0);
    }

    #[test]
    fn any_number_of_jobs_ends_up_within_the_budget_or_one_each() {
        let jobs = Jobs::new();
        let mut shares: Vec<_> = (0..8).map(|_| jobs.join(budget(5), 5)).collect();
        for _ in 0..2 {
            for share in &mut shares {
                share.adjust(budget(5), 5);
            }
        }
        assert_eq!(jobs.working(), 8);
        shares.truncate(3);
        for share in &mut shares {
            share.adjust(budget(5), 5);
        }
        assert_eq!(jobs.working(), 5);
    }
}
