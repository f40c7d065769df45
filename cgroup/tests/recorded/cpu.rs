// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! CPU budgets and throttling of the recorded trees.

use std::time::Duration;

use cgroup::{CpuBudget, CpuLimit, CpuWatch, Throttle};

use crate::{limit_lines, problem_lines, tree};

/// What is read from a tree.
struct Outcome<'a> {
    threads: usize,
    limited_by: CpuLimit,
    limits: &'a [&'a str],
    problems: &'a [&'a str],
    /// Periods and nanoseconds.
    throttle: Option<(u64, u64)>,
}

fn assert_outcome(name: &str, expected: &Outcome<'_>) {
    let budget = CpuBudget::read(&tree(name));
    assert_eq!(
        limit_lines(budget.limits()),
        expected.limits,
        "limits of {name}"
    );
    assert_eq!(
        problem_lines(budget.problems()),
        expected.problems,
        "problems of {name}"
    );
    assert_eq!(
        budget.threads().get(),
        expected.threads,
        "threads of {name}"
    );
    assert_eq!(budget.limited_by(), expected.limited_by, "limit of {name}");
    let mut watch = CpuWatch::new(tree(name));
    for _ in 0..2 {
        assert_eq!(watch.read(), budget, "watch of {name}");
    }
    let throttle = expected.throttle.map(|(periods, nanos)| Throttle {
        periods,
        time: Duration::from_nanos(nanos),
    });
    assert_eq!(
        Throttle::read(&tree(name)),
        throttle,
        "throttling of {name}"
    );
}

#[test]
fn systemd_v2() {
    let expected = Outcome {
        threads: 16,
        limited_by: CpuLimit::Affinity,
        limits: &[
            "affinity | 0-15 | 16 | /proc/thread-self/status",
            "online | 0-15 | 16 | /sys/devices/system/cpu/online",
        ],
        problems: &[],
        throttle: Some((0, 0)),
    };
    assert_outcome("systemd-v2", &expected);
}

#[test]
fn v1_host() {
    let expected = Outcome {
        threads: 2,
        limited_by: CpuLimit::CfsQuota,
        limits: &[
            "affinity | 0-7 | 8 | /proc/thread-self/status",
            "online | 0-7 | 8 | /sys/devices/system/cpu/online",
            "cfs-quota | 250000 100000 | 2 | /sys/fs/cgroup/cpu,cpuacct/machine.slice/vmm/cpu.cfs_quota_us",
        ],
        problems: &[],
        throttle: Some((7, 1_234_567_890)),
    };
    assert_outcome("v1-host", &expected);
}

#[test]
fn hybrid() {
    let expected = Outcome {
        threads: 4,
        limited_by: CpuLimit::CfsQuota,
        limits: &[
            "affinity | 0-7 | 8 | /proc/thread-self/status",
            "online | 0-7 | 8 | /sys/devices/system/cpu/online",
            "cfs-quota | 400000 100000 | 4 | /sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.cfs_quota_us",
        ],
        problems: &[],
        throttle: Some((2, 10_000)),
    };
    assert_outcome("hybrid", &expected);
}

#[test]
fn pod_v2() {
    let expected = Outcome {
        threads: 2,
        limited_by: CpuLimit::CfsQuota,
        limits: &[
            "affinity | 0-31 | 32 | /proc/thread-self/status",
            "online | 0-31 | 32 | /sys/devices/system/cpu/online",
            "cfs-quota | 200000 100000 | 2 | /sys/fs/cgroup/cpu.max",
        ],
        problems: &[],
        throttle: Some((12, 3_400_000)),
    };
    assert_outcome("pod-v2", &expected);
}

#[test]
fn pod_v1_with_half_a_cpu() {
    let expected = Outcome {
        threads: 1,
        limited_by: CpuLimit::CfsQuota,
        limits: &[
            "affinity | 0-3 | 4 | /proc/thread-self/status",
            "online | 0-3 | 4 | /sys/devices/system/cpu/online",
            "cfs-quota | 50000 100000 | 1 | /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
        ],
        problems: &[],
        throttle: Some((450, 22_500_000_000)),
    };
    assert_outcome("pod-v1", &expected);
}

#[test]
fn nested_with_a_tighter_parent() {
    let expected = Outcome {
        threads: 1,
        limited_by: CpuLimit::CfsQuota,
        limits: &[
            "affinity | 0-15 | 16 | /proc/thread-self/status",
            "online | 0-15 | 16 | /sys/devices/system/cpu/online",
            "cfs-quota | 800000 100000 | 8 | /mnt/control groups/tenant/vm one/io/cpu.max",
            "cfs-quota | 300000 200000 | 1 | /mnt/control groups/tenant/vm one/cpu.max",
            "cfs-quota | 400000 100000 | 4 | /mnt/control groups/tenant/cpu.max",
        ],
        problems: &[],
        throttle: Some((92, 7_040_000)),
    };
    assert_outcome("nested", &expected);
}

#[test]
fn more_than_1024_cpus_some_offline() {
    let expected = Outcome {
        threads: 2017,
        limited_by: CpuLimit::Affinity,
        limits: &[
            "affinity | 0-2047,4096 | 2017 | /proc/thread-self/status",
            "online | 0-2015,2048-4096 | 4065 | /sys/devices/system/cpu/online",
        ],
        problems: &[],
        throttle: None,
    };
    assert_outcome("big", &expected);
}

#[test]
fn missing_files() {
    let expected = Outcome {
        threads: 1,
        limited_by: CpuLimit::Affinity,
        limits: &[],
        problems: &[
            "/proc/thread-self/status: no such file; one thread is assumed",
            "/sys/devices/system/cpu/online: no such file; one thread is assumed",
            "/proc/thread-self/cgroup: no such file; no CFS quota is assumed",
        ],
        throttle: None,
    };
    assert_outcome("missing", &expected);
}

#[test]
fn garbage() {
    let expected = Outcome {
        threads: 1,
        limited_by: CpuLimit::Affinity,
        limits: &[],
        problems: &[
            "/proc/thread-self/status: no list of CPUs: `3-1,x`; one thread is assumed",
            "/sys/devices/system/cpu/online: more CPUs than Linux has: `0-18446744073709551615`; one thread is assumed",
            r"/sys/fs/cgroup/a/b/c/d/cpu.max: no quota: `\u{0}\u{0}\u{0}\u{0}`; the quota of this level is ignored",
            "/sys/fs/cgroup/a/b/c/cpu.max: no period: `100000 0`; the quota of this level is ignored",
            "/sys/fs/cgroup/a/b/cpu.max: no quota: `-5 100000`; the quota of this level is ignored",
            "/sys/fs/cgroup/a/cpu.max: no quota: `99999999999999999999 100000`; the quota of this level is ignored",
            "/sys/fs/cgroup/cpu.max: no quota; the quota of this level is ignored",
        ],
        throttle: None,
    };
    assert_outcome("garbage", &expected);
}

#[test]
fn a_group_outside_the_namespace_and_no_thread_self() {
    let expected = Outcome {
        threads: 2,
        limited_by: CpuLimit::CfsQuota,
        limits: &[
            "affinity | 0-3 | 4 | /proc/self/status",
            "online | 0-3 | 4 | /sys/devices/system/cpu/online",
            "cfs-quota | 200000 100000 | 2 | /sys/fs/cgroup/cpu.max",
        ],
        problems: &[
            "/proc/self/cgroup: the group is outside what is mounted here: `/../sibling`; the mount point is taken for the group",
        ],
        throttle: None,
    };
    assert_outcome("outside", &expected);
}
