// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Estimate`]: when a queue will be done, learnt from when it was.
//!
//! ```text
//!        begins                      expected         looked at
//!  ───────┼─────────────────────────────┼─ overslept ────┼──────────►
//!                  done here: only that it was no longer ┘   done here: measured, since it was seen to be unfinished
//! ```
//!
//! A waiting thread sleeps until a task is expected, and oversleeps, by more than a small task takes. A task that is done then
//! says nothing of how long it took, and to believe the clock would make the next sleep longer, and so on. So only one that
//! was seen unfinished, and finished soon after, is a measurement; one that was looked at again much later took at least as long as
//! until it was seen unfinished. And to notice a device that has become faster, now and then one is looked at early.

use std::time::{Duration, Instant};

/// What is known of a queue's pace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Estimate {
    /// Nanoseconds for 1 KiB.
    pace: f64,
    /// When everything submitted will be done.
    idle: Option<Instant>,
    /// Bytes that were submitted and not seen to be done.
    outstanding: u64,
    /// When something was last seen to be done.
    last: Option<Instant>,
    submissions: u32,
}

/// When one submission begins to be worked on, and when it should be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) begin: Instant,
    pub(crate) look: Instant,
    /// When it should be done; the look may be earlier.
    pub(crate) end: Instant,
}

/// 30 GB/s, what one device was measured at by others; the first tasks correct it.
const FIRST_PACE: f64 = 1024.0 / 30.0;
/// Paces that are believed: 1 TB/s to 1 MB/s.
const PACES: (f64, f64) = (1.0, 1e6);
/// One in so many is looked at early.
const EARLY_ONE_IN: u32 = 16;
/// By that part of its time.
const EARLY: f64 = 0.75;

/// What is too long to be believed is an hour.
fn time(nanos: f64) -> Duration {
    const HOUR: Duration = Duration::from_secs(3600);
    Duration::try_from_secs_f64(nanos / 1e9).map_or(HOUR, |time| time.min(HOUR))
}

impl Estimate {
    pub(crate) fn new() -> Self {
        Self {
            pace: FIRST_PACE,
            idle: None,
            outstanding: 0,
            last: None,
            submissions: 0,
        }
    }

    /// Notes that `bytes` were submitted.
    pub(crate) fn submitted(&mut self, now: Instant, bytes: u64) -> Expected {
        let begin = self.begin(now);
        let end = begin + self.takes(bytes);
        self.idle = Some(end);
        self.outstanding = self.outstanding.saturating_add(bytes);
        self.submissions = self.submissions.wrapping_add(1);
        let early = self.submissions % EARLY_ONE_IN == 0;
        let share = if early { EARLY } else { 1.0 };
        Expected {
            begin,
            look: now + end.saturating_duration_since(now).mul_f64(share),
            end,
        }
    }

    /// When so many bytes would be done, if they were submitted now.
    pub(crate) fn would_end(&self, now: Instant, bytes: u64) -> Instant {
        self.begin(now) + self.takes(bytes)
    }

    fn takes(&self, bytes: u64) -> Duration {
        time(self.pace * bytes as f64 / 1024.0)
    }

    /// When the device will begin with what is submitted now. What is known to be in front of it bounds what was expected
    /// once: else the doubts of many submitters add up, and the device waits for them.
    fn begin(&self, now: Instant) -> Instant {
        let known = now + self.takes(self.outstanding);
        self.idle.map_or(now, |idle| idle.max(now)).min(known)
    }

    /// Notes that a task was done when it was first looked at, at `now`.
    pub(crate) fn was_done(&mut self, bytes: u64, expected: &Expected, now: Instant) {
        self.ended(bytes, now);
        // An early look that came late says nothing either.
        let Some(sooner) = expected.end.checked_duration_since(now) else {
            return;
        };
        self.pace = (self.pace * 0.8).max(PACES.0);
        // What waits behind it is done sooner as well.
        self.idle = self.idle.and_then(|idle| idle.checked_sub(sooner));
    }

