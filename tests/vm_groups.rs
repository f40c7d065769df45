// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Helpers stay inside the caller's control group: what they use is charged to it, and its limits bind them.
//!
//! Most tests have a twin with `cgroup_v1` in its name, which runs in a boot that has this one instead of v2.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod groups;
mod machine;

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use groups::{
    Group, Held,
    Version::{self, V1, V2},
};
use machine::{alone, json, mount, vm::in_vm};
use nix::sys::resource::{UsageWho, getrusage};
use parapin::{
    IoUring, Iova, Mapping, PageSize, Pages, PinReport, Pinner, Populate, Region, Regions, Target,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What a guest of 64 MiB needs beside its pages: page tables, stacks, the lists of io_uring, the process itself, and
/// what the kernel charges in advance on each CPU.
const BESIDE: u64 = 4 * MIB;
/// The last of these alone: at most 64 pages on each CPU (MEMCG_CHARGE_BATCH).
const AHEAD: u64 = MIB;
/// What 64 MiB need: 8 bytes for each page.
const PAGE_TABLES: u64 = 64 * MIB / 4096 * 8;

/// Pins so much that several threads are worth it and CPU time is not only noise.
const PIN: [&str; 6] = ["pin", "--json", "--target", "populate", "--size", "256M"];

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// What a report says about its threads, the caller first.
fn per_thread<'a>(report: &'a Value, key: &'a str) -> impl Iterator<Item = f64> + 'a {
    let threads = report["per_thread"].as_array().unwrap();
    threads.iter().map(move |thread| number(&thread[key]))
}

#[test]
fn the_hierarchies_are_those_of_cgroup_v1() {
    if !in_vm() {
        return;
    }
    assert_eq!(mount("cgroup2", ""), None);
    for (controller, file) in [
        ("cpu", "cpu.cfs_quota_us"),
        ("cpuacct", "cpuacct.usage"),
        ("cpuset", "cpuset.mems"),
        ("memory", "memory.usage_in_bytes"),
        ("hugetlb", "hugetlb.2MB.usage_in_bytes"),
        ("pids", "tasks"),
    ] {
        let point = mount("cgroup", controller).unwrap();
        assert!(point.join(file).exists(), "{}", point.display());
        let named = Path::new("/sys/fs/cgroup").join(controller);
        assert_eq!(named.canonicalize().unwrap(), point);
    }
}

#[test]
fn memory_is_charged_to_the_group_of_the_process() {
    memory_is_charged(V2);
}

#[test]
fn memory_is_charged_to_the_group_of_the_process_cgroup_v1() {
    memory_is_charged(V1);
}

fn memory_is_charged(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let starter = Group::new(version, "starter");
    let visit = starter.enter();
    let guest = 64 * MIB;
    for (arguments, memory, huge) in [
        (&["--target", "io-uring"][..], guest, 0),
        (&["--target", "populate"], guest, 0),
        (&["--target", "populate", "--backing", "memfd"], guest, 0),
        (&["--target", "io-uring", "--page-size", "2m"], 0, guest),
    ] {
        let group = Group::new(version, "member");
        let beside = group.memory_beside();
        let common = [
            "pin",
            "--json",
            "--hold",
            "--size",
            "64M",
            "--min-chunk",
            "8M",
        ];
        let held = Held::start(&mut group.parapin(&[&common, arguments].concat()));
        assert_eq!(held.report["threads"], 4, "{:#}", held.report);
        let helped: f64 = per_thread(&held.report, "bytes").skip(1).sum();
        assert!(helped > 0.0, "the caller did it all: {:#}", held.report);

        let charged = group.memory();
        assert!(
            (memory..memory + BESIDE).contains(&charged),
            "{arguments:?}: {charged} bytes"
        );
        assert_eq!(group.huge(), huge, "{arguments:?}");
        let grown = group.memory_beside().saturating_sub(beside);
        assert!(grown < BESIDE, "{arguments:?}: others have {grown} more");
        assert_eq!(starter.huge(), 0);

        held.end();
        assert!(group.memory() < BESIDE, "{arguments:?}: {}", group.memory());
        assert_eq!(group.huge(), 0, "{arguments:?}");
    }
    drop(visit);
}

/// Pins `memory` in pieces for all CPUs, looks at what changed, and unpins.
fn pin_from_here<T: Target>(target: &T, memory: Mapping, look: impl FnOnce()) -> PinReport {
    let region = Region::of_mapping(Arc::new(memory), Iova(0)).unwrap();
    let regions = Regions::new([region]).unwrap();
    let mut pinner = Pinner::new().min_chunk(8 * MIB);
    let pinned = pinner.pin(target, &regions).unwrap();
    look();
    let report = pinned.report().clone();
    pinned.unpin().unwrap();
    report
}

/// Of a process whose threads are in several groups, memory belongs to the group of the process (strictly: of the thread
/// that owns its address space), whoever touches it; huge pages of pools, and what the kernel itself needs for either,
/// to the group of the thread that touches.
///
/// Version 2 does not let threads have such groups of their own.
#[test]
fn memory_of_a_thread_that_was_moved_alone_cgroup_v1() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let process = Group::new(V1, "process");
    let inner = Group::new(V1, "thread");
    let visit = process.enter();
    let (anonymous, memfd) = (Mapping::anonymous, Mapping::memfd);
    let ordinary = |memory: Mapping| {
        let before = (process.memory(), inner.memory());
        pin_from_here(&IoUring, memory, || {
            let own = process.memory() - before.0;
            assert!(
                (64 * MIB - AHEAD..64 * MIB + BESIDE).contains(&own),
                "{own} bytes"
            );
            let moved = inner.memory().saturating_sub(before.1);
            assert!(moved < BESIDE, "{moved} bytes");
            let kernel = inner.kernel_memory();
            assert!((PAGE_TABLES..BESIDE).contains(&kernel), "{kernel} bytes");
        })
    };
    let huge = |memory: Mapping| {
        pin_from_here(&IoUring, memory, || {
            assert_eq!((process.huge(), inner.huge()), (0, 64 * MIB));
        })
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            inner.enter_thread();
            let pool = Pages::Hugetlb(PageSize::SIZE_2M);
            for report in [
                ordinary(anonymous(64 * MIB, Pages::Small).unwrap()),
                ordinary(memfd(64 * MIB, Pages::Small).unwrap()),
                huge(anonymous(64 * MIB, pool).unwrap()),
            ] {
                assert_eq!(report.job.threads, 4);
            }
        });
    });
    drop(visit);
}

