// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages land on the nodes where the caller alone would have put them, whoever faults them in.
//!
//! Each worker of a job does something: all meet at their first pieces. Where pages are is what the kernel says:
//! `numa_maps` for the sums, move_pages(2) for each page.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edu;
#[expect(dead_code, reason = "other tests look at more of a group")]
mod groups;
mod machine;
mod nodes;
mod watched;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use cgroup::CpuSet;
use edu::{Edu, Via};
use groups::{Group, Version::V2};
use machine::{alone, vm::in_vm, vm_pin};
use nodes::{
    Kind, Memory, Policy, cpus_of, is_within, mask, masks_of_helpers, node_of, on_a_thread, run_on,
};
use parapin::{
    CancelToken, Crew, IoUring, NICEST, PinErrorKind, PinReport, Pinner, Placement, Populate,
    Regions,
};
use watched::Journal;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SIZE: u64 = 64 * MIB;

/// The targets that need no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    Populate,
    IoUring,
}

impl Through {
    const BOTH: [Self; 2] = [Self::Populate, Self::IoUring];

    /// Pins and unpins; the pages stay where they are.
    fn pin(self, pinner: &mut Pinner<'_>, regions: &Regions, journal: &Arc<Journal>) -> PinReport {
        match self {
            Self::Populate => {
                let target = journal.watch(Populate::default());
                pinner.pin(&target, regions).unwrap().report().clone()
            }
            Self::IoUring => {
                let before = vm_pin();
                let target = journal.watch(IoUring);
                let pinned = pinner.pin(&target, regions).unwrap();
                assert_eq!(vm_pin() - before, regions.size());
                pinned.report().clone()
            }
        }
    }
}

/// For pieces that are small enough for `threads` threads.
fn pinner(threads: usize) -> Pinner<'static> {
    Pinner::new()
        .threads(NonZeroUsize::new(threads).unwrap())
        .min_chunk(4 * MIB)
        .max_chunk(8 * MIB)
}

fn regions_of(memory: &Arc<Memory>) -> Regions {
    Regions::new([memory.region(GIB)]).unwrap()
}

/// A job of so many threads that each have a piece at least, about which there is nothing to say.
fn run(through: Through, pinner: Pinner<'_>, threads: usize, regions: &Regions) -> PinReport {
    run_watched(
        through,
        pinner,
        &Journal::new(threads, Duration::ZERO),
        threads,
        regions,
    )
}

fn run_watched(
    through: Through,
    mut pinner: Pinner<'_>,
    journal: &Arc<Journal>,
    threads: usize,
    regions: &Regions,
) -> PinReport {
    let report = through.pin(&mut pinner, regions, journal);
    let job = &report.job;
    assert_eq!((job.threads, job.workers.len()), (threads, threads));
    assert!(job.workers.iter().all(|worker| worker.bytes > 0), "{job:?}");
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    report
}

/// All of `memory` is where `policy` says; pages of a thread without one are on `home`.
fn assert_placed(memory: &Memory, policy: Policy, home: u32, what: &str) {
    let (pages, nodes) = (memory.pages(), memory.nodes());
    let all = pages[0] + pages[1];
    let expected = match policy {
        Policy::Interleave | Policy::Weighted => [all / 2, all / 2],
        Policy::Default | Policy::Local => on(home, all),
        Policy::Bind(node)
        | Policy::BindStatic(node)
        | Policy::Prefer(node)
        | Policy::PreferMany(node) => on(node, all),
    };
    assert_eq!(pages, expected, "{what}");
    if matches!(policy, Policy::Interleave | Policy::Weighted) {
        let alternate = nodes.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(alternate, "{what}: {nodes:?}");
    }
}

fn on(node: u32, pages: u64) -> [u64; 2] {
    if node == 0 { [pages, 0] } else { [0, pages] }
}

/// Pins memory of a kind under `policy`, by four threads and by one: it makes no difference.
fn memory_is_placed(kind: Kind, size: u64, policies: &[Policy]) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for through in Through::BOTH {
        for &policy in policies {
            for threads in [4, 1] {
                let memory = Memory::new(kind, size);
                memory.bind(policy);
                run(through, pinner(threads), threads, &regions_of(&memory));
                let what = format!("{kind:?} {policy:?} {through:?} by {threads}");
                assert_placed(&memory, policy, 0, &what);
            }
        }
    }
}

const POLICIES: [Policy; 7] = [
    Policy::Bind(1),
    Policy::BindStatic(1),
    Policy::Prefer(1),
    Policy::PreferMany(1),
    Policy::Interleave,
    Policy::Weighted,
    Policy::Bind(0),
];

