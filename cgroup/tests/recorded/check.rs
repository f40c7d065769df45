// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Demands that the memory budgets of the recorded trees refuse, and the remedies they name.

use cgroup::{Demand, HugeDemand, LockRule, MemoryBudget, ShortageKind};

use crate::tree;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn nothing() -> Demand {
    Demand {
        locked: 0,
        rule: LockRule::Exempt,
        fresh: 0,
        huge: Vec::new(),
    }
}

/// Kind, message and remedy of every shortage.
fn refusals(name: &str, demand: &Demand) -> Vec<(ShortageKind, String, String)> {
    let shortages = MemoryBudget::read(&tree(name)).check(demand).err();
    let shortages = shortages.into_iter().flatten();
    shortages
        .map(|s| (s.kind, s.to_string(), s.remedy))
        .collect()
}

fn locked(locked: u64, rule: LockRule) -> Demand {
    Demand {
        locked,
        rule,
        ..nothing()
    }
}

fn fresh(fresh: u64) -> Demand {
    Demand { fresh, ..nothing() }
}

fn huge(demands: &[(u64, u64)]) -> Demand {
    let huge = demands
        .iter()
        .map(|&(page_size, bytes)| HugeDemand { page_size, bytes });
    Demand {
        huge: huge.collect(),
        ..nothing()
    }
}

#[test]
fn locked_memory_counts_by_rule() {
    // 8 MiB are allowed; 1 MiB is locked and 2 MiB are pinned.
    let cases = [
        (LockRule::Process, 7 * MIB, true),
        (LockRule::Process, 7 * MIB + 4096, false),
        (LockRule::User, 6 * MIB, true),
        (LockRule::User, 6 * MIB + 4096, false),
        (LockRule::Exempt, u64::MAX, true),
        (LockRule::Process, u64::MAX, false),
    ];
    for (rule, bytes, fits) in cases {
        let refused = refusals("systemd-v2", &locked(bytes, rule));
        assert_eq!(refused.is_empty(), fits, "{rule:?} {bytes}");
    }
}

#[test]
fn a_memlock_shortage_tells_how_to_raise_it() {
    let expected = (
        ShortageKind::Memlock,
        "64 MiB needed, 8 MiB allowed by RLIMIT_MEMLOCK (/proc/thread-self/limits), 1 MiB used"
            .to_owned(),
        "`ulimit -l 66560` in the shell that starts it, `LimitMEMLOCK=68157440` in its systemd unit, \
         or `prlimit --memlock=68157440:68157440 --pid PID`"
            .to_owned(),
    );
    assert_eq!(
        refusals("systemd-v2", &locked(64 * MIB, LockRule::Process)),
        [expected]
    );
    let user = refusals("systemd-v2", &locked(64 * MIB, LockRule::User));
    assert!(
        user[0]
            .2
            .ends_with("plus what other processes of this user have pinned")
    );
}

#[test]
fn only_the_capability_in_the_initial_user_namespace_exempts() {
    assert_eq!(refusals("v1-host", &locked(GIB, LockRule::Process)), []);
    assert_eq!(refusals("pod-v2", &locked(GIB, LockRule::Process)).len(), 1);
}

#[test]
fn page_cache_does_not_count_as_used() {
    // Of 8 GiB, 3 GiB are in use, 1 GiB of that as page cache; more than 7 GiB is only slow.
    assert_eq!(refusals("systemd-v2", &fresh(6 * GIB)), []);
    let path = "/sys/fs/cgroup/system.slice/vmm@1.service/memory.max";
    let expected = (
        ShortageKind::Memcg,
        format!("7 GiB needed, 8 GiB allowed by memory.max ({path}), 2 GiB used"),
        format!(
            "`echo 9663676416 > {path}`, `MemoryMax=9663676416` in the systemd unit, or a higher \
             memory limit for the container"
        ),
    );
    assert_eq!(refusals("systemd-v2", &fresh(7 * GIB)), [expected]);
}

