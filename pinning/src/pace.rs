// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much each worker deserves, by its own measured rate.
//!
//! A niced helper beside busy neighbours may get one percent of a CPU. What it holds then takes a hundred times
//! longer, and the whole job waits for it. So everybody begins with one cell, and after that gets the share of a full
//! chunk that his rate is of the fastest worker's; near the end everybody gets half of what he could still do in the
//! time that is left; and a helper that would need longer for a single piece than the others for everything that
//! remains, leaves.
//!
//! # Gotchas
//! Rates change: memory that is there already is done a hundred times faster than memory that has to be zeroed. A helper
//! that leaves does not come back, so that decision trusts of the others only what two pieces in a row have shown.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering};

/// The rates of all workers of a job, in bytes a second.
///
/// Every worker writes and reads here between two pieces, so that what it has to look at then does not grow with the
/// number of workers. Every access is relaxed: these are hints, each rate has one writer, and no other data is read
/// through them.
#[derive(Debug)]
pub(crate) struct Pace {
    rates: Box<[CachePadded<Rate>]>,
    /// The sum of all `sure` rates.
    sure: CachePadded<AtomicU64>,
    /// How many `sure` rates are known.
    known: CachePadded<AtomicU64>,
}

/// What a worker goes by for itself alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown {
    /// It has done nothing yet, and took so long to ask for the first time.
    Late(Duration),
    /// Its rate since it began, pauses included.
    Rate(u64),
}

/// The rates of one worker; 0 while not known, and after it has left.
#[derive(Debug, Default)]
struct Rate {
    /// Of its latest piece.
    latest: AtomicU64,
    /// Smoothed over its pieces.
    smooth: AtomicU64,
    /// The lower one of its latest two pieces.
    sure: AtomicU64,
}

impl Pace {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            rates: (0..workers).map(|_| CachePadded::default()).collect(),
            sure: CachePadded::default(),
            known: CachePadded::default(),
        }
    }

    /// Notes that `worker` did `bytes` in `time`.
    pub(crate) fn measured(&self, worker: usize, bytes: u64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos);
        // Bounded so that the sum over any number of threads fits.
        let rate = u64::try_from(rate)
            .unwrap_or(u64::MAX)
            .clamp(1, u64::MAX >> 24);
        let own = &self.rates[worker];
        let before = own.latest.load(Ordering::Relaxed);
        own.latest.store(rate, Ordering::Relaxed);
        if before == 0 {
            own.smooth.store(rate, Ordering::Relaxed);
            return;
        }
        let smooth = own.smooth.load(Ordering::Relaxed);
        own.smooth
            .store((smooth / 2 + rate / 2).max(1), Ordering::Relaxed);
        self.set_sure(worker, before.min(rate));
    }

    /// Notes that `worker` does no more pieces.
    pub(crate) fn left(&self, worker: usize) {
        self.set_sure(worker, 0);
        self.rates[worker].smooth.store(0, Ordering::Relaxed);
    }

    /// Whether the job ends no later if `worker` does another piece, with `unclaimed` bytes that nobody has begun.
    ///
    /// `step` is the most that cannot be taken over by somebody else once it is begun. The caller (worker 0) always goes
    /// on, so that the queue is drained whatever the helpers do.
    pub(crate) fn worthwhile(
        &self,
        worker: usize,
        unclaimed: u64,
        step: u64,
        shown: Shown,
    ) -> bool {
        let (sure, smooth) = (self.sure(worker), self.smooth(worker));
        let others = self.sure.load(Ordering::Relaxed).saturating_sub(sure);
        if worker == 0 || others == 0 {
            return true;
        }
        // Beside what nobody has begun, each of the others has a piece in flight.
        let busy = self.known.load(Ordering::Relaxed) - u64::from(sure > 0);
        let without_me = estimate(unclaimed.saturating_add(step.saturating_mul(busy)), others);
        match (smooth, shown) {
            // While no rate is known, how late it woke up is the only sign of starvation.
            (_, Shown::Late(late)) => late <= without_me,
            (0, Shown::Rate(own)) => estimate(step.min(unclaimed), own) <= without_me,
            (latest, Shown::Rate(own)) => {
                estimate(step.min(unclaimed), own.min(latest)) <= without_me
            }
        }
    }

    /// Bytes that `worker` may draw, where `chunk` is a full chunk; less than a cell means one cell.
    ///
    /// Looks at every worker's rate: only called when a chunk is drawn.
    pub(crate) fn share(&self, worker: usize, unclaimed: u64, chunk: u64) -> u64 {
        let own = self.smooth(worker);
        let (mut all, mut best) = (0u64, 0);
        for other in 0..self.rates.len() {
            let rate = self.smooth(other);
            all = all.saturating_add(rate);
            best = rate.max(best);
        }
        portion(chunk, own, best).min(portion(unclaimed, own, all) / 2)
    }

    fn set_sure(&self, worker: usize, rate: u64) {
        let before = self.rates[worker].sure.swap(rate, Ordering::Relaxed);
        self.sure
            .fetch_add(rate.wrapping_sub(before), Ordering::Relaxed);
        let known = u64::from(rate > 0).wrapping_sub(u64::from(before > 0));
        if known != 0 {
            self.known.fetch_add(known, Ordering::Relaxed);
        }
    }

    fn sure(&self, worker: usize) -> u64 {
        self.rates[worker].sure.load(Ordering::Relaxed)
    }

    fn smooth(&self, worker: usize) -> u64 {
        self.rates[worker].smooth.load(Ordering::Relaxed)
    }
}