#[test]
fn a_policy_of_the_memory_holds() {
    memory_is_placed(Kind::Small, SIZE, &POLICIES);
}

#[test]
fn a_policy_of_the_file_holds() {
    memory_is_placed(Kind::Memfd, SIZE, &POLICIES);
}

#[test]
fn a_policy_of_memory_in_transparent_huge_pages_holds() {
    memory_is_placed(Kind::Transparent, SIZE, &POLICIES);
}

#[test]
fn a_policy_of_memory_in_huge_pages_holds() {
    // The pool has 32 pages on each node.
    memory_is_placed(Kind::Hugetlb, SIZE / 2, &POLICIES);
}

#[test]
fn a_region_may_have_several_policies() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for through in Through::BOTH {
        let memory = Memory::new(Kind::Small, SIZE);
        memory.bind_part(SIZE / 2, SIZE / 2, Policy::Bind(1));
        memory.bind_part(0, SIZE / 2, Policy::Bind(0));
        let report = run(through, pinner(4), 4, &regions_of(&memory));
        let anywhere = |node: Option<u32>| node.is_none();
        assert!(
            report
                .job
                .workers
                .iter()
                .all(|worker| anywhere(worker.node))
        );
        let nodes = memory.nodes();
        let (low, high) = nodes.split_at(nodes.len() / 2);
        assert!(low.iter().all(|&node| node == 0), "{through:?}: {low:?}");
        assert!(high.iter().all(|&node| node == 1), "{through:?}: {high:?}");
    }
}

#[test]
fn a_policy_of_the_caller_holds_for_helpers_that_it_starts() {
    a_policy_of_the_caller_holds(|| None);
}

#[test]
fn a_policy_of_the_caller_holds_for_helpers_that_were_there_before() {
    a_policy_of_the_caller_holds(|| Some(Arc::new(Crew::new(3, NICEST))));
}

fn a_policy_of_the_caller_holds(crew: impl Fn() -> Option<Arc<Crew>> + Sync) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let place = |through, threads, policy: Policy| {
        let crew = crew();
        policy.of_thread();
        let memory = Memory::new(Kind::Small, SIZE);
        let mut pinner = pinner(threads);
        if let Some(crew) = crew {
            pinner = pinner.crew(crew);
        }
        run(through, pinner, threads, &regions_of(&memory));
        let what = format!("{policy:?} {through:?} by {threads}");
        assert_placed(&memory, policy, 0, &what);
        assert!(policy.is_the_threads(), "{what}");
    };
    for through in Through::BOTH {
        for policy in POLICIES {
            for threads in [4, 1] {
                on_a_thread(|| place(through, threads, policy));
            }
        }
    }
}

#[test]
fn a_policy_of_the_caller_holds_in_the_background() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for policy in POLICIES {
        let memory = Memory::new(Kind::Small, SIZE);
        on_a_thread(|| {
            policy.of_thread();
            let target = Journal::new(4, Duration::ZERO).watch(Populate::default());
            let begun = pinner(4).start(target, &regions_of(&memory)).unwrap();
            let pinned = begun.join().unwrap();
            assert!(pinned.report().notes.is_empty(), "{:?}", pinned.report());
        });
        assert_placed(&memory, policy, 0, &format!("{policy:?}"));
    }
}

/// Helpers are even moved to the other node; it is their policy that does it.
#[test]
fn without_a_policy_pages_are_on_the_callers_node() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let place = |through, home: u32, threads: usize, policy: Policy| {
        run_on(&cpus_of(home));
        policy.of_thread();
        let journal = Journal::with(threads, move |worker| {
            if worker > 0 {
                run_on(&cpus_of(1 - home));
            }
        });
        let memory = Memory::new(Kind::Small, SIZE);
        run_watched(
            through,
            pinner(threads),
            &journal,
            threads,
            &regions_of(&memory),
        );
        let far = cpus_of(1 - home);
        let helped = journal.pieces();
        let helped = helped.iter().filter(|piece| piece.worker > 0);
        assert!(helped.clone().all(|piece| piece.mask == far));
        assert_eq!(helped.count() > 0, threads > 1);
        let what = format!("{policy:?} {through:?} by {threads} from {home}");
        assert_placed(&memory, policy, home, &what);
        assert!(policy.is_the_threads(), "{what}");
    };
    for through in Through::BOTH {
        for home in [1, 0] {
            // The mask of a node has two CPUs.
            for threads in [2, 1] {
                on_a_thread(|| place(through, home, threads, Policy::Default));
            }
            on_a_thread(|| place(through, home, 2, Policy::Local));
        }
    }
}

