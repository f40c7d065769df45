// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`FakeKernel`]: a work that remembers which addresses are held, and fails, panics or refuses where it is told to.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use pinning::{Chunk, Work};
use thiserror::Error;

/// Called before each `run` with the piece and the worker; for tests that hold threads up.
pub type Hook = Box<dyn Fn(Chunk, usize) + Send + Sync>;

/// What happened, in the order in which the fake saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A piece was done by a worker.
    Ran(Chunk, usize),
    /// A piece failed or panicked as it was told to.
    Failed(Chunk),
    /// A piece was undone.
    Undone(Chunk),
    /// An undo was refused as it was told to.
    Refused(Chunk),
}

/// The failures that a [`FakeKernel`] can be told to have, and the misuse that it notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FakeError {
    /// As told by [`FakeKernel::failing_at`].
    #[error("told to fail at {0:#x}")]
    Told(u64),
    /// A byte was done twice.
    #[error("{0:#x} is already held")]
    AlreadyHeld(u64),
    /// Something was undone that was not held, or held only in part.
    #[error("{0:#x} is not held")]
    NotHeld(u64),
}

/// Keeps a map of held addresses like a kernel's I/O page table.
#[derive(Default)]
pub struct FakeKernel {
    state: Mutex<State>,
    fail_at: Option<u64>,
    panic_at: Option<u64>,
    refuse_undo_at: Option<u64>,
    hook: Option<Hook>,
}

#[derive(Default)]
struct State {
    /// Start → end of every held piece.
    held: BTreeMap<u64, u64>,
    events: Vec<Event>,
    misuse: Vec<FakeError>,
}

impl FakeKernel {
    /// A kernel where everything works.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The piece that holds `address` fails.
    #[must_use]
    pub fn failing_at(mut self, address: u64) -> Self {
        self.fail_at = Some(address);
        self
    }

    /// The piece that holds `address` panics.
    #[must_use]
    pub fn panicking_at(mut self, address: u64) -> Self {
        self.panic_at = Some(address);
        self
    }

    /// The undo of the piece that holds `address` is refused.
    #[must_use]
    pub fn refusing_undo_at(mut self, address: u64) -> Self {
        self.refuse_undo_at = Some(address);
        self
    }

    /// Calls `hook` before each piece.
    #[must_use]
    pub fn with_hook(mut self, hook: impl Fn(Chunk, usize) + Send + Sync + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Everything that happened so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// Held addresses as maximal intervals `(start, end)`, ascending.
    #[must_use]
    pub fn held(&self) -> Vec<(u64, u64)> {
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (&start, &end) in &self.state().held {
            match merged.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => merged.push((start, end)),
            }
        }
        merged
    }

    /// Bytes done twice, and undone without having been done; empty unless the engine is wrong.
    #[must_use]
    pub fn misuse(&self) -> Vec<FakeError> {
        self.state().misuse.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holds(chunk: Chunk, address: Option<u64>) -> bool {
    address.is_some_and(|address| (chunk.start()..chunk.end()).contains(&address))
}

impl State {
    fn hold(&mut self, chunk: Chunk) -> Result<(), FakeError> {
        let below = self.held.range(..chunk.end()).next_back();
        if below.is_some_and(|(_, &end)| end > chunk.start()) {
            let error = FakeError::AlreadyHeld(chunk.start());
            self.misuse.push(error);
            return Err(error);
        }
        self.held.insert(chunk.start(), chunk.end());
        Ok(())
    }

    /// Removes whole pieces only, and only where they cover the chunk without a gap.
    fn let_go(&mut self, chunk: Chunk) -> Result<(), FakeError> {
        let inside: Vec<(u64, u64)> = self
            .held
            .range(chunk.start()..chunk.end())
            .map(|(&start, &end)| (start, end))
            .collect();
        let covered = inside.iter().try_fold(chunk.start(), |at, &(start, end)| {
            (start == at).then_some(end)
        });
        if covered != Some(chunk.end()) {
            let error = FakeError::NotHeld(chunk.start());
            self.misuse.push(error);
            return Err(error);
        }
        for (start, _) in inside {
            self.held.remove(&start);
        }
        Ok(())
    }
}

impl Work for FakeKernel {
    type Error = FakeError;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), FakeError> {
        if let Some(hook) = &self.hook {
            hook(chunk, worker);
        }
        if holds(chunk, self.fail_at) {
            self.state().events.push(Event::Failed(chunk));
            return Err(FakeError::Told(chunk.start()));
        }
        if holds(chunk, self.panic_at) {
            self.state().events.push(Event::Failed(chunk));
            panic!("told to panic at {:#x}", chunk.start());
        }
        let mut state = self.state();
        state.events.push(Event::Ran(chunk, worker));
        state.hold(chunk)
    }

    fn undo(&self, chunk: Chunk) -> Result<(), FakeError> {
        let mut state = self.state();
        if holds(chunk, self.refuse_undo_at) {
            state.events.push(Event::Refused(chunk));
            return Err(FakeError::Told(chunk.start()));
        }
        state.events.push(Event::Undone(chunk));
        state.let_go(chunk)
    }
}

impl fmt::Debug for FakeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeKernel")
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
