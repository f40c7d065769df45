// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A set of small integers that many threads add to.

use crate::sync::{AtomicU64, Ordering};

/// A fixed-size set; members are added, never removed.
#[derive(Debug)]
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    /// An empty set for members below `len`.
    pub(crate) fn new(len: u32) -> Self {
        Self((0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds `index`; true for exactly one of all callers.
    pub(crate) fn insert(&self, index: u32) -> bool {
        let mask = 1 << (index % 64);
        // Relaxed: membership alone decides, and read-modify-write operations on one word have one order.
        // What a member stands for is fixed in the plan (made before any thread started) or read after the join.
        self.word(index / 64).fetch_or(mask, Ordering::Relaxed) & mask == 0
    }

    /// Adds `index`, and with it everything that the calling thread did before.
    pub(crate) fn publish(&self, index: u32) {
        // Release: pairs with the acquire in `lowest_beyond`.
        self.word(index / 64)
            .fetch_or(1 << (index % 64), Ordering::Release);
    }

    /// The lowest member from `from` (rounded down to 64) on that is not a member of `other`, which is as large; what
    /// its publisher did before is seen.
    pub(crate) fn lowest_beyond(&self, other: &Self, from: u32) -> Option<u32> {
        let words = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        (from / 64..words).find_map(|word| {
            // Acquire: pairs with the release in `publish`. Relaxed: `other` is written by the calling thread.
            let beyond =
                self.word(word).load(Ordering::Acquire) & !other.word(word).load(Ordering::Relaxed);
            (beyond != 0).then(|| word * 64 + beyond.trailing_zeros())
        })
    }

    /// Whether `index` is a member.
    pub(crate) fn contains(&self, index: u32) -> bool {
        // Relaxed: as in `insert`; the ledger asks only after all threads were joined.
        self.word(index / 64).load(Ordering::Relaxed) & (1 << (index % 64)) != 0
    }

    /// The highest number below `below` that is no member.
    ///
    /// Others may add it before the caller does: `insert` decides.
    pub(crate) fn highest_absent(&self, below: u32) -> Option<u32> {
        let mut below = below;
        while below > 0 {
            let word = (below - 1) / 64;
            let considered = u64::MAX >> (64 - (below - word * 64));
            // Relaxed: a hint, see above.
            let absent = !self.word(word).load(Ordering::Relaxed) & considered;
            if absent != 0 {
                return Some(word * 64 + 63 - absent.leading_zeros());
            }
            below = word * 64;
        }
        None
    }

    fn word(&self, index: u32) -> &AtomicU64 {
        &self.0[index as usize]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn insert_tells_the_first_from_the_rest() {
        let bits = Bits::new(130);
        assert!(bits.insert(129));
        assert!(!bits.insert(129));
        assert!(bits.contains(129));
        assert!(!bits.contains(128));
    }

    #[test]
    fn lowest_beyond_skips_what_the_other_has() {
        let (published, taken) = (Bits::new(200), Bits::new(200));
        assert_eq!(published.lowest_beyond(&taken, 0), None);
        for index in [3, 64, 199] {
            published.publish(index);
        }
        for expected in [3, 64, 199] {
            assert_eq!(published.lowest_beyond(&taken, expected), Some(expected));
            assert_eq!(published.lowest_beyond(&taken, 0), Some(expected));
            taken.insert(expected);
        }
        assert_eq!(published.lowest_beyond(&taken, 0), None);
    }

    #[test]
    fn highest_absent_agrees_with_a_search_one_by_one() {
        let bits = Bits::new(200);
        for index in (0..200).filter(|index| index % 7 != 3 && !(60..140).contains(index)) {
            bits.insert(index);
        }
        for index in 60..140 {
            bits.insert(index);
        }
        for below in 0..=200 {
            let expected = (0..below).rev().find(|&index| !bits.contains(index));
            assert_eq!(bits.highest_absent(below), expected, "below {below}");
        }
    }
}