/// The caller may be moved by the kernel at any time, and its pages are where it is then; those of helpers are where it
/// was when it began.
#[test]
fn helpers_of_a_caller_without_a_mask_stay_on_its_node() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for through in Through::BOTH {
        let memory = Memory::new(Kind::Small, SIZE);
        let journal = Journal::new(4, Duration::ZERO);
        let report = run_watched(through, pinner(4), &journal, 4, &regions_of(&memory));
        let home = report.job.workers[0].node.unwrap();
        // As many helpers as it has CPUs for, beside the caller.
        let at: Vec<_> = report
            .job
            .workers
            .iter()
            .map(|worker| worker.node)
            .collect();
        assert_eq!(at, [Some(home), Some(home), None, None]);
        let nodes = memory.nodes();
        let mut helped = 0;
        for piece in journal.pieces().iter().filter(|piece| piece.worker > 0) {
            let page = |address| usize::try_from((address - memory.address()) / 4096).unwrap();
            let nodes = &nodes[page(piece.start)..page(piece.start + piece.size)];
            assert!(
                nodes.iter().all(|&node| node == home),
                "{through:?}: {piece:?}"
            );
            helped += piece.size / 4096;
        }
        let [near, far] = [home, 1 - home].map(|node| memory.pages()[node as usize]);
        assert!(near >= helped && near + far == SIZE / 4096);
    }
}

#[test]
fn memory_is_spread_over_all_nodes() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let spread = |kind, size, through, threads: usize| {
        let memory = Memory::new(kind, size);
        let pinner = pinner(threads).placement(Placement::Spread);
        run(through, pinner, threads, &regions_of(&memory));
        let what = format!("{kind:?} {through:?} by {threads}");
        assert_placed(&memory, Policy::Interleave, 0, &what);
        assert!(Policy::Default.is_the_threads(), "{what}");
    };
    for through in Through::BOTH {
        for (kind, size) in [
            (Kind::Small, SIZE),
            (Kind::Memfd, SIZE),
            (Kind::Transparent, SIZE),
            (Kind::Hugetlb, SIZE / 2),
        ] {
            for threads in [4, 1] {
                on_a_thread(|| spread(kind, size, through, threads));
            }
        }
    }
}

#[test]
fn a_caller_that_spreads_has_its_own_policy_again_whatever_happens() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for policy in [Policy::Default, Policy::Local] {
        on_a_thread(|| {
            policy.of_thread();
            let memory = Memory::new(Kind::Small, SIZE);
            let cancel = CancelToken::new();
            let token = cancel.clone();
            let journal = Journal::with(1, move |_| {
                assert!(Policy::Interleave.is_the_threads());
                token.cancel();
            });
            let mut pinner = pinner(2).placement(Placement::Spread).cancel(cancel);
            let error = pinner.pin(&journal.watch(IoUring), &regions_of(&memory));
            assert_eq!(error.unwrap_err().kind(), PinErrorKind::Cancelled);
            assert!(policy.is_the_threads(), "{policy:?}");
        });
    }
}

/// What decides where a job's pages go.
#[derive(Debug, Clone, Copy)]
enum By {
    Placement(Placement),
    Thread(Policy),
    Memory(Policy),
}

#[test]
fn a_kept_crew_takes_nothing_from_one_job_to_the_next() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    // It begins with a policy that no job wants.
    let crew = on_a_thread(|| {
        Policy::Weighted.of_thread();
        Arc::new(Crew::new(3, NICEST))
    });
    let next = |home: u32, by: By| {
        run_on(&cpus_of(home));
        let memory = Memory::new(Kind::Small, SIZE / 2);
        let mut pinner = pinner(4).crew(Arc::clone(&crew));
        let policy = match by {
            By::Placement(Placement::Local) => Policy::Default,
            By::Placement(Placement::Spread) => {
                pinner = pinner.placement(Placement::Spread);
                Policy::Interleave
            }
            By::Thread(policy) => {
                policy.of_thread();
                policy
            }
            By::Memory(policy) => {
                memory.bind(policy);
                policy
            }
        };
        run(Through::Populate, pinner, 2, &regions_of(&memory));
        assert_placed(&memory, policy, home, &format!("{by:?} from {home}"));
    };
    let kinds = [
        By::Placement(Placement::Local),
        By::Placement(Placement::Spread),
        By::Thread(Policy::Bind(0)),
        By::Thread(Policy::Interleave),
        By::Memory(Policy::Prefer(1)),
    ];
    // Each one after each other one, from either node.
    for (index, first) in kinds.into_iter().enumerate() {
        for second in kinds {
            let home = u32::try_from(index % 2).unwrap();
            on_a_thread(|| next(home, first));
            on_a_thread(|| next(1 - home, second));
        }
    }
}

