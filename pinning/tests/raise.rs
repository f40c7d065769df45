// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One by one at the caller's priority: seen from the helpers, who wait in a piece until they are raised.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    num::NonZeroUsize,
    sync::{Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use pinning::{
    Allowance, Chunk, Constraints, Crew, Job, NICEST, Plan, Priority, Range, Watch, Work,
};
use rustix::{
    process::getpriority_process,
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities},
};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// One piece for each of three workers.
fn plan() -> Plan {
    let mut job = Job::new([Range::new(0, 3 * MIB, 4096).unwrap()]).unwrap();
    job.min_chunk = MIB;
    job.max_chunk = MIB;
    let budget = Allowance {
        threads: NonZeroUsize::new(3).unwrap(),
        limited_by: "affinity",
    };
    Plan::new(&job, &Constraints::default(), &budget).unwrap()
}

/// Everybody begins together; then each helper is at its piece until its nice value is the caller's, or for a while.
struct Starved {
    all_begun: Barrier,
    caller: i32,
    patience: Duration,
    /// Nice values of both helpers whenever one of them has been raised.
    seen: Mutex<Vec<(usize, [Option<i32>; 3])>>,
    now: Mutex<[Option<i32>; 3]>,
}

impl Starved {
    fn new(patience: Duration) -> Self {
        Self {
            all_begun: Barrier::new(3),
            caller: getpriority_process(None).unwrap(),
            patience,
            seen: Mutex::default(),
            now: Mutex::default(),
        }
    }
}

impl Work for Starved {
    type Error = Infallible;

    fn run(&self, _: Chunk, worker: usize) -> Result<(), Infallible> {
        self.all_begun.wait();
        if worker == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + self.patience;
        loop {
            let nice = getpriority_process(None).unwrap();
            self.now.lock().unwrap()[worker] = Some(nice);
            if nice == self.caller {
                break;
            }
            if Instant::now() > deadline {
                return Ok(());
            }
            thread::yield_now();
        }
        // Long enough for the other one to be raised too, if that were a mistake that is made.
        thread::sleep(Duration::from_millis(150));
        let mut now = self.now.lock().unwrap();
        self.seen.lock().unwrap().push((worker, *now));
        now[worker] = None;
        Ok(())
    }

    fn undo(&self, _: Chunk) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Whether this thread may become less nice.
fn may_rise() -> bool {
    let sets = capabilities(None).unwrap();
    sets.effective.contains(CapabilitySet::SYS_NICE)
}

#[test]
fn one_helper_at_a_time_is_raised_to_the_callers_priority() {
    if !may_rise() {
        eprintln!("skipped: needs CAP_SYS_NICE");
        return;
    }
    let crew = Crew::new(2, NICEST);
    for round in 0..2 {
        let work = Starved::new(PATIENCE);
        let finished = pinning::run(&plan(), Some(&crew), &work, Watch::default()).unwrap();
        assert_eq!(finished.report.priority, Priority::OneByOne);
        assert_eq!(finished.report.priority.name(), "one-by-one");
        let nice: Vec<_> = finished.report.workers.iter().map(|w| w.nice).collect();
        assert_eq!(nice, [work.caller, 19, 19], "round {round}: nice again");
        let seen = work.seen.into_inner().unwrap();
        let workers: Vec<_> = seen.iter().map(|(worker, _)| *worker).collect();
        assert!(workers == [1, 2] || workers == [2, 1], "{seen:?}");
        let (first, now) = seen[0];
        assert_eq!(now[3 - first], Some(19), "the other one was not raised yet");
    }
}

#[test]
fn without_the_privilege_the_job_ends_all_the_same() {
    // In a thread of its own: capabilities belong to a thread, and new threads inherit them.
    thread::scope(|scope| {
        scope.spawn(|| {
            let all = capabilities(None).unwrap();
            let without = |set: CapabilitySet| set & !CapabilitySet::SYS_NICE;
            set_capabilities(
                None,
                CapabilitySets {
                    effective: without(all.effective),
                    ..all
                },
            )
            .unwrap();
            let crew = Crew::new(2, NICEST);
            let work = Starved::new(Duration::from_millis(300));
            let finished = pinning::run(&plan(), Some(&crew), &work, Watch::default()).unwrap();
            assert_eq!(finished.report.priority, Priority::SmallChunks);
            assert_eq!(work.seen.into_inner().unwrap(), [], "nobody was raised");
        });
    });
}

#[test]
fn a_privilege_that_was_dropped_since_is_noticed() {
    if !may_rise() {
        eprintln!("skipped: needs CAP_SYS_NICE");
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let crew = Crew::new(2, NICEST);
            let all = capabilities(None).unwrap();
            let fewer = CapabilitySets {
                effective: all.effective & !CapabilitySet::SYS_NICE,
                ..all
            };
            set_capabilities(None, fewer).unwrap();
            let work = Starved::new(Duration::from_millis(300));
            let finished = pinning::run(&plan(), Some(&crew), &work, Watch::default()).unwrap();
            assert_eq!(finished.report.priority, Priority::SmallChunks);
            assert_eq!(work.seen.into_inner().unwrap(), [], "nobody was raised");
        });
    });
}
