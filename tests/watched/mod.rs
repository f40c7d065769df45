// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Watched`]: a target that writes down who began which piece, where and when; it can have all threads meet at their
//! first pieces, and take its time for each, so that no test depends on how fast the machine is.
//!
//! ```text
//!  Journal { meet, pause, lead } ──► Watched<T> ──► T
//!      └─◄─ Piece { worker, start, size, mask }
//! ```
#![allow(
    dead_code,
    reason = "every test binary compiles this and uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use cgroup::CpuSet;
use parapin::{PinFault, Regions, Target};
use pinning::{Chunk, Constraints, Helper, Plan, Work};
use vfio::{Accounting, Addressing, Session};

use crate::nodes::mask;

/// Nothing that is waited for takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A piece that a worker has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) worker: usize,
    /// An address of the process or of the device, whichever the target works with.
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// The CPUs that the thread was allowed.
    pub(crate) mask: CpuSet,
}

#[derive(Debug, Default)]
struct Written {
    begun: Vec<Piece>,
    /// Who is at a piece.
    at_work: Vec<usize>,
    /// The most that were at the same time.
    most: usize,
    /// How often progress was told.
    calls: usize,
    hurry: bool,
    /// Bytes that were done, and those that were taken back.
    done: u64,
    undone: u64,
}

impl Written {
    fn by_worker(&self) -> [usize; 4] {
        let mut begun = [0; 4];
        for piece in &self.begun {
            begun[piece.worker] += 1;
        }
        begun
    }
}

type OnPiece = Box<dyn Fn(usize) + Send + Sync>;

/// What is known of the pieces of one or more jobs.
pub(crate) struct Journal {
    meet: usize,
    pause: Duration,
    lead: usize,
    on_piece: Option<OnPiece>,
    written: Mutex<Written>,
    change: Condvar,
}

impl Journal {
    /// `meet` workers begin their first pieces together, so that each has one; every piece takes `pause` longer.
    pub(crate) fn new(meet: usize, pause: Duration) -> Arc<Self> {
        Arc::new(Self::plain(meet, pause))
    }

