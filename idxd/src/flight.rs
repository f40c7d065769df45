// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Flight`]: a task on its way through a queue; and whose it is meanwhile.
//!
//! ```text
//!  Task ──► Flight::new ──► submit, and again while the queue is full ──► wait, by itself or by a CompletionEngine
//!                                                                          │ done                │ deadline over
//!                                                                          ▼                     ▼
//!                                                                         Task        quarantine of the queue
//! ```
//!
//! From the first descriptor that a device took to the last record that it wrote, the task's memory and all that its
//! descriptors name belong to the flight. Dropping it waits; a deadline that passes hands everything to the queue's
//! quarantine; nothing frees them.

use std::{
    mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    Queue, Record, SubmitError, Task,
    estimate::Expected,
    patience::{self, Step},
};

/// A task, and how much of it a device has.
#[derive(Debug)]
pub(crate) struct Cargo {
    task: Task,
    /// Members from here on are in no batch.
    plain_from: usize,
    /// Batches and lone members that the device took.
    sent: usize,
    /// Those at the front that were seen to be done.
    seen: usize,
    /// Those at the front whose room in the queue was given back.
    left: usize,
}

impl Cargo {
    /// Batches and lone members.
    fn total(&self) -> usize {
        let batches = self.task.ends.len();
        batches + (self.task.len() - self.plain_from)
    }

    /// Descriptors that take room in the queue, as far as is known; a batch is one.
    pub(crate) fn entries(&self) -> usize {
        self.sent - self.left
    }

    /// Looks which are done. Returns how many take no more room since this was asked last.
    fn leave(&mut self) -> usize {
        self.is_done();
        let more = self.seen - self.left;
        self.left = self.seen;
        more
    }

    /// The record that is written when that entry is done.
    fn record(&self, entry: usize) -> &Record {
        let batches = self.task.ends.len();
        if entry < batches {
            self.task.memory.batch_record(entry)
        } else {
            self.task.memory.record(self.plain_from + entry - batches)
        }
    }

    /// The record that is waited for; none if nothing is.
    fn awaited(&self) -> Option<&Record> {
        (self.seen < self.sent).then(|| self.record(self.seen))
    }

    /// Whether the device is done with everything that it took.
    pub(crate) fn is_done(&mut self) -> bool {
        while self.seen < self.sent {
            if !self.record(self.seen).is_done() {
                return false;
            }
            self.seen += 1;
        }
        true
    }

    /// Members that the device took.
    fn members_sent(&self) -> usize {
        let batches = self.task.ends.len();
        match self.sent {
            0 => 0,
            sent if sent <= batches => self.task.ends[sent - 1],
            sent => self.plain_from + sent - batches,
        }
    }
}

/// A task on its way through a queue.
///
/// From the first descriptor that a device took to the last record that it wrote, the task's memory and all that its descriptors
/// name belong to the flight. Dropping it waits until the device is done; a deadline that passes hands everything to the
/// queue's quarantine; nothing frees them before. Submit it, then [`wait`](Self::wait), or
/// [hand it over](crate::CompletionEngine::hand_over).
#[derive(Debug)]
pub struct Flight {
    /// There until the flight ends.
    cargo: Option<Cargo>,
    queue: Arc<Queue>,
    patience: Duration,
    deadline: Instant,
    expected: Expected,
    /// Bytes that the device took.
    bytes: u64,
    /// When it was last looked at after it should have been done, and was not.
    unfinished: Option<Instant>,
}

impl Flight {
    /// Prepares a task for a queue: puts its descriptors into batches as the queue allows. Nothing is submitted.
    ///
    /// The device is given `patience` from the last submission on.
    ///
    /// # Errors
    ///
    /// If the queue is of another kind than the task, which comes back.
    #[expect(clippy::result_large_err, reason = "the task comes back")]
    pub fn new(
        queue: &Arc<Queue>,
        mut task: Task,
        patience: Duration,
    ) -> Result<Self, (Task, SubmitError)> {
        let limits = queue.limits();
        if limits.kind != task.kind() {
            let error = SubmitError::Kind {
                queue: queue.name().to_owned(),
                kind: limits.kind,
            };
            return Err((task, error));
        }
        let plain_from = task.prepare(limits.max_batch as usize);
        let now = Instant::now();
        Ok(Self {
            cargo: Some(Cargo {
                task,
                plain_from,
                sent: 0,
                seen: 0,
                left: 0,
            }),
            queue: Arc::clone(queue),
            patience,
            deadline: after(now, patience),
            expected: Expected {
                begin: now,
                look: now,
                end: now,
            },
            bytes: 0,
            unfinished: None,
        })
    }

