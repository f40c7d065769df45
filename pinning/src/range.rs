// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A [`Range`] is one piece of the address space that a job covers.

use crate::JobError;

/// A half-open interval `[start, start + size)` of addresses that a job works on, and the alignment that cuts must keep.
///
/// The addresses are whatever the [`Work`](crate::Work) understands: an IOVA where an IOMMU is programmed, a virtual
/// address where only the host's page tables count. The engine itself never looks behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    start: u64,
    size: u64,
    align: u64,
    node: Option<u32>,
}

impl Range {
    /// A range of `size` bytes from `start`, cut only at absolute multiples of `align` (bytes, a power of two).
    ///
    /// `start` and `size` need not be multiples of `align`: the first and the last chunk are then short.
    ///
    /// # Errors
    /// [`JobError::EmptyRange`], [`JobError::WrappingRange`] or [`JobError::Alignment`].
    pub fn new(start: u64, size: u64, align: u64) -> Result<Self, JobError> {
        if size == 0 {
            return Err(JobError::EmptyRange { start });
        }
        if start.checked_add(size).is_none() {
            return Err(JobError::WrappingRange { start, size });
        }
        if !align.is_power_of_two() {
            return Err(JobError::Alignment { start, align });
        }
        Ok(Self {
            start,
            size,
            align,
            node: None,
        })
    }

    /// The same range on a memory node: workers near it do it first, if the job knows the node.
    #[must_use]
    pub fn on_node(mut self, node: Option<u32>) -> Self {
        self.node = node;
        self
    }

    /// The memory node that its pages belong to, where that is known.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        self.node
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes, never zero.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First address behind the range; cannot overflow.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Cuts fall on absolute multiples of this many bytes.
    #[must_use]
    pub fn align(&self) -> u64 {
        self.align
    }
}
