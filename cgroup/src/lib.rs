// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How many CPUs and how much memory may this job use, and which limit says so?
//!
//! Everything is read from files: `/proc`, `/sys` and the cgroup file systems. There are no system
//! calls of our own and no unsafe code, so a recorded tree answers like the machine it was taken from.
//!
//! ```text
//!  /proc/thread-self/status ─┐
//!  /sys/…/cpu/online ────────┼─► CpuBudget ────► threads, limited_by, limits, problems
//!  cpu.max, cpu.cfs_* ───────┘
//!  limits, status, ns/user ──┐
//!  memory.max, memory.stat ──┼─► MemoryBudget ─► check(Demand) ─► Ok, or every Shortage with a remedy
//!  hugepages-*kB, meminfo ───┘
//!  /sys/…/node, status ──────► MemoryNodes ──► nodes, allowed, limit, problems
//!  status ───────────────────► PendingSignals ► is the process asked to end?
//! ```
//!
//! ```
//! use cgroup::{CpuBudget, Demand, LockRule, MemoryBudget};
//!
//! let cpus = CpuBudget::current();
//! let limited_by = cpus.limited_by().name();
//! let line = format!("{} threads, limited by {limited_by}", cpus.threads());
//!
//! let guest = 64 << 20;
//! let demand = Demand { locked: guest, rule: LockRule::Process, fresh: guest, huge: Vec::new() };
//! if let Err(shortages) = MemoryBudget::current().check(&demand) {
//!     for shortage in shortages {
//!         let advice = format!("{shortage}; try {}", shortage.remedy);
//!     }
//! }
//! ```
//!
//! A budget is always given. What could not be read is listed in `problems()`, with its path, its
//! content and what was assumed instead:
//!
//! | not readable | assumed |
//! |---|---|
//! | affinity | the online CPUs |
//! | online CPUs | the affinity mask alone |
//! | both | one thread |
//! | quota of a cgroup | that level is ignored |
//! | `RLIMIT_MEMLOCK` | not checked |
//! | `VmLck`, `VmPin` | nothing locked or pinned yet |
//! | `CapEff` | no `CAP_IPC_LOCK` |
//! | user namespace | the initial one |
//! | memory limit of a cgroup | that level is ignored |
//! | usage of a cgroup | nothing used yet |
//! | page cache of a cgroup | none of the usage is reclaimable |
//! | hugetlb pools, one or all | not checked |
//! | `MemAvailable` | not checked |
//! | nodes that are online | one node with all CPUs, and it is allowed |
//! | nodes with memory | every node has memory |
//! | CPUs of a node | that node has none |
//! | `Mems_allowed_list` | every node with memory is allowed |
//!
//! # Gotchas
//!
//! A budget is a snapshot. Quotas and masks change while a job runs; read again when it matters, through
//! [`CpuBudget::watch`] if that is often.
//!
//! A process that exceeds `memory.max` while it faults pages in is killed by the kernel's OOM killer
//! (with cgroup v2 always, with v1 by default). No error is returned and nothing can be undone, so
//! [`MemoryBudget::check`] beforehand is the only protection.
//!
//! # Things this does not do
//!
//! It does not see cgroups above the root of a cgroup namespace, the hugetlb controller of cgroups,
//! hugetlb pools of single NUMA nodes, memory policies (`numactl --membind`), or the per-user count of
//! locked pages, which no file shows.

#![forbid(unsafe_code)]

mod bytes;
mod cpu;
mod cpulist;
mod demand;
mod error;
mod hierarchy;
mod hugetlb;
mod keyed;
mod limit;
mod listed;
mod memcg;
mod memlock;
mod memory;
mod mountinfo;
mod niceness;
mod nodes;
mod pending;
mod process;
mod quota;
mod root;
mod shell;
mod shortage;
mod throttle;
mod watch;
mod weight;

#[cfg(test)]
mod garbage;
#[cfg(test)]
mod scratch;

pub use crate::{
    cpu::{CpuBudget, CpuLimit},
    cpulist::{CpuListError, CpuSet},
    demand::{Demand, HugeDemand, LockRule},
    error::ReadError,
    limit::Limit,
    memory::MemoryBudget,
    niceness::NiceScope,
    nodes::{MemoryNode, MemoryNodes},
    pending::PendingSignals,
    process::ProcessMemory,
    root::Root,
    shell::ShellPath,
    shortage::{Shortage, ShortageKind},
    throttle::Throttle,
    watch::CpuWatch,
    weight::{CpuWeight, CpuWeights},
};
