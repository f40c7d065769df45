// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Queue`]: an open work queue, and what it must not let go of.
//!
//! ```text
//!  Task ──► Flight ──► Queue ──► Port ──► device
//!             │          │
//!             │          ├─ credits: how much a dedicated queue still takes
//!             │          └─ quarantine ◄── tasks whose time is over while the device may still write to them
//!             └─ holds the queue open                └──► freed when answered late, or when the queue is closed
//! ```

use std::{
    fmt, mem,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    Descriptor, Kind, Mode, PortError,
    estimate::{Estimate, Expected},
    flight::Cargo,
    port::Port,
    sync::{Mutex, MutexGuard},
    sys::Process,
};

/// What a queue takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What is behind it.
    pub kind: Kind,
    /// Shared or dedicated.
    pub mode: Mode,
    /// Descriptors that are in it at once; a batch is one.
    pub size: u32,
    /// Most descriptors of a batch; less than 2 where there are no batches.
    pub max_batch: u32,
    /// Most bytes that one descriptor may name.
    pub max_transfer: u64,
    /// The memory node of the device.
    pub node: Option<u32>,
}

/// An open work queue.
///
/// Every [`Flight`](crate::Flight) holds it. It is closed when the last holder lets go; that drains what is in flight, and
/// then frees what was in quarantine. Any thread may use it; a child after a fork may not.
pub struct Queue {
    name: String,
    limits: Limits,
    generates_headers: bool,
    way: String,
    /// Whether the queue was closed, and the device is done with everything.
    drained: AtomicBool,
    /// Shared by who submits, exclusive for who closes it.
    port: RwLock<Gate>,
    birth: Birth,
    state: Mutex<State>,
}

/// The port, and whether it was closed.
struct Gate {
    port: Box<dyn Port>,
    /// Whether the device was known to be done with everything when it was closed.
    closed: Option<bool>,
}

struct State {
    /// Descriptors that a dedicated queue has room for.
    credits: u32,
    quarantine: Vec<Cargo>,
    estimate: Estimate,
}

impl Queue {
    /// A queue behind a port.
    ///
    /// # Errors
    ///
    /// If the kernel is too old to tell a process from its child (before Linux 4.14).
    pub fn over(
        name: impl Into<String>,
        limits: Limits,
        port: Box<dyn Port>,
    ) -> Result<Arc<Self>, QueueError> {
        Ok(Self::born(Birth::now()?, name.into(), limits, false, port))
    }