#[test]
fn every_level_that_is_too_small_is_named() {
    let messages = |bytes| -> Vec<String> {
        let refused = refusals("nested", &fresh(bytes));
        refused.into_iter().map(|(_, message, _)| message).collect()
    };
    let parent = "allowed by memory.max (/mnt/control groups/tenant/memory.max), 1 GiB used";
    let own = "allowed by memory.max (/mnt/control groups/tenant/vm one/memory.max), 1 GiB used";
    assert_eq!(messages(GIB), [""; 0]);
    assert_eq!(messages(2 * GIB), [format!("2 GiB needed, 2 GiB {parent}")]);
    assert_eq!(
        messages(4 * GIB),
        [
            format!("4 GiB needed, 4 GiB {own}"),
            format!("4 GiB needed, 2 GiB {parent}")
        ]
    );
}

#[test]
fn v1_limits_refuse_too() {
    // Of 512 MiB, 256 MiB are in use, half of that as page cache.
    assert_eq!(refusals("pod-v1", &fresh(384 * MIB)), []);
    let refused = refusals("pod-v1", &fresh(385 * MIB));
    assert_eq!(
        refused[0].1,
        "385 MiB needed, 512 MiB allowed by memory.limit_in_bytes \
         (/sys/fs/cgroup/memory/memory.limit_in_bytes), 128 MiB used"
    );
}

#[test]
fn memory_of_the_machine_is_a_limit() {
    let refused = refusals("hybrid", &fresh(8 * GIB));
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, ShortageKind::OutOfMemory);
    assert_eq!(
        refused[0].1,
        "8 GiB needed, 7.62 GiB (8192000000 bytes) allowed by MemAvailable (/proc/meminfo), 0 used"
    );
}

#[test]
fn pools_count_pages_on_demand_and_sum_demands() {
    // 16 pages are free, reserved ones included, and 7 of the 10 on demand are left.
    let size = 2 * MIB;
    assert_eq!(refusals("nested", &huge(&[(size, 23 * size)])), []);
    assert_eq!(
        refusals("nested", &huge(&[(size, 20 * size), (size, 3 * size)])),
        []
    );
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let expected = (
        ShortageKind::Hugetlb,
        format!("48 MiB needed, 46 MiB allowed by nr_hugepages ({path}), 0 used"),
        format!("`echo 17 > {path}`"),
    );
    let demand = huge(&[(size, 20 * size + 1), (size, 3 * size)]);
    assert_eq!(refusals("nested", &demand), [expected]);
    let used = refusals("pod-v2", &huge(&[(size, 513 * size)]));
    assert!(used[0].1.ends_with("1 GiB used"), "{}", used[0].1);
    assert_eq!(used[0].2, format!("`echo 1025 > {path}`"));
}

#[test]
fn a_page_size_without_a_pool_needs_another_boot() {
    let refused = refusals("nested", &huge(&[(GIB, 4 * GIB), (2 * GIB, 0)]));
    let expected = (
        ShortageKind::Hugetlb,
        "4 GiB needed, 0 allowed by nr_hugepages \
         (/sys/kernel/mm/hugepages/hugepages-1048576kB), 0 used"
            .to_owned(),
        "boot with `hugepagesz=1048576K hugepages=4` if the CPU has that size".to_owned(),
    );
    assert_eq!(refused, [expected]);
}

#[test]
fn what_could_not_be_read_refuses_nothing() {
    let demand = Demand {
        locked: u64::MAX,
        rule: LockRule::User,
        fresh: u64::MAX,
        huge: vec![HugeDemand {
            page_size: 2 * MIB,
            bytes: u64::MAX,
        }],
    };
    assert_eq!(refusals("missing", &demand), []);
    // One level of the garbage is sound.
    let refused = refusals("garbage", &demand);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, ShortageKind::Memcg);
}

#[test]
fn everything_that_is_short_is_told_at_once() {
    let demand = Demand {
        locked: GIB,
        rule: LockRule::Process,
        fresh: 100 * GIB,
        huge: vec![HugeDemand {
            page_size: 2 * MIB,
            bytes: 4 * GIB,
        }],
    };
    let refused = refusals("pod-v2", &demand);
    let kinds: Vec<ShortageKind> = refused.iter().map(|r| r.0).collect();
    let expected = [
        ShortageKind::Memlock,
        ShortageKind::Memcg,
        ShortageKind::Hugetlb,
        ShortageKind::OutOfMemory,
    ];
    assert_eq!(kinds, expected);
}
