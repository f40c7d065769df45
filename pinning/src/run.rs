// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Running a [`Plan`]: all threads draw, the caller reports and waits, and a failed job is undone.
//!
//! ```text
//!  caller   ──► draw ─► run ─► tick ─┐...──► wait for helpers ──► join ──┬─► Finished { report, chunks }
//!  helper 1 ──► draw ─► run ─────────┘...──► leave                      └─► undo what the ledger holds ─► RunError
//! ```
//!
//! Where chunks have a second step, the caller takes it for each chunk that is ready, between pieces of its own and
//! while it waits ([`Sealing::Following`]), or for all of them after the join ([`Sealing::Last`]).

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;
use rustix::{
    process::getpriority_process,
    time::{ClockId, clock_gettime},
};

use crate::{
    CancelToken, Chunk, Crew, Finished, LeftPinned, Limit, Plan, Priority, Report, RunError,
    RunErrorKind, Sealing, UndoFailure, Watch, Work, WorkerReport,
    bits::Bits,
    crew::{Lease, LeaseError},
    hand_out::{Hand, HandOut, Piece},
    ledger::Undoable,
    progress::Ticker,
    sync::{AtomicU64, Ordering},
    unwind::{Payload, halt_unwinding, message},
};

/// Does all of `plan` with `work`, on the calling thread and, where the plan has more than one, on helpers of `crew`.
///
/// Returns when every thread has left the work. Without a crew, with a crew that is busy or has no threads, and for a
/// plan of one thread everything happens on the calling thread.
///
/// Nothing is allocated by the engine while chunks are being done, so that a `run` may hold up page faults and
/// allocators of the process without the engine waiting for itself.
///
/// # Errors
/// [`RunError`] after the first failure in time, or a cancel; what had been completed is then undone, and what could
/// not be undone is listed.
///
/// # Panics
/// A panic of `work` or of the progress callback resumes here, after the undo.
pub fn run<W: Work>(
    plan: &Plan,
    crew: Option<&Crew>,
    work: &W,
    watch: Watch<'_>,
) -> Result<Finished, RunError<W::Error>> {
    let (lease, helpers, limited_by) = match helpers(plan, crew) {
        Ok(found) => found,
        Err(kind) => return Err(not_started(kind)),
    };
    let job = Running::new(plan, work, watch.cancel, helpers + 1);
    let mut ticker = Ticker::new(watch.progress, job.started, plan.size());
    let mut sealer = Sealer::default();
    match lease {
        Some(lease) if helpers > 0 => {
            lease.run(
                helpers,
                |worker| job.help(worker),
                || job.call(&mut ticker, &mut sealer),
            );
        }
        _ => job.call(&mut ticker, &mut sealer),
    }
    job.finish(limited_by, ticker, &sealer)
}

fn not_started<E>(kind: RunErrorKind) -> RunError<E> {
    RunError {
        kind,
        at: None,
        source: None,
        left_pinned: Vec::new(),
        chunks_undone: 0,
        report: None,
    }
}

type Helpers<'c> = (Option<Lease<'c>>, usize, Limit);

/// How many helpers the plan gets, and what bounds the threads then.
fn helpers<'c>(plan: &Plan, crew: Option<&'c Crew>) -> Result<Helpers<'c>, RunErrorKind> {
    let wanted = plan.threads().get() - 1;
    let Some(crew) = crew.filter(|_| wanted > 0) else {
        let limit = if wanted > 0 {
            Limit::MaxThreads
        } else {
            plan.limited_by()
        };
        return Ok((None, 0, limit));
    };
    match crew.lease() {
        Ok(lease) => {
            let helpers = wanted.min(crew.helpers());
            let limit = if helpers == wanted {
                plan.limited_by()
            } else if helpers == crew.helpers_wanted() {
                Limit::MaxThreads
            } else {
                Limit::ThreadsUnavailable
            };
            Ok((Some(lease), helpers, limit))
        }
        Err(LeaseError::Busy) => Ok((None, 0, Limit::Jobs)),
        Err(LeaseError::NoHelpers) => Ok((None, 0, Limit::ThreadsUnavailable)),
        Err(LeaseError::Reentered) => Err(RunErrorKind::Reentered),
    }
}

/// What stopped the job.
enum Failure<E> {
    Work(Chunk, E),
    Panic(Payload),
    Cancelled,
}

/// A job while its threads are at work.
struct Running<'a, W: Work> {
    plan: &'a Plan,
    work: &'a W,
    cancel: Option<&'a CancelToken>,
    hand_out: HandOut<'a>,
    started: Instant,
    done: CachePadded<AtomicU64>,
    sealed: CachePadded<AtomicU64>,
    failure: Mutex<Option<Failure<W::Error>>>,
    workers: Box<[Mutex<WorkerReport>]>,
    /// Helpers that have not left yet.
    helping: Mutex<usize>,
    /// A helper left, or made a chunk ready to be sealed.
    news: Condvar,
}

