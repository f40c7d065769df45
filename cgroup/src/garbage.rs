// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Feeds bytes that make no sense to every parser; none may panic, hang or allocate without bound.

use crate::{
    CpuBudget, CpuSet, CpuWatch, CpuWeights, Demand, HugeDemand, LockRule, MemoryBudget,
    MemoryNodes, NiceScope, PendingSignals, ProcessMemory, Root, Throttle, hugetlb, keyed,
    listed::{CPUS, NODES},
    memcg, memlock, mountinfo, pending, process, quota,
    scratch::Scratch,
    throttle,
};

/// Marsaglia's xorshift64; the same bytes in every run.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap();
        usize::try_from(self.next() % bound).unwrap()
    }
}

/// Pieces that parsers look for, so that garbage gets past their first line of defence.
const PIECES: [&str; 44] = [
    "0",
    "1",
    "-1",
    "100000",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854771712",
    "max",
    "unlimited",
    " ",
    "  ",
    "\n",
    "\n",
    "\t",
    "\0",
    ",",
    "-",
    ":",
    "/",
    "/..",
    "\\040",
    "\\",
    "kB",
    "é",
    "0-18446744073709551615",
    "0-3,8",
    "0::/a/b\n",
    "4:cpu,memory:/a/b\n",
    "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw\n",
    "30 1 0:2 /a /sys/fs/cgroup rw - cgroup c rw,cpu,memory\n",
    "Cpus_allowed_list:\t",
    "Mems_allowed_list:\t",
    "SigPnd:\t",
    "ShdPnd:\t",
    "ffffffffffffffff",
    "CapEff:\t",
    "VmLck:\t",
    "VmPin:\t",
    "VmRSS:\t",
    "MemAvailable:\t",
    "Max locked memory ",
    "nr_throttled ",
    "throttled_usec ",
    "inactive_file ",
];

fn garbage(random: &mut Xorshift) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(24) {
        if random.below(8) == 0 {
            bytes.extend(random.next().to_le_bytes());
        } else {
            bytes.extend(PIECES[random.below(PIECES.len())].bytes());
        }
    }
    bytes
}

#[test]
fn parsers_survive() {
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    for _ in 0..20_000 {
        let bytes = garbage(&mut random);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(cpus) = text.parse::<CpuSet>() {
            assert_eq!(cpus.to_string().parse().as_ref(), Ok(&cpus));
            assert_eq!(cpus.intersect(&cpus), cpus);
            assert!(cpus.iter().take(100).all(|cpu| cpus.contains(cpu)));
        }
        let _ = mountinfo::parse(&bytes);
        let _ = quota::parse_v2(&text);
        let _ = throttle::parse(&text);
        let _ = process::parse(&text);
        let _ = memlock::parse_limit(&text);
        let _ = memlock::parse_capable(&text);
        let _ = memcg::parse_limit(&text);
        let _ = memcg::parse_cache(&text, ["inactive_file", "active_file"]);
        let _ = hugetlb::parse_name(&text);
        let _ = hugetlb::parse_name(&format!("hugepages-{text}kB"));
        let _ = keyed::kilobytes(&text, "VmLck:");
        if let Ok(signals) = pending::parse(&text) {
            let _ = signals.termination();
        }
        for listing in [CPUS, NODES] {
            if let Ok(listed) = listing.some("/x".into(), &text) {
                assert!(listed.numbers.last() <= listing.all().last());
            }
        }
    }
}

const FILES: [&str; 34] = [
    "proc/thread-self/status",
    "proc/thread-self/limits",
    "proc/self/status",
    "proc/self/limits",
    "proc/meminfo",
    "sys/devices/system/cpu/online",
    "sys/devices/system/node/online",
    "sys/devices/system/node/has_memory",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node1/cpulist",
    "sys/devices/system/node/node8/cpulist",
    "proc/sys/kernel/sched_autogroup_enabled",
    "sys/fs/cgroup/a/cpu.weight",
    "sys/fs/cgroup/a/cpu.shares",
    "sys/fs/cgroup/a/cpu.idle",
    "sys/fs/cgroup/a/cpu.max",
    "sys/fs/cgroup/a/cpu.stat",
    "sys/fs/cgroup/a/cpu.cfs_quota_us",
    "sys/fs/cgroup/a/cpu.cfs_period_us",
    "sys/fs/cgroup/a/memory.max",
    "sys/fs/cgroup/a/memory.high",
    "sys/fs/cgroup/a/memory.current",
    "sys/fs/cgroup/a/memory.stat",
    "sys/fs/cgroup/a/memory.limit_in_bytes",
    "sys/fs/cgroup/a/memory.usage_in_bytes",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/cpu.weight",
    "sys/fs/cgroup/cpu.shares",
    "sys/fs/cgroup/cpu.idle",
    "sys/fs/cgroup/memory.max",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
    "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages",
    "sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages",
];