/// CPU time of this process's children that have ended.
fn cpu_time_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let time = |time: nix::sys::time::TimeVal| {
        Duration::new(
            u64::try_from(time.tv_sec()).unwrap(),
            u32::try_from(time.tv_usec()).unwrap() * 1000,
        )
    };
    time(usage.user_time()) + time(usage.system_time())
}

#[test]
fn cpu_time_of_helpers_is_charged_to_the_group() {
    cpu_time_is_charged(V2);
}

#[test]
fn cpu_time_of_helpers_is_charged_to_the_group_cgroup_v1() {
    cpu_time_is_charged(V1);
}

fn cpu_time_is_charged(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let starter = Group::new(version, "starter");
    let beside = Group::new(version, "beside");
    let group = Group::new(version, "member");
    let visit = starter.enter();
    let (before, of_starter) = (cpu_time_of_children(), starter.cpu_time());
    let report = json(&mut group.parapin(&PIN), 0);
    let whole = cpu_time_of_children() - before;
    let charged = group.cpu_time();

    assert_eq!(report["threads"], 4, "{report:#}");
    let helpers: f64 = per_thread(&report, "cpu_seconds").skip(1).sum();
    let all: f64 = per_thread(&report, "cpu_seconds").sum();
    assert!(helpers > all / 10.0, "the caller did it: {report:#}");
    // Files of v2 tell whole microseconds.
    assert!(
        charged.as_secs_f64() + 1e-6 >= all,
        "{charged:?}: {report:#}"
    );
    // The end of a thread is no longer in the process's own sum.
    let most = whole + Duration::from_millis(50);
    assert!(charged <= most, "{charged:?} of {whole:?}");
    assert_eq!(beside.cpu_time(), Duration::ZERO);
    // It starts a process and waits for it.
    let started = (starter.cpu_time() - of_starter).as_secs_f64();
    assert!(started < all / 2.0, "{started} s: {report:#}");
    drop(visit);
}

#[test]
fn the_group_of_the_calling_thread_counts() {
    the_calling_thread_counts(V2);
}

#[test]
fn the_group_of_the_calling_thread_counts_cgroup_v1() {
    the_calling_thread_counts(V1);
}