/// What the calling thread alone knows of sealing.
#[derive(Default)]
struct Sealer {
    /// All cells below are sealed.
    low: u32,
    /// In `Work::seal`.
    time: Duration,
    /// From the start until everything was run.
    ran: Duration,
}

impl<'a, W: Work> Running<'a, W> {
    fn new(plan: &'a Plan, work: &'a W, cancel: Option<&'a CancelToken>, workers: usize) -> Self {
        Self {
            plan,
            work,
            cancel,
            hand_out: HandOut::new(plan, workers),
            started: Instant::now(),
            done: CachePadded::new(AtomicU64::new(0)),
            failure: Mutex::new(None),
            workers: (0..workers).map(|_| Mutex::default()).collect(),
            helping: Mutex::new(workers - 1),
            news: Condvar::new(),
            sealed: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// The calling thread's part.
    fn call(&self, ticker: &mut Ticker<'_>, sealer: &mut Sealer) {
        let follows = self.plan.sealing() == Sealing::Following;
        self.work_through(0, |job| {
            job.tick(ticker);
            if follows {
                job.seal_ready(sealer, ticker);
            }
        });
        loop {
            if follows {
                self.seal_ready(sealer, ticker);
            }
            let helping = lock(&self.helping);
            if *helping == 0 {
                break;
            }
            // Looked at under the lock that helpers take before they notify: no news are missed.
            if !follows || self.to_seal(sealer).is_none() {
                let (guard, _) = self
                    .news
                    .wait_timeout(helping, Watch::INTERVAL)
                    .unwrap_or_else(PoisonError::into_inner);
                drop(guard);
            }
            self.tick(ticker);
        }
        sealer.ran = self.started.elapsed();
        self.seal_ready(sealer, ticker);
    }

    /// A cell that can be sealed now, unless the job stops.
    fn to_seal(&self, sealer: &Sealer) -> Option<u32> {
        let (ready, sealed) = (self.hand_out.ready.as_ref()?, self.sealed_cells()?);
        let cell = ready.next(sealed, sealer.low)?;
        (!self.hand_out.stopped()).then_some(cell)
    }

    fn sealed_cells(&self) -> Option<&Bits> {
        self.hand_out.ledger.sealed.as_ref()
    }

    /// Seals all chunks that are ready; only on the calling thread.
    fn seal_ready(&self, sealer: &mut Sealer, ticker: &mut Ticker<'_>) {
        while let Some(cell) = self.to_seal(sealer) {
            if self.cancel.is_some_and(CancelToken::is_cancelled) {
                return self.fail(Failure::Cancelled);
            }
            let chunk = self.plan.layout().chunk(cell, 1);
            let began = Instant::now();
            match halt_unwinding(|| self.work.seal(chunk)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return self.fail(Failure::Work(chunk, error)),
                Err(payload) => return self.fail(Failure::Panic(payload)),
            }
            sealer.time += began.elapsed();
            if let Some(sealed) = self.sealed_cells() {
                sealed.insert(cell);
                while sealer.low < self.plan.layout().cells() && sealed.contains(sealer.low) {
                    sealer.low += 1;
                }
            }
            // Relaxed: as for `done`.
            self.sealed.fetch_add(chunk.size(), Ordering::Relaxed);
            self.tick(ticker);
        }
    }

    /// A helper's part.
    fn help(&self, worker: usize) {
        let _leaving = Leaving(self);
        self.work_through(worker, |_| {});
    }

    /// Does pieces until there are none, or the job stops; `after_each` one on the same thread.
    fn work_through(&self, worker: usize, mut after_each: impl FnMut(&Self)) {
        let mut hand = Hand::new(worker, self.started.elapsed());
        let mut mine = WorkerReport::default();
        let cpu_before = cpu_time();
        while let Some(piece) = self.next(&mut hand) {
            let began = Instant::now();
            if !self.run_piece(&piece, worker) {
                break;
            }
            let bytes = piece.chunk.size();
            self.hand_out.pace.measured(worker, bytes, began.elapsed());
            mine.bytes += bytes;
            mine.pieces += 1;
            mine.taken_over += u64::from(piece.taken_over);
            after_each(self);
        }
        self.hand_out.pace.left(worker);
        mine.cpu_time = cpu_time().saturating_sub(cpu_before);
        mine.nice = getpriority_process(None).unwrap_or(0);
        *lock(&self.workers[worker]) = mine;
    }

    fn next(&self, hand: &mut Hand) -> Option<Piece> {
        if self.cancel.is_some_and(CancelToken::is_cancelled) && !self.all_done() {
            self.fail(Failure::Cancelled);
        }
        self.hand_out.next(hand)
    }

    /// Whether the piece is done; if not, the job stops.
    fn run_piece(&self, piece: &Piece, worker: usize) -> bool {
        match halt_unwinding(|| self.work.run(piece.chunk, worker)) {
            Ok(Ok(())) => {
                let ready = self.hand_out.done(piece);
                if ready && self.plan.sealing() == Sealing::Following && worker != 0 {
                    // Under the lock, so that the caller is either before its look at what is ready, or waiting.
                    let _helping = lock(&self.helping);
                    self.news.notify_one();
                }
                // Relaxed: a sum for the progress display and the report, which is made after the join.
                self.done.fetch_add(piece.chunk.size(), Ordering::Relaxed);
                return true;
            }
            Ok(Err(error)) => self.fail(Failure::Work(piece.chunk, error)),
            Err(payload) => self.fail(Failure::Panic(payload)),
        }
        false
    }

    /// Keeps the first failure in time and stops the job.
    fn fail(&self, failure: Failure<W::Error>) {
        lock(&self.failure).get_or_insert(failure);
        self.hand_out.stop();
    }

    fn tick(&self, ticker: &mut Ticker<'_>) {
        if let Err(payload) = halt_unwinding(|| ticker.tick(|| self.done_bytes())) {
            self.fail(Failure::Panic(payload));
        }
    }

    /// Where chunks have a second step, each step counts for half.
    fn done_bytes(&self) -> u64 {
        // Relaxed: pairs with the additions in `run_piece` and `seal_ready`.
        let run = self.done.load(Ordering::Relaxed);
        match self.plan.sealing() {
            Sealing::None => run,
            _ => run / 2 + self.sealed.load(Ordering::Relaxed).div_ceil(2),
        }
    }

    fn all_done(&self) -> bool {
        self.done_bytes() == self.plan.size()
    }

    /// After the join: the outcome, with everything undone unless the job was completed.
    fn finish(
        self,
        limited_by: Limit,
        mut ticker: Ticker<'_>,
        sealer: &Sealer,
    ) -> Result<Finished, RunError<W::Error>> {
        let time = self.started.elapsed();
        if lock(&self.failure).is_none() {
            // A callback that panics here still gets its job undone.
            if let Err(payload) = halt_unwinding(|| ticker.report(self.done_bytes())) {
                self.fail(Failure::Panic(payload));
            }
        }
        let failure = lock(&self.failure).take();
        let report = self.report(limited_by, time, sealer);
        let Some(failure) = failure else {
            let chunks = self.hand_out.ledger.completed().collect();
            return Ok(Finished { report, chunks });
        };
        let (chunks_undone, left_pinned) = self.undo();
        let (kind, at, source) = match failure {
            Failure::Work(chunk, error) => (RunErrorKind::Work, Some(chunk), Some(error)),
            Failure::Cancelled => (RunErrorKind::Cancelled, None, None),
            Failure::Panic(payload) => std::panic::resume_unwind(payload),
        };
        Err(RunError {
            kind,
            at,
            source,
            left_pinned,
            chunks_undone,
            report: Some(Box::new(report)),
        })
    }

    fn report(&self, limited_by: Limit, time: Duration, sealer: &Sealer) -> Report {
        let sizes = || self.hand_out.ledger.completed().map(|chunk| chunk.size());
        Report {
            bytes: self.done_bytes(),
            threads: self.workers.len(),
            limited_by,
            helpers_wanted: self.plan.threads().get() - 1,
            helpers_started: self.workers.len() - 1,
            priority: Priority::SmallChunks,
            chunk_bytes: (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0)),
            chunks: sizes().count() as u64,
            time,
            run_time: match self.plan.sealing() {
                Sealing::None => time,
                _ => sealer.ran,
            },
            seal_time: sealer.time,
            workers: self.workers.iter().map(|worker| *lock(worker)).collect(),
        }
    }

    /// Takes back what the ledger holds; says how many chunks that were, and what is left.
    fn undo(&self) -> (u64, Vec<LeftPinned<W::Error>>) {
        let (mut undone, mut left) = (0, Vec::new());
        for undoable in self.hand_out.ledger.to_undo() {
            let (chunk, whole) = match undoable {
                Undoable::Whole(chunk) => (chunk, true),
                Undoable::Part(chunk) => (chunk, false),
            };
            let reason = match halt_unwinding(|| self.work.undo(chunk)) {
                Ok(Ok(())) => {
                    undone += u64::from(whole);
                    continue;
                }
                Ok(Err(error)) => UndoFailure::Failed(error),
                Err(payload) => UndoFailure::Panicked(message(&payload)),
            };
            left.push(LeftPinned { chunk, reason });
        }
        (undone, left)
    }
}

/// Counts a helper out when it is dropped: the caller waits for that, whatever has happened to the helper.
struct Leaving<'a, 'j, W: Work>(&'a Running<'j, W>);

impl<W: Work> Drop for Leaving<'_, '_, W> {
    fn drop(&mut self) {
        *lock(&self.0.helping) -= 1;
        self.0.news.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CPU time that the calling thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
