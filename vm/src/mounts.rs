// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The file systems of the machine.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use parapin_vm::Job;

/// What to mount, where, with which options.
type Mount = (&'static str, &'static str, &'static str);

/// What the port to the host needs.
const EARLY: [Mount; 3] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
];
const LATE: [Mount; 6] = [
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("debugfs", "/sys/kernel/debug", ""),
    ("cgroup2", CGROUP, ""),
    ("9p", Job::SHARE, SHARE_OPTIONS),
];
const SHARE_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=262144";
const CGROUP: &str = "/sys/fs/cgroup";
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

pub(crate) fn late() -> Result<()> {
    LATE.iter().try_for_each(mount_one)?;
    for (target, link) in LINKS {
        symlink(target, link).with_context(|| format!("cannot link {link}"))?;
    }
    // So that a test can make a cgroup with limits of its own.
    let control = format!("{CGROUP}/cgroup.subtree_control");
    fs::write(&control, "+cpu +cpuset +memory +hugetlb +pids")
        .with_context(|| format!("cannot write {control}"))
}

fn mount_one((kind, target, options): &Mount) -> Result<()> {
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
