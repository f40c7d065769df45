// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A thread's [`MemoryPolicy`], and the nodes that the memory of regions belongs to, from `/proc/thread-self/numa_maps`
//! (numa(7)).
//!
//! ```text
//!  55d0c0400000 default file=/usr/bin/vmm mapped=12 N0=12           first line: what the thread itself asks for
//!  7f2c40000000 bind:1 anon=512 dirty=512 N1=512 kernelpagesize_kB=4
//!  7f2c80000000 interleave:0-1                                      a mapping without pages
//! ```
//!
//! A mapping without a policy of its own shows that of the thread that reads the file. A file instead of
//! `get_mempolicy(2)`, which system call filters of VMMs kill for.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader},
};

use crate::Regions;

const NUMA_MAPS: &str = "/proc/thread-self/numa_maps";

/// Nodes from here on are not believed; Linux has 1,024 at most (`CONFIG_NODES_SHIFT`).
pub(crate) const NODES: u32 = 1024;

/// Which memory nodes pages come from: the mode and nodes of set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryPolicy {
    mode: PolicyMode,
    nodes: Vec<u32>,
}

/// The modes of set_mempolicy(2), by their names in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyMode {
    /// On the node of the CPU that touches a page first.
    Default,
    /// On one node, as long as it has memory.
    Preferred,
    /// On these nodes only.
    Bind,
    /// On each of these nodes in turn.
    Interleave,
    /// As the default, but set.
    Local,
    /// On these nodes, as long as they have memory.
    PreferredMany,
    /// On each of these nodes, as often as their weights say.
    WeightedInterleave,
}

impl PolicyMode {
    /// Longer names before those that they begin with.
    const NAMES: [(&'static str, Self); 7] = [
        ("default", Self::Default),
        ("prefer (many)", Self::PreferredMany),
        ("prefer", Self::Preferred),
        ("bind", Self::Bind),
        ("interleave", Self::Interleave),
        ("local", Self::Local),
        ("weighted interleave", Self::WeightedInterleave),
    ];

    fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, mode)| *mode == self);
        named.map_or("unknown", |(name, _)| name)
    }
}

impl MemoryPolicy {
    /// The policy of a thread for which nobody has set one.
    #[must_use]
    pub fn default_policy() -> Self {
        Self {
            mode: PolicyMode::Default,
            nodes: Vec::new(),
        }
    }

    /// Pages come from `node` as long as it has memory.
    #[must_use]
    pub fn prefer(node: u32) -> Self {
        Self {
            mode: PolicyMode::Preferred,
            nodes: vec![node],
        }
    }

    /// Pages come from each of `nodes` in turn.
    #[must_use]
    pub fn interleave(nodes: impl IntoIterator<Item = u32>) -> Self {
        Self {
            mode: PolicyMode::Interleave,
            nodes: nodes.into_iter().collect(),
        }
    }

    /// The policy of the calling thread; `None` where it cannot be told, as on a kernel without NUMA.
    ///
    /// Rests on the first mapping of the process, its program, having no policy of its own.
    #[must_use]
    pub fn of_thread() -> Option<Self> {
        let mut line = String::new();
        let file = File::open(NUMA_MAPS).ok()?;
        // One line, so that the kernel need not walk the pages of the whole guest.
        BufReader::with_capacity(512, file)
            .read_line(&mut line)
            .ok()?;
        parse_line(&line).map(|(_, policy)| policy)
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> PolicyMode {
        self.mode
    }

    /// The nodes that the mode is about.
    #[must_use]
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// The one node on which pages land, where that follows from the policy.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        match (self.mode, &*self.nodes) {
            (
                PolicyMode::Bind
                | PolicyMode::Preferred
                | PolicyMode::PreferredMany
                | PolicyMode::Interleave
                | PolicyMode::WeightedInterleave,
                [node],
            ) => Some(*node),
            _ => None,
        }
    }

    /// Whether pages land where whoever touches them runs.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.mode, PolicyMode::Default | PolicyMode::Local)
    }
}

