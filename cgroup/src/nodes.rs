// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which memory nodes are there, which CPUs are near them, and from which may memory come?
//!
//! ```text
//!  node/online ─────────► 0-2 ──┐
//!  node/nodeN/cpulist ──────────┼─► MemoryNode { id, cpus, has_memory }
//!  node/has_memory ─────► 0,2 ──┤
//!  Mems_allowed_list ───► 0-1 ──┴─► allowed: 0        cpuset.mems, cut to the nodes that have memory
//! ```
//!
//! # Gotchas
//!
//! A node can have memory and no CPU (CXL, persistent memory), or CPUs and no memory.
//!
//! A kernel that is built without NUMA has no directory for nodes, and one without cpusets no line
//! `Mems_allowed_list`: nothing is wrong with either. The first is one node, in the second all are allowed.

use std::path::Path;

use crate::{
    cpulist::CpuSet,
    error::{ReadError, shortened},
    keyed,
    limit::Limit,
    listed::{CPUS, Listed, NODES},
    root::Root,
};

const DIRECTORY: &str = "/sys/devices/system/node";
const ALLOWED: &str = "Mems_allowed_list:";

const ONE_NODE: &str = "one node with all CPUs is assumed";
const ALL_HAVE_MEMORY: &str = "every node is taken to have memory";
const NO_CPU: &str = "this node is taken to have no CPU";
const ALL_ALLOWED: &str = "every node with memory is taken to be allowed";

/// A part of the machine: memory, and the CPUs that are near it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryNode {
    /// Its number.
    pub id: u32,
    /// Its CPUs that are online, or none. On a machine that tells of no nodes: every number.
    pub cpus: CpuSet,
    /// Whether it has memory.
    pub has_memory: bool,
}

/// The memory nodes of the machine, and those that the calling thread's cpuset allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryNodes {
    nodes: Vec<MemoryNode>,
    /// Numbers of nodes that are allowed and have memory.
    allowed: CpuSet,
    limit: Option<Limit>,
    problems: Vec<ReadError>,
}

impl MemoryNodes {
    /// The nodes as the calling thread sees them now.
    pub fn current() -> Self {
        Self::read(&Root::live())
    }

    /// The nodes that the files below `root` describe.
    pub fn read(root: &Root) -> Self {
        let mut problems = Vec::new();
        let nodes = match nodes(root, &mut problems) {
            Ok(nodes) => nodes,
            Err(error) => return Self::unknown(error.fall_back(ONE_NODE)),
        };
        let memory = with_memory(&nodes);
        let (allowed, limit) = match allowed(root, &memory) {
            Ok(Some((allowed, limit))) => (allowed, Some(limit)),
            Ok(None) => (memory, None),
            Err(error) => {
                problems.push(error.fall_back(ALL_ALLOWED));
                (memory, None)
            }
        };
        Self {
            nodes,
            allowed,
            limit,
            problems,
        }
    }

    /// Of nodes that cannot be told apart it does not matter which are allowed.
    fn unknown(problem: ReadError) -> Self {
        let nodes = vec![one_node()];
        Self {
            allowed: with_memory(&nodes),
            nodes,
            limit: None,
            problems: vec![problem],
        }
    }

    /// Every node that is online, in ascending order; at least one.
    pub fn nodes(&self) -> &[MemoryNode] {
        &self.nodes
    }

    /// The nodes that memory may come from: allowed by the cpuset, and not without memory; at least one.
    pub fn allowed(&self) -> impl Iterator<Item = u32> + '_ {
        let ids = self.nodes.iter().map(|node| node.id);
        ids.filter(|&id| self.is_allowed(id))
    }

    /// Whether memory may come from this node.
    pub fn is_allowed(&self, id: u32) -> bool {
        self.allowed.contains(id as usize)
    }

    /// What `cpuset.mems` comes to, as the thread's status file has it; none if that does not say.
    pub fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    /// What could not be read, and what was assumed instead.
    pub fn problems(&self) -> &[ReadError] {
        &self.problems
    }

    /// The node that a CPU is near; none if no node has it, as with one that is offline.
    pub fn node_of_cpu(&self, cpu: usize) -> Option<u32> {
        let node = self.nodes.iter().find(|node| node.cpus.contains(cpu))?;
        Some(node.id)
    }

    /// Whether all memory is in one node, so that there is nothing to choose.
    pub fn is_single(&self) -> bool {
        self.nodes.iter().filter(|node| node.has_memory).count() <= 1
    }
}