    /// The queue that it goes through.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Submits what the device has not taken yet. Returns whether it has taken everything now; if not, the queue is full.
    ///
    /// Whether and how often to try again is for the caller to decide; a flight that was taken in part, or not at all, can be
    /// waited for like any other.
    ///
    /// # Errors
    ///
    /// If the queue takes no descriptors at all. What was taken before is in flight all the same.
    pub fn submit(&mut self) -> Result<bool, SubmitError> {
        let Some(cargo) = &mut self.cargo else {
            return Ok(true);
        };
        // A task may have more descriptors than a dedicated queue has room for.
        self.queue.return_credits(cargo.leave());
        let before = cargo.members_sent();
        if cargo.seen == cargo.sent {
            // What follows is measured by itself.
            self.teach(Instant::now());
        }
        let Some(cargo) = &mut self.cargo else {
            return Ok(true);
        };
        let result = send(&self.queue, cargo);
        let members = cargo.members_sent();
        if members > before {
            // Members are alike, or nearly so.
            let bytes = u128::from(cargo.task.bytes()) * (members - before) as u128;
            let bytes = u64::try_from(bytes / cargo.task.len() as u128).unwrap_or(u64::MAX);
            let now = Instant::now();
            let begun = (self.bytes > 0).then_some(self.expected.begin);
            self.bytes += bytes;
            self.expected = self.queue.expect(now, bytes);
            // Of what is measured together.
            self.expected.begin = begun.unwrap_or(self.expected.begin);
            self.deadline = after(now, self.patience);
        }
        result
    }

    /// Takes back up to `count` descriptors at the end that the device has not taken, and returns how many: none of a batch. They are
    /// no part of the task any more.
    pub fn withdraw(&mut self, count: usize) -> usize {
        let Some(cargo) = &mut self.cargo else {
            return 0;
        };
        if !cargo.task.ends.is_empty() {
            return 0;
        }
        let len = cargo.task.len();
        let count = count.min(len - cargo.members_sent());
        cargo.task.truncate(len - count);
        count
    }