#[test]
fn memory_comes_from_the_nodes_of_the_cpuset() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let group = Group::new(V2, "numa");
    group.set_nodes("1");
    let visit = group.enter();
    let place = |through, home: u32, placement, threads: usize| {
        run_on(&cpus_of(home));
        let memory = Memory::new(Kind::Small, SIZE);
        let pinner = pinner(threads).placement(placement);
        let report = run(through, pinner, threads, &regions_of(&memory));
        let what = format!("{placement:?} {through:?} by {threads} from {home}");
        assert_placed(&memory, Policy::Bind(1), 0, &what);
        let nodes = report.nodes.unwrap();
        assert_eq!(nodes.allowed().collect::<Vec<_>>(), [1], "{what}");
        let limit = nodes.limit().unwrap();
        assert_eq!((limit.name, &*limit.value), ("cpuset-mems", "1"));
    };
    for through in Through::BOTH {
        for home in [1, 0] {
            for placement in [Placement::Local, Placement::Spread] {
                for threads in [2, 1] {
                    on_a_thread(|| place(through, home, placement, threads));
                }
            }
        }
    }
    drop(visit);
}

#[test]
fn memory_that_belongs_on_a_node_which_the_cpuset_does_not_allow_is_noted() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let group = Group::new(V2, "numa");
    group.set_nodes("1");
    let visit = group.enter();
    let memory = Memory::new(Kind::Small, SIZE);
    let regions = Regions::new([memory.region(GIB).on_node(0)]).unwrap();
    let report = pinner(4).populate(&regions).unwrap();
    assert_eq!(
        report.notes,
        [
            "the region at iova 0x40000000 belongs on memory node 0, and cpuset.mems allows only 1: its pages land there"
        ]
    );
    assert_placed(&memory, Policy::Bind(1), 0, "in the cpuset");
    drop(visit);
}

/// Two regions, one on each node.
fn a_region_on_each_node(size: u64) -> ([Arc<Memory>; 2], Regions) {
    let memory = [0, 1].map(|node| {
        let memory = Memory::new(Kind::Small, size);
        memory.bind(Policy::Bind(node));
        memory
    });
    let regions = [0, 1].map(|node: usize| memory[node].region(GIB << (2 * node)));
    (memory, Regions::new(regions).unwrap())
}

fn assert_on_each_node(memory: &[Arc<Memory>; 2], what: &str) {
    for (node, memory) in (0..).zip(memory) {
        assert_placed(memory, Policy::Bind(node), 0, what);
    }
}

/// Helpers are on CPUs near the memory that they begin with, inside of the caller's mask.
#[test]
fn helpers_are_brought_to_the_memory() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let place = |through, caller: &str, threads: usize| {
        let caller: CpuSet = caller.parse().unwrap();
        run_on(&caller);
        let (memory, regions) = a_region_on_each_node(SIZE);
        let journal = Journal::new(threads, Duration::from_millis(5));
        let mut told = 0;
        let pinner = pinner(4).progress(|_| {
            told += 1;
            let masks = masks_of_helpers();
            assert_eq!(masks.len(), threads - 1);
            assert!(
                masks.iter().all(|mask| is_within(mask, &caller)),
                "{masks:?}"
            );
        });
        let report = run_watched(through, pinner, &journal, threads, &regions);
        assert!(told > 1);
        let what = format!("{through:?} under {caller}");
        assert_on_each_node(&memory, &what);
        assert_eq!(mask(), caller, "{what}");

        let at: Vec<_> = report
            .job
            .workers
            .iter()
            .map(|worker| worker.node)
            .collect();
        let usable = |node| cpus_of(node).intersect(&caller);
        for (worker, &node) in at.iter().enumerate().skip(1) {
            let Some(node) = node else {
                panic!("{what}: {at:?}")
            };
            assert_eq!(journal.masks()[worker], [usable(node)], "{what}: {at:?}");
            let pieces = journal.pieces();
            let mut pieces = pieces.iter().filter(|piece| piece.worker == worker);
            let memory = &memory[node as usize];
            let first = pieces.next().unwrap().start;
            let inside = memory.address()..memory.address() + SIZE;
            assert!(inside.contains(&first), "{what}: worker {worker} of {at:?}");
        }
        at
    };
    for through in Through::BOTH {
        let at = on_a_thread(|| place(through, "0-3", 4));
        let here = at[0].unwrap();
        // The other node is short of one; of two that are equally short the first has the next.
        assert_eq!(at, [here, 1 - here, 0, 1].map(Some));
        // One CPU of each node.
        let at = on_a_thread(|| place(through, "1-2", 2));
        let here = at[0].unwrap();
        assert_eq!(at, [here, 1 - here].map(Some));
        // None of the other node's.
        let at = on_a_thread(|| place(through, "2-3", 2));
        assert_eq!(at, [1, 1].map(Some));
    }
}