fn one_node() -> MemoryNode {
    MemoryNode {
        id: 0,
        cpus: CPUS.all(),
        has_memory: true,
    }
}

/// The numbers of the nodes that have memory.
fn with_memory(nodes: &[MemoryNode]) -> CpuSet {
    let nodes = nodes.iter().filter(|node| node.has_memory);
    nodes.map(|node| node.id as usize).collect()
}

fn nodes(root: &Root, problems: &mut Vec<ReadError>) -> Result<Vec<MemoryNode>, ReadError> {
    let directory = Path::new(DIRECTORY);
    let online = match NODES.file(root, &directory.join("online")) {
        Ok(listed) => listed.numbers,
        Err(error) if error.is_missing() => return Ok(vec![one_node()]),
        Err(error) => return Err(error),
    };
    let memory = memory(root, &online).unwrap_or_else(|error| {
        problems.push(error.fall_back(ALL_HAVE_MEMORY));
        online.clone()
    });
    let mut node = |id: u32| {
        let list = directory.join(format!("node{id}/cpulist"));
        let cpus = CPUS.file_or_none(root, &list).map(|listed| listed.numbers);
        MemoryNode {
            id,
            cpus: cpus.unwrap_or_else(|error| {
                problems.push(error.fall_back(NO_CPU));
                CpuSet::default()
            }),
            has_memory: memory.contains(id as usize),
        }
    };
    let ids = online.iter().filter_map(|id| u32::try_from(id).ok());
    Ok(ids.map(&mut node).collect())
}

/// Which of the nodes that are online have memory.
fn memory(root: &Root, online: &CpuSet) -> Result<CpuSet, ReadError> {
    let path = Path::new(DIRECTORY).join("has_memory");
    let Listed { numbers, source } = NODES.file(root, &path)?;
    let memory = numbers.intersect(online);
    if memory.is_empty() {
        let why = "no node with memory is online";
        return Err(ReadError::garbled(&source, &numbers.to_string(), why));
    }
    Ok(memory)
}

