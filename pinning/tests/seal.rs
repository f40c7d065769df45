// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The second step of a chunk: taken by the calling thread, once, after all of the chunk is run; and the undo of what
//! was sealed and of nothing else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    num::{NonZeroU64, NonZeroUsize},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
};

use pinning::{
    Allowance, CancelToken, Chunk, Constraints, Crew, Finished, Job, Plan, Range, RunError,
    RunErrorKind, Sealing, Watch, Work,
};
use thiserror::Error;

const MIB: u64 = 1 << 20;

#[derive(Debug, Error, PartialEq, Eq)]
#[error("told to fail")]
struct Told;

/// What a work was asked to do, and what it does then.
struct Steps {
    caller: ThreadId,
    total: u64,
    run: Mutex<BTreeMap<u64, u64>>,
    sealed: Mutex<Vec<Chunk>>,
    undone: Mutex<Vec<Chunk>>,
    bytes_run: AtomicU64,
    sealing: Sealing,
    /// Address whose run fails, and number of the seal that fails or panics.
    run_fails_at: Option<u64>,
    seal_fails: Option<usize>,
    seal_panics: Option<usize>,
    cancel_at_seal: Option<(usize, CancelToken)>,
}

impl Steps {
    fn new(plan: &Plan) -> Self {
        Self {
            caller: thread::current().id(),
            total: plan.size(),
            run: Mutex::default(),
            sealed: Mutex::default(),
            undone: Mutex::default(),
            bytes_run: AtomicU64::new(0),
            sealing: plan.sealing(),
            run_fails_at: None,
            seal_fails: None,
            seal_panics: None,
            cancel_at_seal: None,
        }
    }

    /// Bytes of `chunk` that were run.
    fn run_of(&self, chunk: &Chunk) -> u64 {
        let run = self.run.lock().unwrap();
        run.range(chunk.start()..chunk.end())
            .map(|(_, size)| size)
            .sum()
    }

    fn sealed(&self) -> Vec<Chunk> {
        self.sealed.lock().unwrap().clone()
    }

    fn undone(&self) -> Vec<Chunk> {
        self.undone.lock().unwrap().clone()
    }

    /// Every sealed chunk is undone and nothing else.
    fn assert_undone_is_sealed(&self) {
        let by_address = |mut chunks: Vec<Chunk>| {
            chunks.sort_by_key(Chunk::start);
            chunks
        };
        assert_eq!(by_address(self.undone()), by_address(self.sealed()));
    }
}

impl Work for Steps {
    type Error = Told;

    fn run(&self, chunk: Chunk, _worker: usize) -> Result<(), Told> {
        if self
            .run_fails_at
            .is_some_and(|at| (chunk.start()..chunk.end()).contains(&at))
        {
            return Err(Told);
        }
        let before = self.run.lock().unwrap().insert(chunk.start(), chunk.size());
        assert_eq!(before, None, "{chunk} is run twice");
        self.bytes_run.fetch_add(chunk.size(), SeqCst);
        Ok(())
    }

    fn seal(&self, chunk: Chunk) -> Result<(), Told> {
        assert_eq!(thread::current().id(), self.caller, "a helper seals");
        assert_eq!(self.run_of(&chunk), chunk.size(), "{chunk} is not run");
        if self.sealing == Sealing::Last {
            assert_eq!(self.bytes_run.load(SeqCst), self.total);
        }
        let number = self.sealed().len();
        if let Some((_, token)) = self.cancel_at_seal.as_ref().filter(|(at, _)| *at == number) {
            token.cancel();
        }
        assert_ne!(self.seal_panics, Some(number), "told to panic");
        if self.seal_fails == Some(number) {
            return Err(Told);
        }
        assert!(!self.sealed().contains(&chunk), "{chunk} is sealed twice");
        self.sealed.lock().unwrap().push(chunk);
        Ok(())
    }

    fn undo(&self, chunk: Chunk) -> Result<(), Told> {
        self.undone.lock().unwrap().push(chunk);
        Ok(())
    }
}

/// Two ranges that no cut agrees with, in chunks of 4 MiB.
fn plan(sealing: Sealing, slice: Option<u64>, threads: usize) -> Plan {
    let ranges = [
        Range::new(3 * MIB, 61 * MIB, 4096).unwrap(),
        Range::new(1 << 40, 5 * MIB + 4096, 4096).unwrap(),
    ];
    let mut job = Job::new(ranges).unwrap();
    job.min_chunk = 4 * MIB;
    job.max_chunk = 4 * MIB;
    let constraints = Constraints {
        slice: slice.and_then(NonZeroU64::new),
        sealing,
        ..Constraints::default()
    };
    let budget = Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "test",
    };
    Plan::new(&job, &constraints, &budget).unwrap()
}

