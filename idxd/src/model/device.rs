// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Device`]: one device of the model, as it is described, and [`Counts`], what came to it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Behaviour, Honest, Tenants};
use crate::{Descriptor, Kind, Limits, Mode};

/// How fast a device is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the model's thread.
    Unlimited,
    /// By the clock.
    Clock {
        /// Bytes that descriptors name; of a decompression, those that it may write.
        bytes_per_second: f64,
        /// On top of that, for each descriptor; a batch has as many as members.
        per_descriptor: Duration,
    },
}

impl Rate {
    /// So many bytes a second.
    #[must_use]
    pub fn bytes_per_second(bytes_per_second: f64) -> Self {
        Self::Clock {
            bytes_per_second,
            per_descriptor: Duration::ZERO,
        }
    }

    /// How long so many descriptors of so many bytes take.
    pub(super) fn time(self, bytes: u64, descriptors: u32) -> Duration {
        match self {
            Self::Unlimited => Duration::ZERO,
            Self::Clock {
                bytes_per_second,
                per_descriptor,
            } => {
                let seconds = bytes as f64 / bytes_per_second.max(1.0);
                let bytes = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                bytes.saturating_add(per_descriptor * descriptors)
            }
        }
    }
}

/// Says for a comparison of `len` bytes at an address whether they differ, without looking at them.
pub type Prepared = Arc<dyn Fn(u64, u32) -> bool + Send + Sync>;

/// What an IAA writes for a descriptor.
#[derive(Debug, Clone)]
pub struct Output {
    /// The bytes. More than the descriptor allows do not fit.
    pub bytes: Arc<[u8]>,
    /// CRC-32 of what is not compressed.
    pub crc: u32,
}

/// Says what an IAA writes for a compression or a decompression, without looking at memory; none to have it computed.
pub type PreparedOutputs = Arc<dyn Fn(&Descriptor) -> Option<Output> + Send + Sync>;

/// One device of a [`Model`](super::Model), with one queue: its limits, its rate, and what it does wrong.
pub struct Device {
    pub(super) name: String,
    pub(super) limits: Limits,
    pub(super) by_write: bool,
    pub(super) rate: Rate,
    behaviour: Mutex<Box<dyn Behaviour>>,
    pub(super) prepared: Option<Prepared>,
    pub(super) outputs: Option<PreparedOutputs>,
    pub(super) faults_on_missing_pages: bool,
    pub(super) generates_headers: bool,
    pub(super) tenants: Tenants,
}

impl Device {
    /// What a shared queue of a DSA has when `accel-config` was told so: 128 entries, batches of up to 128, 2 MiB a
    /// descriptor.
    pub const LIMITS: Limits = Limits {
        kind: Kind::Dsa,
        mode: Mode::Shared,
        size: 128,
        max_batch: 128,
        max_transfer: 2 << 20,
        node: None,
    };

    /// What a shared queue of an IAA has: 128 entries, no batches, 2 MiB a descriptor.
    pub const IAA_LIMITS: Limits = Limits {
        kind: Kind::Iax,
        max_batch: 0,
        ..Self::LIMITS
    };

    /// An honest one with one queue, behind a portal, as fast as the model's thread.
    #[must_use]
    pub fn new(name: impl Into<String>, limits: Limits) -> Self {
        Self {
            name: name.into(),
            limits,
            by_write: false,
            rate: Rate::Unlimited,
            behaviour: Mutex::new(Box::new(Honest)),
            prepared: None,
            outputs: None,
            faults_on_missing_pages: false,
            generates_headers: false,
            tenants: Tenants::NONE,
        }
    }

    /// That fast.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = rate;
        self
    }

    /// Behaves so.
    #[must_use]
    pub fn behaviour(mut self, behaviour: impl Behaviour + 'static) -> Self {
        self.behaviour = Mutex::new(Box::new(behaviour));
        self
    }

    /// Answers comparisons from what is known, and not from memory.
    #[must_use]
    pub fn prepared(mut self, answers: Prepared) -> Self {
        self.prepared = Some(answers);
        self
    }

    /// Writes what is known for compressions and decompressions, and computes what is not.
    #[must_use]
    pub fn prepared_outputs(mut self, outputs: PreparedOutputs) -> Self {
        self.outputs = Some(outputs);
        self
    }

    /// Makes codes itself, as IAA 2.0 does, for inputs of up to 4096 bytes.
    #[must_use]
    pub fn can_generate_headers(mut self) -> Self {
        self.generates_headers = true;
        self
    }

    /// Is shared with others, if its queue is a shared one.
    #[must_use]
    pub fn tenants(mut self, tenants: Tenants) -> Self {
        self.tenants = tenants;
        self
    }

    /// Reports a page fault where a page of a source or a destination is missing, as a device does that is not to block on faults.
    #[must_use]
    pub fn faults_on_missing_pages(mut self) -> Self {
        self.faults_on_missing_pages = true;
        self
    }

    /// Is reached as by `write`, as the driver gives it to a process without `CAP_SYS_RAWIO`: batches are refused.
    #[must_use]
    pub fn by_write(mut self) -> Self {
        self.by_write = true;
        self.limits.max_batch = 1;
        self
    }

    /// What decides on its trouble. It is told of submissions and of work by different threads.
    pub(super) fn decider(&self) -> MutexGuard<'_, Box<dyn Behaviour>> {
        self.behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .field("rate", &self.rate)
            .field("behaviour", &self.behaviour)
            .finish_non_exhaustive()
    }
}

/// What came to a device since the model was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Descriptors that were taken; a batch is one.
    pub taken: u64,
    /// Descriptors that were told that the queue is full.
    pub full: u64,
    /// Descriptors that a full dedicated queue dropped, and ones whose completion record is not aligned: the driver would
    /// see a software error.
    pub dropped: u64,
    /// Batches that were worked on.
    pub batches: u64,
    /// Lone descriptors and members of batches that were worked on.
    pub descriptors: u64,
    /// Members of the largest batch.
    pub largest_batch: u32,
}