/// One CPU for each, and none for two.
#[test]
fn helpers_are_brought_to_cpus_of_their_own_near_the_memory() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let (memory, regions) = a_region_on_each_node(SIZE);
    let journal = Journal::new(4, Duration::ZERO);
    let pinner = pinner(4).spread_cpus(true);
    let report = run_watched(Through::Populate, pinner, &journal, 4, &regions);
    assert_on_each_node(&memory, "on CPUs of their own");
    let workers = report.job.workers.iter().zip(journal.masks());
    let mut used = Vec::new();
    for (worker, masks) in workers.skip(1) {
        let [mask] = &masks[..] else {
            panic!("{masks:?}")
        };
        assert_eq!(mask.count(), 1, "{mask}");
        assert!(
            is_within(mask, &cpus_of(worker.node.unwrap())),
            "{mask}: {worker:?}"
        );
        used.extend(mask.iter());
    }
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
fn a_kept_crew_is_under_the_callers_mask_again_after_it_was_brought_to_memory() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let crew = Arc::new(Crew::new(3, NICEST));
    for _ in 0..2 {
        let (memory, regions) = a_region_on_each_node(SIZE / 2);
        run(
            Through::Populate,
            pinner(4).crew(Arc::clone(&crew)),
            4,
            &regions,
        );
        assert_on_each_node(&memory, "by a kept crew");
        let memory = Memory::new(Kind::Small, SIZE);
        memory.bind(Policy::Interleave);
        let journal = Journal::new(4, Duration::ZERO);
        let pinner = pinner(4).crew(Arc::clone(&crew));
        let report = run_watched(Through::Populate, pinner, &journal, 4, &regions_of(&memory));
        assert!(
            report
                .job
                .workers
                .iter()
                .all(|worker| worker.node.is_none())
        );
        let all = mask();
        assert!(journal.pieces().iter().all(|piece| piece.mask == all));
    }
}

#[test]
fn what_a_device_is_given_is_on_its_nodes() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        for threads in [4, 1] {
            let edu = Edu::open(via);
            let (memory, regions) = a_region_on_each_node(SIZE);
            let before = via.counter();
            let pinned = pinner(threads).pin(&edu.target(), &regions).unwrap();
            assert_eq!(via.counter() - before, 2 * SIZE, "{via:?}");
            let report = pinned.report();
            assert_eq!(report.job.threads, threads, "{report:?}");
            assert!(report.notes.is_empty(), "{:?}", report.notes);
            assert_on_each_node(&memory, via.name());
            pinned.unpin().unwrap();
            assert_eq!(via.counter(), before, "{via:?}");
            assert_on_each_node(&memory, via.name());
        }
        // Without a policy: where the caller is.
        let place = |home: u32, placement, policy| {
            run_on(&cpus_of(home));
            let edu = Edu::open(via);
            let memory = Memory::new(Kind::Small, SIZE);
            let mut pinner = pinner(2).placement(placement);
            let pinned = pinner.pin(&edu.target(), &regions_of(&memory)).unwrap();
            assert!(
                pinned.report().notes.is_empty(),
                "{:?}",
                pinned.report().notes
            );
            assert_placed(&memory, policy, home, via.name());
        };
        on_a_thread(|| place(1, Placement::Local, Policy::Default));
        on_a_thread(|| place(0, Placement::Local, Policy::Default));
        on_a_thread(|| place(1, Placement::Spread, Policy::Interleave));
    }
}

#[test]
fn the_nodes_are_those_that_these_tests_rely_on() {
    if !in_vm() {
        return;
    }
    let nodes = [0, 1].map(cpus_of);
    assert!(nodes.iter().all(|cpus| cpus.count() == 2), "{nodes:?}");
    assert_eq!([0, 1, 2, 3].map(node_of), [0, 0, 1, 1]);
    assert_eq!(mask().count(), 4);
    assert!(Policy::Default.is_the_threads());
}
