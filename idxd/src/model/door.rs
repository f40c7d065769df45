// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Door`]: where descriptors come in: whether the queue has room, and when what it takes is due.
//!
//! ```text
//!  submitters ── offer ──► Door: taken, full, dropped ── fetch ──► the thread that plays the device
//!                           ▲ held: entries in the queue ──── leave ──┘
//! ```
//!
//! It has a mutex of its own, which the thread takes for a moment now and then: a submitter should pay for submitting, and not for the
//! model.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Behaviour, Counts, Device, EntryFate, tenants::Crowd};
use crate::{Descriptor, Mode, Opcode};

/// A descriptor that was taken.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) descriptor: Descriptor,
    /// Through which opening it came.
    pub(super) port: u64,
    pub(super) due: Instant,
    pub(super) fate: EntryFate,
}

/// How an offered descriptor is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    Full,
    /// As the driver's `write` refuses it.
    Invalid,
}

#[derive(Debug)]
pub(super) struct Door {
    device: Arc<Device>,
    /// Entries in the queue, fetched or not.
    held: AtomicUsize,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    /// Not fetched yet.
    fresh: Vec<Entry>,
    busy_until: Instant,
    crowd: Crowd,
    counts: Counts,
}

impl Door {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self {
            held: AtomicUsize::new(0),
            inside: Mutex::new(Inside {
                fresh: Vec::new(),
                busy_until: Instant::now(),
                crowd: Crowd::new(device.tenants),
                counts: Counts::default(),
            }),
            device,
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes descriptors until one is answered otherwise.
    pub(super) fn offer(
        &self,
        port: u64,
        descriptors: &[Descriptor],
        weigh: impl Fn(&Descriptor) -> (u64, u32),
    ) -> (usize, Answer) {
        let now = Instant::now();
        let mut inside = self.inside();
        let mut behaviour = self.device.decider();
        for (taken, descriptor) in descriptors.iter().enumerate() {
            let answer = self.take(
                &mut inside,
                behaviour.as_mut(),
                (descriptor, port),
                now,
                &weigh,
            );
            if answer != Answer::Taken {
                return (taken, answer);
            }
        }
        (descriptors.len(), Answer::Taken)
    }

    fn take(
        &self,
        inside: &mut Inside,
        behaviour: &mut dyn Behaviour,
        (descriptor, port): (&Descriptor, u64),
        now: Instant,
        weigh: impl Fn(&Descriptor) -> (u64, u32),
    ) -> Answer {
        let device = &self.device;
        let is_batch = descriptor.opcode() == Opcode::Batch as u8;
        let record = device.limits.kind.record_size() as u64;
        let misaligned = descriptor.completion_addr() % record != 0;
        if device.by_write && (is_batch || misaligned) {
            return Answer::Invalid;
        }
        let held = self.held.load(Ordering::SeqCst);
        let full = held >= device.limits.size as usize;
        let is_shared = device.limits.mode == Mode::Shared;
        let crowded = is_shared && inside.crowd.fills(device.limits.size, held);
        if is_shared && (full || crowded || behaviour.is_full()) {
            inside.counts.full += 1;
            return Answer::Full;
        }
        inside.counts.taken += 1;
        if full || misaligned {
            inside.counts.dropped += 1;
            return Answer::Taken;
        }
        let fate = behaviour.entry(descriptor);
        let (bytes, count) = weigh(descriptor);
        let alone = device.rate.time(bytes, count);
        let time = match is_shared && device.tenants.share > 0.0 {
            true => device.tenants.stretch(alone),
            false => alone,
        };
        inside.busy_until = inside.busy_until.max(now) + time;
        let late = match fate {
            EntryFate::Late(by) => by,
            _ => Duration::ZERO,
        };
        let due = inside.busy_until + late;
        self.held.fetch_add(1, Ordering::SeqCst);
        inside.fresh.push(Entry {
            descriptor: *descriptor,
            port,
            due,
            fate,
        });
        Answer::Taken
    }

    /// Moves what was taken behind what was before. Returns whether there was anything.
    pub(super) fn fetch(&self, spare: &mut Vec<Entry>, entries: &mut impl Extend<Entry>) -> bool {
        // `spare` is empty, and its allocation serves the next ones.
        mem::swap(&mut self.inside().fresh, spare);
        let any = !spare.is_empty();
        entries.extend(spare.drain(..));
        any
    }

    pub(super) fn has_fresh(&self) -> bool {
        !self.inside().fresh.is_empty()
    }

    /// So many entries are out of the queue, or about to be completed.
    pub(super) fn leave(&self, entries: usize) {
        self.held.fetch_sub(entries, Ordering::SeqCst);
    }

    /// Forgets what came through that port and was not fetched.
    pub(super) fn forget(&self, port: u64) {
        let mut inside = self.inside();
        let before = inside.fresh.len();
        inside.fresh.retain(|entry| entry.port != port);
        self.leave(before - inside.fresh.len());
    }

    pub(super) fn counts(&self) -> Counts {
        self.inside().counts
    }
}
