// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Rounds`] of the calling thread: what it does for the job between its own pieces and while it waits.
//!
//! ```text
//!  after each piece, and every tenth of a second while it waits:
//!    progress ─► callback       chunks that are ready ─► seal
//!    budget, other jobs ─► Turn (who may work)       own CPU mask ─► helpers' masks
//!    desks ─► Alarm (who is stuck)                   out of work ─► OneByOne (who is raised)
//! ```

use std::time::{Duration, Instant};

use crate::{
    Alarm, Budget, Priority, Sealing, Stuck, Watch, Work,
    affinity::Mask,
    crew::Lease,
    desk::{Desk, Seat},
    jobs::Share,
    priority::OneByOne,
    progress::Ticker,
    run::{Failure, Running},
    sync::Ordering,
    task::{Stat, Wchan},
    unwind::halt_unwinding,
};

/// What only the calling thread knows and does.
pub(crate) struct Rounds<'w, 'c> {
    ticker: Ticker<'w>,
    pub(crate) sealer: Sealer,
    lease: Option<Lease<'c>>,
    share: Option<Share<'w>>,
    budget: Option<&'w dyn Budget>,
    alarm: Option<Alarm<'w>>,
    /// By worker: up to when it was told that it is stuck.
    told: Box<[Duration]>,
    raising: OneByOne,
    last_look: Instant,
    /// Fewest and most threads that were allowed to work.
    pub(crate) threads: (usize, usize),
}

/// What the calling thread knows of sealing.
#[derive(Debug, Default)]
pub(crate) struct Sealer {
    /// All cells below are sealed.
    low: u32,
    /// In `Work::seal`.
    pub(crate) time: Duration,
    /// From the start until everything was run.
    pub(crate) ran: Duration,
}