/// Helpers are in the group of the thread that pins, even where that is not the one of its process.
fn the_calling_thread_counts(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let process = Group::new(version, "process");
    let visit = process.enter();
    let inner = process.below_for_threads("thread");
    let pin = || {
        let memory = Mapping::anonymous(128 * MIB, Pages::Small).unwrap();
        pin_from_here(&Populate::default(), memory, || ())
    };
    thread::scope(|scope| {
        let pinning = scope.spawn(|| {
            inner.enter_thread();
            let report = pin();
            let workers = &report.job.workers;
            let all: Duration = workers.iter().map(|worker| worker.cpu_time).sum();
            assert_eq!(
                (workers.len(), report.job.limited_by.name()),
                (4, "affinity")
            );
            assert!(
                workers[1..].iter().any(|worker| worker.bytes > 0),
                "{report:?}"
            );
            let charged = inner.cpu_time();
            assert!(
                charged + Duration::from_micros(1) >= all,
                "{charged:?}: {report:?}"
            );

            inner.set_quota(250);
            let job = pin().job;
            assert_eq!((job.threads, job.limited_by.name()), (2, "cfs-quota"));
        });
        pinning.join().unwrap();
    });
    let before = inner.cpu_time();
    let job = pin().job;
    assert_eq!((job.threads, job.limited_by.name()), (4, "affinity"));
    let all: Duration = job.workers.iter().map(|worker| worker.cpu_time).sum();
    // The last steps of threads that end are charged when others have gone on.
    assert!(
        inner.cpu_time() - before < all / 2,
        "nobody is in it any more"
    );
    drop(visit);
}

/// The limit that a report names, and the file that it says it comes from.
fn limit_of<'a>(report: &'a Value, name: &str) -> (&'a Value, &'a str) {
    let limits = report["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["name"] == name);
    let limit = limit.unwrap_or_else(|| panic!("no {name}: {report:#}"));
    (&limit["value"], limit["source"].as_str().unwrap())
}

/// Periods and seconds for which a report says that the job was throttled.
fn throttled(report: &Value) -> (u64, f64) {
    let throttled = &report["throttled"];
    let periods = throttled["periods"].as_u64();
    let periods = periods.unwrap_or_else(|| panic!("not told: {report:#}"));
    (periods, number(&throttled["seconds"]))
}

#[test]
fn a_quota_means_fewer_threads_and_throttling_is_told() {
    a_quota_binds(V2);
}

#[test]
fn a_quota_means_fewer_threads_and_throttling_is_told_cgroup_v1() {
    a_quota_binds(V1);
}

fn a_quota_binds(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for (percent, threads) in [(250, 2), (150, 1), (50, 1)] {
        let group = Group::new(version, "member");
        group.set_quota(percent);
        let report = json(&mut group.parapin(&PIN), 0);
        assert_eq!(report["threads"], threads, "{percent} %: {report:#}");
        assert_eq!(report["limited_by"], "cfs-quota", "{percent} %");
        let (value, source) = limit_of(&report, "cfs-quota");
        assert_eq!(value, &format!("{}000 100000", percent));
        assert_eq!(Path::new(source), group.quota_file());

        let (periods, time) = throttled(&report);
        assert!(periods <= group.throttled_periods(), "{report:#}");
        assert_eq!(periods > 0, time > 0.0, "{report:#}");
        // Where the quota is more than the threads can use, only a late timer throttles.
        if percent == 50 {
            let wall = number(&report["seconds"]);
            assert!(periods > 0, "{report:#}");
            assert!((wall / 10.0..wall * 4.0).contains(&time), "{report:#}");
        }
    }
}

#[test]
fn a_quota_of_the_parent_binds() {
    a_quota_above_binds(V2);
}

#[test]
fn a_quota_of_the_parent_binds_cgroup_v1() {
    a_quota_above_binds(V1);
}

/// The kernel counts throttling where the quota is, and so a group with counters of its own is told of none.
fn a_quota_above_binds(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let parent = Group::new(version, "parent");
    let group = parent.below("member");
    parent.set_quota(250);
    let report = json(&mut group.parapin(&PIN), 0);
    assert_eq!(report["threads"], 2, "{report:#}");
    assert_eq!(report["limited_by"], "cfs-quota");
    let (_, source) = limit_of(&report, "cfs-quota");
    assert_eq!(Path::new(source), parent.quota_file());

    parent.set_quota(50);
    let before = parent.throttled_periods();
    let report = json(&mut group.parapin(&PIN), 0);
    assert_eq!(report["threads"], 1, "{report:#}");
    let counted = parent.throttled_periods() - before;
    let (periods, time) = throttled(&report);
    assert!(periods > 0 && time > 0.0, "{report:#}");
    assert!(periods <= counted, "{counted} of the parent: {report:#}");
}

#[test]
fn a_group_without_the_cpu_controller_is_throttled_with_its_parent() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let parent = Group::new(V2, "parent");
    let group = parent.below_without_controllers("member");
    parent.set_quota(50);
    let report = json(&mut group.parapin(&PIN), 0);
    assert_eq!(
        (&report["threads"], &report["limited_by"]),
        (&1.into(), &"cfs-quota".into())
    );
    let (periods, time) = throttled(&report);
    assert!(periods > 0 && time > 0.0, "{report:#}");
    assert!(periods <= parent.throttled_periods(), "{report:#}");
}

