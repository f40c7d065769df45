// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Trouble`]: how often devices did something else than was asked of them.

/// What happened to descriptors beside what was asked for. The CPU did it instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trouble {
    /// Times that a queue was full.
    pub full: u64,
    /// Page faults.
    pub faults: u64,
    /// Descriptors that ended in another way than was asked for, or not at all.
    pub failed: u64,
    /// Tasks that were not answered in time.
    pub timeouts: u64,
    /// Times that a queue did not take descriptors at all.
    pub refused: u64,
}

impl Trouble {
    pub(crate) fn add(&mut self, other: Self) {
        self.full += other.full;
        self.faults += other.faults;
        self.failed += other.failed;
        self.timeouts += other.timeouts;
        self.refused += other.refused;
    }
}
