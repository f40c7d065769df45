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

use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use rustix::{
    thread::sched_yield,
    time::{ClockId, clock_gettime},
};

use crate::{
    CancelToken, Chunk, Crew, Finished, Helper, LeftPinned, Limit, Plan, Report, RunError,
    RunErrorKind, Sealing, UndoFailure, Watch, Work, WorkerReport,
    crew::{Lease, LeaseError, Member, run_on},
    desk::Desk,
    hand_out::{Hand, HandOut, Piece},
    jobs::Share,
    ledger::Undoable,
    record::Record,
    rounds::{Masks, Rounds},
    sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock},
    task::{Stat, SystemCallFilters},
    turn::Turn,
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
/// A panic of `work`, or of what `watch` calls, resumes here, after the undo.
pub fn run<W: Work>(
    plan: &Plan,
    crew: Option<&Crew>,
    work: &W,
    watch: Watch<'_>,
) -> Result<Finished, RunError<W::Error>> {
    let (mut lease, helpers, mut limited_by) = match helpers(plan, crew) {
        Ok(found) => found,
        Err(kind) => return Err(not_started(kind)),
    };
    let workers = helpers + 1;
    let share = watch.jobs.map(|jobs| jobs.join(plan.budget(), workers));
    let threads = share.as_ref().map_or(workers, Share::threads);
    if threads < workers {
        limited_by = Limit::Jobs;
    }
    let members = lease.as_ref().map_or(&[][..], |lease| lease.members);
    let masks = lease.as_mut().map_or_else(Masks::default, |lease| {
        let masks = plan.places().masks(lease.mask());
        if !masks.is_empty() {
            lease.scatter();
        }
        masks
    });
    let pool = lease.as_ref().map(|lease| lease.pool);
    let job = Running::new(
        plan,
        work,
        watch.cancel,
        (members, masks),
        (threads, workers),
    );
    let begin = (job.started, plan.size());
    let mut rounds = Rounds::new(
        watch,
        begin,
        lease,
        share,
        (threads, workers),
        job.caller_nice,
    );
    match pool {
        Some(pool) if helpers > 0 => {
            let help = |worker, member| job.help(worker, member);
            run_on(pool, helpers, help, || job.call(&mut rounds));
        }
        _ => job.call(&mut rounds),
    }
    rounds.done();
    job.finish(limited_by, rounds)
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
pub(crate) enum Failure<E> {
    Work(Chunk, E),
    Panic(Payload),
    Cancelled,
}

/// A job while its threads are at work.
pub(crate) struct Running<'a, W: Work> {
    pub(crate) plan: &'a Plan,
    pub(crate) work: &'a W,
    cancel: Option<&'a CancelToken>,
    pub(crate) hand_out: HandOut<'a>,
    pub(crate) started: Instant,
    pub(crate) turn: Turn,
    members: &'a [Member],
    caller_nice: i32,
    /// Of helpers that do not simply have the caller's; locked while a helper or the caller applies one.
    masks: Mutex<Masks>,
    done: CachePadded<AtomicU64>,
    pub(crate) sealed: CachePadded<AtomicU64>,
    failure: Mutex<Option<Failure<W::Error>>>,
    desks: Box<[CachePadded<Desk>]>,
    reports: Box<[Mutex<WorkerReport>]>,
    /// Helpers that have not left yet.
    helping: Mutex<usize>,
    /// A helper left, or made a chunk ready to be sealed.
    news: Condvar,
}

