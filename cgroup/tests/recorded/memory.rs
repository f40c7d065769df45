// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory budgets of the recorded trees.

use cgroup::{MemoryBudget, ProcessMemory};

use crate::{limit_lines, problem_lines, tree};

/// What is read from a tree.
struct Outcome<'a> {
    lock_exempt: bool,
    /// Locked and pinned bytes.
    process: Option<(u64, u64)>,
    available: Option<u64>,
    limits: &'a [&'a str],
    problems: &'a [&'a str],
}

fn assert_outcome(name: &str, expected: &Outcome<'_>) {
    let budget = MemoryBudget::read(&tree(name));
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
        budget.lock_exempt(),
        expected.lock_exempt,
        "exemption of {name}"
    );
    assert_eq!(
        budget.available(),
        expected.available,
        "available in {name}"
    );
    let process = budget.locked_bytes().zip(budget.pinned_bytes());
    assert_eq!(process, expected.process, "process of {name}");
    let now = ProcessMemory::read(&tree(name)).ok();
    assert_eq!(
        now.map(|now| (now.locked, now.pinned)),
        expected.process,
        "now in {name}"
    );
}

#[test]
fn systemd_v2() {
    let expected = Outcome {
        lock_exempt: false,
        process: Some((1 << 20, 2 << 20)),
        available: Some(48_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 8388608 | 8388608 | /proc/thread-self/limits",
            "memory.max | 8589934592 | 8589934592 | /sys/fs/cgroup/system.slice/vmm@1.service/memory.max",
            "memory.high | 7516192768 | 7516192768 | /sys/fs/cgroup/system.slice/vmm@1.service/memory.high",
            "free_hugepages | 500 of 512 free, 100 reserved, 0 on demand | 1048576000 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "free_hugepages | 0 of 0 free, 0 reserved, 0 on demand | 0 | /sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
            "MemAvailable | 48000000 kB | 49152000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("systemd-v2", &expected);
}

#[test]
fn v1_host() {
    let expected = Outcome {
        lock_exempt: true,
        process: Some((0, 0)),
        available: Some(20_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 65536 | 65536 | /proc/thread-self/limits",
            "memory.limit_in_bytes | 4294967296 | 4294967296 | /sys/fs/cgroup/memory/machine.slice/vmm/memory.limit_in_bytes",
            "free_hugepages | 8 of 8 free, 0 reserved, 0 on demand | 16777216 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "MemAvailable | 20000000 kB | 20480000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("v1-host", &expected);
}

#[test]
fn hybrid() {
    let expected = Outcome {
        lock_exempt: false,
        process: Some((0, 0)),
        available: Some(8_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 8388608 | 8388608 | /proc/thread-self/limits",
            "free_hugepages | 0 of 0 free, 0 reserved, 0 on demand | 0 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "MemAvailable | 8000000 kB | 8192000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("hybrid", &expected);
}

#[test]
fn pod_v2_whose_root_is_in_a_user_namespace() {
    let expected = Outcome {
        lock_exempt: false,
        process: Some((0, 0)),
        available: Some(90_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 8388608 | 8388608 | /proc/thread-self/limits",
            "memory.max | 2147483648 | 2147483648 | /sys/fs/cgroup/memory.max",
            "free_hugepages | 512 of 1024 free, 512 reserved, 0 on demand | 1073741824 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "MemAvailable | 90000000 kB | 92160000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("pod-v2", &expected);
}

#[test]
fn pod_v1() {
    let expected = Outcome {
        lock_exempt: false,
        process: Some((0, 0)),
        available: Some(8_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 65536 | 65536 | /proc/thread-self/limits",
            "memory.limit_in_bytes | 536870912 | 536870912 | /sys/fs/cgroup/memory/memory.limit_in_bytes",
            "free_hugepages | 0 of 0 free, 0 reserved, 0 on demand | 0 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "MemAvailable | 8000000 kB | 8192000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("pod-v1", &expected);
}

#[test]
fn nested_with_a_tighter_parent() {
    let expected = Outcome {
        lock_exempt: false,
        process: Some((0, 0)),
        available: Some(48_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 8388608 | 8388608 | /proc/thread-self/limits",
            "memory.max | 17179869184 | 17179869184 | /mnt/control groups/tenant/vm one/io/memory.max",
            "memory.max | 4294967296 | 4294967296 | /mnt/control groups/tenant/vm one/memory.max",
            "memory.max | 2147483648 | 2147483648 | /mnt/control groups/tenant/memory.max",
            "free_hugepages | 16 of 16 free, 4 reserved, 7 on demand | 48234496 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "MemAvailable | 48000000 kB | 49152000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("nested", &expected);
}

#[test]
fn root_without_a_limit() {
    let expected = Outcome {
        lock_exempt: true,
        process: Some((0, 0)),
        available: Some(12_000_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | unlimited | - | /proc/thread-self/limits",
            "free_hugepages | 0 of 0 free, 0 reserved, 0 on demand | 0 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "free_hugepages | 4096 of 4096 free, 0 reserved, 0 on demand | 4398046511104 | /sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
            "MemAvailable | 12000000000 kB | 12288000000000 | /proc/meminfo",
        ],
        problems: &[],
    };
    assert_outcome("big", &expected);
}

#[test]
fn missing_files() {
    let expected = Outcome {
        lock_exempt: false,
        process: None,
        available: None,
        limits: &[],
        problems: &[
            "/proc/thread-self/limits: no such file; RLIMIT_MEMLOCK is not checked",
            "/proc/thread-self/status: no such file; no CAP_IPC_LOCK is assumed",
            "/proc/self/ns/user: no such file; the initial user namespace is assumed",
            "/proc/self/status: no such file; nothing is taken to be locked or pinned",
            "/proc/thread-self/cgroup: no such file; no memory cgroup limit is assumed",
            "/sys/kernel/mm/hugepages: no such file; pools of huge pages are not checked",
            "/proc/meminfo: no such file; MemAvailable is not checked",
        ],
    };
    assert_outcome("missing", &expected);
}

#[test]
fn garbage() {
    let expected = Outcome {
        lock_exempt: false,
        process: None,
        available: None,
        limits: &["memory.max | 1073741824 | 1073741824 | /sys/fs/cgroup/a/b/c/memory.max"],
        problems: &[
            "/proc/thread-self/limits: no usable line Max locked memory: `lots                 lots                 bytes`; RLIMIT_MEMLOCK is not checked",
            "/proc/thread-self/status: no usable line CapEff: `zzzz`; no CAP_IPC_LOCK is assumed",
            r"/proc/self/status: no usable line VmLck: `\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}…`; nothing is taken to be locked or pinned",
            "/sys/fs/cgroup/a/b/c/d/memory.max: no size: `1e9`; the memory limit of this level is ignored",
            "/sys/fs/cgroup/a/b/c/d/memory.high: no size; the memory limit of this level is ignored",
            "/sys/fs/cgroup/a/b/c/memory.current: no size: `??`; this level is taken to be empty",
            "/sys/fs/cgroup/a/b/c/memory.stat: no size of the page cache: `inactive_file x`; no page cache is taken to be reclaimable",
            "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages: no number of pages: `x`; this pool is not checked",
            "/proc/meminfo: no usable line MemAvailable: `many kB`; MemAvailable is not checked",
        ],
    };
    assert_outcome("garbage", &expected);
}

#[test]
fn a_group_outside_the_namespace_and_no_thread_self() {
    let expected = Outcome {
        lock_exempt: false,
        process: Some((0, 0)),
        available: Some(8_000_000 * 1024),
        limits: &[
            "RLIMIT_MEMLOCK | 8388608 | 8388608 | /proc/self/limits",
            "free_hugepages | 0 of 0 free, 0 reserved, 0 on demand | 0 | /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "MemAvailable | 8000000 kB | 8192000000 | /proc/meminfo",
        ],
        problems: &[
            "/proc/self/cgroup: the group is outside what is mounted here: `/../sibling`; the mount point is taken for the group",
        ],
    };
    assert_outcome("outside", &expected);
}
