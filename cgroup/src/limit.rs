// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One limit that was looked at.

use std::path::PathBuf;

/// One limit that was looked at, whether or not it decided anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the limit is called, such as `affinity`, `cfs-quota`, `RLIMIT_MEMLOCK`, `cpuset-mems` or `memory.max`.
    pub name: &'static str,
    /// Its value as text, much as its file has it.
    pub value: String,
    /// What it allows: CPUs in a CPU budget, bytes in a memory budget, memory nodes that may be used; none if it is
    /// unlimited.
    pub allows: Option<u64>,
    /// The file that says so, as seen below the [`Root`](crate::Root).
    pub source: PathBuf,
}