/// Asks everything; what the answers are is not known, only that there are some.
fn ask(root: &Root) {
    let cpus = CpuBudget::read(root);
    assert!(1 <= cpus.threads().get());
    for problem in cpus.problems() {
        assert!(problem.to_string().len() < 20_000);
    }
    let mut watch = CpuWatch::new(root.clone());
    for _ in 0..2 {
        assert_eq!(watch.read(), cpus);
    }
    let _ = Throttle::read(root);
    let _ = CpuWeights::read(root);
    let _ = NiceScope::read(root);
    let _ = PendingSignals::read(root);
    ask_nodes(root);
    let _ = ProcessMemory::read(root);
    let memory = MemoryBudget::read(root);
    for size in [0, 1, 4096, 2 << 20, u64::MAX] {
        for rule in [LockRule::Exempt, LockRule::Process, LockRule::User] {
            let huge = HugeDemand {
                page_size: size,
                bytes: u64::MAX,
            };
            let huge = vec![
                huge,
                HugeDemand {
                    page_size: 2 << 20,
                    bytes: size,
                },
            ];
            let demand = Demand {
                locked: size,
                rule,
                fresh: size,
                huge,
            };
            for shortage in memory.check(&demand).err().into_iter().flatten() {
                assert!(shortage.to_string().contains("needed"));
            }
        }
    }
}

/// Nodes can be told apart, whatever is in the files, and one of them has memory.
fn ask_nodes(root: &Root) {
    let nodes = MemoryNodes::read(root);
    assert!(nodes.nodes().is_sorted_by(|one, next| one.id < next.id));
    let allowed: Vec<u32> = nodes.allowed().collect();
    assert!(!allowed.is_empty());
    let found = |id| nodes.nodes().iter().find(|node| node.id == id);
    assert!(
        allowed
            .iter()
            .all(|&id| nodes.is_allowed(id) && found(id).unwrap().has_memory)
    );
    for cpu in [0, 3, 8, 1 << 20, usize::MAX] {
        let near = nodes.node_of_cpu(cpu);
        assert!(near.is_none_or(|id| found(id).unwrap().cpus.contains(cpu)));
    }
    let single = nodes.nodes().iter().filter(|node| node.has_memory).count() == 1;
    assert_eq!(nodes.is_single(), single);
    if let Some(limit) = nodes.limit() {
        assert_eq!(limit.allows, u64::try_from(allowed.len()).ok());
    }
    for problem in nodes.problems() {
        assert!(problem.to_string().len() < 20_000);
    }
}

#[test]
fn trees_of_garbage_survive() {
    let mut random = Xorshift(0x2545_F491_4F6C_DD1D);
    let tree = Scratch::new(&[]);
    for round in 0..150 {
        for file in FILES {
            tree.write(file, garbage(&mut random));
        }
        // Every other round gets to the groups.
        let groups = round % 2 == 0;
        let v1 = round % 4 == 0;
        let cgroup: &[u8] = if v1 { b"4:cpu,memory:/a\n" } else { b"0::/a\n" };
        let mount: &[u8] = if v1 {
            b"30 1 0:2 / /sys/fs/cgroup rw - cgroup c rw,cpu,memory\n"
        } else {
            b"30 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw\n"
        };
        let noise = [garbage(&mut random), garbage(&mut random)];
        tree.write("proc/self/cgroup", if groups { cgroup } else { &noise[0] });
        tree.write(
            "proc/self/mountinfo",
            if groups { mount } else { &noise[1] },
        );
        ask(&tree.root());
    }
}

#[test]
fn huge_files_are_read_up_to_a_bound() {
    let tree = Scratch::new(&[]);
    let names = ["proc/self/cgroup", "proc/self/mountinfo"];
    for file in FILES.iter().chain(&names) {
        tree.stretch(file, 10 << 20);
    }
    ask(&tree.root());
    let problems = CpuBudget::read(&tree.root()).problems().to_vec();
    assert!(
        problems
            .iter()
            .all(|problem| problem.why() == "one endless line")
    );
    assert_eq!(problems.len(), 3);
}

#[test]
fn of_a_long_file_the_whole_lines_within_the_bound_count() {
    let tree = Scratch::new(&[]);
    let mut status = b"CapEff:\t0000000000004000\nCpus_allowed_list:\t0-3\n".to_vec();
    status.resize(10 << 20, b'x');
    tree.write("proc/thread-self/status", status);
    tree.write("sys/devices/system/cpu/online", b"0-7\n");
    let budget = CpuBudget::read(&tree.root());
    assert_eq!(budget.threads().get(), 4);
}