impl<'w, 'c> Rounds<'w, 'c> {
    /// Rounds for a job that starts with `threads` threads.
    pub(crate) fn new(
        watch: Watch<'w>,
        (started, size): (Instant, u64),
        lease: Option<Lease<'c>>,
        share: Option<Share<'w>>,
        (threads, workers): (usize, usize),
        nice: i32,
    ) -> Self {
        Self {
            ticker: Ticker::new(watch.progress, started, size),
            sealer: Sealer::default(),
            raising: OneByOne::new(lease.as_ref(), nice),
            lease,
            share,
            budget: watch.budget,
            alarm: watch.alarm,
            told: vec![Duration::ZERO; workers].into(),
            last_look: started,
            threads: (threads, threads),
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        self.raising.priority()
    }

    /// After a piece of the caller's own.
    pub(crate) fn after_piece<W: Work>(&mut self, job: &Running<'_, W>) {
        self.tick(job);
        self.look(job);
        if job.plan.sealing() == Sealing::Following {
            self.seal_ready(job);
        }
    }

    /// While helpers are at work and there is nothing left for the caller to begin.
    pub(crate) fn wait<W: Work>(&mut self, job: &Running<'_, W>) {
        let follows = job.plan.sealing() == Sealing::Following;
        loop {
            if follows {
                self.seal_ready(job);
            }
            if let Some(lease) = &self.lease {
                self.raising.next(lease.members, job.helpers());
            }
            if !job.wait_for_news(|| follows && self.to_seal(job).is_some()) {
                break;
            }
            self.tick(job);
            self.look(job);
        }
        self.sealer.ran = job.started.elapsed();
        self.seal_ready(job);
    }

    /// After all helpers have left.
    pub(crate) fn done(&mut self) {
        if let Some(lease) = &self.lease {
            self.raising.settle(lease.members);
        }
        self.share = None;
        self.lease = None;
    }

    /// The last report; a callback that panics still gets its job undone.
    pub(crate) fn last_report<W: Work>(&mut self, job: &Running<'_, W>) {
        if let Err(payload) = halt_unwinding(|| self.ticker.report(job.done_bytes())) {
            job.fail(Failure::Panic(payload));
        }
    }

    fn tick<W: Work>(&mut self, job: &Running<'_, W>) {
        if let Err(payload) = halt_unwinding(|| self.ticker.tick(|| job.done_bytes())) {
            job.fail(Failure::Panic(payload));
        }
    }

    /// Looks at everything that may have changed, if it is time to.
    fn look<W: Work>(&mut self, job: &Running<'_, W>) {
        if self.lease.is_none() || self.last_look.elapsed() < Watch::INTERVAL {
            return;
        }
        let looked = halt_unwinding(|| {
            self.follow_limits(job);
            self.follow_mask(job);
            self.watch_desks(job);
        });
        if let Err(payload) = looked {
            job.fail(Failure::Panic(payload));
        }
        self.last_look = Instant::now();
    }

    fn follow_limits<W: Work>(&mut self, job: &Running<'_, W>) {
        if self.budget.is_none() && self.share.is_none() {
            return;
        }
        let allowed = self
            .budget
            .map_or(job.plan.budget(), |budget| budget.allowance().threads);
        let workers = job.workers();
        let threads = match &mut self.share {
            Some(share) => share.adjust(allowed, workers),
            None => allowed.get().min(workers),
        };
        job.turn.allow(threads);
        self.threads = (self.threads.0.min(threads), self.threads.1.max(threads));
    }

    fn follow_mask<W: Work>(&mut self, job: &Running<'_, W>) {
        let Some(lease) = &mut self.lease else { return };
        let members = lease.members;
        let Some(present) = lease.changed_mask() else {
            return;
        };
        let mut masks = job.masks();
        *masks = job.plan.places().masks(present);
        for (index, member) in members.iter().enumerate() {
            let worker =
                (1..job.workers()).find(|&worker| job.desk(worker).seat() == Seat::Taken(index));
            let own = worker.and_then(|worker| masks.get(worker));
            // Refused where none of these CPUs is left to this process: the kernel has moved the thread by then.
            let _ = own.unwrap_or(present).apply(member.thread);
        }
    }

    fn watch_desks<W: Work>(&mut self, job: &Running<'_, W>) {
        let (Some(alarm), Some(lease)) = (&mut self.alarm, &self.lease) else {
            return;
        };
        let now = job.started.elapsed();
        for worker in 1..job.workers() {
            let desk = job.desk(worker);
            let Some((since, at)) = waited_for(desk) else {
                continue;
            };
            let told = &mut self.told[worker];
            if now.saturating_sub(since.max(*told)) < alarm.after {
                continue;
            }
            *told = now;
            let member = match desk.seat() {
                Seat::Taken(member) => lease.members.get(member),
                Seat::Absent | Seat::Left => None,
            };
            let thread = member.map(|member| member.thread);
            let wchan = thread.and_then(Wchan::of);
            (alarm.call)(&Stuck {
                worker,
                thread: thread.map_or(0, |thread| thread.as_raw_nonzero().get()),
                at,
                time: now.saturating_sub(since),
                state: thread.and_then(Stat::of).map(|stat| stat.state),
                wchan: wchan.as_ref().map(Wchan::name),
            });
        }
    }

    /// A cell that can be sealed now, unless the job stops.
    fn to_seal<W: Work>(&self, job: &Running<'_, W>) -> Option<u32> {
        let ledger = &job.hand_out.ledger;
        let (ready, sealed) = (job.hand_out.ready.as_ref()?, ledger.sealed.as_ref()?);
        let cell = ready.next(sealed, self.sealer.low)?;
        (!job.hand_out.stopped()).then_some(cell)
    }

    /// Seals all chunks that are ready.
    fn seal_ready<W: Work>(&mut self, job: &Running<'_, W>) {
        while let Some(cell) = self.to_seal(job) {
            if job.is_cancelled() {
                return job.fail(Failure::Cancelled);
            }
            let chunk = job.plan.layout().chunk(cell, 1);
            let began = Instant::now();
            match halt_unwinding(|| job.work.seal(chunk)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return job.fail(Failure::Work(chunk, error)),
                Err(payload) => return job.fail(Failure::Panic(payload)),
            }
            self.sealer.time += began.elapsed();
            if let Some(sealed) = &job.hand_out.ledger.sealed {
                sealed.insert(cell);
                while self.sealer.low < job.plan.layout().cells()
                    && sealed.contains(self.sealer.low)
                {
                    self.sealer.low += 1;
                }
            }
            // Relaxed: as for `done`.
            job.sealed.fetch_add(chunk.size(), Ordering::Relaxed);
            self.tick(job);
            self.look(job);
        }
    }
}

impl Drop for Rounds<'_, '_> {
    fn drop(&mut self) {
        self.done();
    }
}

/// Since when the job may have waited for who works at `desk`, and at what; `None` for who is between two pieces.
fn waited_for(desk: &Desk) -> Option<(Duration, Option<(u64, u64)>)> {
    match desk.seat() {
        Seat::Left => None,
        Seat::Absent => Some((Duration::ZERO, None)),
        Seat::Taken(_) => {
            let (since, start, size) = desk.piece()?;
            Some((since, Some((start, size))))
        }
    }
}

/// The masks of workers that have one of their own.
pub(crate) type Masks = Box<[Mask]>;
