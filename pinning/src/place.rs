// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which worker belongs to which memory [`Node`], and the CPUs that it may use.
//!
//! ```text
//!  ranges  node 0: 6 GiB ─┐               group 0 ── cursor 0 ◄── caller, helper 2, helper 3
//!          node 1: 3 GiB ─┼─► groups      group 1 ── cursor 1 ◄── helper 1
//!          no node: 1 GiB ┘               group 2 ── cursor 2 ◄── whoever is free
//! ```

use rustix::thread::CpuSet;

use crate::{Job, affinity::Mask};

/// A memory node, and the CPUs near it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number of the node.
    pub id: u32,
    /// CPU numbers; those outside of the calling thread's mask are not used.
    pub cpus: Vec<usize>,
}

/// Where the workers of a plan belong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Places {
    /// The node of each group of ranges; the last group has none if some range has none.
    groups: Box<[Option<Node>]>,
    /// The group of each worker; `None` for who is at home nowhere.
    homes: Box<[Option<usize>]>,
    /// Whether each helper gets a CPU of its own.
    spread: bool,
}

impl Places {
    /// Finds a home for `threads` workers of `job`, which the calling thread will start, by the bytes on each node.
    pub(crate) fn of_caller(job: &Job, threads: usize) -> Self {
        match (job.nodes.is_empty(), Mask::of_caller()) {
            (false, Ok(Mask::Set(all))) => Self::new(job, threads, &all),
            _ => Self::new(job, threads, &CpuSet::new()),
        }
    }

    /// As [`of_caller`](Self::of_caller), for a caller under the mask `all`.
    fn new(job: &Job, threads: usize, all: &CpuSet) -> Self {
        let mut groups: Vec<Option<Node>> = Vec::new();
        let mut bytes: Vec<u64> = Vec::new();
        for range in job.ranges() {
            let node = job.nodes.iter().find(|node| Some(node.id) == range.node());
            match groups.iter().position(|group| group.as_ref() == node) {
                Some(group) => bytes[group] += range.size(),
                None => {
                    groups.push(node.cloned());
                    bytes.push(range.size());
                }
            }
        }
        let homes = if groups.iter().any(Option::is_some) {
            homes(&groups, &bytes, (job.home, all), threads)
        } else {
            vec![None; threads]
        };
        Self {
            groups: groups.into(),
            homes: homes.into(),
            spread: job.spread,
        }
    }

    /// The group of a range on `node`.
    pub(crate) fn group_of(&self, node: Option<u32>) -> usize {
        let is_it = |group: &Option<Node>| group.as_ref().map(|group| group.id) == node;
        let rest = || self.groups.iter().position(Option::is_none);
        self.groups
            .iter()
            .position(is_it)
            .or_else(rest)
            .unwrap_or(0)
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups.len().max(1)
    }

    pub(crate) fn home(&self, worker: usize) -> Option<usize> {
        self.homes.get(worker).copied().flatten()
    }

    /// The node on whose CPUs `worker` runs.
    pub(crate) fn node(&self, worker: usize) -> Option<u32> {
        let group = self.groups.get(self.home(worker)?)?;
        group.as_ref().map(|node| node.id)
    }

    /// Whether all helpers simply have the caller's mask.
    pub(crate) fn is_plain(&self) -> bool {
        !self.spread && self.homes.iter().all(Option::is_none)
    }

    /// The CPUs of a helper, inside the caller's mask `all`.
    pub(crate) fn cpus(&self, worker: usize, all: &CpuSet) -> CpuSet {
        let home = self.home(worker);
        let near = home.and_then(|home| {
            let node = self.groups[home].as_ref()?;
            let mut near = CpuSet::new();
            for &cpu in node.cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU) {
                if all.is_set(cpu) {
                    near.set(cpu);
                }
            }
            (near.count() > 0).then_some(near)
        });
        let cpus = near.unwrap_or(*all);
        if !self.spread {
            return cpus;
        }
        // The caller keeps its mask; leaving it the first CPU of its home makes for one CPU each.
        let nth = (0..worker)
            .filter(|&other| self.home(other) == home)
            .count();
        let cores = cores(&cpus);
        let mut one = CpuSet::new();
        if let Some(&core) = cores.get(nth % cores.len().max(1)) {
            one.set(core);
        }
        if one.count() == 0 { cpus } else { one }
    }

    /// The masks of all workers, where they differ from the caller's.
    pub(crate) fn masks(&self, caller: &Mask) -> Box<[Mask]> {
        match caller {
            Mask::Set(all) if !self.is_plain() => (0..self.homes.len())
                .map(|worker| Mask::Set(Box::new(self.cpus(worker, all))))
                .collect(),
            _ => Box::default(),
        }
    }
}

/// The allowed cores in order, and of those the ones in `cpus`.
fn cores(cpus: &CpuSet) -> Vec<usize> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let allowed = allowed.into_iter().map(|core| core.id);
    allowed
        .filter(|&core| core < CpuSet::MAX_CPU && cpus.is_set(core))
        .collect()
}

