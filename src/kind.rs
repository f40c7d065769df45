// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kinds of failures, as they stand in JSON.

use cgroup::ShortageKind;
use vfio::FaultKind;

/// What kind of failure a pin call had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PinErrorKind {
    /// `RLIMIT_MEMLOCK` is too low.
    Memlock,
    /// The memory limit of a control group is too low.
    Memcg,
    /// A hugetlb pool has too few pages.
    Hugetlb,
    /// The machine has too little memory.
    OutOfMemory,
    /// Not mapped, not writable, or of a kind that cannot be pinned.
    BadAddress,
    /// The device cannot address it, or the range is reserved.
    IovaRange,
    /// Two regions overlap, or something else is mapped there.
    Overlap,
    /// An address or size is not aligned.
    Misaligned,
    /// The target has too few map entries.
    Entries,
    /// No device is attached, so that nothing would be pinned.
    NotAttached,
    /// Not allowed to this process.
    Permission,
    /// The cancel token was raised.
    Cancelled,
    /// Something could not be undone and stays pinned.
    UndoFailed,
    /// Anything else.
    Other,
}

impl PinErrorKind {
    /// The name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memlock => "memlock",
            Self::Memcg => "memcg",
            Self::Hugetlb => "hugetlb",
            Self::OutOfMemory => "out-of-memory",
            Self::BadAddress => "bad-address",
            Self::IovaRange => "iova-range",
            Self::Overlap => "overlap",
            Self::Misaligned => "misaligned",
            Self::Entries => "entries",
            Self::NotAttached => "not-attached",
            Self::Permission => "permission",
            Self::Cancelled => "cancelled",
            Self::UndoFailed => "undo-failed",
            Self::Other => "other",
        }
    }
}

impl From<ShortageKind> for PinErrorKind {
    fn from(kind: ShortageKind) -> Self {
        match kind {
            ShortageKind::Memlock => Self::Memlock,
            ShortageKind::Memcg => Self::Memcg,
            ShortageKind::Hugetlb => Self::Hugetlb,
            ShortageKind::OutOfMemory => Self::OutOfMemory,
        }
    }
}

impl From<FaultKind> for PinErrorKind {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::NoMemory => Self::OutOfMemory,
            FaultKind::Hugetlb => Self::Hugetlb,
            FaultKind::BadAddress => Self::BadAddress,
            FaultKind::Permission => Self::Permission,
            FaultKind::Entries => Self::Entries,
            FaultKind::IovaRange => Self::IovaRange,
            FaultKind::Misaligned => Self::Misaligned,
            FaultKind::Overlap => Self::Overlap,
            FaultKind::NotAttached => Self::NotAttached,
            _ => Self::Other,
        }
    }
}
