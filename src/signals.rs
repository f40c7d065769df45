// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pending termination signals of the calling thread, which cancel its job.
//!
//! ```text
//!  kill -TERM ─► blocked by the VMM ─► SigPnd, ShdPnd ─► look, ten times a second ─► CancelToken ─► undo
//! ```
//!
//! Nothing is taken off the queue: when the job has been undone, the VMM finds its signal where it always does.

use cgroup::PendingSignals;
use pinning::CancelToken;

/// Raises a token when a termination signal is pending.
#[derive(Debug)]
pub(crate) struct Signals(CancelToken);

impl Signals {
    pub(crate) fn new(token: CancelToken) -> Self {
        Self(token)
    }

    /// Looks at the calling thread's pending signals.
    pub(crate) fn look(&self) {
        // Where they cannot be read nothing is known to be pending, as if this had not been asked for.
        if PendingSignals::current().is_ok_and(|pending| pending.termination().is_some()) {
            self.0.cancel();
        }
    }
}
