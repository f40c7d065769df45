// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`NormalPageRatio`]: a share of zero pages that is treated as data, to load what comes after.

use crate::PageBitmap;

/// Treats `percent` of all zero pages as data, spread evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NormalPageRatio {
    percent: u8,
    /// What is owed, in hundredths of a page.
    owed: u8,
}

impl NormalPageRatio {
    /// A percentage up to 100; more is 100.
    #[must_use]
    pub fn new(percent: u8) -> Self {
        Self {
            percent: percent.min(100),
            owed: 0,
        }
    }

    /// Clears its share of the bits. Returns how many.
    pub(super) fn apply(&mut self, zero: &mut PageBitmap) -> usize {
        if self.percent == 0 {
            return 0;
        }
        let mut cleared = 0;
        for index in 0..zero.len() {
            if !zero.get(index) {
                continue;
            }
            self.owed += self.percent;
            if self.owed >= 100 {
                self.owed -= 100;
                zero.clear(index);
                cleared += 1;
            }
        }
        cleared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_that_share_of_zero_pages_and_no_other_page() {
        for percent in [0, 1, 30, 50, 99, 100, 255] {
            let mut ratio = NormalPageRatio::new(percent);
            let (mut cleared, mut left) = (0, 0);
            // Over batches of odd sizes.
            for batch in [7, 1, 92, 100] {
                let mut zero = PageBitmap::new(batch * 2);
                (0..batch).for_each(|index| zero.set(index * 2));
                cleared += ratio.apply(&mut zero);
                left += zero.count();
                assert!(zero.ones().all(|index| index % 2 == 0));
            }
            assert_eq!(cleared + left, 200);
            assert_eq!(cleared, 2 * usize::from(percent.min(100)), "{percent} %");
        }
    }
}