/// Time for `bytes` at `rate` bytes a second, at most some centuries, so that it always makes a `Duration`.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn estimate(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64((bytes as f64 / rate as f64).min(1e10))
}

/// `whole * part / of` without overflow.
fn portion(whole: u64, part: u64, of: u64) -> u64 {
    let portion = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(portion).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SECOND: Duration = Duration::from_secs(1);

    /// Workers that have done two pieces each at these rates, in MiB a second.
    fn pace(rates: &[u64]) -> Pace {
        let pace = Pace::new(rates.len());
        for (worker, rate) in rates.iter().enumerate().filter(|&(_, &rate)| rate > 0) {
            pace.measured(worker, rate * MIB, SECOND);
            pace.measured(worker, rate * MIB, SECOND);
        }
        pace
    }

    fn goes_on(pace: &Pace, worker: usize, unclaimed: u64) -> bool {
        // No worse than its latest pieces.
        pace.worthwhile(worker, unclaimed, 32 * MIB, Shown::Rate(u64::MAX))
    }

    #[test]
    fn everybody_starts_with_one_cell() {
        let pace = pace(&[0, 0]);
        assert_eq!(pace.share(0, 4096 * MIB, 256 * MIB), 0);
        assert_eq!(pace.share(1, 4096 * MIB, 256 * MIB), 0);
    }

    #[test]
    fn shares_follow_the_measured_rates() {
        let pace = pace(&[400, 100]);
        assert_eq!(pace.share(0, 4096 * MIB, 256 * MIB), 256 * MIB);
        assert_eq!(pace.share(1, 4096 * MIB, 256 * MIB), 64 * MIB);
    }

    #[test]
    fn near_the_end_everybody_gets_half_of_his_part() {
        let pace = pace(&[300, 100]);
        assert_eq!(pace.share(0, 400 * MIB, 256 * MIB), 150 * MIB);
        assert_eq!(pace.share(1, 400 * MIB, 256 * MIB), 50 * MIB);
    }

    #[test]
    fn a_helper_slower_than_everything_that_remains_leaves() {
        let pace = pace(&[1000, 10]);
        // 3.2 s for one step of its own, against 3.0 s for everything else and the piece that the caller has begun.
        assert!(!goes_on(&pace, 1, 2968 * MIB));
        assert!(goes_on(&pace, 1, 3300 * MIB));
        assert!(goes_on(&pace, 0, 0), "the caller drains the queue");
    }

    #[test]
    fn a_helper_that_is_fast_in_bursts_alone_leaves() {
        let pace = pace(&[1000, 1000]);
        let stays = |rate| pace.worthwhile(1, 900 * MIB, 32 * MIB, Shown::Rate(rate));
        assert!(stays(1000 * MIB));
        assert!(
            !stays(10 * MIB),
            "3.2 s for its step, 0.9 s for all the rest"
        );
    }

    #[test]
    fn equal_helpers_work_to_the_very_end() {
        for workers in [2, 4, 16, 64] {
            let pace = pace(&vec![1000; workers]);
            for worker in 0..workers {
                assert!(goes_on(&pace, worker, 32 * MIB), "{worker} of {workers}");
                assert!(goes_on(&pace, worker, MIB), "{worker} of {workers}");
            }
        }
    }

    #[test]
    fn who_has_left_is_not_counted_on() {
        let pace = pace(&[100, 10, 1000]);
        assert!(!goes_on(&pace, 1, 2000 * MIB));
        pace.left(2);
        assert!(goes_on(&pace, 1, 2000 * MIB));
        assert_eq!(
            pace.share(0, 4096 * MIB, 256 * MIB),
            256 * MIB,
            "the fastest one now"
        );
    }

    #[test]
    fn one_fast_piece_does_not_send_helpers_away() {
        let pace = Pace::new(2);
        pace.measured(0, 100_000 * MIB, SECOND);
        pace.measured(1, 1000 * MIB, SECOND);
        assert!(
            goes_on(&pace, 1, 1700 * MIB),
            "the caller's first piece may have been resident"
        );
        pace.measured(0, 1000 * MIB, SECOND);
        assert!(goes_on(&pace, 1, 1700 * MIB));
    }

    #[test]
    fn a_helper_that_woke_up_later_than_the_rest_will_take_does_not_begin() {
        let pace = pace(&[1000, 0]);
        let begins = |late| pace.worthwhile(1, 468 * MIB, 32 * MIB, Shown::Late(late));
        assert!(!begins(Duration::from_millis(600)));
        assert!(begins(Duration::from_millis(400)));
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_panic() {
        let pace = Pace::new(3);
        for _ in 0..3 {
            pace.measured(0, u64::MAX, Duration::ZERO);
            pace.measured(1, 0, Duration::MAX);
            for worker in 0..3 {
                pace.worthwhile(worker, u64::MAX, u64::MAX, Shown::Late(Duration::MAX));
                pace.worthwhile(worker, u64::MAX, u64::MAX, Shown::Rate(1));
                pace.share(worker, u64::MAX, u64::MAX);
            }
        }
    }
}
