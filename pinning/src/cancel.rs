// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A [`CancelToken`] asks a running job to stop and undo.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A flag that any thread or signal handler may raise; clones share it.
///
/// A job looks at it between slices and chunks, so the delay is one slice where work can be divided, one chunk where
/// it is a single system call.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag for good.
    pub fn cancel(&self) {
        // Relaxed: the flag carries no data; whoever sees it only stops.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is raised.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // Relaxed: pairs with the store in `cancel`, and nothing else is read through it.
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for those who register it with a signal.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
