// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sets of CPUs in the kernel's list format, such as `0-3,8`. Memory nodes are listed in the same way.
//!
//! Ranges are kept as ranges: the set has no upper bound, unlike a `cpu_set_t` of 1,024 CPUs, and an
//! absurd range costs no more than a plain one.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::{error::shortened, keyed::number};

/// A set of CPU numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet {
    /// First and last of each range; ascending, with a gap between any two.
    ranges: Vec<(usize, usize)>,
}

/// A list of CPUs that is not one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{item}` is not a CPU or a range of CPUs")]
pub struct CpuListError {
    item: String,
}

impl CpuSet {
    /// The CPUs from 0 up to and without `bound`.
    pub(crate) fn below(bound: usize) -> Self {
        Self {
            ranges: bound
                .checked_sub(1)
                .map(|last| (0, last))
                .into_iter()
                .collect(),
        }
    }

    /// How many CPUs there are in the set; `usize::MAX` if they cannot be counted.
    pub fn count(&self) -> usize {
        self.ranges.iter().fold(0_usize, |sum, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    /// Whether there is no CPU in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `cpu` is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= cpu);
        after
            .checked_sub(1)
            .is_some_and(|index| cpu <= self.ranges[index].1)
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// The highest CPU.
    pub fn last(&self) -> Option<usize> {
        self.ranges.last().map(|&(_, last)| last)
    }

    /// The CPUs that are in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut ranges = Vec::new();
        while let ([a, ..], [b, ..]) = (left, right) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                ranges.push((first, last));
            }
            // The range that ends first cannot meet anything further on.
            if a.1 <= b.1 {
                left = &left[1..];
            } else {
                right = &right[1..];
            }
        }
        Self { ranges }
    }
}

impl FromStr for CpuSet {
    type Err = CpuListError;

    /// Reads a list in the kernel's format, in any order; white space around it is ignored.
    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let list = list.trim();
        if list.is_empty() {
            return Ok(Self::default());
        }
        let mut ranges = Vec::new();
        for item in list.split(',') {
            let range = parse_range(item).ok_or_else(|| CpuListError {
                item: shortened(item),
            })?;
            ranges.push(range);
        }
        ranges.sort_unstable();
        Ok(Self {
            ranges: joined(ranges),
        })
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        let mut ranges: Vec<_> = cpus.into_iter().map(|cpu| (cpu, cpu)).collect();
        ranges.sort_unstable();
        Self {
            ranges: joined(ranges),
        }
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

fn parse_range(item: &str) -> Option<(usize, usize)> {
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let first = usize::try_from(number(first)?).ok()?;
    let last = usize::try_from(number(last)?).ok()?;
    (first <= last).then_some((first, last))
}

/// Joins ascending ranges that overlap or touch.
fn joined(ascending: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (first, last) in ascending {
        match ranges.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(last);
            }
            _ => ranges.push((first, last)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    #[test]
    fn lists() {
        let cases = [
            ("0", "0", 1),
            ("0-3\n", "0-3", 4),
            ("0-3,8", "0-3,8", 5),
            ("8,0-3", "0-3,8", 5),
            ("0-3,2-5,6", "0-6", 7),
            ("0-2047,4096", "0-2047,4096", 2049),
            ("", "", 0),
            ("\n", "", 0),
        ];
        for (list, shown, count) in cases {
            assert_eq!(set(list).to_string(), shown, "{list:?}");
            assert_eq!(set(list).count(), count, "{list:?}");
            assert_eq!(set(list).iter().count(), count, "{list:?}");
        }
    }

    #[test]
    fn what_is_no_list() {
        for list in [
            "a",
            "3-1",
            "-1",
            "1-",
            ",",
            "0,,1",
            "+1",
            "0-3\0",
            "99999999999999999999",
        ] {
            let error = list.parse::<CpuSet>().unwrap_err();
            assert!(
                error.to_string().ends_with("not a CPU or a range of CPUs"),
                "{list:?}"
            );
        }
    }

    #[test]
    fn membership() {
        let cpus = set("2-4,8,100-101");
        let members: Vec<usize> = (0..200).filter(|&cpu| cpus.contains(cpu)).collect();
        assert_eq!(members, [2, 3, 4, 8, 100, 101]);
        assert_eq!(cpus.iter().collect::<Vec<_>>(), members);
        assert_eq!(cpus.last(), Some(101));
        assert_eq!(CpuSet::default().last(), None);
    }

    #[test]
    fn collected() {
        let cpus: CpuSet = [8, 2, 3, 1, 3].into_iter().collect();
        assert_eq!(cpus, set("1-3,8"));
        assert_eq!(CpuSet::from_iter([]), CpuSet::default());
        assert_eq!(CpuSet::below(4), set("0-3"));
        assert_eq!(CpuSet::below(0), CpuSet::default());
    }

    #[test]
    fn intersections() {
        let cases = [
            ("0-7", "0-3", "0-3"),
            ("0-7", "4-11", "4-7"),
            ("0-1,4-5", "1-4", "1,4"),
            ("0", "1", ""),
            ("", "0-7", ""),
            ("0-100", "1,3,5-7,200", "1,3,5-7"),
        ];
        for (a, b, both) in cases {
            assert_eq!(set(a).intersect(&set(b)), set(both), "{a} and {b}");
            assert_eq!(set(b).intersect(&set(a)), set(both), "{b} and {a}");
        }
    }

    #[test]
    fn absurd_ranges_cost_nothing() {
        let all = set(&format!("0-{}", usize::MAX));
        assert_eq!(all.count(), usize::MAX);
        assert!(all.contains(usize::MAX));
        assert_eq!(all.intersect(&set("3-4")), set("3-4"));
        assert_eq!(all.iter().nth(5), Some(5));
        let two = set(&format!("0-7,9-{}", usize::MAX));
        assert_eq!(two.count(), usize::MAX);
    }
}
