// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! May this much memory be taken and pinned?
//!
//! ```text
//!  Demand.locked ─► RLIMIT_MEMLOCK − VmLck or VmPin ──┐
//!  Demand.fresh ──► memory.max − used, every level ───┼─► Ok, or every Shortage
//!  Demand.fresh ──► MemAvailable ─────────────────────┤
//!  Demand.huge ───► free + on demand, every pool ─────┘
//! ```
//!
//! # Gotchas
//!
//! A process that exceeds `memory.max` while it faults pages in is killed by the kernel's OOM killer.
//! That cannot be undone, so the check beforehand is the only protection. iommufd and io_uring look at
//! `RLIMIT_MEMLOCK` only after they have pinned everything, so a job that must fail costs as much time
//! as one that does not; that, too, is what the check saves.

use std::path::Path;

use crate::{
    bytes::Bytes,
    demand::{Demand, LockRule},
    error::ReadError,
    hugetlb::{self, Pool},
    keyed::{kilobytes, shown},
    limit::Limit,
    memcg::{Level, Memcg},
    memlock::{self, Memlock},
    process::ProcessMemory,
    root::Root,
    shortage::{Shortage, ShortageKind, fits},
};

const MEMINFO: &str = "/proc/meminfo";

/// How much memory may be taken and pinned by the calling thread, and what limits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    memlock: Option<Memlock>,
    lock_exempt: bool,
    process: Option<ProcessMemory>,
    levels: Vec<Level>,
    pools: Option<Vec<Pool>>,
    available: Option<u64>,
    limits: Vec<Limit>,
    problems: Vec<ReadError>,
}

impl MemoryBudget {
    /// The budget of the calling thread now.
    pub fn current() -> Self {
        Self::read(&Root::live())
    }

    /// The budget that the files below `root` describe.
    pub fn read(root: &Root) -> Self {
        let mut problems = Vec::new();
        let memlock = Memlock::read(root, &mut problems);
        let lock_exempt = memlock::is_exempt(root, &mut problems);
        let process = ProcessMemory::read(root)
            .map_err(|e| problems.push(e.fall_back("nothing is taken to be locked or pinned")))
            .ok();
        let memcg = Memcg::read(root, &mut problems);
        let pools = hugetlb::read(root, &mut problems);
        let available = available(root)
            .map_err(|e| problems.push(e.fall_back("MemAvailable is not checked")))
            .ok();

        let mut limits: Vec<Limit> = memlock.iter().map(Memlock::limit).collect();
        limits.extend(memcg.limits);
        limits.extend(pools.iter().flatten().filter_map(Pool::limit));
        limits.extend(available.map(available_limit));
        Self {
            memlock,
            lock_exempt,
            process,
            levels: memcg.levels,
            pools,
            available,
            limits,
            problems,
        }
    }

    /// Every limit that was found: `RLIMIT_MEMLOCK`, control groups from the own one upwards, pools of
    /// huge pages, `MemAvailable`.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// What could not be read, and what was assumed instead.
    pub fn problems(&self) -> &[ReadError] {
        &self.problems
    }

    /// Bytes that this process has locked (`VmLck`).
    pub fn locked_bytes(&self) -> Option<u64> {
        self.process.map(|process| process.locked)
    }

    /// Bytes that this process has pinned (`VmPin`).
    pub fn pinned_bytes(&self) -> Option<u64> {
        self.process.map(|process| process.pinned)
    }

    /// Bytes of the machine that can be had without swapping (`MemAvailable`).
    pub fn available(&self) -> Option<u64> {
        self.available
    }

    /// Whether `RLIMIT_MEMLOCK` does not count: `CAP_IPC_LOCK` in the initial user namespace.
    pub fn lock_exempt(&self) -> bool {
        self.lock_exempt
    }

    /// Whether `demand` fits into every limit.
    ///
    /// `memory.high` never refuses: the kernel slows a group down that exceeds it. Swap is not counted
    /// as available, because pinned memory cannot go there.
    ///
    /// The answer holds for the moment when the budget was read.
    ///
    /// # Errors
    ///
    /// Every limit that is too low, in the order of [`limits`](Self::limits). A limit that could not
    /// be read refuses nothing.
    pub fn check(&self, demand: &Demand) -> Result<(), Vec<Shortage>> {
        let mut shortages = Vec::new();
        shortages.extend(self.check_locked(demand));
        let levels = self.levels.iter();
        shortages.extend(levels.filter_map(|level| level.check(demand.fresh)));
        if let Some(pools) = &self.pools {
            shortages.extend(hugetlb::check(pools, &demand.huge));
        }
        shortages.extend(self.check_available(demand.fresh));
        if shortages.is_empty() {
            Ok(())
        } else {
            Err(shortages)
        }
    }

    fn check_locked(&self, demand: &Demand) -> Option<Shortage> {
        let memlock = self.memlock.as_ref().filter(|_| !self.lock_exempt)?;
        let used = match demand.rule {
            LockRule::Exempt => return None,
            LockRule::Process => self.locked_bytes(),
            LockRule::User => self.pinned_bytes(),
        };
        memlock.check(used.unwrap_or(0), demand)
    }

    fn check_available(&self, fresh: u64) -> Option<Shortage> {
        let value = self.available?;
        if fits(0, fresh, value) {
            return None;
        }
        let missing = Bytes(fresh.saturating_sub(value));
        Some(Shortage {
            kind: ShortageKind::OutOfMemory,
            limit: "MemAvailable",
            value,
            used: 0,
            needed: fresh,
            source: MEMINFO.into(),
            remedy: format!("free {missing} on this machine, or give the guest less memory"),
        })
    }
}

fn available(root: &Root) -> Result<u64, ReadError> {
    let path = Path::new(MEMINFO);
    let text = root.text(path)?;
    let key = "MemAvailable:";
    let why = "no usable line MemAvailable";
    kilobytes(&text, key).ok_or_else(|| ReadError::garbled(path, shown(&text, key), why))
}

fn available_limit(bytes: u64) -> Limit {
    Limit {
        name: "MemAvailable",
        value: format!("{} kB", bytes / 1024),
        allows: Some(bytes),
        source: MEMINFO.into(),
    }
}
