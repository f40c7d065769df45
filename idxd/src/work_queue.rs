// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`WorkQueue`]: one queue of a device, as sysfs describes it, and the limits that follow.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    Device, Kind, QueueName, Roots,
    attribute::Attributes,
    device::{LARGEST_BATCH, LARGEST_TRANSFER},
};

/// Descriptors in a batch, of a queue that does not tell: what the driver gives to a queue for which nobody asked more.
const DEFAULT_BATCH: u32 = 32;
/// Bytes for one descriptor, of a queue that does not tell, likewise.
const DEFAULT_TRANSFER: u64 = 2 << 20;
/// Fewest descriptors that make a batch.
const SMALLEST_BATCH: u32 = 2;

/// A work queue of a device.
///
/// What the kernel did not tell, or told in a way that makes no sense, is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkQueue {
    /// The device that it belongs to.
    pub device: Device,
    /// What it is called.
    pub name: QueueName,
    /// The node to open.
    pub path: PathBuf,
    /// The same as it is seen by who is to do something about it.
    pub(crate) seen: PathBuf,
    /// Whether it takes descriptors.
    pub state: Option<QueueState>,
    /// Who may submit.
    pub queue_type: Option<QueueType>,
    /// Whether several may submit.
    pub mode: Option<Mode>,
    /// Entries that it has. More than that submitted to a dedicated queue are lost.
    pub size: Option<u32>,
    /// How full a shared queue may be made through the portal of a process.
    pub threshold: Option<u32>,
    /// Its weight beside other queues of its group, of 15.
    pub priority: Option<u32>,
    /// The group, whose engines serve it; none if it has none.
    pub group: Option<u32>,
    /// Whether descriptors may wait for a page fault.
    pub block_on_fault: Option<bool>,
    /// Most descriptors in a batch, as written there; [`max_batch`](Self::max_batch) is what counts.
    pub max_batch_size: Option<u32>,
    /// Most bytes of a descriptor, as written there; [`max_transfer`](Self::max_transfer) is what counts.
    pub max_transfer_size: Option<u64>,
    /// What it was called by who configured it.
    pub label: Option<String>,
    /// The driver that has it or shall have it: `user`, `dmaengine`, `crypto`.
    pub driver_name: Option<String>,
    /// How many have it open.
    pub clients: Option<u32>,
    /// Minor number of its node.
    pub cdev_minor: Option<u32>,
}

impl WorkQueue {
    pub(crate) fn read(
        device: &Device,
        name: QueueName,
        attributes: &Attributes,
        roots: &Roots,
    ) -> Self {
        let seen = PathBuf::from(format!("/dev/{}/{name}", device.kind));
        Self {
            device: device.clone(),
            name,
            path: roots.resolve(&seen),
            seen,
            state: attributes.word("state", &QueueState::WORDS),
            queue_type: attributes.word("type", &QueueType::WORDS),
            mode: attributes.word("mode", &Mode::WORDS),
            size: attributes.small("size", 1..=0xffff),
            threshold: attributes.small("threshold", 1..=0xffff),
            priority: attributes.small("priority", 0..=15),
            group: attributes.small("group_id", 0..=0xff),
            block_on_fault: attributes.flag("block_on_fault"),
            max_batch_size: attributes.small("max_batch_size", 1..=LARGEST_BATCH),
            max_transfer_size: attributes.number("max_transfer_size", 1..=LARGEST_TRANSFER),
            label: attributes.name("name"),
            driver_name: attributes.name("driver_name"),
            clients: attributes.small("clients", 0..=u32::MAX),
            cdev_minor: attributes.small("cdev_minor", 0..=0xf_ffff),
        }
    }

    /// What its device can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.device.kind
    }

    /// The NUMA node that its device is near to.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.device.numa_node
    }

    /// Most descriptors that a batch may have; none if there can be no batch. IAA has none.
    ///
    /// Whether this process may submit batches at all is another question: only through a portal, never by `write`.
    #[must_use]
    pub fn max_batch(&self) -> Option<u32> {
        let own = self.max_batch_size.unwrap_or(DEFAULT_BATCH);
        let limit = own.min(self.device.max_batch_size.unwrap_or(LARGEST_BATCH));
        (self.kind() == Kind::Dsa && limit >= SMALLEST_BATCH).then_some(limit)
    }

    /// Most bytes that a descriptor may name.
    #[must_use]
    pub fn max_transfer(&self) -> u64 {
        let own = self.max_transfer_size.unwrap_or(DEFAULT_TRANSFER);
        own.min(self.device.max_transfer_size.unwrap_or(LARGEST_TRANSFER))
    }

    /// The number that its node must have, where the kernel tells it.
    pub(crate) fn number(&self) -> Option<(u32, u32)> {
        Some((self.device.cdev_major?, self.cdev_minor?))
    }

    /// With another node than the usual one.
    pub(crate) fn with_node(self, seen: &Path, roots: &Roots) -> Self {
        Self {
            path: roots.resolve(seen),
            seen: seen.to_owned(),
            ..self
        }
    }
}

/// Device and queue, as `accel-config` names them: `dsa0/wq0.1`.
impl fmt::Display for WorkQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.device, self.name)
    }
}

/// Whether a queue takes descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueState {
    /// It does not.
    Disabled,
    /// It does.
    Enabled,
}

impl QueueState {
    const WORDS: [(&'static str, Self); 2] =
        [("disabled", Self::Disabled), ("enabled", Self::Enabled)];
}

/// Who may submit to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueType {
    /// Nobody: it is not configured.
    None,
    /// Drivers.
    Kernel,
    /// Processes.
    User,
}

impl QueueType {
    const WORDS: [(&'static str, Self); 3] = [
        ("none", Self::None),
        ("kernel", Self::Kernel),
        ("user", Self::User),
    ];
}

/// How descriptors come into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Any number may have it open, and each submission is answered: accepted, or full.
    Shared,
    /// One may have it open, who has to count: what does not fit is lost without a word.
    Dedicated,
}

impl Mode {
    const WORDS: [(&'static str, Self); 2] =
        [("shared", Self::Shared), ("dedicated", Self::Dedicated)];

    /// The kernel's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
