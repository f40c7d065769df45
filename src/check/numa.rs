// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! May memory come from the nodes that the CPUs are near?
//!
//! ```text
//!  CPUs of the mask ─► nodes of these CPUs ─┐ one that is not allowed ─► warn
//!  cpuset.mems ──────► nodes allowed ───────┘ none that is allowed ────► warn, unless no CPU is near those
//! ```

use cgroup::{CpuSet, MemoryNode, MemoryNodes};

use super::{
    host::{Unreadable, count, printable},
    row::Row,
};

const ID: &str = "memory-nodes";

const NEEDED: &str = "memory near the CPUs that pin: that of other nodes is slower to touch";

pub(super) fn row(nodes: &MemoryNodes, mask: Option<&CpuSet>) -> Row {
    if let Some(problem) = nodes.problems().first() {
        return Row::unreadable(ID, &Unreadable::from(problem), NEEDED);
    }
    let found = found(nodes);
    // The mask has a row of its own.
    let Some(mask) = mask.filter(|_| !nodes.is_single()) else {
        return Row::ok(ID, found, NEEDED);
    };
    let is_near = |node: &&MemoryNode| !node.cpus.intersect(mask).is_empty();
    let near = || nodes.nodes().iter().filter(is_near);
    let excluded = ids(near().filter(|node| node.has_memory && !nodes.is_allowed(node.id)));
    let is_far = !near().any(|node| nodes.is_allowed(node.id));
    let with_cpus = nodes.nodes().iter().filter(|node| !node.cpus.is_empty());
    let reachable = ids(with_cpus.filter(|node| nodes.is_allowed(node.id)));

    let mut remedies = Vec::new();
    if !excluded.is_empty() {
        let allowed = nodes.allowed().map(|id| id as usize);
        let all: CpuSet = allowed.chain(excluded.iter()).collect();
        remedies.push(format!(
            "`AllowedMemoryNodes={}` of the systemd unit (cpuset.mems of the group)",
            list(&all)
        ));
    }
    if !reachable.is_empty() {
        let reachable = list(&reachable);
        remedies.push(format!("start it with `numactl --cpunodebind={reachable}`"));
    }
    let remedy = remedies.join(", or ");
    if is_far && !remedy.is_empty() {
        let found = format!("{found}, none of them near a CPU of the mask");
        return Row::warn(ID, found, NEEDED, remedy);
    }
    if !excluded.is_empty() {
        let found = format!(
            "{found}, though CPUs of {} are in the mask",
            list(&excluded)
        );
        return Row::warn(ID, found, NEEDED, remedy);
    }
    Row::ok(ID, found, NEEDED)
}

/// How many nodes with memory there are, and which are allowed.
fn found(nodes: &MemoryNodes) -> String {
    let allowed: CpuSet = nodes.allowed().map(|id| id as usize).collect();
    let all = nodes.nodes().iter().filter(|node| node.has_memory).count();
    let number = count(u64::try_from(allowed.count()).unwrap_or(u64::MAX), "node");
    if allowed.count() < all {
        format!("{number} of {all} allowed ({})", list(&allowed))
    } else {
        format!("{number} ({})", list(&allowed))
    }
}

fn ids<'a>(nodes: impl Iterator<Item = &'a MemoryNode>) -> CpuSet {
    nodes.map(|node| node.id as usize).collect()
}

fn list(nodes: &CpuSet) -> String {
    printable(&nodes.to_string())
}