#[test]
fn cpu_masks_and_quotas_bind_together() {
    masks_bind(V2);
}

#[test]
fn cpu_masks_and_quotas_bind_together_cgroup_v1() {
    masks_bind(V1);
}

fn masks_bind(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for (cpus, quota, threads, limited_by) in [
        ("0-3", None, 4, "affinity"),
        ("2-3", None, 2, "affinity"),
        ("1", None, 1, "affinity"),
        ("1-3", Some(250), 2, "cfs-quota"),
        ("0,2", Some(250), 2, "affinity"),
        ("0,2", Some(150), 1, "cfs-quota"),
    ] {
        let group = Group::new(version, "member");
        group.set_cpus(cpus);
        quota
            .into_iter()
            .for_each(|percent| group.set_quota(percent));
        let report = json(&mut group.parapin(&PIN), 0);
        assert_eq!(report["threads"], threads, "{cpus}: {report:#}");
        assert_eq!(report["limited_by"], limited_by, "{cpus}: {report:#}");
        assert_eq!(limit_of(&report, "affinity").0, cpus);
        if version == V1 {
            let allowed: cgroup::CpuSet = cpus.parse().unwrap();
            let used = group.cpu_time_by_cpu();
            for (cpu, nanos) in used.iter().enumerate() {
                assert!(*nanos == 0 || allowed.contains(cpu), "{cpus}: {used:?}");
            }
        }
    }
}

#[test]
fn a_memory_limit_is_checked_cgroup_v1() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let group = Group::new(V1, "member");
    let limit = group.path("memory", "memory.limit_in_bytes");
    fs::write(&limit, (128 * MIB).to_string()).unwrap();
    let report = json(&mut group.parapin(&PIN), 1);
    assert_eq!(report["error"]["kind"], "memcg", "{report:#}");
    let remedy = report["error"]["remedy"].as_str().unwrap();
    assert!(remedy.contains(limit.to_str().unwrap()), "{remedy}");
    let small = ["pin", "--json", "--target", "populate", "--size", "64M"];
    let report = json(&mut group.parapin(&small), 0);
    assert_eq!(report["bytes"], 64 * MIB);
}

#[test]
fn memory_comes_from_the_nodes_of_the_group() {
    memory_is_on_one_node(V2);
}

#[test]
fn memory_comes_from_the_nodes_of_the_group_cgroup_v1() {
    memory_is_on_one_node(V1);
}

/// Pages of helpers' stacks that the kernel may list with memory beside them: neither is to have huge pages (since
/// Linux 6.7), so that they are one mapping.
const STACKS: u64 = 16;

/// Pages that a line of `numa_maps` has on a node.
fn pages_on(line: &str, node: &str) -> u64 {
    let on_node = |word: &str| {
        let (name, pages) = word.split_once('=')?;
        (name.strip_prefix('N')? == node).then(|| pages.parse().unwrap())
    };
    line.split(' ').find_map(on_node).unwrap_or(0)
}

/// On CPUs of the other node, so that it is not there anyway.
fn memory_is_on_one_node(version: Version) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for (node, other, cpus) in [("1", "0", "0-1"), ("0", "1", "2-3")] {
        let group = Group::new(version, "member");
        group.set_nodes(node);
        group.set_cpus(cpus);
        for (arguments, page_kib, may_merge) in [
            (&["--target", "io-uring"][..], 4, true),
            (&["--target", "populate"], 4, true),
            (&["--target", "populate", "--backing", "memfd"], 4, false),
            // Listed in base pages.
            (&["--target", "io-uring", "--page-size", "thp"], 4, false),
            (&["--target", "io-uring", "--page-size", "2m"], 2048, false),
        ] {
            let common = ["pin", "--json", "--hold", "--size", "64M"];
            let held = Held::start(&mut group.parapin(&[&common, arguments].concat()));
            assert_eq!(held.report["threads"], 2, "{:#}", held.report);
            let maps = held.read("numa_maps");
            let pages = (64 << 10) / page_kib;
            // Nothing else with such pages is so large.
            let guests: Vec<_> = maps
                .lines()
                .filter(|line| line.ends_with(&format!(" kernelpagesize_kB={page_kib}")))
                .map(|line| (pages_on(line, node), pages_on(line, other)))
                .filter(|(here, there)| here + there >= pages)
                .collect();
            let [(here, 0)] = guests[..] else {
                panic!("{arguments:?} is not on node {node} alone: {maps}");
            };
            let merged = if may_merge { STACKS } else { 0 };
            assert!(
                (pages..=pages + merged).contains(&here),
                "{arguments:?}: {maps}"
            );
            held.end();
        }
    }
}
