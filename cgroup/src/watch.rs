// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A CPU budget that is asked for again and again, while a job runs.
//!
//! ```text
//!  status, online ──────────────────────────────► read each time
//!  /proc/thread-self/cgroup ─► as before? ─┬─ yes ► quotas of the levels that are known
//!                                          └─ no ─► mountinfo ─► levels ─► quotas
//! ```
//!
//! Mountinfo is what costs: about a microsecond a mount, and a host of containers has thousands of them. Where the
//! hierarchy is mounted hardly ever changes, so it is looked up again only where that could make a difference: when
//! the thread's groups are others than before, or when a quota file came or went.

use crate::{
    cpu::CpuBudget,
    error::ReadError,
    hierarchy::{Controller, Group, Membership},
    limit::Limit,
    quota::Quotas,
    root::Root,
};

/// Reads the CPU budget of the calling thread, and remembers where its control group's files are.
///
/// What it answers is what [`CpuBudget::read`] would. It may be asked by any thread, and then answers for that one.
///
/// # Gotchas
///
/// A hierarchy that is mounted a second time, or over the first, is not noticed while the same files are there.
#[derive(Clone, Debug)]
pub struct CpuWatch {
    root: Root,
    known: Option<Known>,
}

/// Where the quotas are for a thread of these groups.
#[derive(Clone, Debug)]
struct Known {
    membership: Membership,
    group: Group,
    /// What was in the way when the group was found.
    problems: Vec<ReadError>,
    /// How many of its levels had a quota file.
    files: usize,
}

impl CpuWatch {
    /// A watch on the files below `root`; nothing is read yet.
    pub fn new(root: Root) -> Self {
        Self { root, known: None }
    }

    /// The budget of the calling thread now.
    pub fn read(&mut self) -> CpuBudget {
        let Self { root, known } = self;
        CpuBudget::with_quotas(root, |problems| quotas(root, known, problems))
    }
}

fn quotas(root: &Root, known: &mut Option<Known>, problems: &mut Vec<ReadError>) -> Vec<Limit> {
    let membership = match Membership::read(root) {
        Ok(membership) => membership,
        Err(error) => {
            problems.push(error.fall_back(Controller::Cpu.none_assumed()));
            return Vec::new();
        }
    };
    let as_before = |known: &&mut Known| known.membership == membership;
    if let Some(known) = known.as_mut().filter(as_before) {
        let mut in_the_way = known.problems.clone();
        let quotas = Quotas::read(root, &known.group, &mut in_the_way);
        if quotas.files == known.files {
            problems.extend(in_the_way);
            return quotas.limits;
        }
    }
    look_up(root, membership, known, problems)
}

/// Finds the group anew; one that cannot be found is looked for again next time.
fn look_up(
    root: &Root,
    membership: Membership,
    known: &mut Option<Known>,
    problems: &mut Vec<ReadError>,
) -> Vec<Limit> {
    let mut in_the_way = Vec::new();
    let group = Group::of(root, &membership, Controller::Cpu, &mut in_the_way);
    problems.extend(in_the_way.iter().cloned());
    match group {
        Ok(group) => {
            let Quotas { limits, files } = Quotas::read(root, &group, problems);
            *known = Some(Known {
                membership,
                group,
                problems: in_the_way,
                files,
            });
            limits
        }
        Err(error) => {
            *known = None;
            problems.push(error.fall_back(Controller::Cpu.none_assumed()));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{File, Scratch};

    const TREE: [File; 7] = [
        ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("proc/self/cgroup", "0::/a\n"),
        (
            "proc/self/mountinfo",
            "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw\n",
        ),
        ("sys/fs/cgroup/a/cpu.max", "400000 100000\n"),
        ("sys/fs/cgroup/b/cpu.max", "200000 100000\n"),
        ("else/where/a/cpu.max", "300000 100000\n"),
    ];

    /// A budget like one that was never watched.
    fn threads(watch: &mut CpuWatch, tree: &Scratch) -> usize {
        let budget = watch.read();
        assert_eq!(budget, CpuBudget::read(&tree.root()));
        budget.threads().get()
    }

    #[test]
    fn whatever_changes_is_seen() {
        let tree = Scratch::new(&[&TREE]);
        let mut watch = CpuWatch::new(tree.root());
        assert_eq!(threads(&mut watch, &tree), 4);
        assert_eq!(threads(&mut watch, &tree), 4);
        tree.write("sys/fs/cgroup/a/cpu.max", "600000 100000\n");
        assert_eq!(threads(&mut watch, &tree), 6);
        tree.write("sys/fs/cgroup/cpu.max", "500000 100000\n");
        assert_eq!(threads(&mut watch, &tree), 5);
        tree.write("proc/self/status", "Cpus_allowed_list:\t1-3\n");
        assert_eq!(threads(&mut watch, &tree), 3);
        tree.write("sys/devices/system/cpu/online", "1\n");
        assert_eq!(threads(&mut watch, &tree), 1);
    }

    #[test]
    fn a_thread_that_moves_is_followed_there_and_back() {
        let tree = Scratch::new(&[&TREE]);
        let mut watch = CpuWatch::new(tree.root());
        let moves = [("a", 4), ("b", 2), ("a", 4), ("../c", 8), ("", 8), ("b", 2)];
        for (group, expected) in moves {
            tree.write("proc/self/cgroup", format!("0::/{group}\n"));
            for _ in 0..2 {
                assert_eq!(threads(&mut watch, &tree), expected, "{group}");
            }
        }
        // Now the thread has files of its own.
        tree.write("proc/thread-self/cgroup", "0::/a\n");
        assert_eq!(threads(&mut watch, &tree), 4);
    }

    #[test]
    fn mountinfo_is_read_again_only_where_it_could_matter() {
        let tree = Scratch::new(&[&TREE]);
        let mut watch = CpuWatch::new(tree.root());
        assert_eq!(threads(&mut watch, &tree), 4);
        tree.write("proc/self/mountinfo", "");
        assert_eq!(watch.read().threads().get(), 4);
        // The hierarchy went to another place.
        tree.remove("sys/fs/cgroup/a/cpu.max");
        let elsewhere = "30 1 0:2 / /else/where rw - cgroup2 c rw\n";
        tree.write("proc/self/mountinfo", elsewhere);
        assert_eq!(threads(&mut watch, &tree), 3);
        // A level got the controller.
        tree.write("else/where/cpu.max", "100000 100000\n");
        assert_eq!(threads(&mut watch, &tree), 1);
    }

    #[test]
    fn what_was_not_found_is_looked_for_again() {
        let tree = Scratch::new(&[&TREE]);
        let mut watch = CpuWatch::new(tree.root());
        for (file, garbage) in [("proc/self/cgroup", "\0"), ("proc/self/mountinfo", "")] {
            let (_, sound) = TREE.iter().find(|(path, _)| *path == file).unwrap();
            tree.write("proc/self/cgroup", "0::/b\n");
            tree.write(file, garbage);
            assert_eq!(threads(&mut watch, &tree), 8, "{file}");
            tree.remove(file);
            assert_eq!(threads(&mut watch, &tree), 8, "{file}");
            tree.write(file, sound);
        }
        tree.write("proc/self/cgroup", "0::/a\n");
        assert_eq!(threads(&mut watch, &tree), 4);
    }
}
