// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ranges on memory nodes: who does what first, and on which CPUs. One test in a process of its own, because it changes its
//! CPU mask.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    num::{NonZeroU64, NonZeroUsize},
    sync::{Arc, Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use fakes::FakeKernel;
use pinning::{Allowance, Constraints, Crew, Job, Node, Plan, Range, Watch};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const MIB: u64 = 1 << 20;
/// Ranges of 64 MiB, in IOVA order, by node.
const NODES: [u32; 4] = [0, 1, 0, 1];

fn own_mask() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

fn job(cpus: &[usize]) -> Job {
    let ranges: Vec<Range> = (0..)
        .zip(NODES)
        .map(|(index, node)| {
            let range = Range::new(index * 64 * MIB, 64 * MIB, 4096).unwrap();
            range.on_node(Some(node))
        })
        .collect();
    let mut job = Job::new(ranges).unwrap();
    (job.min_chunk, job.max_chunk) = (MIB, 4 * MIB);
    job.nodes = [0, 1]
        .map(|id| Node {
            id,
            cpus: vec![cpus[id as usize]],
        })
        .into();
    job.home = Some(0);
    job
}

fn plan(job: &Job, threads: usize, slice: Option<u64>) -> Plan {
    let constraints = Constraints {
        slice: slice.and_then(NonZeroU64::new),
        ..Constraints::default()
    };
    let budget = Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "affinity",
    };
    Plan::new(job, &constraints, &budget).unwrap()
}

/// What each worker did: its mask, and the ranges of its pieces in order.
type Seen = Arc<Mutex<BTreeMap<usize, (String, Vec<usize>)>>>;

fn observer(together: usize) -> (Seen, FakeKernel) {
    let seen = Seen::default();
    let begun = Barrier::new(together);
    let kernel = FakeKernel::new().with_hook({
        let seen = Arc::clone(&seen);
        move |chunk, worker| {
            let first = {
                let mut seen = seen.lock().unwrap();
                let mine = seen
                    .entry(worker)
                    .or_insert_with(|| (own_mask(), Vec::new()));
                mine.1.push(chunk.range());
                mine.1.len() == 1
            };
            if first {
                begun.wait();
            }
        }
    });
    (seen, kernel)
}

fn allowed() -> Vec<usize> {
    let mask = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| mask.is_set(cpu))
        .collect()
}

fn own_nodes_come_first(cpus: &[usize], crew: &Crew, slice: Option<u64>) {
    let (seen, kernel) = observer(2);
    let job = job(cpus);
    let plan = plan(&job, 2, slice);
    assert_eq!((plan.node_of(0), plan.node_of(1)), (Some(0), Some(1)));
    let finished = pinning::run(&plan, Some(crew), &kernel, Watch::default()).unwrap();
    assert_eq!(kernel.misuse(), []);
    let places: Vec<_> = finished
        .chunks
        .iter()
        .map(|c| (c.start(), c.end()))
        .collect();
    assert!(places.is_sorted(), "chunks are in the order of the ranges");
    assert!(places.windows(2).all(|pair| pair[0].1 == pair[1].0));
    let seen = seen.lock().unwrap();
    assert_eq!(
        seen[&1].0,
        cpus[1].to_string(),
        "the helper is near its node"
    );
    for (worker, (_, ranges)) in seen.iter() {
        let nodes: Vec<u32> = ranges.iter().map(|&range| NODES[range]).collect();
        let own = u32::try_from(*worker).unwrap();
        assert_eq!(nodes[0], own, "worker {worker} begins at home");
        let first_away = nodes.iter().position(|&node| node != own);
        if let Some(away) = first_away {
            let later_home = nodes[away..].iter().filter(|&&node| node == own).count();
            assert_eq!(
                later_home, 0,
                "worker {worker} left home too early: {nodes:?}"
            );
        }
    }
}

fn a_failure_is_undone_on_both_nodes(cpus: &[usize], crew: &Crew) {
    for at in [0, 70 * MIB, 200 * MIB, 255 * MIB] {
        for slice in [None, Some(MIB)] {
            let kernel = FakeKernel::new().failing_at(at);
            let plan = plan(&job(cpus), 2, slice);
            pinning::run(&plan, Some(crew), &kernel, Watch::default()).unwrap_err();
            assert_eq!(
                (kernel.held(), kernel.misuse()),
                (vec![], vec![]),
                "at {at:#x}"
            );
        }
    }
}

fn every_helper_has_a_cpu_of_its_own(cpus: &[usize], crew: &Crew) {
    let (seen, kernel) = observer(2);
    let mut job = job(cpus);
    job.nodes.clear();
    job.spread = true;
    pinning::run(&plan(&job, 2, None), Some(crew), &kernel, Watch::default()).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[&0].0, own_mask(), "the caller keeps its mask");
    assert_eq!(seen[&1].0, cpus[1].to_string());
}

fn a_plain_job_has_the_callers_mask(crew: &Crew) {
    let (seen, kernel) = observer(2);
    let plain = Job::new([Range::new(0, 256 * MIB, 4096).unwrap()]).unwrap();
    pinning::run(
        &plan(&plain, 2, None),
        Some(crew),
        &kernel,
        Watch::default(),
    )
    .unwrap();
    assert_eq!(seen.lock().unwrap()[&1].0, own_mask());
}

/// The helper is at a piece until its mask has become the caller's new one.
fn a_mask_that_changes_is_followed(cpus: &[usize], crew: &Crew) {
    let mut one = CpuSet::new();
    one.set(cpus[0]);
    let before = sched_getaffinity(None).unwrap();
    let narrow = cpus[0].to_string();
    let followed = Arc::new(Mutex::new(None));
    let begun = Barrier::new(2);
    let kernel = FakeKernel::new().with_hook({
        let (followed, narrow) = (Arc::clone(&followed), narrow.clone());
        move |_, worker| {
            let mut followed = followed.lock().unwrap();
            if worker == 1 && followed.is_none() {
                begun.wait();
                let deadline = Instant::now() + Duration::from_secs(20);
                while own_mask() != narrow && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
                *followed = Some(own_mask());
            } else if worker == 0 && followed.is_none() {
                drop(followed);
                begun.wait();
                sched_setaffinity(None, &one).unwrap();
            }
        }
    });
    let plain = Job::new([Range::new(0, 4 * MIB, 4096).unwrap()]).unwrap();
    let mut plain = plain;
    (plain.min_chunk, plain.max_chunk) = (2 * MIB, 2 * MIB);
    pinning::run(
        &plan(&plain, 2, None),
        Some(crew),
        &kernel,
        Watch::default(),
    )
    .unwrap();
    assert_eq!(followed.lock().unwrap().as_ref(), Some(&narrow));
    sched_setaffinity(None, &before).unwrap();
}

#[test]
fn near_helpers_begin_and_everybody_ends() {
    let cpus = allowed();
    if cpus.len() < 2 {
        eprintln!("skipped: needs two CPUs");
        return;
    }
    let crew = Crew::new(1, 0);
    own_nodes_come_first(&cpus, &crew, None);
    own_nodes_come_first(&cpus, &crew, Some(MIB));
    a_failure_is_undone_on_both_nodes(&cpus, &crew);
    every_helper_has_a_cpu_of_its_own(&cpus, &crew);
    a_plain_job_has_the_callers_mask(&crew);
    a_mask_that_changes_is_followed(&cpus, &crew);
    a_plain_job_has_the_callers_mask(&crew);
}