impl<'a, W: Work> Running<'a, W> {
    fn new(
        plan: &'a Plan,
        work: &'a W,
        cancel: Option<&'a CancelToken>,
        (members, masks): (&'a [Member], Masks),
        (threads, workers): (usize, usize),
    ) -> Self {
        Self {
            plan,
            work,
            cancel,
            hand_out: HandOut::new(plan, workers),
            started: Instant::now(),
            turn: Turn::new(threads),
            members,
            caller_nice: Stat::of_caller().map_or(0, |stat| stat.nice),
            masks: Mutex::new(masks),
            done: CachePadded::new(AtomicU64::new(0)),
            failure: Mutex::new(None),
            desks: (0..workers)
                .map(|_| CachePadded::new(Desk::new()))
                .collect(),
            reports: (0..workers).map(|_| Mutex::default()).collect(),
            helping: Mutex::new(workers - 1),
            news: Condvar::new(),
            sealed: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// How many threads there are, the caller included.
    pub(crate) fn workers(&self) -> usize {
        self.desks.len()
    }

    pub(crate) fn desk(&self, worker: usize) -> &Desk {
        &self.desks[worker]
    }

    /// The desks of all helpers.
    pub(crate) fn helpers(&self) -> impl Iterator<Item = &Desk> + Clone {
        self.desks[1..].iter().map(|desk| &**desk)
    }

    pub(crate) fn masks(&self) -> MutexGuard<'_, Masks> {
        lock(&self.masks)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(CancelToken::is_cancelled)
    }

    /// The calling thread's part.
    fn call(&self, rounds: &mut Rounds<'_, '_>) {
        let closing = Closing(&self.turn);
        self.work_through(0, self.caller_nice, |job| rounds.after_piece(job));
        // All is begun, or the job stops: who waits for his turn waits for nothing.
        drop(closing);
        rounds.wait(self);
    }

    /// Waits until a helper has news, for a tenth of a second at most, unless `now` holds. Returns whether helpers are
    /// still at work.
    pub(crate) fn wait_for_news(&self, now: impl FnOnce() -> bool) -> bool {
        let helping = lock(&self.helping);
        if *helping == 0 {
            return false;
        }
        // Looked at under the lock that helpers take before they notify: no news are missed.
        if !now() {
            drop(self.news.wait_timeout(helping, Watch::INTERVAL));
        }
        true
    }

    /// A helper's part.
    fn help(&self, worker: usize, member: usize) {
        let _leaving = Leaving(self, worker);
        self.sit_down(worker, member);
        let helper = Helper {
            worker,
            filters: self
                .members
                .get(member)
                .map_or_else(SystemCallFilters::of_caller, |member| member.filters),
        };
        match halt_unwinding(|| self.work.enter(&helper)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(payload) => return self.fail(Failure::Panic(payload)),
        }
        let nice = self.members.get(member).map_or(0, |member| member.nice);
        self.work_through(worker, nice, |_| {});
    }

    /// Takes the place of a helper, and the mask that goes with it.
    fn sit_down(&self, worker: usize, member: usize) {
        // Under the lock, so that the caller, when its own mask changes, either finds this helper or is found by it.
        let masks = lock(&self.masks);
        self.desks[worker].enter(member);
        if let (Some(mask), Some(member)) = (masks.get(worker), self.members.get(member)) {
            // Where it is refused the caller's mask stays, which holds all of these CPUs.
            let _ = mask.apply(member.thread);
        }
    }

    /// Does pieces until there are none, or the job stops; `after_each` one on the same thread.
    fn work_through(&self, worker: usize, nice: i32, mut after_each: impl FnMut(&Self)) {
        let home = self.plan.places().home(worker);
        let mut hand = Hand::new(worker, home, self.started.elapsed());
        let mut mine = WorkerReport {
            nice,
            node: self.plan.node_of(worker),
            ..WorkerReport::default()
        };
        let niced = worker > 0 && nice > self.caller_nice;
        let cpu_before = cpu_time();
        while self.has_turn(worker, &mut hand) {
            if niced && !self.gives_way(&mut hand) {
                break;
            }
            let Some(piece) = self.next(&mut hand) else {
                break;
            };
            let began = self.started.elapsed();
            self.desks[worker].begin(&piece.chunk, began);
            let done = self.run_piece(&piece, worker);
            self.desks[worker].end();
            if !done {
                break;
            }
            let bytes = piece.chunk.size();
            let time = self.started.elapsed().saturating_sub(began);
            self.hand_out.pace.measured(worker, bytes, time);
            hand.record.did(bytes, began + time);
            mine.bytes += bytes;
            mine.pieces += 1;
            mine.taken_over += u64::from(piece.taken_over);
            after_each(self);
        }
        self.hand_out.pace.left(worker);
        mine.cpu_time = cpu_time().saturating_sub(cpu_before);
        *lock(&self.reports[worker]) = mine;
    }

    /// Waits for its turn, where more threads were planned than may work now. Returns whether there is one to come.
    fn has_turn(&self, worker: usize, hand: &mut Hand) -> bool {
        if worker == 0 || self.turn.may_work(worker) {
            return true;
        }
        // Nobody shall count on its rate meanwhile.
        self.hand_out.pace.left(worker);
        let goes_on = self.turn.wait(worker);
        hand.record = Record::new(self.started.elapsed());
        goes_on
    }

    /// Lets others have the CPU before a piece is begun. Returns whether a niced helper still gets enough of it.
    ///
    /// A piece then begins at the beginning of a slice of CPU time: a thread that is preempted in the middle of one holds
    /// it, and `mmap_lock` with it, until the scheduler comes back to it, which takes a fifth of a second beside a busy
    /// thread that is not niced.
    fn gives_way(&self, hand: &mut Hand) -> bool {
        let before = self.started.elapsed();
        sched_yield();
        let now = self.started.elapsed();
        hand.record.gave_way(now.saturating_sub(before), now);
        !hand.record.is_starved()
    }

    fn next(&self, hand: &mut Hand) -> Option<Piece> {
        if self.is_cancelled() && !self.all_done() {
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
    pub(crate) fn fail(&self, failure: Failure<W::Error>) {
        lock(&self.failure).get_or_insert(failure);
        self.hand_out.stop();
    }

    /// Where chunks have a second step, each step counts for half.
    pub(crate) fn done_bytes(&self) -> u64 {
        // Relaxed: pairs with the additions in `run_piece` and `Rounds::seal_ready`.
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
        mut rounds: Rounds<'_, '_>,
    ) -> Result<Finished, RunError<W::Error>> {
        let time = self.started.elapsed();
        if lock(&self.failure).is_none() {
            rounds.last_report(&self);
        }
        let failure = lock(&self.failure).take();
        let report = self.report(limited_by, time, &rounds);
        let Some(failure) = failure else {
            let mut chunks: Vec<Chunk> = self.hand_out.ledger.completed().collect();
            // Ranges on different nodes are handed out side by side.
            chunks.sort_by_key(|chunk| (chunk.range(), chunk.start()));
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

    fn report(&self, limited_by: Limit, time: Duration, rounds: &Rounds<'_, '_>) -> Report {
        let sizes = || self.hand_out.ledger.completed().map(|chunk| chunk.size());
        Report {
            bytes: self.done_bytes(),
            threads: rounds.threads.1,
            fewest_threads: rounds.threads.0,
            limited_by,
            bounds: self.plan.bounds().to_vec(),
            helpers_wanted: self.plan.threads().get() - 1,
            helpers_started: self.workers() - 1,
            priority: rounds.priority(),
            chunk_bytes: (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0)),
            chunks: sizes().count() as u64,
            time,
            run_time: match self.plan.sealing() {
                Sealing::None => time,
                _ => rounds.sealer.ran,
            },
            seal_time: rounds.sealer.time,
            workers: self.reports.iter().map(|report| *lock(report)).collect(),
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
struct Leaving<'a, 'j, W: Work>(&'a Running<'j, W>, usize);

impl<W: Work> Drop for Leaving<'_, '_, W> {
    fn drop(&mut self) {
        let Self(job, worker) = self;
        job.desks[*worker].leave();
        *lock(&job.helping) -= 1;
        job.news.notify_one();
    }
}

/// Sends home who waits for his turn when it is dropped: the join of the helpers must not wait for them, whatever has
/// happened to the caller.
struct Closing<'t>(&'t Turn);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// CPU time that the calling thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
