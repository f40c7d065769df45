// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Destination`]: memory that a device may write to, and who keeps it there.

use std::{fmt, ptr::NonNull};

use super::span::{Keep, SourceError, Span};

/// A range of this process's memory that a device may write to, such as the RAM of a guest that is being received.
///
/// Cheap to clone. A task in flight holds a clone of the [`Keep`] of every destination that its descriptors name, and so does a
/// quarantined one: the memory outlives the device's work on it, whatever happens.
#[derive(Clone)]
pub struct Destination(Span);

impl Destination {
    /// The `size` bytes from `address` on, which stay there as long as a clone of `keep` lives.
    ///
    /// # Safety
    ///
    /// As long as a clone of `keep` lives,
    /// - the range stays mapped, readable and writable by this process (its pages may come and go: a device that meets a missing
    ///   one reports that);
    /// - this process has no references to it, and what accesses it beside this destination's users are guests, devices, and
    ///   volatile or atomic accesses of this process.
    ///
    /// That others leave what is being written to alone is not a matter of safety: else it holds some of both. A device that did not
    /// answer in time may still write to what its task named until the queue is closed.
    ///
    /// # Errors
    ///
    /// If the range is empty, or larger than a pointer's offset may be, or wraps around.
    pub unsafe fn new(address: NonNull<u8>, size: usize, keep: Keep) -> Result<Self, SourceError> {
        Span::new(address, size, keep).map(Self)
    }

    /// Its first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// The address of its first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Its length in bytes, which is never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether `len` bytes from `offset` on lie inside it.
    #[must_use]
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        self.0.contains(offset, len)
    }

    /// What keeps it.
    #[must_use]
    pub fn keep(&self) -> &Keep {
        self.0.keep()
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug("Destination", f)
    }
}
