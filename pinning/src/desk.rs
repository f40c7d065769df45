// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Desk`] of each worker: who sits there, and what it is at, for the calling thread to see.
//!
//! ```text
//!  helper   enter(member) ─► begin(piece) ─► end ─► begin ─► … ─► leave
//!  caller   ── looks at any time: for how long? which thread? ──► Stuck, or one-by-one priority
//! ```

use std::time::Duration;

use crate::{
    Chunk,
    sync::{AtomicU64, Ordering},
};

/// Nobody has sat down yet.
const ABSENT: u64 = u64::MAX;
/// Who sat here has left.
const GONE: u64 = u64::MAX - 1;
/// Between two pieces, or waiting for its turn.
const IDLE: u64 = u64::MAX;

/// What one worker is at. Written by the worker alone.
///
/// Every access is relaxed: these are for a look from outside, and a look may be late or see the start of one piece
/// with the address of another.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Which member of the crew works here.
    member: AtomicU64,
    /// Nanoseconds from the start of the job to that of the piece.
    since: AtomicU64,
    start: AtomicU64,
    size: AtomicU64,
}

/// Whether somebody works at a desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    Absent,
    Taken(usize),
    Left,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            member: AtomicU64::new(ABSENT),
            since: AtomicU64::new(IDLE),
            start: AtomicU64::new(0),
            size: AtomicU64::new(0),
        }
    }

    pub(crate) fn enter(&self, member: usize) {
        self.member.store(member as u64, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.since.store(IDLE, Ordering::Relaxed);
        self.member.store(GONE, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self, piece: &Chunk, elapsed: Duration) {
        self.start.store(piece.start(), Ordering::Relaxed);
        self.size.store(piece.size(), Ordering::Relaxed);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(IDLE - 1);
        self.since.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.since.store(IDLE, Ordering::Relaxed);
    }

    pub(crate) fn seat(&self) -> Seat {
        match self.member.load(Ordering::Relaxed) {
            ABSENT => Seat::Absent,
            GONE => Seat::Left,
            member => Seat::Taken(usize::try_from(member).unwrap_or(usize::MAX)),
        }
    }

    /// When the piece in progress began, and its first address and size; `None` between two pieces.
    pub(crate) fn piece(&self) -> Option<(Duration, u64, u64)> {
        let since = self.since.load(Ordering::Relaxed);
        (since != IDLE).then(|| {
            (
                Duration::from_nanos(since),
                self.start.load(Ordering::Relaxed),
                self.size.load(Ordering::Relaxed),
            )
        })
    }
}
