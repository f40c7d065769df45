// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Steered`]: a target in front of a real one, with which a test decides when each piece of a job may begin.
//!
//! ```text
//!  engine ──run(chunk, worker)──► Steered: the test's own step ──► Populate, IoUring, …
//! ```
//!
//! So nothing depends on how fast this machine is or on who else works on it: threads wait for each other, and where one
//! never comes, the wait ends with a panic, which the engine turns into an undo and a failed test.
#![allow(
    dead_code,
    reason = "every test binary compiles this and uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use parapin::{CpuBudget, PinFault, Regions, Target};
use pinning::{Chunk, Constraints, Helper, Plan, Work};
use vfio::{Accounting, Addressing, Session};

use crate::machine::skip;

/// Far longer than anything takes here, also on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a job gets no helper here; says so.
pub(crate) fn no_helpers() -> bool {
    let threads = CpuBudget::current().threads().get();
    if threads < 2 {
        skip("only one thread is allowed here: there is no helper to look at");
    }
    threads < 2
}

/// What is about to be done: by which worker, and where (first address and size).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) worker: usize,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

type Step = Arc<dyn Fn(Piece) + Send + Sync>;

/// A target that calls the test before each piece, on the thread that will do it.
pub(crate) struct Steered<T> {
    target: T,
    before: Step,
}

impl<T> Steered<T> {
    pub(crate) fn new(target: T, before: impl Fn(Piece) + Send + Sync + 'static) -> Self {
        Self {
            target,
            before: Arc::new(before),
        }
    }
}

impl<T: Target> Target for Steered<T> {
    type Session = Steering<T::Session>;

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
        Ok(Steering {
            session: self.target.begin(regions, plan)?,
            before: Arc::clone(&self.before),
        })
    }
}

/// A run of [`Steered`].
pub(crate) struct Steering<S> {
    session: S,
    before: Step,
}

// What `Result::unwrap_err` asks of a guard.
impl<T: fmt::Debug> fmt::Debug for Steered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl<S: fmt::Debug> fmt::Debug for Steering<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}

impl<S: Session> Work for Steering<S> {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        (self.before)(Piece {
            worker,
            start: chunk.start(),
            size: chunk.size(),
        });
        self.session.run(chunk, worker)
    }

    fn enter(&self, helper: &Helper) -> bool {
        self.session.enter(helper)
    }

    fn seal(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.session.seal(chunk)
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.session.undo(chunk)
    }
}

impl<S: Session> Session for Steering<S> {
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

/// Opens once and for all.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.lock().unwrap()
    }

    /// Waits until it is open. Returns whether that came in time.
    pub(crate) fn wait(&self) -> bool {
        let open = self.0.lock().unwrap();
        let (open, _) = self
            .1
            .wait_timeout_while(open, PATIENCE, |open| !*open)
            .unwrap();
        *open
    }

    /// Waits until it is open, which it must be in time.
    pub(crate) fn pass(&self) {
        assert!(self.wait(), "the gate was not opened");
    }
}

/// Where the workers of a job of two threads wait for each other before the first piece of each, so that both of them
/// have something to do.
#[derive(Debug, Default)]
pub(crate) struct Meeting([Gate; 2]);

impl Meeting {
    pub(crate) fn come(&self, worker: usize) {
        self.0[worker].open();
        self.0[1 - worker].pass();
    }
}

/// Looks again and again until `done` holds.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
