// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Progress`] of a running job, and the [`Watch`] through which a caller sees and stops it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{Alarm, Budget, CancelToken, Jobs};

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes of the whole job.
    pub total: u64,
    /// Time since the job began.
    pub elapsed: Duration,
}

/// How a caller follows a job, and what the job follows while it runs; `default()` does neither.
#[derive(Default)]
pub struct Watch<'a> {
    /// Stops the job when raised.
    pub cancel: Option<&'a CancelToken>,
    /// Called on the calling thread, after pieces of its own and while it waits for helpers, at most once an
    /// [`INTERVAL`](Self::INTERVAL), and once more when all is done. It may allocate and take its time: only the
    /// caller's share of the work waits.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// Asked on the calling thread, once an interval and between its pieces, how many threads may work from now on:
    /// helpers retire, or come back, up to the number that was planned. It may allocate.
    pub budget: Option<&'a dyn Budget>,
    /// The jobs with which this one shares what the budget allows.
    pub jobs: Option<&'a Jobs>,
    /// Is told of helpers that make no progress.
    pub alarm: Option<Alarm<'a>>,
}

impl Watch<'_> {
    /// Least time between two calls of [`progress`](Self::progress), and between two looks at the limits.
    pub const INTERVAL: Duration = Duration::from_millis(100);
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("cancel", &self.cancel)
            .field("progress", &self.progress.is_some())
            .field("budget", &self.budget.is_some())
            .field("jobs", &self.jobs)
            .field("alarm", &self.alarm)
            .finish()
    }
}

/// Calls the callback no more often than it wants to be called.
pub(crate) struct Ticker<'a> {
    callback: Option<&'a mut dyn FnMut(Progress)>,
    started: Instant,
    total: u64,
    last: Instant,
}

impl<'a> Ticker<'a> {
    pub(crate) fn new(
        callback: Option<&'a mut dyn FnMut(Progress)>,
        started: Instant,
        total: u64,
    ) -> Self {
        Self {
            callback,
            started,
            total,
            last: started,
        }
    }

    /// Reports `done` bytes if it is time to.
    pub(crate) fn tick(&mut self, done: impl FnOnce() -> u64) {
        if self.callback.is_some() && self.last.elapsed() >= Watch::INTERVAL {
            self.report(done());
        }
    }

    /// Reports `done` bytes now.
    pub(crate) fn report(&mut self, done: u64) {
        self.last = Instant::now();
        if let Some(callback) = &mut self.callback {
            callback(Progress {
                done,
                total: self.total,
                elapsed: self.started.elapsed(),
            });
        }
    }
}
