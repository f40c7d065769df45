// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Queues`]: the queues of all channels, and how pages become descriptors of each.

use std::{sync::Arc, time::Duration};

use idxd::{CompletionEngine, Kind, Queue};

use crate::{health::Leave, member::Member};

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
    /// Times that a full queue is tried again before the CPU takes the pages; for 20 µs at most, which does not count the time in which
    /// the channel waits for tasks of its own.
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
}

impl Queues {
    /// Those of `queues` that are of a DSA.
    pub(in crate::zero) fn new(
        queues: Vec<Arc<Queue>>,
        engine: Arc<CompletionEngine>,
        options: DsaOptions,
    ) -> Self {
        Self {
            members: Member::of_kind(queues, Kind::Dsa),
            engine,
            options,
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
        let pages = room.min(wanted).min(LARGEST_TASK) / pieces;
        (pieces <= LARGEST_TASK).then_some(Shape {
            piece,
            pieces,
            pages: pages.max(1),
        })
    }

    /// Leave to submit to a queue, if it is well, or may be tried.
    pub(super) fn leave(&self, member: usize) -> Option<Leave> {
        self.members[member].leave(self.options.patience)
    }
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

impl Shape {
    /// The same for a task that shows whether a queue is well.
    pub(super) fn of_probe(self) -> Self {
        Self {
            pages: self.pages.min(PROBE),
            ..self
        }
    }
}
