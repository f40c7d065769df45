// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! On which memory nodes pages shall land, and which helpers are near them.
//!
//! ```text
//!  caller: Region::on_node ─────────────┐
//!  numa_maps: policy of each mapping ───┼─► node of each region ─► job: who works where
//!  no policy: Placement, caller's node ─┘
//!  numa_maps: the calling thread's policy ─► taken over by each helper before its first page
//! ```
//!
//! A machine with one memory node has nothing to decide, and nothing of this is looked at.

use std::{
    fs, io,
    sync::{Mutex, PoisonError},
};

use cgroup::MemoryNodes;
use pinning::{Chunk, Helper, Job, Node, SystemCallFilters, Work};
use vfio::{MemoryPolicy, PinFault, Regions, Session};

/// Where pages of memory without a policy land, on a machine with several memory nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// On the node where the caller runs, as if it did everything alone.
    #[default]
    Local,
    /// On each node that the cpuset allows in turn.
    Spread,
}

/// What the calling thread's memory nodes and policies are.
#[derive(Debug)]
pub(crate) struct Locality {
    nodes: MemoryNodes,
    /// The node that the caller runs on.
    home: Option<u32>,
    /// The caller's own policy.
    policy: MemoryPolicy,
    placement: Placement,
}

impl Locality {
    /// `None` where there is nothing to decide.
    pub(crate) fn of_caller(placement: Placement) -> Option<Self> {
        let nodes = MemoryNodes::current();
        if nodes.is_single() {
            return None;
        }
        Some(Self {
            home: cpu_of_caller().and_then(|cpu| nodes.node_of_cpu(cpu)),
            nodes,
            policy: MemoryPolicy::of_thread()?,
            placement,
        })
    }

    pub(crate) fn nodes(&self) -> &MemoryNodes {
        &self.nodes
    }

    /// The same regions with the nodes that their pages will land on, as far as that is known, and what is worth knowing
    /// about that.
    pub(crate) fn place(&self, regions: &Regions) -> (Regions, Vec<String>) {
        let all_known = regions.iter().all(|region| region.node().is_some());
        let policies = if all_known {
            Vec::new()
        } else {
            regions.policies().unwrap_or_default()
        };
        let nodes = policies.into_iter().map(|policy| {
            let policy = policy?;
            if policy.is_local() && self.placement == Placement::Local {
                self.home.filter(|&home| self.nodes.is_allowed(home))
            } else {
                policy.node()
            }
        });
        let placed = if all_known {
            regions.clone()
        } else {
            regions.with_nodes(nodes.chain(std::iter::repeat(None)))
        };
        let elsewhere = placed.iter().filter_map(|region| {
            let node = region.node().filter(|&node| !self.nodes.is_allowed(node))?;
            let allowed: Vec<String> = self.nodes.allowed().map(|id| id.to_string()).collect();
            Some(format!(
                "the region at iova {} belongs on memory node {node}, and cpuset.mems allows only {}: its pages land there",
                region.iova(),
                allowed.join(",")
            ))
        });
        let notes = elsewhere.collect();
        (placed, notes)
    }

    /// Tells `job` which CPUs are near which node.
    pub(crate) fn tell(&self, job: &mut Job) {
        job.home = self.home;
        job.nodes = self
            .nodes
            .nodes()
            .iter()
            .map(|node| Node {
                id: node.id,
                cpus: node.cpus.iter().collect(),
            })
            .collect();
    }

    /// The policy that threads of the job need.
    pub(crate) fn policy(&self) -> Wanted {
        if !self.policy.is_local() {
            return Wanted::Callers(self.policy.clone());
        }
        // The kernel refuses to prefer a node without memory, or one that cpuset.mems does not allow.
        let home = self.home.filter(|&home| self.nodes.is_allowed(home));
        match (self.placement, home) {
            (Placement::Local, Some(home)) => Wanted::Placement(MemoryPolicy::prefer(home)),
            (Placement::Local, None) => Wanted::Placement(MemoryPolicy::default_policy()),
            (Placement::Spread, _) => {
                Wanted::Placement(MemoryPolicy::interleave(self.nodes.allowed()))
            }
        }
    }

    /// For [`Placement::Spread`]: puts the calling thread under the same policy as its helpers, until the guard is
    /// dropped.
    pub(crate) fn spread_caller(&self) -> Option<Restored> {
        if self.placement == Placement::Local || !self.policy.is_local() {
            return None;
        }
        // A filter of the VMM's may kill it for this call.
        let spread = MemoryPolicy::interleave(self.nodes.allowed());
        let may = SystemCallFilters::of_caller().are_none();
        (may && spread.apply_to_thread().is_ok()).then(|| Restored(self.policy.clone()))
    }
}

/// The CPU that the calling thread runs on at this moment: field 39 of `/proc/thread-self/stat`, since filters kill for
/// `getcpu`.
fn cpu_of_caller() -> Option<usize> {
    let stat = fs::read_to_string("/proc/thread-self/stat").ok()?;
    // The name before it may hold anything, parentheses and spaces included.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok()
}

/// Gives the calling thread its policy back when it is dropped.
#[derive(Debug)]
pub(crate) struct Restored(MemoryPolicy);

impl Drop for Restored {
    fn drop(&mut self) {
        // It was this thread's policy before, and another one could be set.
        let _ = self.0.apply_to_thread();
    }
}

/// A policy that helpers take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// None: there is one memory node.
    Any,
    /// The calling thread's own. Who cannot take it over must not touch the caller's memory.
    Callers(MemoryPolicy),
    /// What the placement asks for. Who cannot take it over helps all the same.
    Placement(MemoryPolicy),
}

/// A session whose helpers work under the caller's memory policy.
#[derive(Debug)]
pub(crate) struct InPolicy<'s, S> {
    session: &'s S,
    wanted: Wanted,
    refused: Mutex<Option<io::Error>>,
}

impl<'s, S: Session> InPolicy<'s, S> {
    pub(crate) fn new(session: &'s S, wanted: Wanted) -> Self {
        Self {
            session,
            wanted,
            refused: Mutex::new(None),
        }
    }

    /// What helpers could not take over, and what that meant.
    pub(crate) fn note(&self) -> Option<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let error = refused.as_ref()?;
        match &self.wanted {
            Wanted::Any => None,
            Wanted::Callers(policy) => Some(format!(
                "helpers cannot take over the caller's memory policy {policy} ({error}) and did not work: make the crew \
                 under this policy"
            )),
            Wanted::Placement(policy) => Some(format!(
                "helpers cannot take over the memory policy {policy} ({error}): pages may be on the nodes where helpers \
                 ran; give the memory a policy (mbind), or make the crew before the filter"
            )),
        }
    }
}

impl<S: Session> Work for InPolicy<'_, S> {
    type Error = PinFault;

    fn enter(&self, helper: &Helper) -> bool {
        let (policy, required) = match &self.wanted {
            Wanted::Any => return true,
            Wanted::Callers(policy) => (policy, true),
            Wanted::Placement(policy) => (policy, false),
        };
        if MemoryPolicy::of_thread().as_ref() == Some(policy) {
            return true;
        }
        let taken = if helper.is_unfiltered() {
            policy.apply_to_thread()
        } else {
            Err(io::Error::other("a system call filter was installed"))
        };
        let Err(error) = taken else { return true };
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        !required
    }

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        self.session.run(chunk, worker)
    }

    fn seal(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.session.seal(chunk)
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.session.undo(chunk)
    }
}
