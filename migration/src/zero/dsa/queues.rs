// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Queues`]: the queues of all channels, and which of them are well.
//!
//! ```text
//!  well ── full for long, silent, nothing but errors ──► rests, longer each time ──► one channel tries a small task ──► well
//!                                                            ▲                                    │
//!                                                            └────────────────────────────────────┘
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use idxd::{CompletionEngine, Kind, Queue};

/// Most descriptors of a task; pages that need more are for the CPU.
const LARGEST_TASK: usize = 4096;
/// Pages of a task that shows whether a queue is well again.
const PROBE: usize = 16;

/// How queues are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DsaOptions {
    /// Tasks that a channel has in flight in each queue.
    pub depth: usize,
    /// Batches of a task, which are waited for together.
    pub batches: usize,
    /// Times that a full queue is tried again before the CPU takes the pages.
    pub retries: u32,
    /// How long a device may take for a task.
    pub patience: Duration,
}

impl Default for DsaOptions {
    fn default() -> Self {
        Self {
            depth: 2,
            batches: 8,
            retries: 64,
            // Page faults and busy neighbours are over by then; a device that is not is halted.
            patience: Duration::from_millis(500),
        }
    }
}

/// The queues of all channels.
#[derive(Debug)]
pub(in crate::zero) struct Queues {
    pub(super) members: Vec<Member>,
    pub(super) engine: Arc<CompletionEngine>,
    pub(super) options: DsaOptions,
    epoch: Instant,
}

/// A queue, and how it has fared.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) queue: Arc<Queue>,
    /// Nanoseconds since the epoch until which it is left alone.
    rests_until: AtomicU64,
    /// Times in a row that it had to rest.
    strikes: AtomicU32,
}

impl Queues {
    /// Those of `queues` that are of a DSA.
    pub(in crate::zero) fn new(
        queues: Vec<Arc<Queue>>,
        engine: Arc<CompletionEngine>,
        options: DsaOptions,
    ) -> Self {
        let members = queues
            .into_iter()
            .filter(|queue| queue.limits().kind == Kind::Dsa)
            .map(|queue| Member {
                queue,
                rests_until: AtomicU64::new(0),
                strikes: AtomicU32::new(0),
            });
        Self {
            members: members.collect(),
            engine,
            options,
            epoch: Instant::now(),
        }
    }

    pub(in crate::zero) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(in crate::zero) fn engine(&self) -> &Arc<CompletionEngine> {
        &self.engine
    }

    /// How pages of `size` bytes become descriptors of a queue; none if a page would be too many.
    pub(super) fn shape(&self, member: usize, size: u64, batch: usize) -> Option<Shape> {
        let limits = self.members[member].queue.limits();
        let piece = limits.max_transfer.min(size).clamp(1, u64::from(u32::MAX));
        let pieces = usize::try_from(size.div_ceil(piece)).ok()?;
        // More than an empty queue takes beside the channel's other tasks would only find it full.
        let entries = (limits.size as usize / self.options.depth.max(1)).max(1);
        let room = entries.saturating_mul(batch.min(limits.max_batch as usize).max(1));
        let wanted = batch.saturating_mul(self.options.batches.max(1));
        let mut pages = room.min(wanted).min(LARGEST_TASK) / pieces;
        if self.members[member].rests_until.load(Ordering::Relaxed) > 0 {
            pages = pages.min(PROBE);
        }
        (pieces <= LARGEST_TASK).then_some(Shape {
            piece,
            pieces,
            pages: pages.max(1),
        })
    }

    /// Leaves a queue alone for 10 ms, and twice as long each time it happens again, up to five minutes.
    pub(super) fn rest(&self, member: usize) {
        const SHORTEST: Duration = Duration::from_millis(10);
        let member = &self.members[member];
        // Relaxed, here and below: hints, on which no other memory depends.
        let strikes = member.strikes.fetch_add(1, Ordering::Relaxed).min(15);
        self.leave_alone(member, SHORTEST * (1 << strikes));
    }

    fn leave_alone(&self, member: &Member, time: Duration) {
        let until = (self.epoch.elapsed() + time).as_nanos();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        member.rests_until.store(until, Ordering::Relaxed);
    }

    pub(super) fn state(&self, member: usize) -> State {
        match self.members[member].rests_until.load(Ordering::Relaxed) {
            0 => State::Well,
            until if self.epoch.elapsed().as_nanos() < u128::from(until) => State::Rests,
            until => State::Rested { until },
        }
    }

    /// Whether this channel is the one that tries a queue which has rested; the others wait for what comes of it.
    pub(super) fn may_probe(&self, member: usize, until: u64) -> bool {
        let for_now = self.epoch.elapsed() + self.options.patience * 2;
        let for_now = u64::try_from(for_now.as_nanos()).unwrap_or(u64::MAX);
        self.members[member]
            .rests_until
            .compare_exchange(until, for_now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    pub(super) fn answered(&self, member: usize) {
        let member = &self.members[member];
        if member.rests_until.load(Ordering::Relaxed) > 0 {
            member.strikes.store(0, Ordering::Relaxed);
            member.rests_until.store(0, Ordering::Relaxed);
        }
    }
}

/// How a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Well,
    Rests,
    /// It may be tried.
    Rested {
        until: u64,
    },
}

/// How pages become descriptors of one queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of a piece of a page: what one descriptor names.
    pub(super) piece: u64,
    /// Pieces of a page.
    pub(super) pieces: usize,
    /// Pages of a task.
    pub(super) pages: usize,
}
