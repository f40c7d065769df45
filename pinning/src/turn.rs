// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whose [`Turn`] it is: how many threads may work at present, and where the others wait.
//!
//! ```text
//!  caller   allow(n) ──► allowed ──► wakes helpers below n        close() ──► wakes all: there is nothing left
//!  helper   between pieces: worker < allowed? work : wait
//! ```
//!
//! A helper that waits holds nothing: the slices of its chunk can be taken over.

use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock};

/// How many threads may work; the caller (worker 0) always may.
#[derive(Debug)]
pub(crate) struct Turn {
    allowed: AtomicUsize,
    /// Whether the caller has found nothing more to do.
    closed: Mutex<bool>,
    change: Condvar,
}

impl Turn {
    pub(crate) fn new(allowed: usize) -> Self {
        Self {
            allowed: AtomicUsize::new(allowed),
            closed: Mutex::new(false),
            change: Condvar::new(),
        }
    }

    /// Whether `worker` may begin another piece.
    pub(crate) fn may_work(&self, worker: usize) -> bool {
        // Relaxed: only permission. A worker that sees it late does one more piece.
        worker < self.allowed.load(Ordering::Relaxed)
    }

    /// Waits until `worker` may work. Returns whether there is still something to do.
    pub(crate) fn wait(&self, worker: usize) -> bool {
        let mut closed = lock(&self.closed);
        // Looked at under the lock that is taken before every wake-up: none is missed.
        while !*closed && !self.may_work(worker) {
            closed = match self.change.wait(closed) {
                Ok(closed) => closed,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        !*closed
    }

    /// Lets `threads` work from now on, the caller included.
    pub(crate) fn allow(&self, threads: usize) {
        // Relaxed: as above; that waiting workers see it is the lock's doing.
        if self.allowed.swap(threads, Ordering::Relaxed) < threads {
            let _closed = lock(&self.closed);
            self.change.notify_all();
        }
    }

    /// Sends everybody home who waits or will wait.
    pub(crate) fn close(&self) {
        *lock(&self.closed) = true;
        self.change.notify_all();
    }
}

#[cfg(all(test, loom))]
mod models {
    //! `RUSTFLAGS="--cfg loom" cargo test -p parapin-pinning --lib --release models`

    use loom::{sync::Arc, thread};

    use super::*;

    /// Two helpers that do one piece whenever it is their turn, while the caller lets one, both, or none work.
    #[test]
    fn nobody_waits_for_ever() {
        loom::model(|| {
            let turn = Arc::new(Turn::new(1));
            let helpers: Vec<_> = (1..3)
                .map(|worker| {
                    let turn = Arc::clone(&turn);
                    thread::spawn(move || turn.wait(worker))
                })
                .collect();
            turn.allow(2);
            turn.close();
            for helper in helpers {
                helper.join().unwrap();
            }
        });
    }

    #[test]
    fn who_is_allowed_is_woken() {
        loom::model(|| {
            let turn = Arc::new(Turn::new(1));
            let helper = {
                let turn = Arc::clone(&turn);
                thread::spawn(move || turn.wait(1))
            };
            turn.allow(2);
            // The turn is never closed: a lost wake-up would be a deadlock, which loom reports.
            assert!(helper.join().unwrap());
        });
    }
}