fn run(plan: &Plan, work: &Steps, watch: Watch<'_>) -> Result<Finished, RunError<Told>> {
    let crew = Crew::new(plan.threads().get() - 1, 0);
    pinning::run(plan, Some(&crew), work, watch)
}

/// Every kind of plan that seals.
fn plans() -> impl Iterator<Item = Plan> {
    [Sealing::Following, Sealing::Last]
        .into_iter()
        .flat_map(|sealing| [None, Some(MIB)].map(|slice| (sealing, slice)))
        .flat_map(|(sealing, slice)| [1, 2, 4].map(|threads| plan(sealing, slice, threads)))
}

#[test]
fn every_chunk_is_sealed_once_after_it_is_run() {
    for plan in plans() {
        let work = Steps::new(&plan);
        let mut last = 0;
        let mut progress = |progress: pinning::Progress| {
            assert!(progress.done >= last, "{progress:?} after {last}");
            last = progress.done;
        };
        let watch = Watch {
            progress: Some(&mut progress),
            ..Watch::default()
        };
        let finished = run(&plan, &work, watch).unwrap();
        let mut sealed = work.sealed();
        sealed.sort_by_key(Chunk::start);
        assert_eq!(finished.chunks, sealed, "{plan:?}");
        let bytes: u64 = sealed.iter().map(Chunk::size).sum();
        assert_eq!(bytes, plan.size());
        assert_eq!(finished.report.bytes, plan.size());
        assert_eq!(last, plan.size());
        assert!(finished.report.run_time <= finished.report.time);
        assert!(work.undone().is_empty());
    }
}

#[test]
fn a_seal_that_fails_has_the_sealed_chunks_undone_and_no_others() {
    for plan in plans() {
        for number in 0..plan.cells() {
            let mut work = Steps::new(&plan);
            work.seal_fails = Some(number);
            let error = run(&plan, &work, Watch::default()).unwrap_err();
            assert_eq!(error.kind, RunErrorKind::Work);
            assert_eq!(error.source, Some(Told));
            assert!(!work.sealed().contains(&error.at.unwrap()));
            assert_eq!(work.sealed().len(), number, "{plan:?}");
            assert_eq!(error.chunks_undone, number as u64);
            assert!(error.left_pinned.is_empty());
            work.assert_undone_is_sealed();
        }
    }
}

#[test]
fn a_run_that_fails_has_the_sealed_chunks_undone_and_no_others() {
    for plan in plans() {
        for at in (3 * MIB..64 * MIB).step_by(usize::try_from(4 * MIB).unwrap()) {
            let mut work = Steps::new(&plan);
            work.run_fails_at = Some(at);
            let error = run(&plan, &work, Watch::default()).unwrap_err();
            assert_eq!(error.source, Some(Told));
            let failed = error.at.unwrap();
            assert!((failed.start()..failed.end()).contains(&at));
            if plan.sealing() == Sealing::Last {
                assert!(work.sealed().is_empty());
            }
            assert_eq!(error.chunks_undone, work.sealed().len() as u64);
            work.assert_undone_is_sealed();
        }
    }
}

#[test]
fn a_panic_in_a_seal_resumes_after_the_undo() {
    for plan in plans() {
        let mut work = Steps::new(&plan);
        work.seal_panics = Some(3);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            run(&plan, &work, Watch::default()).map(drop)
        }));
        assert!(outcome.is_err(), "{plan:?}");
        assert_eq!(work.sealed().len(), 3);
        work.assert_undone_is_sealed();
    }
}

#[test]
fn a_cancel_between_two_seals_undoes_them() {
    for plan in plans() {
        let token = CancelToken::new();
        let mut work = Steps::new(&plan);
        work.cancel_at_seal = Some((2, token.clone()));
        let watch = Watch {
            cancel: Some(&token),
            ..Watch::default()
        };
        let error = run(&plan, &work, watch).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::Cancelled);
        assert_eq!(work.sealed().len(), 3, "the one at work was completed");
        assert_eq!(error.chunks_undone, 3);
        work.assert_undone_is_sealed();
    }
}

#[test]
fn chunks_are_large_where_sealing_comes_last() {
    let mut job = Job::new([Range::new(0, 1 << 30, 4096).unwrap()]).unwrap();
    job.max_chunk = 256 * MIB;
    let budget = Allowance {
        threads: NonZeroUsize::new(8).unwrap(),
        limited_by: "test",
    };
    let cells = |sealing| {
        let constraints = Constraints {
            slice: NonZeroU64::new(2 * MIB),
            sealing,
            ..Constraints::default()
        };
        let plan = Plan::new(&job, &constraints, &budget).unwrap();
        assert_eq!(plan.threads().get(), 8, "slices keep all threads busy");
        plan.cells()
    };
    assert_eq!(cells(Sealing::Last), 4);
    assert_eq!(cells(Sealing::Following), 32);
}