    /// The same for a port that was made since `birth`.
    pub(crate) fn born(
        birth: Birth,
        name: String,
        limits: Limits,
        generates_headers: bool,
        port: Box<dyn Port>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            limits,
            generates_headers,
            way: port.way(),
            drained: AtomicBool::new(false),
            port: RwLock::new(Gate { port, closed: None }),
            birth,
            state: Mutex::new(State {
                credits: limits.size,
                quarantine: Vec::new(),
                estimate: Estimate::new(),
            }),
        })
    }

    /// What it is called, such as `wq0.1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it takes.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the device is known to make codes for pages of up to 4,096 bytes by itself ([`Coding::Generated`](crate::iaa::Coding)).
    #[must_use]
    pub fn generates_headers(&self) -> bool {
        self.generates_headers
    }

    /// How descriptors get to it: `portal`, or `write` with the reason.
    #[must_use]
    pub fn way(&self) -> &str {
        &self.way
    }

    /// Tasks that ran out of time, and that the device has not answered since.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        let mut state = self.state();
        let answered = self.reap(&mut state);
        let left = state.quarantine.len();
        drop(state);
        drop(answered);
        left
    }

    fn gate(&self) -> RwLockReadGuard<'_, Gate> {
        self.port.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the queue for everybody, at once: nothing more is taken, and the driver drains what is in flight. Returns whether the device is
    /// known to be done with everything; if not, it may still write to what was submitted.
    ///
    /// For who has memory written to that others will use: a task that ran out of time is in quarantine, but what it names as a
    /// [`Destination`](crate::Destination) is somebody else's. Flights that are still waited for run out of time.
    ///
    /// May take as long as the driver needs, and a tenth of a second. In a child after a fork it does nothing, and returns false.
    pub fn retire(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let mut gate = self.port.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(drained) = gate.closed {
            return drained;
        }
        let drained = gate.port.close() && self.birth.has_not_forked();
        if drained {
            // What posix_spawn is about to execute as well, for moments that are not counted.
            thread::sleep(SPAWNING);
        }
        gate.closed = Some(drained);
        self.drained.store(drained, Ordering::SeqCst);
        drop(gate);
        // What nobody writes to any more need not be kept.
        let _ = self.quarantined();
        drained
    }

    /// Whether the queue was [retired](Self::retire), and if so, whether the device is known to be done with everything. None in a child
    /// after a fork, which has lent nothing to the device.
    #[must_use]
    pub fn retired(&self) -> Option<bool> {
        // A thread that is not there in a child may have had the lock.
        self.is_ours().then(|| self.gate().closed).flatten()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which process opened it.
    pub(crate) fn process(&self) -> Process {
        self.birth.process
    }

    /// Whether this is the process that opened it.
    pub(crate) fn is_ours(&self) -> bool {
        self.birth.process.is_current()
    }

    /// When so many bytes should be done, if they were submitted now, by what is known of its pace and of what this process has in
    /// it. For choosing among queues.
    #[must_use]
    pub fn would_end(&self, now: Instant, bytes: u64) -> Instant {
        self.state().estimate.would_end(now, bytes)
    }

    /// Offers descriptors to the device. Returns how many it took.
    ///
    /// # Safety
    ///
    /// As for [`Port::submit`], but for the room in a dedicated queue.
    #[expect(unsafe_code, reason = "passes the contract of `Port::submit` on")]
    pub(crate) unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, SubmitError> {
        if !self.is_ours() {
            return Err(SubmitError::Forked {
                queue: self.name.clone(),
            });
        }
        self.check_quarantine()?;
        let room = self.take_credits(descriptors.len());
        // SAFETY: by contract, and a dedicated queue has room for so many.
        let taken = unsafe { self.gate().port.submit(&descriptors[..room]) };
        let unused = room - taken.as_ref().map_or(0, |taken| (*taken).min(room));
        self.return_credits(unused);
        taken.map_err(|source| SubmitError::Port {
            queue: self.name.clone(),
            source,
        })
    }

    fn check_quarantine(&self) -> Result<(), SubmitError> {
        let held = self.state().quarantine.len();
        // Late answers make room.
        if held < MOST_IN_QUARANTINE || self.quarantined() < MOST_IN_QUARANTINE {
            return Ok(());
        }
        Err(SubmitError::Unanswered {
            queue: self.name.clone(),
            tasks: held,
        })
    }

    fn take_credits(&self, wanted: usize) -> usize {
        if self.limits.mode == Mode::Shared {
            return wanted;
        }
        let mut state = self.state();
        let mut answered = Vec::new();
        if wanted > state.credits as usize {
            // Late answers make room.
            answered = self.reap(&mut state);
        }
        let room = u32::try_from(wanted).map_or(state.credits, |wanted| wanted.min(state.credits));
        state.credits -= room;
        drop(state);
        drop(answered);
        room as usize
    }

    /// Notes that a dedicated queue has room again.
    pub(crate) fn return_credits(&self, count: usize) {
        if self.limits.mode == Mode::Dedicated && count > 0 {
            let mut state = self.state();
            Self::give_back(&mut state, count);
        }
    }

    fn give_back(state: &mut State, count: usize) {
        state.credits += u32::try_from(count).unwrap_or(0);
    }

    /// Keeps what the device may still write to.
    pub(crate) fn quarantine(&self, cargo: Cargo) {
        let mut state = self.state();
        let answered = self.reap(&mut state);
        state.quarantine.push(cargo);
        drop(state);
        drop(answered);
    }

    /// Takes out what was answered late, or all if nothing will be written any more. To be dropped without the mutex: what keeps
    /// sources runs code of others then.
    fn reap(&self, state: &mut State) -> Vec<Cargo> {
        let mut answered = Vec::new();
        let drained = self.drained.load(Ordering::SeqCst);
        let mut index = 0;
        while index < state.quarantine.len() {
            if drained || state.quarantine[index].is_done() {
                answered.push(state.quarantine.swap_remove(index));
            } else {
                index += 1;
            }
        }
        if self.limits.mode == Mode::Dedicated {
            let entries = answered.iter().map(Cargo::entries).sum();
            Self::give_back(state, entries);
        }
        answered
    }

    /// Notes that bytes were submitted, and says when they should be done.
    pub(crate) fn expect(&self, now: Instant, bytes: u64) -> Expected {
        self.state().estimate.submitted(now, bytes)
    }

    /// Notes that a task was done when it was first looked at.
    pub(crate) fn was_done(&self, bytes: u64, expected: &Expected, now: Instant) {
        self.state().estimate.was_done(bytes, expected, now);
    }

    /// Notes that a task is not waited for any more.
    pub(crate) fn was_given_up(&self, bytes: u64, now: Instant) {
        self.state().estimate.ended(bytes, now);
    }

    /// Notes that a task was seen unfinished, and then finished.
    pub(crate) fn was_seen(
        &self,
        bytes: u64,
        expected: &Expected,
        unfinished: Instant,
        now: Instant,
    ) {
        let estimate = &mut self.state().estimate;
        estimate.was_seen(bytes, expected, unfinished, now);
    }
}