    /// Notes that nobody waits any more for what was submitted.
    pub(crate) fn ended(&mut self, bytes: u64, now: Instant) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.last = Some(now);
    }

    /// Notes that a task which was unfinished at `unfinished` was done when it was looked at next, at `now`.
    pub(crate) fn was_seen(
        &mut self,
        bytes: u64,
        expected: &Expected,
        unfinished: Instant,
        now: Instant,
    ) {
        // Not before the one in front of it was done.
        let begin = self
            .last
            .map_or(expected.begin, |last| last.max(expected.begin));
        self.ended(bytes, now);
        let most = now.saturating_duration_since(begin);
        let least = unfinished.saturating_duration_since(begin);
        // What nobody looked at meanwhile took at least as long as until the last look.
        // One that was found together with the task in front of it has no time of its own.
        let is_exact = !most.is_zero() && most - least.min(most) <= most / 4;
        if !is_exact && least <= self.takes(bytes) {
            return;
        }
        let took = if is_exact { most } else { least }.as_nanos() as f64;
        // Late by a page fault or a neighbour is late once: nothing counts for more than four times what was expected. Slower is
        // believed sooner than faster: others may do what a slow queue would be late with.
        let sample = took * 1024.0 / bytes.max(1) as f64;
        let sample = sample.clamp(self.pace / 2.0, self.pace * 4.0);
        let weight = if sample > self.pace { 0.5 } else { 0.25 };
        self.pace += (sample - self.pace) * weight;
        self.pace = self.pace.clamp(PACES.0, PACES.1);
        // What waits behind it is late as well.
        if let Some(idle) = &mut self.idle {
            *idle = (*idle).max(now);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TASK: u64 = 512 << 10;

    /// How long the waiter sleeps beside the device's time in the end, in terms of the time that a task takes.
    fn settle(device_ns_per_kib: u64, overslept: Duration) -> f64 {
        let mut estimate = Estimate::new();
        let mut now = Instant::now();
        let time = Duration::from_nanos(device_ns_per_kib * TASK / 1024);
        for _ in 0..4_000 {
            let expected = estimate.submitted(now, TASK);
            let looked = expected.look + overslept;
            let done = now + time;
            if done <= looked {
                estimate.was_done(TASK, &expected, looked);
                now = looked;
            } else {
                estimate.was_seen(TASK, &expected, done, done);
                now = done;
            }
            // One at a time: nothing waits behind it.
            estimate.idle = None;
        }
        estimate.pace / device_ns_per_kib as f64
    }

    #[test]
    fn it_follows_slow_and_fast_devices() {
        for pace in [5, 34, 340, 3_400] {
            let settled = settle(pace, Duration::ZERO);
            assert!((0.7..1.4).contains(&settled), "{pace}: {settled}");
        }
    }

    #[test]
    fn oversleeping_drives_it_neither_up_nor_down() {
        // 17 us a task, and 60 us overslept: asleep for all of it, and never for longer than it takes to notice.
        let settled = settle(34, Duration::from_micros(60));
        assert!((0.7..1.4).contains(&settled), "{settled}");
        let settled = settle(340, Duration::from_micros(60));
        assert!((0.6..1.4).contains(&settled), "{settled}");
    }

    #[test]
    fn tasks_in_a_queue_are_expected_one_after_the_other() {
        let mut estimate = Estimate::new();
        let now = Instant::now();
        let first = estimate.submitted(now, TASK);
        let second = estimate.submitted(now, TASK);
        assert_eq!(second.begin, first.look);
        let much_later = now + Duration::from_secs(1);
        assert_eq!(estimate.submitted(much_later, TASK).begin, much_later);
        // A late one moves what is behind it.
        let late = much_later + Duration::from_millis(1);
        estimate.was_seen(TASK, &first, late, late);
        estimate.submitted(late, TASK);
        assert!(estimate.submitted(late, TASK).begin > late);
        // Nothing is expected to wait for more than what is in front of it.
        for _ in 0..5 {
            estimate.ended(TASK, late);
        }
        assert_eq!(estimate.submitted(late, TASK).begin, late);
    }

    #[test]
    fn tasks_that_are_found_together_say_nothing_of_each_other() {
        let mut estimate = Estimate::new();
        let now = Instant::now();
        let pace = estimate.pace;
        let expected: Vec<_> = (0..8).map(|_| estimate.submitted(now, TASK)).collect();
        // All are done exactly when the last of them should be, and one look finds them.
        let unfinished = expected[6].end;
        let found = expected[7].end;
        for expected in &expected {
            estimate.was_seen(TASK, expected, unfinished, found);
        }
        // The first is believed to be slow, as it was, and nothing makes that up.
        assert!(estimate.pace >= pace, "{}", estimate.pace / pace);
        assert!(estimate.pace < pace * 3.0, "{}", estimate.pace / pace);
    }

    #[test]
    fn what_was_looked_at_too_late_says_no_more_than_it_can() {
        let mut estimate = Estimate::new();
        let now = Instant::now();
        let pace = estimate.pace;
        let expected = estimate.submitted(now, TASK);
        let took = expected.end - expected.begin;
        // Unfinished when it was half done, and looked at again when it was long done.
        estimate.was_seen(TASK, &expected, now + took / 2, now + took * 100);
        assert!((estimate.pace - pace).abs() < 1e-9);
        // Unfinished after twice the time: it took that long at least.
        let mut estimate = Estimate::new();
        let expected = estimate.submitted(now, TASK);
        estimate.was_seen(TASK, &expected, now + took * 2, now + took * 100);
        assert!(
            (estimate.pace / pace - 1.5).abs() < 0.01,
            "{}",
            estimate.pace / pace
        );
    }
}
