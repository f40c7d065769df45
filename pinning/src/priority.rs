// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Raises unfinished helpers to the caller's priority, [`OneByOne`], after `padata_wait_for_helpers()` of the RFC.
//!
//! ```text
//!  caller out of work ─► raise helper 1 ─► it leaves ─► raise helper 2 ─► it leaves ─► … ─► all niced again
//! ```
//!
//! One at a time, because the caller gave one thread's worth of its priority: it waits while the helper runs.

use std::time::{Duration, Instant};

use rustix::process::setpriority_process;

use crate::{
    Priority,
    crew::{Lease, Member},
    desk::{Desk, Seat},
};

/// How long a raised thread may take to show that it has work of this job, before another one is raised instead.
const PATIENCE: Duration = Duration::from_millis(50);

/// Which helper is raised, and which were.
#[derive(Debug)]
pub(crate) struct OneByOne {
    /// The caller's own nice value.
    nice: i32,
    allowed: bool,
    current: Option<(usize, Instant)>,
    /// By member of the crew.
    raised: Box<[bool]>,
}

impl OneByOne {
    pub(crate) fn new(lease: Option<&Lease<'_>>, nice: i32) -> Self {
        let members = lease.map_or(0, |lease| lease.members.len());
        Self {
            nice,
            allowed: lease.is_some_and(|lease| lease.may_raise),
            current: None,
            raised: vec![false; members].into(),
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        if self.allowed {
            Priority::OneByOne
        } else {
            Priority::SmallChunks
        }
    }

    /// Raises the next unfinished helper, unless the one that was raised last is still at work.
    pub(crate) fn next<'d>(
        &mut self,
        members: &[Member],
        desks: impl Iterator<Item = &'d Desk> + Clone,
    ) {
        if !self.allowed {
            return;
        }
        let at_work = |member| desks.clone().any(|desk| desk.seat() == Seat::Taken(member));
        let absent = desks.clone().any(|desk| desk.seat() == Seat::Absent);
        if let Some((member, since)) = self.current {
            if at_work(member) || (absent && since.elapsed() < PATIENCE) {
                return;
            }
        }
        let unfinished = (0..members.len()).find(|&member| !self.raised[member] && at_work(member));
        // A helper that has not even begun holds nothing, and yet the job does not end before it has looked.
        let late = || (0..members.len()).find(|&member| absent && !self.raised[member]);
        let Some(member) = unfinished.or_else(late) else {
            return;
        };
        match setpriority_process(Some(members[member].thread), self.nice) {
            Ok(()) => {
                self.raised[member] = true;
                self.current = Some((member, Instant::now()));
            }
            // The privilege was dropped since the crew was made.
            Err(_) => self.allowed = false,
        }
    }

    /// Makes those who were raised as nice as before, after the job.
    pub(crate) fn settle(&mut self, members: &[Member]) {
        for (raised, member) in self.raised.iter_mut().zip(members) {
            if std::mem::take(raised) {
                // Raising niceness is always allowed, and the opposite was a moment ago.
                let _ = setpriority_process(Some(member.thread), member.nice);
            }
        }
    }
}
