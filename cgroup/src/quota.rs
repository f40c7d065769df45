// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! CFS quotas of the calling thread's control group and its ancestors.
//!
//! ```text
//!            v2 cpu.max        v1 cpu.cfs_quota_us / cpu.cfs_period_us      CPUs
//! job        150000 100000     150000 / 100000                              1
//! └ parent   400000 100000     400000 / 100000                              4
//!   └ mount  max 100000        -1                                           no entry
//! ```
//!
//! The smallest decides. A parent may be tighter than its child.

use std::{num::NonZeroU64, path::Path};

use crate::{
    error::ReadError,
    hierarchy::{Controller, Group},
    keyed::number,
    limit::Limit,
    mountinfo::Version,
    root::Root,
};

/// Period of a group for which none was set, in microseconds.
const DEFAULT_PERIOD: NonZeroU64 = NonZeroU64::MIN.saturating_add(99_999);

const LEVEL_IGNORED: &str = "the quota of this level is ignored";

/// CPU time in microseconds that a group may use in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    quota: u64,
    period: NonZeroU64,
}

impl Quota {
    /// Whole CPUs. A fraction is dropped, because one thread more would have all of them throttled.
    fn cpus(self) -> u64 {
        (self.quota / self.period).max(1)
    }
}

/// What the levels of one group say.
pub(crate) struct Quotas {
    /// One limit for each level that has a quota, own group first.
    pub(crate) limits: Vec<Limit>,
    /// How many levels have a quota file, whatever is in it.
    pub(crate) files: usize,
}

impl Quotas {
    pub(crate) fn read(root: &Root, group: &Group, problems: &mut Vec<ReadError>) -> Self {
        let read = match group.version {
            Version::V1 => read_v1,
            Version::V2 => read_v2,
        };
        let mut limits = Vec::new();
        let mut files = 0;
        for level in &group.levels {
            match read(root, level) {
                Ok(limit) => limits.extend(limit),
                // The root group has no quota, nor has a group without the controller.
                Err(error) if error.is_missing() => continue,
                Err(error) => problems.push(error.fall_back(LEVEL_IGNORED)),
            }
            files += 1;
        }
        Self { limits, files }
    }
}

/// The quotas of the calling thread's group.
pub(crate) fn limits(root: &Root, problems: &mut Vec<ReadError>) -> Vec<Limit> {
    match Group::find(root, Controller::Cpu, problems) {
        Some(group) => Quotas::read(root, &group, problems).limits,
        None => Vec::new(),
    }
}

fn read_v2(root: &Root, level: &Path) -> Result<Option<Limit>, ReadError> {
    let path = level.join("cpu.max");
    let text = root.text(&path)?;
    let quota = parse_v2(&text).map_err(|why| ReadError::garbled(&path, &text, why))?;
    Ok(quota.map(|quota| limit(quota, &path)))
}

fn read_v1(root: &Root, level: &Path) -> Result<Option<Limit>, ReadError> {
    let path = level.join("cpu.cfs_quota_us");
    let text = root.text(&path)?;
    if text.trim() == "-1" {
        return Ok(None);
    }
    let quota = number(text.trim()).ok_or_else(|| ReadError::garbled(&path, &text, "no quota"))?;
    let period_path = level.join("cpu.cfs_period_us");
    let period_text = root.text(&period_path).map_err(|error| {
        // There is a quota, so here a missing file is worth a word.
        ReadError::garbled(&period_path, "", error.why().to_owned())
    })?;
    let period = parse_period(period_text.trim())
        .map_err(|why| ReadError::garbled(&period_path, &period_text, why))?;
    Ok(Some(limit(Quota { quota, period }, &path)))
}

/// The content of `cpu.max`: a quota or `max`, and a period that may be left out.
pub(crate) fn parse_v2(text: &str) -> Result<Option<Quota>, &'static str> {
    let mut fields = text.split_whitespace();
    let quota = match fields.next() {
        None => return Err("no quota"),
        Some("max") => None,
        Some(quota) => Some(number(quota).ok_or("no quota")?),
    };
    let period = fields.next().map_or(Ok(DEFAULT_PERIOD), parse_period)?;
    if fields.next().is_some() {
        return Err("more than quota and period");
    }
    Ok(quota.map(|quota| Quota { quota, period }))
}

fn parse_period(text: &str) -> Result<NonZeroU64, &'static str> {
    number(text).and_then(NonZeroU64::new).ok_or("no period")
}

fn limit(quota: Quota, path: &Path) -> Limit {
    Limit {
        name: "cfs-quota",
        value: format!("{} {}", quota.quota, quota.period),
        allows: Some(quota.cpus()),
        source: path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_max() {
        let cases = [
            ("max 100000\n", Ok(None)),
            ("max", Ok(None)),
            ("150000 100000\n", Ok(Some(1))),
            ("200000 100000", Ok(Some(2))),
            ("350000", Ok(Some(3))),
            ("299999", Ok(Some(2))),
            ("300000", Ok(Some(3))),
            ("1000 100000", Ok(Some(1))),
            ("0 100000", Ok(Some(1))),
            ("18446744073709551615 1", Ok(Some(u64::MAX))),
            ("", Err("no quota")),
            ("\0\0", Err("no quota")),
            ("-1 100000", Err("no quota")),
            ("18446744073709551616 1", Err("no quota")),
            ("100000 0", Err("no period")),
            ("max 0", Err("no period")),
            ("max x", Err("no period")),
            ("1 2 3", Err("more than quota and period")),
        ];
        for (text, expected) in cases {
            let cpus = parse_v2(text).map(|quota| quota.map(Quota::cpus));
            assert_eq!(cpus, expected, "{text:?}");
        }
    }
}
