// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much each worker deserves, by its own measured rate.
//!
//! A niced helper beside busy neighbours may get one percent of a CPU. What it holds then takes a hundred times
//! longer, and the whole job waits for it. So a helper begins with one cell; after that it gets the share of a full
//! chunk that its rate is of the fastest worker's; near the end everybody gets half of what he could still do in
//! the time that is left; and who would need longer for a single piece than all the others for everything that
//! remains, gets nothing more.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering};

/// The rates of all workers of a job, in bytes a second.
///
/// Every worker writes and reads here between two pieces, so that what it has to look at does not grow with the number
/// of workers.
#[derive(Debug)]
pub(crate) struct Pace {
    /// 0 while not known.
    rates: Box<[CachePadded<AtomicU64>]>,
    /// The sum of `rates`.
    all: CachePadded<AtomicU64>,
    /// The highest rate that anybody has had.
    best: CachePadded<AtomicU64>,
}

impl Pace {
    pub(crate) fn new(workers: usize) -> Self {
        let zero = || CachePadded::new(AtomicU64::new(0));
        Self {
            rates: (0..workers).map(|_| zero()).collect(),
            all: zero(),
            best: zero(),
        }
    }

    /// Notes that `worker` did `bytes` in `time`.
    pub(crate) fn measured(&self, worker: usize, bytes: u64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos);
        let rate = u64::try_from(rate)
            .unwrap_or(u64::MAX)
            .clamp(1, u64::MAX >> 16);
        let old = self.rate(worker);
        let smoothed = if old == 0 { rate } else { old / 2 + rate / 2 }.max(1);
        // Relaxed, here and in the reads below: hints, and no other data is read through them. A rate has one writer,
        // so that its difference goes into the sum exactly once.
        self.rates[worker].store(smoothed, Ordering::Relaxed);
        self.all
            .fetch_add(smoothed.wrapping_sub(old), Ordering::Relaxed);
        if self.best() < smoothed {
            self.best.fetch_max(smoothed, Ordering::Relaxed);
        }
    }

    /// Whether the job ends no later if `worker` does another piece, with `unclaimed` bytes that nobody has begun.
    ///
    /// `step` is the most that cannot be taken over by somebody else once it is begun, and `late` how long the worker
    /// took to ask for the first time: while its rate is not known, that is the only sign of starvation. The caller
    /// (worker 0) always goes on, so that the queue is drained whatever the helpers do.
    pub(crate) fn worthwhile(
        &self,
        worker: usize,
        unclaimed: u64,
        step: u64,
        late: Duration,
    ) -> bool {
        let others = self.all().saturating_sub(self.rate(worker));
        if worker == 0 || others == 0 {
            return true;
        }
        let without_me = estimate(unclaimed, others);
        match self.rate(worker) {
            0 => late <= without_me,
            own => estimate(step.min(unclaimed), own) <= without_me,
        }
    }

    /// Bytes that `worker` may draw, where `chunk` is a full chunk; less than a cell means one cell.
    pub(crate) fn share(&self, worker: usize, unclaimed: u64, chunk: u64) -> u64 {
        let workers = self.rates.len() as u64;
        match (worker, self.rate(worker)) {
            (0, 0) => chunk.min(unclaimed / (2 * workers)),
            (_, 0) => 0,
            (_, own) => {
                portion(chunk, own, self.best()).min(portion(unclaimed, own, self.all()) / 2)
            }
        }
    }

    fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    fn best(&self) -> u64 {
        self.best.load(Ordering::Relaxed)
    }

    fn rate(&self, worker: usize) -> u64 {
        self.rates[worker].load(Ordering::Relaxed)
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

    #[test]
    fn a_helper_starts_with_one_cell_and_the_caller_with_a_full_chunk() {
        let pace = Pace::new(2);
        assert_eq!(pace.share(0, 4096 * MIB, 256 * MIB), 256 * MIB);
        assert_eq!(pace.share(1, 4096 * MIB, 256 * MIB), 0);
    }

    #[test]
    fn shares_follow_the_measured_rates() {
        let pace = Pace::new(2);
        pace.measured(0, 400 * MIB, SECOND);
        pace.measured(1, 100 * MIB, SECOND);
        assert_eq!(pace.share(0, 4096 * MIB, 256 * MIB), 256 * MIB);
        assert_eq!(pace.share(1, 4096 * MIB, 256 * MIB), 64 * MIB);
    }

    #[test]
    fn near_the_end_everybody_gets_half_of_his_part() {
        let pace = Pace::new(2);
        pace.measured(0, 300 * MIB, SECOND);
        pace.measured(1, 100 * MIB, SECOND);
        assert_eq!(pace.share(0, 400 * MIB, 256 * MIB), 150 * MIB);
        assert_eq!(pace.share(1, 400 * MIB, 256 * MIB), 50 * MIB);
    }

    #[test]
    fn a_helper_slower_than_everything_that_remains_stops() {
        let pace = Pace::new(2);
        pace.measured(0, 1000 * MIB, SECOND);
        pace.measured(1, 10 * MIB, SECOND);
        let goes_on =
            |worker, unclaimed| pace.worthwhile(worker, unclaimed, 32 * MIB, Duration::ZERO);
        // 3.2 s for one step of its own, against 3.0 s for everything by the caller.
        assert!(!goes_on(1, 3000 * MIB));
        assert!(goes_on(1, 3300 * MIB));
        assert!(goes_on(0, 0), "the caller drains the queue");
    }

    #[test]
    fn a_helper_that_woke_up_later_than_the_rest_will_take_does_not_begin() {
        let pace = Pace::new(2);
        pace.measured(0, 1000 * MIB, SECOND);
        let begins = |late| pace.worthwhile(1, 500 * MIB, 32 * MIB, late);
        assert!(!begins(Duration::from_millis(600)));
        assert!(begins(Duration::from_millis(400)));
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_panic() {
        let pace = Pace::new(3);
        pace.measured(0, u64::MAX, Duration::ZERO);
        pace.measured(1, 0, Duration::MAX);
        for worker in 0..3 {
            pace.worthwhile(worker, u64::MAX, u64::MAX, Duration::MAX);
            pace.share(worker, u64::MAX, u64::MAX);
        }
    }
}