    /// Has each worker call `on_piece` before each of its pieces.
    pub(crate) fn with(meet: usize, on_piece: impl Fn(usize) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            on_piece: Some(Box::new(on_piece)),
            ..Self::plain(meet, Duration::ZERO)
        })
    }

    /// Has helpers end no more than `lead` pieces for each [`call`](Self::call): however late the caller is, there is
    /// something left to do.
    pub(crate) fn in_step(meet: usize, pause: Duration, lead: usize) -> Arc<Self> {
        Arc::new(Self {
            lead,
            ..Self::plain(meet, pause)
        })
    }

    /// Progress was told. Returns how often that has happened.
    pub(crate) fn call(&self) -> usize {
        let mut written = self.written();
        written.calls += 1;
        self.change.notify_all();
        written.calls
    }

    /// Has nobody wait any more.
    pub(crate) fn hurry(&self) {
        self.written().hurry = true;
        self.change.notify_all();
    }

    fn plain(meet: usize, pause: Duration) -> Self {
        Self {
            meet,
            pause,
            lead: usize::MAX,
            on_piece: None,
            written: Mutex::default(),
            change: Condvar::new(),
        }
    }

    pub(crate) fn watch<T>(self: &Arc<Self>, target: T) -> Watched<T> {
        Watched {
            target,
            journal: Arc::clone(self),
        }
    }

    pub(crate) fn pieces(&self) -> Vec<Piece> {
        self.written().begun.clone()
    }

    /// How many pieces each of four workers has begun.
    pub(crate) fn begun(&self) -> [usize; 4] {
        self.written().by_worker()
    }

    /// The different masks that each of four workers had at its pieces.
    pub(crate) fn masks(&self) -> [Vec<CpuSet>; 4] {
        let mut masks: [Vec<CpuSet>; 4] = Default::default();
        for piece in &self.written().begun {
            let masks = &mut masks[piece.worker];
            if !masks.contains(&piece.mask) {
                masks.push(piece.mask.clone());
            }
        }
        masks
    }

    /// The most that were at a piece at the same time.
    pub(crate) fn most_at_work(&self) -> usize {
        self.written().most
    }

    /// Bytes that were done, and those that were taken back.
    pub(crate) fn done_and_undone(&self) -> (u64, u64) {
        let written = self.written();
        (written.done, written.undone)
    }

    /// Waits until nobody but the first `workers` is at a piece.
    pub(crate) fn wait_until_others_rest(&self, workers: usize) {
        self.wait_until("one more stays at work", |written| {
            written.at_work.iter().all(|&worker| worker < workers)
        });
    }

    /// Waits until each of the first `workers` has begun more pieces than `before` says.
    pub(crate) fn wait_for_work_of(&self, workers: usize, before: [usize; 4]) {
        self.wait_until("one does not work", |written| {
            let begun = written.by_worker();
            (0..workers).all(|worker| begun[worker] > before[worker])
        });
    }

    /// A test that fails does so with its first panic.
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, otherwise: &str, condition: impl Fn(&Written) -> bool) {
        let written = self.written();
        let (written, waited) = self
            .change
            .wait_timeout_while(written, PATIENCE, |written| !condition(written))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "{otherwise}: {:?}", written.at_work);
    }

    fn begin(&self, chunk: &Chunk, worker: usize) {
        if let Some(on_piece) = &self.on_piece {
            on_piece(worker);
        }
        {
            let mut written = self.written();
            // Under the lock: who has looked at all pieces so far knows that the mask of the next one is a later one.
            written.begun.push(Piece {
                worker,
                start: chunk.start(),
                size: chunk.size(),
                mask: mask(),
            });
            written.at_work.push(worker);
            written.most = written.most.max(written.at_work.len());
            self.change.notify_all();
        }
        if self.meet > 1 {
            self.wait_until("they did not meet", |written| {
                let came = |worker| written.begun.iter().any(|piece| piece.worker == worker);
                (0..self.meet).all(came)
            });
        }
    }

    fn end(&self, worker: usize, done: u64) {
        if !self.written().hurry {
            thread::sleep(self.pause);
        }
        if worker > 0 {
            self.wait_until("the caller is never called", |written| {
                let [_, helped @ ..] = written.by_worker();
                let most = self.lead.saturating_mul(written.calls + 1);
                written.hurry || helped.iter().sum::<usize>() <= most
            });
        }
        let mut written = self.written();
        written.done += done;
        let at = written.at_work.iter().position(|&other| other == worker);
        written.at_work.swap_remove(at.unwrap());
        self.change.notify_all();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// A target whose pieces are written down.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    target: T,
    journal: Arc<Journal>,
}

impl<T: Target> Target for Watched<T> {
    type Session = WatchedSession<T::Session>;

    fn name(&self) -> &'static str {
        self.target.name()
    }

    fn addressing(&self) -> Addressing {
        self.target.addressing()
    }

    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault> {
        self.target.constraints(regions)
    }

    fn accounting(&self) -> Accounting {
        self.target.accounting()
    }

    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Self::Session, PinFault> {
        Ok(WatchedSession {
            session: self.target.begin(regions, plan)?,
            journal: Arc::clone(&self.journal),
        })
    }
}

/// The session of a [`Watched`] target.
#[derive(Debug)]
pub(crate) struct WatchedSession<S> {
    session: S,
    journal: Arc<Journal>,
}

impl<S: Session> Work for WatchedSession<S> {
    type Error = PinFault;

    fn enter(&self, helper: &Helper) -> bool {
        self.session.enter(helper)
    }

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        self.journal.begin(&chunk, worker);
        let outcome = self.session.run(chunk, worker);
        let done = if outcome.is_ok() { chunk.size() } else { 0 };
        self.journal.end(worker, done);
        outcome
    }

    fn seal(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.session.seal(chunk)
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.journal.written().undone += chunk.size();
        self.session.undo(chunk)
    }
}

impl<S: Session> Session for WatchedSession<S> {
    fn strategy(&self) -> &'static str {
        self.session.strategy()
    }

    fn unpins_in_parallel(&self) -> bool {
        self.session.unpins_in_parallel()
    }

    fn keep(self) {
        self.session.keep();
    }
}
