// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bytes like those of a guest: text, pointers, counters, zeroes, noise.

use proptest::prelude::*;

/// Numbers that are again the same from the same seed.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

const WORDS: [&str; 16] = [
    "memory ",
    "the ",
    "guest ",
    "page ",
    "of ",
    "a ",
    "dirty ",
    "was ",
    "sent ",
    "again ",
    "and ",
    "0x7f",
    "zero",
    "\n",
    "migration",
    "; ",
];

/// Kinds of [`sample`].
pub(crate) const KINDS: u32 = 5;

/// So many bytes of a kind.
pub(crate) fn sample(kind: u32, len: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        match kind {
            0 => bytes.extend(WORDS[numbers.below(16)].as_bytes()),
            1 => bytes.extend((0x7f00_1234_0000 + numbers.next() % 512 * 16).to_le_bytes()),
            2 => bytes.extend([0, 0, 0, u8::try_from(numbers.below(4)).unwrap()]),
            3 => bytes.extend(numbers.next().to_le_bytes().first_chunk::<6>().unwrap()),
            _ => bytes.extend([0; 64]),
        }
    }
    bytes.truncate(len);
    bytes
}

/// Some of several kinds, one after the other.
pub(crate) fn mixtures(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let part = (0..KINDS, 0..most, any::<u64>());
    prop::collection::vec(part, 1..4).prop_map(move |parts| {
        let parts = parts.into_iter();
        let mut bytes: Vec<u8> = parts
            .flat_map(|(kind, len, seed)| sample(kind, len, seed))
            .collect();
        bytes.truncate(most);
        bytes
    })
}
