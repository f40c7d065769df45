// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Progress`] of a running job, and the [`Watch`] through which a caller sees and stops it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::CancelToken;

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

/// How a caller follows a job: a callback, and a token to cancel it; `default()` does neither.
#[derive(Default)]
pub struct Watch<'a> {
    /// Stops the job when raised.
    pub cancel: Option<&'a CancelToken>,
    /// Called on the calling thread, after pieces of its own and while it waits for helpers, at most once an
    /// [`INTERVAL`](Self::INTERVAL), and once more when all is done. It may allocate and take its time: only the
    /// caller's share of the work waits.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
}

impl Watch<'_> {
    /// Least time between two calls of [`progress`](Self::progress).
    pub const INTERVAL: Duration = Duration::from_millis(100);
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("cancel", &self.cancel)
            .field("progress", &self.progress.is_some())
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
