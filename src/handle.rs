// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PinHandle`]: a pin call that runs while its caller does something else.
//!
//! ```text
//!  Pinner::start ──► thread "parapin-start": Pinner::pin ──┐
//!       │  progress, cancel                                ▼
//!  PinHandle ───────────────────────────────────────────► join: Pinned or PinError, as from Pinner::pin
//! ```

use std::{
    fmt, panic,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use pinning::{CancelToken, Progress};
use vfio::Target;

use crate::{PinError, Pinned};

/// A pin call on a thread of its own; dropping it cancels the call and undoes it.
#[must_use = "dropping it cancels the job and undoes it"]
pub struct PinHandle<T: Target> {
    /// `None` once it is joined.
    thread: Option<JoinHandle<Outcome<T>>>,
    cancel: CancelToken,
    latest: Latest,
}

pub(crate) type Outcome<T> = Result<Pinned<T>, PinError>;

/// The progress that was told last.
#[derive(Clone, Default)]
pub(crate) struct Latest(Arc<Mutex<Option<Progress>>>);

impl Latest {
    pub(crate) fn set(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    fn get(&self) -> Option<Progress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Target> PinHandle<T> {
    pub(crate) fn new(thread: JoinHandle<Outcome<T>>, cancel: CancelToken, latest: Latest) -> Self {
        Self {
            thread: Some(thread),
            cancel,
            latest,
        }
    }

    /// How far the job is, as of at most a tenth of a second ago; `None` before the first such moment.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.latest.get()
    }

    /// Whether [`join`](Self::join) would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the job between two chunks and undoes it; [`join`](Self::join) then gives the error.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for the job.
    ///
    /// # Errors
    /// [`PinError`], as from [`Pinner::pin`](crate::Pinner::pin).
    ///
    /// # Panics
    /// A panic of the job resumes here, after everything was undone.
    pub fn join(mut self) -> Result<Pinned<T>, PinError> {
        let outcome = self.thread.take().map(JoinHandle::join);
        match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(payload)) => panic::resume_unwind(payload),
            None => unreachable!("only `join` takes the thread, and it takes the handle"),
        }
    }
}

impl<T: Target> Drop for PinHandle<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.cancel.cancel();
            // What it may have pinned is unpinned when its outcome is dropped.
            drop(thread.join());
        }
    }
}

impl<T: Target> fmt::Debug for PinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinHandle")
            .field("finished", &self.is_finished())
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}
