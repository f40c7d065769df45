// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`CodecReport`]: how the pages of a call were compressed or restored.

use crate::Trouble;

/// How the pages of a call were compressed or restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodecReport {
    /// Pages of the call.
    pub pages: usize,
    /// Pages that travel as they are.
    pub raw: usize,
    /// Pages that a device did.
    pub by_device: usize,
    /// Pages that the CPU did.
    pub by_cpu: usize,
    /// Bytes of the pages.
    pub page_bytes: u64,
    /// Bytes that travel.
    pub body_bytes: u64,
    /// Pages that a device had a second time, after a page fault.
    pub again: usize,
    /// Streams that a device could not decode, and the CPU could.
    pub undecodable: usize,
    /// Why the CPU had to, where a device should have.
    pub trouble: Trouble,
}

impl CodecReport {
    /// Adds what another call did.
    pub fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.raw += other.raw;
        self.by_device += other.by_device;
        self.by_cpu += other.by_cpu;
        self.page_bytes += other.page_bytes;
        self.body_bytes += other.body_bytes;
        self.again += other.again;
        self.undecodable += other.undecodable;
        self.trouble.add(other.trouble);
    }

    /// Bytes of the pages for each byte that travels.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.page_bytes as f64 / self.body_bytes.max(1) as f64
    }
}
