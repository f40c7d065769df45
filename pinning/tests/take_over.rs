// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A helper that crawls must not delay the job: it gets little, and what it has not begun is taken over.
//!
//! Time is counted in pieces of the caller, not in seconds: a helper that is 100 times slower is one whose piece
//! lasts until the caller has done 100 more of its own, or has nothing left to do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::{NonZeroU64, NonZeroUsize},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use fakes::{Event, FakeKernel};
use pinning::{Allowance, Constraints, Crew, Finished, Job, Plan, Range, Watch};

const PAGE: u64 = 4096;
const PIECES: u64 = 800;
const SLOWNESS: u64 = 100;
const WITHIN_PERCENT: u64 = 5;

/// Counts the caller's pieces and lets the helper's last as long as so many of them.
#[derive(Default)]
struct Clock {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    caller_pieces: u64,
    caller_bytes: u64,
    helper_bytes: u64,
    /// Caller pieces that a helper's piece would still have lasted when everything else was done.
    overtime: u64,
    helper_began: bool,
}

impl Clock {
    fn caller(&self, bytes: u64, total: u64) {
        let mut state = self.state.lock().unwrap();
        // The helper shall hold something from the very beginning: that is the case that hurts.
        while !state.helper_began {
            state = self.moved.wait(state).unwrap();
        }
        drop(state);
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(50) {
            std::hint::spin_loop();
        }
        let mut state = self.state.lock().unwrap();
        state.caller_pieces += 1;
        state.caller_bytes += bytes;
        debug_assert!(state.caller_bytes <= total);
        self.moved.notify_all();
    }

    fn helper(&self, bytes: u64, unit: u64, total: u64) {
        let mut state = self.state.lock().unwrap();
        state.helper_began = true;
        state.helper_bytes += bytes;
        self.moved.notify_all();
        let until = state.caller_bytes + SLOWNESS * bytes;
        while state.caller_bytes < until && state.caller_bytes + state.helper_bytes < total {
            state = self.moved.wait(state).unwrap();
        }
        let missing = until.saturating_sub(state.caller_bytes) / unit;
        state.overtime = state.overtime.max(missing);
    }
}

fn run(slice: Option<u64>) -> (Finished, Vec<Event>, u64, u64) {
    let total = PIECES * PAGE;
    let mut job = Job::new([Range::new(0, total, PAGE).unwrap()]).unwrap();
    job.min_chunk = if slice.is_some() { 16 * PAGE } else { PAGE };
    job.max_chunk = 64 * PAGE;
    let constraints = Constraints {
        slice: slice.and_then(NonZeroU64::new),
        ..Constraints::default()
    };
    let budget = Allowance {
        threads: NonZeroUsize::new(2).unwrap(),
        limited_by: "affinity",
    };
    let plan = Plan::new(&job, &constraints, &budget).unwrap();
    let crew = Crew::new(1, 0);
    let clock = Arc::new(Clock::default());
    let kernel = {
        let clock = Arc::clone(&clock);
        FakeKernel::new().with_hook(move |chunk, worker| match worker {
            0 => (0..chunk.size() / PAGE).for_each(|_| clock.caller(PAGE, total)),
            _ => clock.helper(chunk.size(), PAGE, total),
        })
    };
    let finished = pinning::run(&plan, Some(&crew), &kernel, Watch::default()).unwrap();
    assert_eq!(kernel.misuse(), []);
    assert_eq!(kernel.held(), [(0, total)]);
    let state = clock.state.lock().unwrap();
    (
        finished,
        kernel.events(),
        state.caller_pieces,
        state.overtime,
    )
}

/// Whether the job took at most 5 percent longer. What a worker deserves depends on measured rates, which a machine that
/// takes the CPU away from this test spoils: one good run of three will do.
fn within_5_percent(slice: Option<u64>) -> (Finished, Vec<Event>) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (finished, events, caller, overtime) = run(slice);
        if (caller + overtime) * 100 <= PIECES * (100 + WITHIN_PERCENT) {
            return (finished, events);
        }
        seen.push((caller, overtime));
    }
    panic!("pieces by the caller, and of waiting: {seen:?}; {PIECES} alone");
}

#[test]
fn a_helper_100_times_slower_costs_at_most_5_percent_when_work_is_divided() {
    let (finished, events) = within_5_percent(Some(PAGE));
    assert!(
        finished.report.workers[0].taken_over > 0,
        "the helper's chunk was begun first, the caller had to take slices of it over"
    );
    let by_helper = events
        .iter()
        .filter(|e| matches!(e, Event::Ran(_, 1)))
        .count();
    assert!(
        (1..=PIECES / 50).contains(&(by_helper as u64)),
        "{by_helper}"
    );
}

#[test]
fn a_helper_100_times_slower_costs_at_most_5_percent_when_a_chunk_is_one_call() {
    let (_, events) = within_5_percent(None);
    assert!(events.iter().any(|e| matches!(e, Event::Ran(_, 1))));
}
