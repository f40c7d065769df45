// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Payoff`]: whether populating on several threads pays on this host, found out while the job runs.
//!
//! On some hosts many threads that fault transparent huge pages in were slower together than one that just mapped
//! (QEMU's prealloc in the 2022 RFC: 338 s against 86 s for 980 GB). So the first pieces are done by the caller alone,
//! the next ones by all; if all together are slower than one, nobody populates any further, and mapping faults the
//! rest in.
//!
//! ```text
//!  caller  ██ probe ██│█ run █│█ run █│...        verdict ──► Populate: go on
//!  helpers  (wait)    │█ run █│█ run █│...                └─► MapOnly: pieces are skipped
//! ```

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Bytes that the caller does alone.
const ALONE: u64 = 8 << 20;

/// Bytes that each thread does before the rates are compared.
const TOGETHER: u64 = 16 << 20;

/// Jobs that are not this many times larger than the probe are not worth one.
const WORTH: u64 = 64;

/// The longest that a helper waits for the probe.
const PATIENCE: Duration = Duration::from_millis(200);

const PROBING: u8 = 0;
const COMPARING: u8 = 1;
const POPULATE: u8 = 2;
const MAP_ONLY: u8 = 3;

/// What is known of the rates so far.
#[derive(Debug)]
pub(crate) struct Payoff {
    state: AtomicU8,
    threads: u64,
    /// Bytes and busy nanoseconds of the phase that is measured now, over all threads.
    bytes: AtomicU64,
    busy: AtomicU64,
    /// Bytes a second that the caller made alone.
    alone: Mutex<f64>,
    probed: Condvar,
}

impl Payoff {
    /// For a job of `size` bytes on `threads` threads; with nothing to find out for one thread or a small job, or where
    /// the caller wants to populate in any case.
    pub(crate) fn new(size: u64, threads: usize, wanted: bool) -> Self {
        let threads = threads as u64;
        let known = !wanted || threads < 2 || size / WORTH < ALONE;
        Self {
            state: AtomicU8::new(if known { POPULATE } else { PROBING }),
            threads,
            bytes: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            alone: Mutex::new(0.0),
            probed: Condvar::new(),
        }
    }

    /// Whether populating was found not to pay.
    pub(crate) fn map_only(&self) -> bool {
        self.state() == MAP_ONLY
    }

    /// Populates a piece of `size` bytes, unless that does not pay.
    pub(crate) fn populate<E>(
        &self,
        worker: usize,
        size: u64,
        populate: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if worker != 0 && self.state() == PROBING {
            self.wait_for_probe();
        }
        match self.state() {
            MAP_ONLY => Ok(()),
            POPULATE => populate(),
            _ => {
                let began = Instant::now();
                populate()?;
                self.measured(worker, size, began.elapsed());
                Ok(())
            }
        }
    }

    fn state(&self) -> u8 {
        // Acquire: pairs with the release in `enter`, so that the counters of the phase are seen as it set them.
        self.state.load(Ordering::Acquire)
    }

    /// Enters the next phase; only one thread can.
    fn enter(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn wait_for_probe(&self) {
        let guard = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, waited) = self
            .probed
            .wait_timeout_while(guard, PATIENCE, |_| self.state() == PROBING)
            .unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        if waited.timed_out() {
            // The caller has no rate to compare with: a helper that waits helps nobody.
            self.enter(PROBING, POPULATE);
        }
    }

    fn measured(&self, worker: usize, size: u64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed: sums for an estimate; a piece that is counted in the next phase changes it a little.
        let busy = self.busy.fetch_add(nanos, Ordering::Relaxed) + nanos;
        let bytes = self.bytes.fetch_add(size, Ordering::Relaxed) + size;
        match self.state() {
            PROBING if worker == 0 && bytes >= ALONE => {
                let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
                *alone = rate(bytes, busy);
                self.bytes.store(0, Ordering::Relaxed);
                self.busy.store(0, Ordering::Relaxed);
                self.enter(PROBING, COMPARING);
                drop(alone);
                self.probed.notify_all();
            }
            COMPARING if bytes >= TOGETHER * self.threads => {
                let alone = *self.alone.lock().unwrap_or_else(PoisonError::into_inner);
                let verdict = match pays(alone, rate(bytes, busy), self.threads) {
                    true => POPULATE,
                    false => MAP_ONLY,
                };
                self.enter(COMPARING, verdict);
            }
            _ => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn rate(bytes: u64, busy: u64) -> f64 {
    bytes as f64 / busy.max(1) as f64 * 1e9
}

/// Whether `threads` threads that each make `each` bytes a second are faster than one that makes `alone`, or at least
/// not much slower: the rates of a few milliseconds tell no more.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn pays(alone: f64, each: f64, threads: u64) -> bool {
    each * threads as f64 >= alone * 0.9
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A job whose caller needs `alone` for a piece of 2 MiB while nobody else works, and all need `together` then.
    fn verdict(threads: usize, alone: Duration, together: Duration) -> u8 {
        let payoff = Payoff::new(4096 * MIB, threads, true);
        while payoff.state() == PROBING {
            payoff.measured(0, 2 * MIB, alone);
        }
        let mut worker = 0;
        while payoff.state() == COMPARING {
            payoff.measured(worker % threads, 2 * MIB, together);
            worker += 1;
        }
        payoff.state()
    }

    #[test]
    fn threads_that_hinder_each_other_stop_populating() {
        let ms = Duration::from_millis;
        assert_eq!(verdict(2, ms(2), ms(2)), POPULATE);
        assert_eq!(verdict(16, ms(2), ms(20)), POPULATE, "1.6 times as fast");
        assert_eq!(verdict(16, ms(2), ms(64)), MAP_ONLY, "half as fast");
        assert_eq!(verdict(2, ms(2), ms(4)), POPULATE, "as fast");
    }

    #[test]
    fn small_jobs_and_lone_threads_have_nothing_to_find_out() {
        assert_eq!(Payoff::new(4096 * MIB, 1, true).state(), POPULATE);
        assert_eq!(Payoff::new(256 * MIB, 8, true).state(), POPULATE);
        assert_eq!(Payoff::new(4096 * MIB, 8, false).state(), POPULATE);
        assert_eq!(Payoff::new(512 * MIB, 8, true).state(), PROBING);
    }

    #[test]
    fn after_the_verdict_pieces_are_skipped_and_errors_pass() {
        let payoff = Payoff::new(4096 * MIB, 2, true);
        assert_eq!(
            payoff.populate(0, MIB, || Err("no memory")),
            Err("no memory")
        );
        payoff.state.store(MAP_ONLY, Ordering::Release);
        assert!(payoff.map_only());
        assert_eq!(
            payoff.populate(1, MIB, || Err("must not be called")),
            Ok(())
        );
    }

    #[test]
    fn a_helper_does_not_wait_for_a_caller_that_never_begins() {
        let payoff = Payoff::new(4096 * MIB, 2, true);
        assert_eq!(payoff.populate(1, MIB, || Ok::<(), ()>(())), Ok(()));
        assert_eq!(payoff.state(), POPULATE);
    }
}
