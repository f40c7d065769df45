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
//! was seen unfinished and then finished is a measurement; and to notice a device that has become faster, now and then one is
//! looked at early.

use std::time::{Duration, Instant};

/// What is known of a queue's pace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Estimate {
    /// Nanoseconds for 1 KiB.
    pace: f64,
    /// When everything submitted will be done.
    idle: Option<Instant>,
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
            submissions: 0,
        }
    }

    /// Notes that `bytes` were submitted.
    pub(crate) fn submitted(&mut self, now: Instant, bytes: u64) -> Expected {
        let begin = self.idle.map_or(now, |idle| idle.max(now));
        let nanos = self.pace * bytes as f64 / 1024.0;
        let end = begin + time(nanos);
        self.idle = Some(end);
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
        let begin = self.idle.map_or(now, |idle| idle.max(now));
        begin + time(self.pace * bytes as f64 / 1024.0)
    }

    /// Notes that a task was done when it was first looked at, at `now`.
    pub(crate) fn was_done(&mut self, expected: &Expected, now: Instant) {
        // An early look that came late says nothing either.
        let Some(sooner) = expected.end.checked_duration_since(now) else {
            return;
        };
        self.pace = (self.pace * 0.8).max(PACES.0);
        // What waits behind it is done sooner as well: without that, each of many submitters adds its doubts, and the device
        // waits for them.
        self.idle = self.idle.and_then(|idle| idle.checked_sub(sooner));
    }

    /// Notes that a task was seen unfinished, and then to finish at `now`.
    pub(crate) fn was_seen(&mut self, bytes: u64, expected: &Expected, now: Instant) {
        let took = now.saturating_duration_since(expected.begin).as_nanos() as f64;
        // Late by a page fault or a neighbour is late once: nothing counts for more than twice what was expected.
        let sample = (took * 1024.0 / bytes.max(1) as f64).min(self.pace * 2.0);
        self.pace = (self.pace * 0.75 + sample * 0.25).clamp(PACES.0, PACES.1);
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
                estimate.was_done(&expected, looked);
                now = looked;
            } else {
                estimate.was_seen(TASK, &expected, done);
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
        estimate.was_seen(TASK, &first, late);
        assert_eq!(estimate.submitted(much_later, TASK).begin, late);
    }
}