    /// Descriptors at the front that the device took.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.cargo.as_ref().map_or(0, Cargo::members_sent)
    }

    /// When everything that the device took should be done, by what is known of its queue, or when its time is over.
    #[must_use]
    pub fn expected(&self) -> Instant {
        self.expected.look.min(self.deadline)
    }

    /// Whether waiting would return at once.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.is_done() {
            return true;
        }
        let now = Instant::now();
        self.saw_unfinished(now);
        now >= self.deadline
    }

    /// When it is done, that is a measurement.
    fn saw_unfinished(&mut self, now: Instant) {
        if now >= self.expected.look {
            self.unfinished = Some(now);
        }
    }

    /// Whether the device is done with everything that it took. Never blocks.
    pub fn is_done(&mut self) -> bool {
        let Some(cargo) = &mut self.cargo else {
            return true;
        };
        cargo.is_done()
    }

    /// Looks, and teaches the queue's estimate.
    pub(crate) fn look(&mut self, now: Instant) -> Look {
        if self.is_done() {
            self.teach(now);
            return Look::Done;
        }
        if now >= self.deadline {
            self.queue.was_given_up(self.bytes, now);
            return Look::Over;
        }
        self.saw_unfinished(now);
        Look::Wait(Step::next(now, self.expected.look, self.deadline))
    }

    /// Tells the queue's estimate that what was submitted is done.
    fn teach(&mut self, now: Instant) {
        let expected = &self.expected;
        match (mem::take(&mut self.bytes), self.unfinished.take()) {
            (0, _) => {}
            (bytes, None) => self.queue.was_done(bytes, expected, now),
            (bytes, Some(unfinished)) => self.queue.was_seen(bytes, expected, unfinished, now),
        }
    }

    /// Stays awake for a moment, or until the device did something.
    pub(crate) fn linger(&self) {
        if let Some(record) = self.cargo.as_ref().and_then(Cargo::awaited) {
            patience::look_at(record);
        }
    }

    /// Waits on this thread until the device is done.
    ///
    /// It sleeps until the device should be done; how exactly, depends on the thread's timer slack.
    ///
    /// # Errors
    ///
    /// If the time is over. The task is in the queue's quarantine then.
    pub fn wait(mut self) -> Result<Task, WaitError> {
        loop {
            if !self.is_done() && !self.queue.is_ours() {
                // Its records are the parent's, and nothing is in flight here.
                self.cargo = None;
                return Err(WaitError::Abandoned);
            }
            match self.look(Instant::now()) {
                Look::Done | Look::Over => return self.end(),
                Look::Wait(Step::Look) => self.linger(),
                Look::Wait(Step::Sleep(time)) => thread::sleep(time),
            }
        }
    }

    /// Waits on this thread until that time, at most. Returns whether [`wait`](Self::wait) would return at once.
    pub fn wait_until(&mut self, until: Instant) -> bool {
        loop {
            let now = Instant::now();
            if self.is_over() || !self.queue.is_ours() {
                return true;
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            match Step::next(now, self.expected.look, self.deadline) {
                Step::Look => self.linger(),
                Step::Sleep(time) => thread::sleep(time.min(left)),
            }
        }
    }

    /// Gives the task back if it is done, and otherwise puts it into quarantine.
    pub(crate) fn end(mut self) -> Result<Task, WaitError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Task, WaitError> {
        let Some(mut cargo) = self.cargo.take() else {
            return Err(WaitError::Abandoned);
        };
        if cargo.is_done() {
            self.queue.return_credits(cargo.entries());
            let members = cargo.members_sent();
            cargo.task.set_sent(members);
            return Ok(cargo.task);
        }
        self.queue.quarantine(cargo);
        Err(WaitError::TimedOut {
            queue: self.queue.name().to_owned(),
            after: self.patience,
        })
    }
}

/// `patience` after `now`; a year after it for somebody who has more.
fn after(now: Instant, patience: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    now + patience.min(YEAR)
}

/// Submits batches, then lone members.
fn send(queue: &Queue, cargo: &mut Cargo) -> Result<bool, SubmitError> {
    let batches = cargo.task.ends.len();
    while cargo.sent < cargo.total() {
        let memory = &cargo.task.memory;
        let offered = if cargo.sent < batches {
            memory.batch_descriptors(cargo.sent..batches)
        } else {
            let first = cargo.plain_from + cargo.sent - batches;
            memory.descriptors(first..cargo.task.len())
        };
        let wanted = offered.len();
        // SAFETY: records are in the task's memory, of which nobody else writes a byte, and what descriptors name is kept by the
        // task's sources (or was promised to `Task::push`). The flight owns the task until the records are written, and
        // gives it to the queue's quarantine if they are not. Records are aligned for the kind of device, which is the
        // queue's.
        #[expect(unsafe_code, reason = "the flight owns what the descriptors name")]
        let taken = unsafe { queue.submit(offered) }?;
        cargo.sent += taken.min(wanted);
        if taken < wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Drop for Flight {
    fn drop(&mut self) {
        // In a child the records are zeroes, and nothing will ever write to them.
        let ours = self.queue.is_ours();
        while ours && self.cargo.is_some() {
            match self.look(Instant::now()) {
                Look::Done | Look::Over => _ = self.finish(),
                Look::Wait(Step::Look) => self.linger(),
                Look::Wait(Step::Sleep(time)) => thread::sleep(time),
            }
        }
    }
}

/// What a look at a flight found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Done,
    Wait(Step),
    /// The deadline is over.
    Over,
}

/// Why a task does not come back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The device did not answer in time.
    #[error(
        "work queue {queue} did not answer within {after:?}: the device is halted or reset, or the completion record met a page \
         fault; the task stays in quarantine until it answers or the queue is closed"
    )]
    TimedOut {
        /// The queue.
        queue: String,
        /// How long it was given.
        after: Duration,
    },
    /// The thread that waited for it ended by a panic; the device was done with the task, or it is in quarantine.
    #[error("the thread that waited for a device ended")]
    Abandoned,
}
