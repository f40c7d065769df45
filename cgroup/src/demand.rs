// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a job asks of memory.

/// Memory that a job is going to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Bytes that will be counted against `RLIMIT_MEMLOCK`, under [`rule`](Self::rule).
    pub locked: u64,
    /// How the pages are counted.
    pub rule: LockRule,
    /// Bytes of ordinary memory that will be newly allocated; not what is already resident.
    pub fresh: u64,
    /// Huge pages that will be newly taken from their pools.
    pub huge: Vec<HugeDemand>,
}

/// How the kernel counts locked pages against `RLIMIT_MEMLOCK`.
///
/// With `CAP_IPC_LOCK` in the initial user namespace none of them counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockRule {
    /// Not at all, as when pages are only faulted in.
    Exempt,
    /// For each process, visible as `VmLck`: VFIO type1.
    Process,
    /// For each user, over all processes: iommufd and io_uring.
    ///
    /// No file shows this count. `VmPin` of this process is taken as its lower bound, so a job that
    /// passes the check can still be refused when other processes of the user hold pages.
    User,
}

/// Huge pages that a mapping will take from a pool which has already reserved them for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HugeDemand {
    /// Bytes of one page.
    pub page_size: u64,
    /// Bytes to be taken; rounded up to whole pages.
    pub bytes: u64,
}
