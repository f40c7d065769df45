// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Sampling`]: whether the CPU looks at a word of each page before a device is asked.

/// Whether a word of each page is looked at before a device is.
///
/// A page of data mostly shows it there, which costs the CPU less than a descriptor; for a zero page it is spent in vain. So it
/// pays up to a share of zero pages, which is what was found lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampling {
    pub(super) allowed: bool,
    /// The share of zero pages, of late.
    pub(super) zero: f64,
}

impl Sampling {
    /// A sample costs about a third of a descriptor and its completion.
    const PAYS_BELOW: f64 = 2.0 / 3.0;

    pub(super) fn pays(&self) -> bool {
        self.allowed && self.zero < Self::PAYS_BELOW
    }

    pub(super) fn learn(&mut self, zero: usize, of: usize) {
        if of > 0 {
            let share = zero as f64 / of as f64;
            self.zero = self.zero * 0.5 + share * 0.5;
        }
    }
}
