// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Step`]: what a waiting thread does next, by what it knows of when the device will be done.
//!
//! ```text
//!            sleeps until then      │ looks again and again (umwait, or pauses) │ naps, each half as long as it is late
//!  ─────────────────────────────────┼──────────────────────┬────────────────────┼──────────────────────────────────────►
//!                            NEAR before            expected                LINGER after                        deadline
//! ```
//!
//! A device that is a little late is waited for at the price of a little CPU time; one that never answers costs some hundred
//! naps, ever longer ones, and no thread.

use std::{
    hint,
    time::{Duration, Instant},
};

use crate::{Record, sys::wait_on};

/// Going to sleep and waking up costs about so much CPU time: what is nearer is looked at.
const NEAR: Duration = Duration::from_micros(8);
/// How long after the expected time a thread looks without a nap.
const LINGER: Duration = Duration::from_micros(20);
const SHORTEST_NAP: Duration = Duration::from_micros(20);
/// The longest nap, or a part of how late it is, where that is more.
const LONGEST_NAP: Duration = Duration::from_millis(1);
const LONGEST_PART: u32 = 64;

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Stay awake.
    Look,
    /// Sleep.
    Sleep(Duration),
}

impl Step {
    /// For a task that is expected to be done at `expected` and given up at `deadline`.
    pub(crate) fn next(now: Instant, expected: Instant, deadline: Instant) -> Self {
        let until_deadline = deadline.saturating_duration_since(now);
        if let Some(ahead) = expected.checked_duration_since(now) {
            return if ahead > NEAR {
                Self::Sleep(ahead.min(until_deadline))
            } else {
                Self::Look
            };
        }
        let late = now - expected;
        if late < LINGER {
            return Self::Look;
        }
        let longest = LONGEST_NAP.max(late / LONGEST_PART);
        let nap = (late / 2).clamp(SHORTEST_NAP, longest);
        Self::Sleep(nap.min(until_deadline))
    }

    /// The one that is over sooner.
    pub(crate) fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::Sleep(a), Self::Sleep(b)) => Self::Sleep(a.min(b)),
            _ => Self::Look,
        }
    }
}

/// Stays awake for about a microsecond, or until `record` is written.
pub(crate) fn look_at(record: &Record) {
    /// Two microseconds of a 2 GHz counter, which is long beside an `umwait` and short beside anything else.
    const TICKS: u64 = 4_000;
    const PAUSES: u32 = 16;
    if crate::Instructions::detect().waitpkg {
        wait_on(record, TICKS);
        return;
    }
    for _ in 0..PAUSES {
        if record.is_done() {
            return;
        }
        hint::spin_loop();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn far_is_slept_through_near_is_looked_at_and_late_is_napped_for() {
        let expected = Instant::now() + Duration::from_secs(1);
        let deadline = expected + Duration::from_secs(1);
        let at = |ahead: i64| {
            let offset = Duration::from_micros(ahead.unsigned_abs());
            let now = if ahead < 0 {
                expected + offset
            } else {
                expected - offset
            };
            Step::next(now, expected, deadline)
        };
        let micros = |n| Step::Sleep(Duration::from_micros(n));
        assert_eq!(at(500), micros(500));
        assert_eq!(at(8), Step::Look);
        assert_eq!(at(0), Step::Look);
        assert_eq!(at(-19), Step::Look);
        assert_eq!(at(-20), micros(20));
        assert_eq!(at(-100), micros(50));
        assert_eq!(at(-50_000), micros(1_000));
        assert_eq!(at(-999_900), micros(100));
        assert_eq!(micros(5).sooner(micros(3)), micros(3));
        assert_eq!(micros(5).sooner(Step::Look), Step::Look);
    }

    #[test]
    fn a_silent_device_costs_few_looks() {
        let start = Instant::now();
        let (expected, deadline) = (start, start + Duration::from_secs(1));
        let (mut now, mut naps) = (start + LINGER, 0);
        while now < deadline {
            match Step::next(now, expected, deadline) {
                Step::Sleep(nap) => now += nap,
                Step::Look => panic!("awake when {:?} late", now - expected),
            }
            naps += 1;
        }
        assert!(naps < 400, "{naps}");
    }
}
