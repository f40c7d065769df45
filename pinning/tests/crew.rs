// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What helpers inherit and how nice they are, read from /proc as an administrator would.
//!
//! One test in a process of its own: it changes its CPU mask and counts its threads.

use std::{
    fs,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use fakes::FakeKernel;
use pinning::{Allowance, Constraints, Crew, Job, NICEST, Plan, Range, Watch};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    name: String,
    nice: i32,
    cpus: String,
}

/// All threads of this process but the test harness's own.
fn threads() -> Vec<Thread> {
    let mut threads: Vec<Thread> = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let status = fs::read_to_string(path.join("status")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            Some(Thread {
                name: name.to_owned(),
                nice: rest.split_whitespace().nth(16)?.parse().ok()?,
                cpus: status
                    .lines()
                    .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?
                    .trim()
                    .to_owned(),
            })
        })
        .filter(|thread| thread.name.starts_with("parapin-"))
        .collect();
    threads.sort_unstable();
    threads
}

fn plan(threads: usize) -> Plan {
    let job = Job::new([Range::new(0, 1 << 30, 4096).unwrap()]).unwrap();
    let budget = Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "affinity",
    };
    Plan::new(&job, &Constraints::default(), &budget).unwrap()
}

#[test]
fn helpers_are_named_niced_and_follow_the_callers_mask() {
    let own_nice = || rustix::process::getpriority_process(None).unwrap();
    let mask = sched_getaffinity(None).unwrap();
    let nice_before = own_nice();

    let crew = Crew::new(2, NICEST);
    let names_and_nice: Vec<_> = threads().into_iter().map(|t| (t.name, t.nice)).collect();
    assert_eq!(
        names_and_nice,
        [("parapin-1".to_owned(), 19), ("parapin-2".to_owned(), 19)]
    );
    assert_eq!(own_nice(), nice_before, "the caller stays as it is");

    let seen = Arc::new(Mutex::new(Vec::new()));
    let observe = || {
        let seen = Arc::clone(&seen);
        FakeKernel::new().with_hook(move |_, _| *seen.lock().unwrap() = threads())
    };
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| mask.is_set(cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
    let finished = pinning::run(&plan(3), Some(&crew), &observe(), Watch::default()).unwrap();
    let expected = first.to_string();
    let cpus: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|t| t.cpus.clone())
        .collect();
    assert_eq!(
        cpus,
        [expected.clone(), expected],
        "a narrower mask is taken over"
    );
    assert_eq!(finished.report.helpers_started, 2);
    let nice: Vec<_> = finished
        .report
        .workers
        .iter()
        .map(|worker| worker.nice)
        .collect();
    assert_eq!(nice, [nice_before, 19, 19]);

    sched_setaffinity(None, &mask).unwrap();
    pinning::run(&plan(3), Some(&crew), &observe(), Watch::default()).unwrap();
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap()
        .trim()
        .to_owned();
    let cpus: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|t| t.cpus.clone())
        .collect();
    assert_eq!(cpus, [own.clone(), own], "and so is a wider one");

    pinning::run(&plan(1), Some(&crew), &observe(), Watch::default()).unwrap();
    drop(crew);
    assert_eq!(threads(), [], "dropping joins the helpers");

    let nicer_than_asked = Crew::new(1, -20);
    assert_eq!(
        threads()[0].nice,
        nice_before,
        "helpers never get ahead of the caller"
    );
    drop(nicer_than_asked);
}
