// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How many threads may a job use?
//!
//! ```text
//!  Cpus_allowed_list ∩ online ──┐
//!  online ──────────────────────┼─► minimum ─► threads, limited_by
//!  quota of every cgroup level ─┘
//! ```
//!
//! # Gotchas
//!
//! `Cpus_allowed_list` may name CPUs that are offline, which `sched_getaffinity` would leave out, so
//! it is cut to the online CPUs. It already includes what cpusets allow.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use crate::{
    cpulist::CpuSet, error::ReadError, error::shortened, keyed, limit::Limit, quota, root::Root,
};

const ONLINE: &str = "/sys/devices/system/cpu/online";

/// CPU numbers from here on are not believed; Linux can be built for 8,192.
const CPU_BOUND: usize = 1 << 20;

/// The kinds of limit on CPUs; of equal ones the first decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuLimit {
    /// The calling thread's CPU mask, cpusets included.
    Affinity,
    /// The CPUs that are online.
    Online,
    /// The CFS quota of a control group.
    CfsQuota,
}

impl CpuLimit {
    /// The name in reports: `affinity`, `online` or `cfs-quota`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::Online => "online",
            Self::CfsQuota => "cfs-quota",
        }
    }
}

/// How many threads the calling thread may keep busy, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuBudget {
    threads: NonZeroUsize,
    limited_by: CpuLimit,
    limits: Vec<Limit>,
    problems: Vec<ReadError>,
}

impl CpuBudget {
    /// The budget of the calling thread now.
    pub fn current() -> Self {
        Self::read(&Root::live())
    }

    /// The budget that the files below `root` describe.
    pub fn read(root: &Root) -> Self {
        let mut problems = Vec::new();
        let cpus = Cpus::read(root, &mut problems);
        let mut found = cpus.limits();
        let quotas = quota::limits(root, &mut problems);
        found.extend(quotas.into_iter().map(|limit| (CpuLimit::CfsQuota, limit)));

        let unknown = found.iter().all(|&(kind, _)| kind == CpuLimit::CfsQuota);
        let one = unknown.then_some((CpuLimit::Affinity, 1));
        let bounds = found
            .iter()
            .filter_map(|(kind, limit)| Some((*kind, limit.allows?)));
        // Of equal bounds the first is taken.
        let least = one.into_iter().chain(bounds).min_by_key(|&(_, cpus)| cpus);
        let (limited_by, cpus) = least.unwrap_or((CpuLimit::Affinity, 1));
        let threads = usize::try_from(cpus).unwrap_or(usize::MAX);
        Self {
            threads: NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN),
            limited_by,
            limits: found.into_iter().map(|(_, limit)| limit).collect(),
            problems,
        }
    }

    /// How many threads may run at the same time, the calling thread included.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// The limit that decided.
    pub fn limited_by(&self) -> CpuLimit {
        self.limited_by
    }

    /// Every limit that was found: affinity, online, then quotas from the own group upwards.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// What could not be read, and what was assumed instead.
    pub fn problems(&self) -> &[ReadError] {
        &self.problems
    }
}

/// A set of CPUs and the file that it was read from.
struct Listed {
    cpus: CpuSet,
    source: PathBuf,
}

/// The two sets of CPUs, as far as they can be read.
struct Cpus {
    allowed: Option<Listed>,
    online: Option<Listed>,
}

impl Cpus {
    fn read(root: &Root, problems: &mut Vec<ReadError>) -> Self {
        let (allowed, online) = match (allowed(root), online(root)) {
            (Ok(allowed), Ok(online)) => (Some(allowed), Some(online)),
            (Ok(allowed), Err(error)) => {
                problems.push(error.fall_back("the affinity mask alone is taken"));
                (Some(allowed), None)
            }
            (Err(error), Ok(online)) => {
                problems.push(error.fall_back("the online CPUs are taken"));
                (None, Some(online))
            }
            (Err(first), Err(second)) => {
                problems.extend([first, second].map(|e| e.fall_back("one thread is assumed")));
                (None, None)
            }
        };
        let cpus = Self { allowed, online };
        if let (Some(allowed), Some(0)) = (&cpus.allowed, cpus.usable()) {
            let list = allowed.cpus.to_string();
            let error = ReadError::garbled(&allowed.source, &list, "no allowed CPU is online");
            problems.push(error.fall_back("one thread is assumed"));
        }
        cpus
    }

    /// How many of the allowed CPUs are online.
    fn usable(&self) -> Option<usize> {
        let allowed = &self.allowed.as_ref()?.cpus;
        Some(match &self.online {
            Some(online) => allowed.intersect(&online.cpus).count(),
            None => allowed.count(),
        })
    }

    fn limits(&self) -> Vec<(CpuLimit, Limit)> {
        let entry = |kind: CpuLimit, listed: &Listed, cpus: usize| {
            let limit = Limit {
                name: kind.name(),
                value: shortened(&listed.cpus.to_string()),
                allows: u64::try_from(cpus.max(1)).ok(),
                source: listed.source.clone(),
            };
            (kind, limit)
        };
        let allowed = self.allowed.as_ref().zip(self.usable());
        let affinity = allowed.map(|(listed, cpus)| entry(CpuLimit::Affinity, listed, cpus));
        let online = self.online.as_ref();
        let online = online.map(|listed| entry(CpuLimit::Online, listed, listed.cpus.count()));
        affinity.into_iter().chain(online).collect()
    }
}

fn allowed(root: &Root) -> Result<Listed, ReadError> {
    let (source, status) = root.own_text("status")?;
    let list = keyed::value(&status, "Cpus_allowed_list:")
        .ok_or_else(|| ReadError::garbled(&source, &status, "no line Cpus_allowed_list"))?;
    listed(source, list)
}

fn online(root: &Root) -> Result<Listed, ReadError> {
    let source = PathBuf::from(ONLINE);
    let list = root.text(Path::new(ONLINE))?;
    listed(source, &list)
}

fn listed(source: PathBuf, list: &str) -> Result<Listed, ReadError> {
    let cpus: CpuSet = match list.parse() {
        Ok(cpus) => cpus,
        Err(_) => return Err(ReadError::garbled(&source, list, "no list of CPUs")),
    };
    match cpus.last() {
        None => Err(ReadError::garbled(&source, list, "no CPU")),
        Some(last) if CPU_BOUND <= last => Err(ReadError::garbled(
            &source,
            list,
            "more CPUs than Linux has",
        )),
        Some(_) => Ok(Listed { cpus, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> Option<Listed> {
        listed("/x".into(), list).ok()
    }

    #[test]
    fn usable_cpus_are_allowed_and_online() {
        let cases = [
            ("0-7", "0-3", Some(4)),
            ("4-7", "0-3", Some(0)),
            ("0-2047,4096", "0-4095", Some(2048)),
            ("0-7", "", Some(8)),
            ("", "0-7", None),
            ("0-18446744073709551615", "0-3", None),
        ];
        for (allowed, online, expected) in cases {
            let cpus = Cpus {
                allowed: set(allowed),
                online: set(online),
            };
            assert_eq!(cpus.usable(), expected, "{allowed} of {online}");
        }
    }

    #[test]
    fn names() {
        let kinds = [CpuLimit::Affinity, CpuLimit::Online, CpuLimit::CfsQuota];
        assert_eq!(
            kinds.map(CpuLimit::name),
            ["affinity", "online", "cfs-quota"]
        );
        assert!(kinds.is_sorted());
    }
}
