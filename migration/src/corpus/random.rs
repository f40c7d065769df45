// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Random`]: numbers that look random, the same ones for the same seed.

/// Steele, Lea and Flood's `SplitMix64` ("Fast Splittable Pseudorandom Number Generators", 2014): its constants.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(MIX[0]);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(MIX[1]);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, or 0 if that is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // The high half of the product: as even as the division is, and much faster.
        let product = u128::from(self.next()) * u128::from(limit);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// As `below`, but small numbers are much more frequent, as words and opcodes are.
    pub(super) fn mostly_small(&mut self, limit: u64) -> u64 {
        let first = self.below(limit) + 1;
        let second = self.below(first) + 1;
        self.below(second)
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = usize::try_from(self.mostly_small(of.len() as u64)).ok()?;
        of.get(at)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