/// The group of each worker: the caller where it runs, helpers by the bytes of each group (highest averages), no more
/// than it has CPUs for.
fn homes(
    groups: &[Option<Node>],
    bytes: &[u64],
    (caller, all): (Option<u32>, &CpuSet),
    threads: usize,
) -> Vec<Option<usize>> {
    let usable = |cpu: usize| cpu < CpuSet::MAX_CPU && all.is_set(cpu);
    let room = |group: &Option<Node>| {
        let node = group.as_ref();
        node.map_or(0, |node| {
            node.cpus.iter().filter(|&&cpu| usable(cpu)).count()
        })
    };
    let mut seated = vec![0usize; groups.len()];
    let mut homes = Vec::with_capacity(threads);
    let at_home = |group: &Option<Node>| {
        let node = group.as_ref();
        caller.is_some() && node.map(|node| node.id) == caller
    };
    for worker in 0..threads {
        let home = if worker == 0 {
            groups.iter().position(at_home)
        } else {
            (0..groups.len())
                .filter(|&group| seated[group] < room(&groups[group]))
                // Of equal ones the first.
                .max_by_key(|&group| {
                    let share = bytes[group] / (seated[group] as u64 + 1);
                    (share, std::cmp::Reverse(group))
                })
        };
        if let Some(home) = home {
            seated[home] += 1;
        }
        homes.push(home);
    }
    homes
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::Range;

    const GIB: u64 = 1 << 30;

    fn node(id: u32, cpus: &[usize]) -> Node {
        Node {
            id,
            cpus: cpus.to_vec(),
        }
    }

    /// A job with one range for each of `gib`, on its node.
    fn job(gib: &[(u64, Option<u32>)], nodes: &[Node], home: Option<u32>) -> Job {
        let mut start = 0;
        let ranges: Vec<Range> = gib
            .iter()
            .map(|&(gib, node)| {
                let range = Range::new(start, gib * GIB, 4096).unwrap().on_node(node);
                start += gib * GIB;
                range
            })
            .collect();
        let mut job = Job::new(ranges).unwrap();
        job.nodes = nodes.to_vec();
        job.home = home;
        job
    }

    /// The first `cpus` CPUs.
    fn mask(cpus: usize) -> CpuSet {
        let mut mask = CpuSet::new();
        (0..cpus).for_each(|cpu| mask.set(cpu));
        mask
    }

    fn nodes_of_workers(job: &Job, threads: usize) -> Vec<Option<u32>> {
        let places = Places::new(job, threads, &mask(8));
        (0..threads).map(|worker| places.node(worker)).collect()
    }

    #[test]
    fn helpers_follow_the_bytes_and_the_cpus() {
        let nodes = [node(0, &[0, 1]), node(1, &[2, 3])];
        let both = job(&[(2, Some(0)), (2, Some(1))], &nodes, Some(0));
        assert_eq!(
            nodes_of_workers(&both, 4),
            [Some(0), Some(1), Some(0), Some(1)]
        );
        let far = job(&[(4, Some(1))], &nodes, Some(0));
        assert_eq!(
            nodes_of_workers(&far, 4),
            [None, Some(1), Some(1), None],
            "node 1 has two CPUs, and the caller runs elsewhere"
        );
        let uneven = job(&[(9, Some(0)), (1, Some(1))], &nodes, None);
        assert_eq!(nodes_of_workers(&uneven, 3), [None, Some(0), Some(0)]);
    }

    #[test]
    fn without_nodes_nobody_has_a_home() {
        let plain = job(&[(4, None)], &[], None);
        assert!(Places::new(&plain, 4, &mask(8)).is_plain());
        let unknown = job(&[(4, Some(7))], &[node(0, &[0])], Some(0));
        let places = Places::new(&unknown, 2, &mask(8));
        assert!(places.is_plain());
        assert_eq!((places.groups(), places.group_of(Some(7))), (1, 0));
    }

    #[test]
    fn ranges_are_grouped_by_their_node() {
        let nodes = [node(0, &[0]), node(1, &[])];
        let ranges = [
            (1, Some(1)),
            (1, None),
            (1, Some(0)),
            (1, Some(1)),
            (1, Some(9)),
        ];
        let mixed = job(&ranges, &nodes, None);
        let places = Places::new(&mixed, 3, &mask(8));
        assert_eq!(places.groups(), 3);
        let groups = ranges.map(|(_, node)| places.group_of(node));
        assert_eq!(groups, [0, 1, 2, 0, 1]);
        assert_eq!(
            nodes_of_workers(&mixed, 3),
            [None, Some(0), None],
            "nobody may run on node 1"
        );
    }

    #[test]
    fn homes_stay_inside_the_mask() {
        let nodes = [node(0, &[0, 1]), node(1, &[2, 3])];
        let both = job(&[(2, Some(0)), (2, Some(1))], &nodes, Some(0));
        let places = Places::new(&both, 3, &mask(8));
        let mut all = CpuSet::new();
        all.set(1);
        all.set(3);
        let cpus = |worker| {
            let cpus = places.cpus(worker, &all);
            (0..8).filter(|&cpu| cpus.is_set(cpu)).collect::<Vec<_>>()
        };
        assert_eq!((cpus(1), cpus(2)), (vec![3], vec![1]));
        all.unset(3);
        let cpus = places.cpus(1, &all);
        assert!(
            cpus.is_set(1) && cpus.count() == 1,
            "no CPU of its node is left"
        );
    }
}
