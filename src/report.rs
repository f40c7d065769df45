// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PinReport`]: what a pin call did, and every limit that was looked at.

use cgroup::{CpuBudget, MemoryNodes, Throttle};
use vfio::PageSize;

/// What a pin call did.
#[derive(Debug, Clone)]
pub struct PinReport {
    /// Name of the target.
    pub target: &'static str,
    /// How the target went about it.
    pub strategy: &'static str,
    /// Regions that were pinned.
    pub regions: usize,
    /// The largest page behind any of them.
    pub page_size: PageSize,
    /// The nice value asked for helpers.
    pub nice: i32,
    /// What the engine did.
    pub job: pinning::Report,
    /// The limits on CPUs as they were when the job was planned.
    pub cpu: CpuBudget,
    /// The memory nodes and which of them the cpuset allows; `None` on a machine that has one.
    pub nodes: Option<MemoryNodes>,
    /// How often and how long the caller's group was throttled while the job ran, where it can be read.
    pub throttled: Option<Throttle>,
    /// What is worth knowing beside the figures: regions whose addresses rule out large pages, policies that helpers could
    /// not take over, helpers that were stuck.
    pub notes: Vec<String>,
}
