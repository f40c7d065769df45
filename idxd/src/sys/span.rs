// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Span`]: a range of memory and who keeps it there, whatever may be done to it.

use std::{any::Any, fmt, ptr::NonNull, sync::Arc};

use thiserror::Error;

/// Keeps memory mapped for as long as any clone of it lives: a guest's memory, a mapping, a vector.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// An address, a length and a keeper: what a [`Source`](super::Source) and a [`Destination`](super::Destination) are, whose constructors
/// demand what may be done to the memory.
#[derive(Clone)]
pub(super) struct Span {
    address: NonNull<u8>,
    size: usize,
    keep: Keep,
}

// SAFETY: it is an address and a length, and accesses nothing; the keeper may be sent.
unsafe impl Send for Span {}
// SAFETY: as for `Send`; the keeper may be shared.
unsafe impl Sync for Span {}

impl Span {
    /// A range that memory can be: not empty, no longer than a pointer's offset may be, and not wrapping around.
    pub(super) fn new(address: NonNull<u8>, size: usize, keep: Keep) -> Result<Self, SourceError> {
        let at = address.as_ptr().addr();
        if size == 0 || isize::try_from(size).is_err() || at.checked_add(size).is_none() {
            return Err(SourceError { address: at, size });
        }
        Ok(Self {
            address,
            size,
            keep,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    pub(super) fn address(&self) -> u64 {
        self.address.as_ptr().expose_provenance() as u64
    }

    pub(super) fn len(&self) -> u64 {
        self.size as u64
    }

    pub(super) fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }

    pub(super) fn keep(&self) -> &Keep {
        &self.keep
    }

    /// As the type of that name.
    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("address", &format_args!("{:#x}", self.address()))
            .field("size", &format_args!("{:#x}", self.size))
            .finish_non_exhaustive()
    }
}

/// A range that no memory can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{size:#x} bytes at {address:#x} are no range of memory: it must not be empty, nor wrap around"
)]
#[non_exhaustive]
pub struct SourceError {
    /// The address of its first byte.
    pub address: usize,
    /// Its length in bytes.
    pub size: usize,
}
