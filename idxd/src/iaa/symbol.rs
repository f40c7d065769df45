// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The alphabets of DEFLATE, RFC 1951 section 3.2.5: what lengths and distances are called, and [`TreeCounts`], how often.

use super::lz77::{Token, tokens};

/// Symbols of the literal/length tree: 256 literals, the end of a block, 29 ranges of lengths.
pub const LITERAL_SYMBOLS: usize = 286;

/// Symbols of the distance tree.
pub const DISTANCE_SYMBOLS: usize = 30;

/// The symbol that ends a block.
pub const END_OF_BLOCK: usize = 256;

/// Base and extra bits of the symbols from 257 on.
pub(super) const LENGTHS: [(u16, u8); 29] = length_ranges();

/// Base and extra bits of the symbols of distances.
pub(super) const DISTANCES: [(u16, u8); DISTANCE_SYMBOLS] = distance_ranges();

/// Four symbols for each number of extra bits, eight for none; the last is 258 alone.
const fn length_ranges() -> [(u16, u8); 29] {
    let mut ranges = [(0, 0); 29];
    let mut base = 3;
    let mut at: u8 = 0;
    while at < 28 {
        let extra = if at < 8 { 0 } else { at / 4 - 1 };
        ranges[at as usize] = (base, extra);
        base += 1 << extra;
        at += 1;
    }
    ranges[28] = (258, 0);
    ranges
}

/// Two symbols for each number of extra bits, four for none.
const fn distance_ranges() -> [(u16, u8); DISTANCE_SYMBOLS] {
    let mut ranges = [(0, 0); DISTANCE_SYMBOLS];
    let mut base = 1;
    let mut at: u8 = 0;
    while (at as usize) < DISTANCE_SYMBOLS {
        let extra = if at < 4 { 0 } else { at / 2 - 1 };
        ranges[at as usize] = (base, extra);
        base += 1 << extra;
        at += 1;
    }
    ranges
}

/// A length or a distance as it is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Its place in its alphabet.
    pub index: usize,
    /// What follows its code.
    pub extra: u32,
    /// In so many bits.
    pub extra_bits: u32,
}

/// How a match of that length is called.
///
/// # Panics
///
/// If it is not of 3 to 258 bytes.
#[must_use]
#[inline]
pub fn length_symbol(length: u16) -> Symbol {
    assert!((3..=258).contains(&length), "a match of {length} bytes");
    let above = u32::from(length) - 3;
    let (index, extra_bits) = match above {
        255 => (28, 0),
        0..8 => (above, 0),
        _ => {
            let extra_bits = above.ilog2() - 2;
            (4 * (extra_bits + 1) + (above >> extra_bits & 3), extra_bits)
        }
    };
    Symbol {
        index: END_OF_BLOCK + 1 + index as usize,
        extra: if above == 255 {
            0
        } else {
            above & ((1 << extra_bits) - 1)
        },
        extra_bits,
    }
}

/// How that distance is called.
///
/// # Panics
///
/// If it is not of 1 to 32768 bytes.
#[must_use]
#[inline]
pub fn distance_symbol(distance: u16) -> Symbol {
    assert!(
        (1..=32768).contains(&distance),
        "a distance of {distance} bytes"
    );
    let above = u32::from(distance) - 1;
    let (index, extra_bits) = if above < 4 {
        (above, 0)
    } else {
        let extra_bits = above.ilog2() - 1;
        (2 * (extra_bits + 1) + (above >> extra_bits & 1), extra_bits)
    };
    Symbol {
        index: index as usize,
        extra: above & ((1 << extra_bits) - 1),
        extra_bits,
    }
}

/// How often each symbol occurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeCounts {
    /// Of the literal/length tree.
    pub literals: [u32; LITERAL_SYMBOLS],
    /// Of the distance tree.
    pub distances: [u32; DISTANCE_SYMBOLS],
}

impl TreeCounts {
    /// None has occurred.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            literals: [0; LITERAL_SYMBOLS],
            distances: [0; DISTANCE_SYMBOLS],
        }
    }

    /// Adds what a block of these bytes consists of, with its end.
    pub fn add(&mut self, bytes: &[u8]) {
        tokens(bytes, |token| match token {
            Token::Literal(byte) => count(&mut self.literals[usize::from(byte)]),
            Token::Match { length, distance } => {
                count(&mut self.literals[length_symbol(length).index]);
                count(&mut self.distances[distance_symbol(distance).index]);
            }
        });
        count(&mut self.literals[END_OF_BLOCK]);
    }
}

impl Default for TreeCounts {
    fn default() -> Self {
        Self::new()
    }
}

fn count(of: &mut u32) {
    *of = of.saturating_add(1);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        assert_eq!(LENGTHS[0], (3, 0));
        assert_eq!(LENGTHS[8], (11, 1));
        assert_eq!(LENGTHS[20], (67, 4));
        assert_eq!(LENGTHS[27], (227, 5));
        assert_eq!(LENGTHS[28], (258, 0));
        assert_eq!(DISTANCES[3], (4, 0));
        assert_eq!(DISTANCES[4], (5, 1));
        assert_eq!(DISTANCES[23], (3073, 10));
        assert_eq!(DISTANCES[24], (4097, 11));
        assert_eq!(DISTANCES[29], (24577, 13));
    }

    #[test]
    fn every_length_and_distance_has_the_symbol_whose_range_it_is_in() {
        for length in 3..=258 {
            let symbol = length_symbol(length);
            let (base, extra_bits) = LENGTHS[symbol.index - 257];
            assert_eq!(u32::from(extra_bits), symbol.extra_bits);
            assert_eq!(u32::from(base) + symbol.extra, u32::from(length));
            assert!(symbol.extra < 1 << symbol.extra_bits);
            assert_eq!(symbol.index == 285, length == 258);
        }
        for distance in 1..=32768 {
            let symbol = distance_symbol(distance);
            let (base, extra_bits) = DISTANCES[symbol.index];
            assert_eq!(u32::from(extra_bits), symbol.extra_bits);
            assert_eq!(u32::from(base) + symbol.extra, u32::from(distance));
            assert!(symbol.extra < 1 << symbol.extra_bits);
        }
    }

    #[test]
    fn symbols_are_counted() {
        let mut counts = TreeCounts::new();
        counts.add(b"abcdabcdabcdx");
        assert_eq!(counts.literals[usize::from(b'a')], 1);
        assert_eq!(counts.literals[usize::from(b'x')], 1);
        assert_eq!(counts.literals[length_symbol(8).index], 1);
        assert_eq!(counts.distances[distance_symbol(4).index], 1);
        assert_eq!(counts.literals[END_OF_BLOCK], 1);
        assert_eq!(counts.literals.iter().sum::<u32>(), 7);
        assert_eq!(counts.distances.iter().sum::<u32>(), 1);
    }
}
