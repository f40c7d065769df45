// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How often, and for how long, the calling thread's control group was throttled.

use std::time::Duration;

use crate::{
    hierarchy::{Controller, Group},
    keyed::count,
    root::Root,
};

/// Throttling of a control group and its visible ancestors since they were made.
///
/// # Gotchas
///
/// The kernel counts in the group whose own quota ran out, so that all levels are added up. An
/// ancestor is throttled for what its other groups use, too: this says what held the thread up, not
/// who is to blame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Periods in which the group was throttled.
    pub periods: u64,
    /// Time for which it was throttled, summed over its CPUs.
    pub time: Duration,
}

impl Throttle {
    /// The throttling of the calling thread's group, if that can be read.
    pub fn current() -> Option<Self> {
        Self::read(&Root::live())
    }

    /// The throttling that the files below `root` describe.
    ///
    /// None if no level has the counters, as in the root group.
    pub fn read(root: &Root) -> Option<Self> {
        // Why there is no group is told by the budget.
        let group = Group::find(root, Controller::Cpu, &mut Vec::new())?;
        let levels = group.levels.iter().filter_map(|level| {
            let stat = root.text(&level.join("cpu.stat")).ok()?;
            parse(&stat)
        });
        levels.reduce(|one, other| Self {
            periods: one.periods.saturating_add(other.periods),
            time: one.time.saturating_add(other.time),
        })
    }

    /// What was added since an `earlier` reading; nothing if the counters went backwards, as they do
    /// when the thread moved to another group.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(earlier.periods),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

/// The content of `cpu.stat`; version 2 counts microseconds, version 1 nanoseconds.
pub(crate) fn parse(stat: &str) -> Option<Throttle> {
    let micros = || count(stat, "throttled_usec").map(Duration::from_micros);
    let nanos = || count(stat, "throttled_time").map(Duration::from_nanos);
    Some(Throttle {
        periods: count(stat, "nr_throttled")?,
        time: micros().or_else(nanos)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let cases = [
            (
                "nr_periods 9\nnr_throttled 3\nthrottled_usec 2500\n",
                Some((3, 2_500_000)),
            ),
            (
                "nr_periods 9\nnr_throttled 3\nthrottled_time 2500\n",
                Some((3, 2500)),
            ),
            ("usage_usec 1\nuser_usec 1\nsystem_usec 0\n", None),
            ("nr_throttled 3\n", None),
            ("nr_throttled -3\nthrottled_usec 1\n", None),
            ("", None),
        ];
        for (stat, expected) in cases {
            let expected = expected.map(|(periods, nanos)| Throttle {
                periods,
                time: Duration::from_nanos(nanos),
            });
            assert_eq!(parse(stat), expected, "{stat:?}");
        }
    }

    #[test]
    fn differences_never_go_below_zero() {
        let at = |periods, nanos| Throttle {
            periods,
            time: Duration::from_nanos(nanos),
        };
        assert_eq!(at(5, 70).since(&at(2, 30)), at(3, 40));
        assert_eq!(at(2, 30).since(&at(5, 70)), at(0, 0));
    }
}