impl fmt::Display for MemoryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.name())?;
        for (index, node) in self.nodes.iter().enumerate() {
            write!(f, "{}{node}", if index == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// The policy of the memory of each region; `None` where its mappings have different ones.
pub(crate) fn policies(regions: &Regions) -> io::Result<Vec<Option<MemoryPolicy>>> {
    let text = fs::read(NUMA_MAPS)?;
    // Names of mapped files may be any bytes; they are not looked at.
    let text = String::from_utf8_lossy(&text);
    let mappings: Vec<_> = text.lines().filter_map(parse_line).collect();
    Ok(regions
        .iter()
        .map(|region| {
            let start = region.hva().0;
            policy_of(&mappings, start, start + region.size()).cloned()
        })
        .collect())
}

/// The policy that all mappings between two addresses share. The file gives no ends: the first one is the last that
/// does not begin behind `start`.
fn policy_of(mappings: &[(u64, MemoryPolicy)], start: u64, end: u64) -> Option<&MemoryPolicy> {
    let first = mappings
        .partition_point(|(at, _)| *at <= start)
        .checked_sub(1)?;
    let mut inside = mappings[first..]
        .iter()
        .take_while(|(at, _)| *at < end)
        .map(|(_, policy)| policy);
    let policy = inside.next()?;
    inside.all(|other| other == policy).then_some(policy)
}

/// Address and policy of one line.
fn parse_line(line: &str) -> Option<(u64, MemoryPolicy)> {
    let (start, rest) = line.split_once(' ')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let (mode, rest) = PolicyMode::NAMES
        .iter()
        .find_map(|(name, mode)| Some((*mode, rest.strip_prefix(name)?)))?;
    let mut policy = MemoryPolicy {
        mode,
        nodes: Vec::new(),
    };
    // `=static` or `=relative` tells how the nodes follow the cpuset; these are the ones that it has come to.
    let word = rest.split_ascii_whitespace().next().unwrap_or_default();
    if let Some((_, list)) = word.split_once(':').filter(|_| !rest.starts_with(' ')) {
        policy.nodes = parse_list(list)?;
    }
    Some((start, policy))
}

/// `0-1,4`
fn parse_list(list: &str) -> Option<Vec<u32>> {
    let mut nodes = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || NODES <= last {
            return None;
        }
        nodes.extend(first..=last);
    }
    Some(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: PolicyMode, nodes: &[u32]) -> MemoryPolicy {
        MemoryPolicy {
            mode,
            nodes: nodes.to_vec(),
        }
    }

    #[test]
    fn lines() {
        use PolicyMode::*;
        let cases = [
            ("7f00 default", Some((Default, &[][..]))),
            ("7f00 default file=/a:b mapped=1", Some((Default, &[]))),
            ("7f00 local anon=1", Some((Local, &[]))),
            ("7f00 bind:1 anon=1 N1=1", Some((Bind, &[1]))),
            ("7f00 bind=static:0-2 anon=1", Some((Bind, &[0, 1, 2]))),
            ("7f00 prefer:3", Some((Preferred, &[3]))),
            ("7f00 prefer (many):0,2", Some((PreferredMany, &[0, 2]))),
            ("7f00 interleave=relative:0-1", Some((Interleave, &[0, 1]))),
            (
                "7f00 weighted interleave:1",
                Some((WeightedInterleave, &[1])),
            ),
            ("", None),
            ("7f00", None),
            ("zz default", None),
            ("7f00 tomorrow:1", None),
            ("7f00 bind:", None),
            ("7f00 bind:2-1", None),
            ("7f00 bind:0-4294967295", None),
            ("7f00 bind:x", None),
        ];
        for (line, expected) in cases {
            let expected = expected.map(|(mode, nodes)| (0x7f00, policy(mode, nodes)));
            assert_eq!(parse_line(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_region_has_the_policy_that_its_mappings_share() {
        let (one, two) = (MemoryPolicy::prefer(0), MemoryPolicy::prefer(1));
        let mappings = [
            (0x1000, one.clone()),
            (0x4000, two.clone()),
            (0x6000, two.clone()),
        ];
        let of = |start, end| policy_of(&mappings, start, end);
        assert_eq!(of(0x2000, 0x4000), Some(&one));
        assert_eq!(of(0x4000, 0x9000), Some(&two));
        assert_eq!(of(0x3000, 0x5000), None);
        assert_eq!(of(0x0, 0x1000), None);
    }

    #[test]
    fn this_thread_has_none_or_shows_it() {
        // A kernel without NUMA has no such file.
        if let Some(policy) = MemoryPolicy::of_thread() {
            assert!(policy.is_local() || !policy.nodes().is_empty(), "{policy}");
        }
        assert_eq!(
            MemoryPolicy::interleave([0, 1]).to_string(),
            "interleave:0,1"
        );
        assert_eq!(MemoryPolicy::prefer(1).node(), Some(1));
    }
}
