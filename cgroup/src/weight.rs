// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the calling thread's control group weighs beside its siblings, when they all want the CPUs.
//!
//! ```text
//!            v2 cpu.weight   v1 cpu.shares   cpu.idle (both)
//! range      1 … 10,000      2 … 262,144     0, or 1: runs only where nobody else wants to
//! usual      100             1,024           0
//! ```
//!
//! A weight counts among the groups of one parent, so that each level is a handicap, or an advantage, of its own.

use std::path::{Path, PathBuf};

use crate::{
    error::ReadError,
    hierarchy::{Controller, Group},
    keyed::number,
    mountinfo::Version,
    root::Root,
};

const LEVEL_IGNORED: &str = "the weight of this level is ignored";

/// The weight of one control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuWeight {
    /// Its weight; 0 where the group is idle, with cgroup v2.
    pub weight: u64,
    /// The weight that a group has if nobody sets one.
    pub usual: u64,
    /// Whether it runs only on CPUs that nobody else wants.
    pub idle: bool,
    /// The file that says so, as seen below the [`Root`].
    pub source: PathBuf,
}

/// The weights of the calling thread's control group and of all visible ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuWeights {
    levels: Vec<CpuWeight>,
    problems: Vec<ReadError>,
}

impl CpuWeights {
    /// The weights that the files below `root` describe.
    pub fn read(root: &Root) -> Self {
        let mut problems = Vec::new();
        let mut levels = Vec::new();
        if let Some(group) = Group::find(root, Controller::Cpu, &mut problems) {
            let (name, usual) = match group.version {
                Version::V1 => ("cpu.shares", 1024),
                Version::V2 => ("cpu.weight", 100),
            };
            for directory in &group.levels {
                match read_level(root, directory, name, usual) {
                    Ok(level) => levels.push(level),
                    // The root group has none, nor has a group without the controller.
                    Err(error) if error.is_missing() => {}
                    Err(error) => problems.push(error.fall_back(LEVEL_IGNORED)),
                }
            }
        }
        Self { levels, problems }
    }

    /// Every level that has a weight, own group first.
    pub fn levels(&self) -> &[CpuWeight] {
        &self.levels
    }

    /// What could not be read, and what was assumed instead.
    pub fn problems(&self) -> &[ReadError] {
        &self.problems
    }
}

fn read_level(
    root: &Root,
    directory: &Path,
    name: &str,
    usual: u64,
) -> Result<CpuWeight, ReadError> {
    let source = directory.join(name);
    let weight = read_number(root, &source)?;
    let idle = match read_number(root, &directory.join("cpu.idle")) {
        Ok(idle) => idle != 0,
        // Kernels before 5.15 do not have it.
        Err(error) if error.is_missing() => false,
        Err(error) => return Err(error),
    };
    Ok(CpuWeight {
        weight,
        usual,
        idle,
        source,
    })
}

fn read_number(root: &Root, path: &Path) -> Result<u64, ReadError> {
    let text = root.text(path)?;
    number(text.trim()).ok_or_else(|| ReadError::garbled(path, &text, "no number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{File, Scratch};

    const V2: [File; 2] = [
        ("proc/self/cgroup", "0::/a/b\n"),
        (
            "proc/self/mountinfo",
            "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw\n",
        ),
    ];

    #[test]
    fn every_level_of_version_2_counts() {
        let files = [
            ("sys/fs/cgroup/a/b/cpu.weight", "39\n"),
            ("sys/fs/cgroup/a/cpu.weight", "0\n"),
            ("sys/fs/cgroup/a/cpu.idle", "1\n"),
        ];
        let tree = Scratch::new(&[&V2, &files]);
        let weights = CpuWeights::read(&tree.root());
        let levels: Vec<_> = weights
            .levels()
            .iter()
            .map(|level| (level.weight, level.usual, level.idle))
            .collect();
        assert_eq!(levels, [(39, 100, false), (0, 100, true)]);
        assert_eq!(weights.problems(), []);
    }

    #[test]
    fn version_1_has_shares() {
        let files = [
            ("proc/self/cgroup", "4:cpu:/a\n"),
            (
                "proc/self/mountinfo",
                "30 1 0:2 / /cpu rw - cgroup c rw,cpu\n",
            ),
            ("cpu/a/cpu.shares", "256\n"),
            ("cpu/cpu.shares", "1024\n"),
        ];
        let tree = Scratch::new(&[&files]);
        let weights = CpuWeights::read(&tree.root());
        let weights: Vec<u64> = weights.levels().iter().map(|l| l.weight).collect();
        assert_eq!(weights, [256, 1024]);
    }

    #[test]
    fn garbage_is_a_problem_and_nothing_else() {
        let files = [
            ("sys/fs/cgroup/a/b/cpu.weight", "heavy\n"),
            ("sys/fs/cgroup/a/cpu.weight", "100\n"),
        ];
        let tree = Scratch::new(&[&V2, &files]);
        let weights = CpuWeights::read(&tree.root());
        assert_eq!(weights.levels().len(), 1);
        assert_eq!(
            weights.problems()[0].to_string(),
            "/sys/fs/cgroup/a/b/cpu.weight: no number: `heavy`; the weight of this level is ignored"
        );
    }
}
