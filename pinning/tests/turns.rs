// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Limits that change while a job runs, and jobs that share them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    num::{NonZeroU64, NonZeroUsize},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use pinning::{
    Allowance, Budget, Chunk, Constraints, Crew, Job, Jobs, Limit, Plan, Range, Watch, Work,
};

const MIB: u64 = 1 << 20;

fn allow(threads: usize) -> Allowance {
    Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "cfs-quota",
    }
}

fn plan(mib: u64, threads: usize) -> Plan {
    let mut job = Job::new([Range::new(0, mib * MIB, 4096).unwrap()]).unwrap();
    job.min_chunk = MIB;
    let constraints = Constraints {
        slice: NonZeroU64::new(MIB),
        ..Constraints::default()
    };
    Plan::new(&job, &constraints, &allow(threads)).unwrap()
}

/// Which worker began a piece, or what the budget had answered just before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Piece(usize),
    Allowed(usize),
}

/// Takes a while for each piece, and writes down who did it.
#[derive(Default)]
struct Diary {
    events: Mutex<Vec<Event>>,
}

impl Work for Diary {
    type Error = Infallible;

    fn run(&self, _: Chunk, worker: usize) -> Result<(), Infallible> {
        self.events.lock().unwrap().push(Event::Piece(worker));
        thread::sleep(Duration::from_millis(2));
        Ok(())
    }

    fn undo(&self, _: Chunk) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Answers one number after the other, and the last one for ever.
struct Answers<'d> {
    answers: RefCell<Vec<usize>>,
    diary: &'d Diary,
    asked: Cell<usize>,
}

impl Budget for Answers<'_> {
    fn allowance(&self) -> Allowance {
        let mut answers = self.answers.borrow_mut();
        let answer = if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0]
        };
        self.asked.set(self.asked.get() + 1);
        let mut events = self.diary.events.lock().unwrap();
        events.push(Event::Allowed(answer));
        allow(answer)
    }
}

#[test]
fn helpers_retire_when_the_quota_is_lowered_and_come_back_up_to_the_plan() {
    let diary = Diary::default();
    let budget = Answers {
        answers: vec![1, 1, 9].into(),
        diary: &diary,
        asked: Cell::new(0),
    };
    let crew = Crew::new(3, 0);
    let watch = Watch {
        budget: Some(&budget),
        ..Watch::default()
    };
    let finished = pinning::run(&plan(640, 4), Some(&crew), &diary, watch).unwrap();
    let report = &finished.report;
    assert_eq!(
        (report.threads, report.fewest_threads, report.bytes),
        (4, 1, 640 * MIB)
    );
    assert!(
        budget.asked.get() >= 3,
        "asked {} times",
        budget.asked.get()
    );

    let events = diary.events.into_inner().unwrap();
    let mut parts = events.split(|event| matches!(event, Event::Allowed(_)));
    let helped = |part: &[Event]| part.iter().filter(|&&e| e != Event::Piece(0)).count();
    let (before, low, still_low) = (
        parts.next().unwrap(),
        parts.next().unwrap(),
        parts.next().unwrap(),
    );
    assert!(helped(before) > 3, "all helpers work at first");
    assert!(
        helped(low) <= 3,
        "at most the piece that each had begun: {low:?}"
    );
    assert_eq!(helped(still_low), 0, "nobody but the caller");
    assert!(parts.map(helped).sum::<usize>() > 3, "they come back");
    let pieces = events.iter().filter(|e| matches!(e, Event::Piece(_)));
    assert_eq!(pieces.count(), 640, "every slice once");
}

#[test]
fn a_job_whose_helpers_have_all_retired_ends() {
    let diary = Diary::default();
    let budget = Answers {
        answers: vec![1].into(),
        diary: &diary,
        asked: Cell::new(0),
    };
    let crew = Crew::new(3, 0);
    for _ in 0..2 {
        let watch = Watch {
            budget: Some(&budget),
            ..Watch::default()
        };
        let finished = pinning::run(&plan(320, 4), Some(&crew), &diary, watch).unwrap();
        assert_eq!(finished.report.bytes, 320 * MIB);
    }
}

/// Counts who is at work at the same time.
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Work for Crowd {
    type Error = Infallible;

    fn run(&self, _: Chunk, _: usize) -> Result<(), Infallible> {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        thread::sleep(Duration::from_millis(1));
        self.now.fetch_sub(1, SeqCst);
        Ok(())
    }

    fn undo(&self, _: Chunk) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn eight_jobs_at_once_stay_within_the_budget_and_all_finish() {
    const JOBS: usize = 8;
    const BUDGET: usize = 4;
    let jobs = Jobs::new();
    let crowd = Crowd {
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    };
    let together = Barrier::new(JOBS);
    let reports: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = (0..JOBS)
            .map(|_| {
                scope.spawn(|| {
                    let crew = Crew::new(BUDGET - 1, 0);
                    let watch = Watch {
                        jobs: Some(&jobs),
                        ..Watch::default()
                    };
                    together.wait();
                    pinning::run(&plan(256, BUDGET), Some(&crew), &crowd, watch).unwrap()
                })
            })
            .collect();
        started
            .into_iter()
            .map(|job| job.join().unwrap().report)
            .collect()
    });
    let most = crowd.most.load(SeqCst);
    assert!(most < BUDGET + JOBS, "{most} threads at once");
    assert_eq!(jobs.working(), 0, "every share was given back");
    for report in &reports {
        assert_eq!(report.bytes, 256 * MIB);
        assert_eq!(
            report.helpers_started,
            BUDGET - 1,
            "they wait for their turn"
        );
    }
    let late = |report: &&pinning::Report| report.fewest_threads == 1;
    assert!(
        reports.iter().filter(late).count() >= JOBS - 1,
        "{reports:?}"
    );
    let named = reports
        .iter()
        .filter(|report| report.limited_by == Limit::Jobs);
    assert!(named.count() >= JOBS - BUDGET, "{reports:?}");
}
