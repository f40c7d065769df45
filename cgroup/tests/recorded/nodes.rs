// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory nodes of the recorded trees.

use cgroup::{CpuSet, MemoryNode, MemoryNodes};

use crate::{limit_lines, problem_lines, tree};

/// What is read from a tree.
struct Outcome<'a> {
    /// Number, CPUs and whether there is memory.
    nodes: &'a [&'a str],
    allowed: &'a [u32],
    limit: Option<&'a str>,
    problems: &'a [&'a str],
    /// CPUs, and the nodes that they are near.
    near: &'a [(usize, Option<u32>)],
}

fn line(node: &MemoryNode) -> String {
    let memory = if node.has_memory { "" } else { " | no memory" };
    format!("{} | {}{memory}", node.id, node.cpus)
}

fn assert_outcome(name: &str, expected: &Outcome<'_>) {
    let nodes = MemoryNodes::read(&tree(name));
    let lines: Vec<String> = nodes.nodes().iter().map(line).collect();
    assert_eq!(lines, expected.nodes, "nodes of {name}");
    let allowed: Vec<u32> = nodes.allowed().collect();
    assert_eq!(allowed, expected.allowed, "allowed of {name}");
    let is_allowed = (0..1025).filter(|&id| nodes.is_allowed(id));
    assert!(is_allowed.eq(allowed), "allowed of {name}");
    let limits: Vec<_> = nodes.limit().cloned().into_iter().collect();
    let limit: Vec<_> = expected.limit.into_iter().collect();
    assert_eq!(limit_lines(&limits), limit, "limit of {name}");
    assert_eq!(
        problem_lines(nodes.problems()),
        expected.problems,
        "problems of {name}"
    );
    for &(cpu, node) in expected.near {
        assert_eq!(nodes.node_of_cpu(cpu), node, "CPU {cpu} of {name}");
    }
    let with_memory = nodes.nodes().iter().filter(|node| node.has_memory);
    assert_eq!(nodes.is_single(), with_memory.count() == 1, "{name}");
}

#[test]
fn one_node() {
    let expected = Outcome {
        nodes: &["0 | 0-7"],
        allowed: &[0],
        limit: Some("cpuset-mems | 0 | 1 | /proc/thread-self/status"),
        problems: &[],
        near: &[(0, Some(0)), (7, Some(0)), (8, None)],
    };
    assert_outcome("hybrid", &expected);
}

#[test]
fn two_nodes() {
    let expected = Outcome {
        nodes: &["0 | 0-7", "1 | 8-15"],
        allowed: &[0, 1],
        limit: Some("cpuset-mems | 0-1 | 2 | /proc/thread-self/status"),
        problems: &[],
        near: &[(7, Some(0)), (8, Some(1)), (16, None)],
    };
    assert_outcome("systemd-v2", &expected);
}

#[test]
fn numbers_with_gaps() {
    let expected = Outcome {
        nodes: &["0 | 0-1023", "1 | 1024-2015,2048-3071", "4 | 3072-4096"],
        allowed: &[0, 4],
        limit: Some("cpuset-mems | 0,4 | 2 | /proc/thread-self/status"),
        problems: &[],
        near: &[(2015, Some(1)), (2016, None), (4096, Some(4))],
    };
    assert_outcome("big", &expected);
}

#[test]
fn a_node_without_memory_is_not_allowed() {
    let expected = Outcome {
        nodes: &["0 | 0-7", "1 | 8-15 | no memory"],
        allowed: &[0],
        limit: Some("cpuset-mems | 0 | 1 | /proc/thread-self/status"),
        problems: &[],
        near: &[(8, Some(1))],
    };
    assert_outcome("nested", &expected);
}

#[test]
fn a_node_without_cpus_has_memory() {
    let expected = Outcome {
        nodes: &["0 | 0-7", "1 | "],
        allowed: &[0, 1],
        limit: Some("cpuset-mems | 0-1 | 2 | /proc/thread-self/status"),
        problems: &[],
        near: &[(0, Some(0)), (8, None)],
    };
    assert_outcome("v1-host", &expected);
    let nodes = MemoryNodes::read(&tree("v1-host"));
    assert_eq!(nodes.nodes()[1].cpus, CpuSet::default());
}

#[test]
fn a_cpuset_that_leaves_one_of_two() {
    let expected = Outcome {
        nodes: &["0 | 0-15", "1 | 16-31"],
        allowed: &[1],
        limit: Some("cpuset-mems | 1 | 1 | /proc/thread-self/status"),
        problems: &[],
        near: &[(15, Some(0)), (16, Some(1))],
    };
    assert_outcome("pod-v2", &expected);
}

#[test]
fn a_kernel_without_numa_is_one_node() {
    let near = [(0, Some(0)), (3, Some(0)), (8191, Some(0))];
    let mut expected = Outcome {
        nodes: &["0 | 0-1048575"],
        allowed: &[0],
        limit: Some("cpuset-mems | 0 | 1 | /proc/thread-self/status"),
        problems: &[],
        near: &near,
    };
    assert_outcome("pod-v1", &expected);
    expected.limit = Some("cpuset-mems | 0 | 1 | /proc/self/status");
    assert_outcome("outside", &expected);
}

#[test]
fn missing_files() {
    let expected = Outcome {
        nodes: &["0 | 0-1048575"],
        allowed: &[0],
        limit: None,
        problems: &[
            "/proc/thread-self/status: no such file; every node with memory is taken to be allowed",
        ],
        near: &[(0, Some(0))],
    };
    assert_outcome("missing", &expected);
}

#[test]
fn garbage() {
    let expected = Outcome {
        nodes: &["0 | ", "1 | "],
        allowed: &[0, 1],
        limit: None,
        problems: &[
            "/sys/devices/system/node/has_memory: no list of nodes: `0-1,many`; every node is taken to have memory",
            "/sys/devices/system/node/node0/cpulist: more CPUs than Linux has: `0-18446744073709551615`; this node is taken to have no CPU",
            "/sys/devices/system/node/node1/cpulist: no such file; this node is taken to have no CPU",
            "/proc/thread-self/status: more nodes than Linux has: `0-4096`; every node with memory is taken to be allowed",
        ],
        near: &[(0, None)],
    };
    assert_outcome("garbage", &expected);
}
