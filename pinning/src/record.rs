// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Record`] of one worker: what it has done since when, however it was scheduled meanwhile.
//!
//! ```text
//!  a niced helper beside a busy neighbour        ▮▮▮        ▮▮▮        ▮▮▮     each ▮ a piece at full speed
//!  rate of a piece                               full       full       full
//!  rate of the record                            full → 1 % of it
//! ```
//!
//! The scheduler gives a starved thread its percent in bursts. A piece that fits in a burst shows a fast worker; that
//! worker, given a large chunk, holds it for a hundred bursts.

use std::time::Duration;

/// A worker is trusted with one part in so many of what it has done.
const TRUST: u64 = 8;

/// What a busy machine may cost a thread now and then: shorter waits are no sign of starvation.
const GAP: Duration = Duration::from_millis(20);

/// What a worker has done since it began, or came back.
#[derive(Debug)]
pub(crate) struct Record {
    since: Duration,
    now: Duration,
    done: u64,
    /// Time for which others had the CPU that it had given way on.
    waited: Duration,
}

impl Record {
    /// A record that begins `at` so long after the start of the job.
    pub(crate) fn new(at: Duration) -> Self {
        Self {
            since: at,
            now: at,
            done: 0,
            waited: Duration::ZERO,
        }
    }

    /// Notes a piece that was done by `now`.
    pub(crate) fn did(&mut self, bytes: u64, now: Duration) {
        self.done = self.done.saturating_add(bytes);
        self.now = now;
    }

    /// Notes that it gave way to others for so long, until `now`.
    pub(crate) fn gave_way(&mut self, time: Duration, now: Duration) {
        self.waited = self.waited.saturating_add(time);
        self.now = now;
    }

    /// Whether nearly all of its time went by while it waited for a CPU.
    ///
    /// What it could still do is then not worth that the job waits for it at its end: it has to get a CPU once more to
    /// leave.
    pub(crate) fn is_starved(&self) -> bool {
        let all = self.now.saturating_sub(self.since);
        self.waited > GAP && self.waited > all / 4 * 3
    }

    /// Bytes a second since it began; `None` while nothing is done.
    pub(crate) fn rate(&self) -> Option<u64> {
        let nanos = self.now.saturating_sub(self.since).as_nanos().max(1);
        let rate = u128::from(self.done) * 1_000_000_000 / nanos;
        (self.done > 0).then(|| u64::try_from(rate).unwrap_or(u64::MAX).max(1))
    }

    /// The largest piece that it should hold where nobody can take it over: at its record's rate that lasts an eighth of
    /// the time in which that rate has shown itself. (`rate * time / 8`, where the rate is `done / time`.)
    pub(crate) fn trust(&self) -> u64 {
        self.done / TRUST
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn bursts_show_in_the_record() {
        let mut record = Record::new(Duration::from_millis(100));
        assert_eq!((record.rate(), record.trust()), (None, 0));
        record.did(2 * MIB, Duration::from_millis(101));
        assert_eq!(record.rate(), Some(2000 * MIB), "the first burst");
        for burst in 1..=9 {
            record.did(2 * MIB, Duration::from_millis(101 + burst * 111));
        }
        assert_eq!(record.rate(), Some(20 * MIB));
        assert_eq!(
            record.trust(),
            20 * MIB / 8,
            "hardly more than a first piece"
        );
    }

    #[test]
    fn who_waits_most_of_the_time_is_starved() {
        let ms = Duration::from_millis;
        let mut record = Record::new(ms(0));
        record.gave_way(ms(15), ms(15));
        assert!(!record.is_starved(), "too short to tell");
        record.gave_way(ms(200), ms(216));
        assert!(record.is_starved());
        let mut record = Record::new(ms(0));
        record.did(MIB, ms(1000));
        record.gave_way(ms(200), ms(1200));
        assert!(!record.is_starved(), "once in a while");
    }

    #[test]
    fn extremes_neither_overflow_nor_divide_by_zero() {
        let mut record = Record::new(Duration::MAX);
        record.did(u64::MAX, Duration::ZERO);
        record.did(u64::MAX, Duration::ZERO);
        assert_eq!(record.rate(), Some(u64::MAX));
    }
}
