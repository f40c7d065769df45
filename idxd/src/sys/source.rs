// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Source`]: memory that a device may read, and who keeps it there.

use std::{fmt, ptr::NonNull, sync::Arc};

use super::span::{Keep, SourceError, Span};

/// A range of this process's memory that a device may read at any time, also while others write to it.
///
/// Cheap to clone. A task in flight holds a clone of the [`Keep`] of every source that its descriptors name, and so does
/// a quarantined one: the memory outlives the device's work on it, whatever happens.
#[derive(Clone)]
pub struct Source(Span);

impl Source {
    /// The `size` bytes from `address` on, which stay there as long as a clone of `keep` lives.
    ///
    /// # Safety
    ///
    /// As long as a clone of `keep` lives,
    /// - the range stays mapped and readable by this process (its pages may come and go: a device that meets a missing one
    ///   reports that);
    /// - nothing but guests, devices, and volatile or atomic accesses of this process writes to it, or else writes do not
    ///   happen while it is scanned.
    ///
    /// # Errors
    ///
    /// If the range is empty, or larger than a pointer's offset may be, or wraps around.
    pub unsafe fn new(address: NonNull<u8>, size: usize, keep: Keep) -> Result<Self, SourceError> {
        Span::new(address, size, keep).map(Self)
    }

    /// A vector that nobody writes to any more.
    ///
    /// # Errors
    ///
    /// If it is empty.
    pub fn of_vec(bytes: Vec<u8>) -> Result<Self, SourceError> {
        Self::of_shared(Arc::new(bytes))
    }

    /// A vector that is written to only by whoever has it for himself again (`Arc::get_mut`): when no task knows of it any more.
    ///
    /// # Errors
    ///
    /// If it is empty.
    pub fn of_shared(bytes: Arc<Vec<u8>>) -> Result<Self, SourceError> {
        let address = NonNull::from(bytes.as_slice()).cast();
        let size = bytes.len();
        // SAFETY: the vector lives as long as the `Arc`, which nobody can write through while the source has a clone of it.
        unsafe { Self::new(address, size, bytes) }
    }

    /// Its first byte. Reading through it races with a guest's writes: volatile, atomic or by assembly only.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
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

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug("Source", f)
    }
}