/// Time for a child that is about to execute something else.
const SPAWNING: Duration = Duration::from_millis(100);

/// Tasks that a queue keeps without an answer. With more it takes nothing: the device is gone.
const MOST_IN_QUARANTINE: usize = 64;

/// In which process a queue is opened, and how often that had forked before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    process: Process,
    forks: Option<u64>,
}

impl Birth {
    /// To be asked before the queue's node is opened.
    pub(crate) fn now() -> Result<Self, QueueError> {
        let process = Process::current().map_err(|source| QueueError::Process { source })?;
        Ok(Self {
            process,
            forks: Process::forks(),
        })
    }

    /// Whether no child can hold open what this process has opened since; as far as that is known.
    fn has_not_forked(self) -> bool {
        self.forks.is_some() && Process::forks() == self.forks
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Not locked, here and below: in a child, a thread that is not there may have had the mutex.
        let gate = self.port.get_mut().unwrap_or_else(PoisonError::into_inner);
        let closed = gate.closed;
        let closes = closed.is_none() && gate.port.close();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut held = mem::take(&mut state.quarantine);
        if !self.birth.process.is_current() {
            // Nothing of it is in flight here: records are the parent's.
            return;
        }
        held.retain_mut(|cargo| !cargo.is_done());
        if held.is_empty() {
            return;
        }
        // The driver drains when the node is closed for good. A child that has not called exec holds it open too.
        let drained = closed.unwrap_or_else(|| {
            let drained = closes && self.birth.has_not_forked();
            if drained {
                // What posix_spawn is about to execute as well, for moments that are not counted.
                thread::sleep(SPAWNING);
            }
            drained
        });
        if !drained {
            // They stay mapped for the life of the process rather than be written to by a device when they are somebody
            // else's.
            held.into_iter().for_each(mem::forget);
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why a queue cannot be used at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A child could not be told from its parent.
    #[error("the kernel has no memory that is wiped in children (MADV_WIPEONFORK, Linux 4.14)")]
    Process {
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// Why descriptors were not submitted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// This is a child of the process that opened the queue.
    #[error(
        "work queue {queue} was opened before a fork, by the parent: open it again in this process"
    )]
    Forked {
        /// The queue.
        queue: String,
    },
    /// The task is for another kind of device.
    #[error("work queue {queue} is of {kind}: it takes no tasks for another kind of device")]
    Kind {
        /// The queue.
        queue: String,
        /// What is behind it.
        kind: Kind,
    },
    /// The device does not answer any more.
    #[error(
        "work queue {queue} has left {tasks} tasks unanswered: the device is halted or was reset; close the queue, which frees their \
         memory, and open it again when the device is enabled"
    )]
    Unanswered {
        /// The queue.
        queue: String,
        /// Tasks in its quarantine.
        tasks: usize,
    },
    /// The port does not take them.
    #[error("work queue {queue} takes no descriptors")]
    Port {
        /// The queue.
        queue: String,
        /// Why.
        source: PortError,
    },
}