/// Which of the nodes that have memory are allowed; none if the status file has no word on it.
fn allowed(root: &Root, memory: &CpuSet) -> Result<Option<(CpuSet, Limit)>, ReadError> {
    let (source, status) = root.own_text("status")?;
    let Some(list) = keyed::value(&status, ALLOWED) else {
        return Ok(None);
    };
    let Listed { numbers, source } = NODES.some(source, list)?;
    let list = numbers.to_string();
    let allowed = numbers.intersect(memory);
    if allowed.is_empty() {
        let why = "no allowed node has memory";
        return Err(ReadError::garbled(&source, &list, why));
    }
    let limit = Limit {
        name: "cpuset-mems",
        value: shortened(&list),
        allows: u64::try_from(allowed.count()).ok(),
        source,
    };
    Ok(Some((allowed, limit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{File, Scratch};

    const ONLINE: &str = "sys/devices/system/node/online";
    const TWO: [File; 5] = [
        (ONLINE, "0-1\n"),
        ("sys/devices/system/node/has_memory", "0-1\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        ("sys/devices/system/node/node1/cpulist", "4-7\n"),
        ("proc/self/status", "Mems_allowed_list:\t0-1\n"),
    ];

    fn read(files: &[File]) -> MemoryNodes {
        let tree = Scratch::new(&[]);
        for (path, text) in TWO.iter().chain(files) {
            tree.write(path, text);
        }
        MemoryNodes::read(&tree.root())
    }

    fn problems(nodes: &MemoryNodes) -> Vec<String> {
        let problems = nodes.problems().iter();
        problems.map(ToString::to_string).collect()
    }

    #[test]
    fn nodes_that_make_no_sense_are_one() {
        let texts = [
            "",
            "\n",
            "\0",
            "1-0",
            "0-1024",
            "0-18446744073709551615",
            "0-99999999999999999999",
            "-1",
        ];
        for text in texts {
            let nodes = read(&[(ONLINE, text)]);
            assert_eq!(nodes.nodes(), [one_node()], "{text:?}");
            assert!(nodes.allowed().eq([0]), "{text:?}");
            assert!(nodes.is_single(), "{text:?}");
            assert_eq!(nodes.limit(), None, "{text:?}");
            let problems = problems(&nodes);
            assert_eq!(problems.len(), 1, "{text:?}");
            assert!(problems[0].ends_with("one node with all CPUs is assumed"));
        }
    }

    #[test]
    fn memory_is_where_an_online_node_has_it() {
        let memory = "sys/devices/system/node/has_memory";
        let cases = [
            ("1\n", vec![1], 0),
            ("0-3\n", vec![0, 1], 0),
            ("2\n", vec![0, 1], 1),
            ("\n", vec![0, 1], 1),
            ("all\n", vec![0, 1], 1),
        ];
        for (text, expected, wrong) in cases {
            let nodes = read(&[(memory, text)]);
            assert_eq!(nodes.allowed().collect::<Vec<_>>(), expected, "{text:?}");
            assert_eq!(nodes.problems().len(), wrong, "{text:?}");
        }
        assert_eq!(
            problems(&read(&[(memory, "2\n")])),
            [
                "/sys/devices/system/node/has_memory: no node with memory is online: `2`; \
                 every node is taken to have memory"
            ]
        );
    }

    #[test]
    fn what_the_cpuset_allows_is_cut_to_memory() {
        let cases = [
            ("Mems_allowed_list:\t1\n", vec![1], Some("1"), 0),
            // What a kernel shows for a thread that nobody bound.
            (
                "Mems_allowed_list:\t0-1023\n",
                vec![0, 1],
                Some("0-1023"),
                0,
            ),
            // A kernel without cpusets.
            ("Mems_allowed:\t1\n", vec![0, 1], None, 0),
            ("Mems_allowed_list:\t7\n", vec![0, 1], None, 1),
            ("Mems_allowed_list:\t\n", vec![0, 1], None, 1),
            ("Mems_allowed_list:\t0-1024\n", vec![0, 1], None, 1),
            ("Mems_allowed_list:\t1,x\n", vec![0, 1], None, 1),
        ];
        for (status, expected, limit, wrong) in cases {
            let nodes = read(&[("proc/self/status", status)]);
            assert_eq!(nodes.allowed().collect::<Vec<_>>(), expected, "{status:?}");
            let value = nodes.limit().map(|limit| limit.value.as_str());
            assert_eq!(value, limit, "{status:?}");
            assert_eq!(nodes.problems().len(), wrong, "{status:?}");
        }
        let hidden = Scratch::new(&[&[("proc/self/status", "Mems_allowed_list:\t1\n")]]);
        let nodes = MemoryNodes::read(&hidden.root());
        assert!(nodes.is_allowed(0) && !nodes.is_allowed(1));
        assert_eq!(
            problems(&nodes),
            ["/proc/self/status: no allowed node has memory: `1`; \
                 every node with memory is taken to be allowed"]
        );
    }

    #[test]
    fn cpus_that_two_nodes_claim_are_of_the_first() {
        let nodes = read(&[("sys/devices/system/node/node1/cpulist", "0-7\n")]);
        assert_eq!(nodes.node_of_cpu(3), Some(0));
        assert_eq!(nodes.node_of_cpu(4), Some(1));
        assert_eq!(nodes.node_of_cpu(usize::MAX), None);
    }
}
