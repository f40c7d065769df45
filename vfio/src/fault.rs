// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PinFault`]: why a target could not do or take back a chunk, with the cause and what to change.

use std::{borrow::Cow, io};

use thiserror::Error;

use crate::{Hva, Iova, Placed, Region};

/// A system call that failed, or a check that did not pass, for a piece of a guest's memory, or while the target was made ready.
#[derive(Debug, Error)]
#[error("{operation} failed{}: {cause}", place(*.at))]
pub struct PinFault {
    /// The system call and its command, or what was checked.
    pub operation: &'static str,
    /// The piece; `None` while the target was made ready.
    pub at: Option<FaultAt>,
    /// What kind of cause that is.
    pub kind: FaultKind,
    /// The likely cause.
    pub cause: Cow<'static, str>,
    /// What the user can change.
    pub remedy: Cow<'static, str>,
    /// The kernel's error; `None` where parapin itself refused.
    #[source]
    pub errno: Option<io::Error>,
}

/// Where a target failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultAt {
    /// Address for the device.
    pub iova: Iova,
    /// Address in this process.
    pub hva: Hva,
    /// Length in bytes.
    pub size: u64,
}

impl From<Placed> for FaultAt {
    fn from(placed: Placed) -> Self {
        Self {
            iova: placed.iova,
            hva: placed.hva,
            size: placed.size,
        }
    }
}

impl From<&Region> for FaultAt {
    fn from(region: &Region) -> Self {
        Self {
            iova: region.iova(),
            hva: region.hva(),
            size: region.size(),
        }
    }
}

fn place(at: Option<FaultAt>) -> String {
    at.map_or_else(String::new, |at| {
        format!(" at iova {}, hva {}, {:#x} bytes", at.iova, at.hva, at.size)
    })
}

/// Kinds of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// A limit on locked memory, or a lack of memory; the kernel uses one number for both.
    NoMemory,
    /// A hugetlb pool has no page left.
    Hugetlb,
    /// Not mapped, not writable, or of a kind that cannot be pinned.
    BadAddress,
    /// Not allowed to this process.
    Permission,
    /// The target has no more entries.
    Entries,
    /// The device cannot address it, or the range is reserved.
    IovaRange,
    /// An address is not aligned as the target needs it.
    Misaligned,
    /// Something else is mapped there.
    Overlap,
    /// No device is attached, so that nothing would be pinned.
    NotAttached,
    /// Anything else.
    Other,
}

/// An errno with what it means to the user.
pub(crate) struct Meaning {
    pub(crate) kind: FaultKind,
    pub(crate) cause: Cow<'static, str>,
    pub(crate) remedy: Cow<'static, str>,
}

impl Meaning {
    pub(crate) fn new(
        kind: FaultKind,
        cause: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    /// The fault of a check that parapin makes itself.
    pub(crate) fn refused(self, checked: &'static str, at: Option<FaultAt>) -> PinFault {
        PinFault {
            operation: checked,
            at,
            kind: self.kind,
            cause: self.cause,
            remedy: self.remedy,
            errno: None,
        }
    }

    /// The fault of `operation`.
    pub(crate) fn of(
        self,
        operation: &'static str,
        at: Option<FaultAt>,
        errno: io::Error,
    ) -> PinFault {
        PinFault {
            operation,
            at,
            kind: self.kind,
            cause: self.cause,
            remedy: self.remedy,
            errno: Some(errno),
        }
    }
}
