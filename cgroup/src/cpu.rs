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

use std::{num::NonZeroUsize, path::Path};

use crate::{
    cpulist::CpuSet,
    error::{ReadError, shortened},
    keyed,
    limit::Limit,
    listed::{CPUS, Listed},
    quota,
    root::Root,
    watch::CpuWatch,
};

const ONLINE: &str = "/sys/devices/system/cpu/online";

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
    cpus: Option<CpuSet>,
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
        Self::with_quotas(root, |problems| quota::limits(root, problems))
    }

    /// For a thread that asks again and again: the same answers as [`current`](Self::current), at less cost.
    pub fn watch() -> CpuWatch {
        CpuWatch::new(Root::live())
    }

    /// The budget with the quotas that somebody else finds, together with what is in their way.
    pub(crate) fn with_quotas(
        root: &Root,
        quotas: impl FnOnce(&mut Vec<ReadError>) -> Vec<Limit>,
    ) -> Self {
        let mut problems = Vec::new();
        let cpus = Cpus::read(root, &mut problems);
        let mut found = cpus.limits();
        let quotas = quotas(&mut problems);
        found.extend(quotas.into_iter().map(|limit| (CpuLimit::CfsQuota, limit)));

        let unknown = found.iter().all(|&(kind, _)| kind == CpuLimit::CfsQuota);
        let one = unknown.then_some((CpuLimit::Affinity, 1));
        let bounds = found
            .iter()
            .filter_map(|(kind, limit)| Some((*kind, limit.allows?)));
        // Of equal bounds the first is taken.
        let least = one.into_iter().chain(bounds).min_by_key(|&(_, cpus)| cpus);
        let (limited_by, count) = least.unwrap_or((CpuLimit::Affinity, 1));
        let threads = usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            threads: NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN),
            limited_by,
            cpus: cpus.usable(),
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

    /// The CPUs that are allowed to the calling thread and online, as far as either is known; none if neither is.
    pub fn cpus(&self) -> Option<&CpuSet> {
        self.cpus.as_ref()
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
        if let (Some(allowed), Some(0)) = (&cpus.allowed, cpus.allowed_count()) {
            let list = allowed.numbers.to_string();
            let error = ReadError::garbled(&allowed.source, &list, "no allowed CPU is online");
            problems.push(error.fall_back("one thread is assumed"));
        }
        cpus
    }

    /// Those that are allowed and online, as far as either is known.
    fn usable(&self) -> Option<CpuSet> {
        match (&self.allowed, &self.online) {
            (Some(allowed), Some(online)) => Some(allowed.numbers.intersect(&online.numbers)),
            (one, other) => {
                let known = one.as_ref().or(other.as_ref())?;
                Some(known.numbers.clone())
            }
        }
    }

    /// How many of the allowed CPUs are online.
    fn allowed_count(&self) -> Option<usize> {
        self.allowed.as_ref()?;
        self.usable().map(|cpus| cpus.count())
    }

    fn limits(&self) -> Vec<(CpuLimit, Limit)> {
        let entry = |kind: CpuLimit, listed: &Listed, cpus: usize| {
            let limit = Limit {
                name: kind.name(),
                value: shortened(&listed.numbers.to_string()),
                allows: u64::try_from(cpus.max(1)).ok(),
                source: listed.source.clone(),
            };
            (kind, limit)
        };
        let allowed = self.allowed.as_ref().zip(self.allowed_count());
        let affinity = allowed.map(|(listed, cpus)| entry(CpuLimit::Affinity, listed, cpus));
        let online = self.online.as_ref();
        let online = online.map(|listed| entry(CpuLimit::Online, listed, listed.numbers.count()));
        affinity.into_iter().chain(online).collect()
    }
}

fn allowed(root: &Root) -> Result<Listed, ReadError> {
    let (source, status) = root.own_text("status")?;
    let list = keyed::value(&status, "Cpus_allowed_list:")
        .ok_or_else(|| ReadError::garbled(&source, &status, "no line Cpus_allowed_list"))?;
    CPUS.some(source, list)
}

fn online(root: &Root) -> Result<Listed, ReadError> {
    CPUS.file(root, Path::new(ONLINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> Option<Listed> {
        CPUS.some("/x".into(), list).ok()
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
            assert_eq!(cpus.allowed_count(), expected, "{allowed} of {online}");
        }
    }

    #[test]
    fn what_is_not_known_bounds_nothing() {
        let usable = |allowed, online| {
            let cpus = Cpus {
                allowed: set(allowed),
                online: set(online),
            };
            cpus.usable().map(|cpus| cpus.to_string())
        };
        assert_eq!(usable("2-9", "0-3").as_deref(), Some("2-3"));
        assert_eq!(usable("2-9", "").as_deref(), Some("2-9"));
        assert_eq!(usable("", "0-3").as_deref(), Some("0-3"));
        assert_eq!(usable("", ""), None);
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
