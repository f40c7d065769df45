// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What helpers inherit and how nice they are, read from /proc as an administrator would.
//!
//! One test in a process of its own: it changes its CPU mask and counts its threads.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fakes::FakeKernel;
use pinning::{Allowance, Constraints, Crew, Job, NICEST, Plan, Range, Watch};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    name: String,
    nice: i32,
    cpus: String,
    /// SigBlk: bit n − 1 is signal n.
    blocked: u64,
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
                blocked: blocked(&status)?,
            })
        })
        .filter(|thread| thread.name.starts_with("parapin-"))
        .collect();
    threads.sort_unstable();
    threads
}

fn blocked(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The signals of POSIX that can be blocked: all but KILL and STOP.
const ALL_SIGNALS: u64 = ((1 << 31) - 1) & !(1 << (9 - 1)) & !(1 << (19 - 1));

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
    let nice_before = own_nice();
    let crew = Crew::new(2, NICEST);
    let names_and_nice: Vec<_> = threads().into_iter().map(|t| (t.name, t.nice)).collect();
    assert_eq!(
        names_and_nice,
        [("parapin-1".to_owned(), 19), ("parapin-2".to_owned(), 19)]
    );
    assert_eq!(own_nice(), nice_before, "the caller stays as it is");
    for thread in threads() {
        assert_eq!(thread.blocked & ALL_SIGNALS, ALL_SIGNALS, "{thread:?}");
    }
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(blocked(&own), Some(0), "the caller still gets its signals");

    let mask = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| mask.is_set(cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
    assert_eq!(
        masks_in_a_job(&crew),
        [first.to_string(), first.to_string()],
        "a narrower mask is taken over"
    );
    sched_setaffinity(None, &mask).unwrap();
    let own = own_mask();
    assert_eq!(
        masks_in_a_job(&crew),
        [own.clone(), own],
        "and so is a wider one"
    );

    let finished =
        pinning::run(&plan(3), Some(&crew), &FakeKernel::new(), Watch::default()).unwrap();
    let nice: Vec<_> = finished
        .report
        .workers
        .iter()
        .map(|worker| worker.nice)
        .collect();
    assert_eq!(nice, [nice_before, 19, 19]);

    drop(crew);
    // A joined thread has let go of its memory; its entry in /proc goes a moment later.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !threads().is_empty() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(threads(), [], "dropping joins the helpers");
    let hasty = Crew::new(1, -20);
    assert_eq!(
        threads()[0].nice,
        nice_before,
        "helpers never get ahead of the caller"
    );
    drop(hasty);
}

fn own_nice() -> i32 {
    rustix::process::getpriority_process(None).unwrap()
}

fn own_mask() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

/// The CPU masks of the helpers, as seen from inside a job of theirs.
fn masks_in_a_job(crew: &Crew) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let seen = Arc::clone(&seen);
        FakeKernel::new().with_hook(move |_, _| *seen.lock().unwrap() = threads())
    };
    let finished = pinning::run(&plan(3), Some(crew), &observer, Watch::default()).unwrap();
    assert_eq!(finished.report.helpers_started, 2);
    let seen = seen.lock().unwrap();
    seen.iter().map(|thread| thread.cpus.clone()).collect()
}
