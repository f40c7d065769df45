// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The file systems of the machine.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use parapin_vm::{Boot, Job};

/// What to mount, where, with which options.
type Mount<'a> = (&'a str, &'a str, &'a str);

/// What the port to the host needs.
const EARLY: [Mount<'_>; 3] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
];
const LATE: [Mount<'_>; 5] = [
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("debugfs", "/sys/kernel/debug", ""),
    ("9p", Job::SHARE, SHARE_OPTIONS),
];
const SHARE_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=262144";
const CGROUP: &str = "/sys/fs/cgroup";
/// The controllers that a test can set limits with.
const V2_CONTROLLERS: &str = "+cpu +cpuset +memory +hugetlb +pids";
/// A hierarchy for each, named by its controllers.
const V1_HIERARCHIES: [&str; 5] = ["cpu,cpuacct", "cpuset", "memory", "hugetlb", "pids"];
/// Where others look for two of them.
const V1_LINKS: [&str; 2] = ["cpu", "cpuacct"];
/// What a shell's redirections look for.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

pub(crate) fn early() -> Result<()> {
    EARLY.iter().try_for_each(mount_one)
}

pub(crate) fn late(boot: Boot) -> Result<()> {
    LATE.iter().try_for_each(mount_one)?;
    for (target, link) in LINKS {
        symlink(target, link).with_context(|| format!("cannot link {link}"))?;
    }
    match boot {
        Boot::Usual | Boot::WithoutIommu => cgroup_v2(),
        Boot::CgroupV1 => cgroup_v1(),
    }
}

fn cgroup_v2() -> Result<()> {
    mount_one(&("cgroup2", CGROUP, ""))?;
    let control = format!("{CGROUP}/cgroup.subtree_control");
    fs::write(&control, V2_CONTROLLERS).with_context(|| format!("cannot write {control}"))
}

/// As systemd mounted them on Debian up to 10, without the empty `unified` of a hybrid system.
fn cgroup_v1() -> Result<()> {
    mount_one(&("tmpfs", CGROUP, "mode=755"))?;
    for hierarchy in V1_HIERARCHIES {
        mount_one(&("cgroup", &format!("{CGROUP}/{hierarchy}"), hierarchy))?;
    }
    for link in V1_LINKS {
        let link = format!("{CGROUP}/{link}");
        symlink(V1_HIERARCHIES[0], &link).with_context(|| format!("cannot link {link}"))?;
    }
    Ok(())
}

fn mount_one((kind, target, options): &Mount<'_>) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    let source = if *kind == "9p" { Job::SHARE_TAG } else { kind };
    mount(
        Some(source),
        *target,
        Some(*kind),
        MsFlags::empty(),
        Some(*options),
    )
    .with_context(|| format!("cannot mount {kind} on {target}"))
}
