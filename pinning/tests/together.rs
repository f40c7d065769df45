// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Equal threads share the work to the very end, in a job and when it is taken back.
//!
//! Each piece lasts until as many threads as there are have one. Should any of them leave while there is still a piece
//! for everybody, the others wait for it in vain, and the test says so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    num::{NonZeroU64, NonZeroUsize},
    sync::{Condvar, Mutex},
    time::Duration,
};

use pinning::{Allowance, Chunk, Constraints, Crew, Job, Plan, Range, Report, Watch, Work};

/// Bytes that are worth a thread by default, also when they are taken back.
const PIECE: u64 = pinning::RELEASE_CHUNK;
const ROUNDS: u64 = 8;

/// A barrier that gives up after a while.
struct Together {
    threads: u64,
    arrived: Mutex<u64>,
    moved: Condvar,
}

impl Together {
    fn new(threads: usize) -> Self {
        Self {
            threads: threads as u64,
            arrived: Mutex::new(0),
            moved: Condvar::new(),
        }
    }

    fn meet(&self) {
        let mut arrived = self.arrived.lock().unwrap();
        let round = *arrived / self.threads;
        *arrived += 1;
        self.moved.notify_all();
        let waiting = |arrived: &mut u64| *arrived / self.threads == round;
        let (arrived, wait) = self
            .moved
            .wait_timeout_while(arrived, Duration::from_secs(20), waiting)
            .unwrap();
        assert!(
            !wait.timed_out(),
            "only {} of {} threads came to round {round}",
            *arrived % self.threads,
            self.threads
        );
        drop(arrived);
        // The same amount of work for everybody, so that the last one to come does not look like the fastest.
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Work for Together {
    type Error = Infallible;

    fn run(&self, _: Chunk, _: usize) -> Result<(), Infallible> {
        self.meet();
        Ok(())
    }

    fn undo(&self, _: Chunk) -> Result<(), Infallible> {
        self.meet();
        Ok(())
    }
}

/// Ranges of one piece each, which nothing can make larger or smaller.
fn plan(threads: usize, slice: Option<u64>) -> Plan {
    let ranges: Vec<Range> = (0..ROUNDS * threads as u64)
        .map(|index| Range::new(2 * index * PIECE, PIECE, PIECE).unwrap())
        .collect();
    let constraints = Constraints {
        slice: slice.and_then(NonZeroU64::new),
        ..Constraints::default()
    };
    let plan = Plan::new(&Job::new(ranges).unwrap(), &constraints, &allow(threads)).unwrap();
    assert_eq!(plan.threads().get(), threads);
    plan
}

fn allow(threads: usize) -> Allowance {
    Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "affinity",
    }
}

#[test]
fn equal_threads_run_and_take_back_together() {
    for threads in [2, 3, 8] {
        let crew = Crew::new(threads - 1, 0);
        for slice in [None, Some(PIECE)] {
            let work = Together::new(threads);
            let plan = plan(threads, slice);
            let finished = pinning::run(&plan, Some(&crew), &work, Watch::default()).unwrap();
            assert_eq!(pieces(&finished.report), vec![ROUNDS; threads]);
            let released =
                pinning::release(&finished.chunks, &allow(threads), Some(&crew), None, &work);
            assert_eq!(pieces(&released.report.unwrap()), vec![ROUNDS; threads]);
        }
    }
}

fn pieces(report: &Report) -> Vec<u64> {
    report.workers.iter().map(|worker| worker.pieces).collect()
}
