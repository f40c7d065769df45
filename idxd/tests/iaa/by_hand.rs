// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Bits`]: streams that no encoder makes, put together bit by bit.

use idxd::iaa::{BitWriter, codes, distance_symbol, length_symbol};

/// In which order the lengths of the codes for code lengths are given.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// A stream so far: bits with their counts, the lowest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bits(Vec<(u32, u32)>);

impl Bits {
    /// A block's first three bits.
    pub(crate) fn block(is_last: bool, kind: u32) -> Self {
        Self(vec![(u32::from(is_last), 1), (kind, 2)])
    }

    /// Bits, the lowest first.
    pub(crate) fn put(mut self, bits: u32, count: u32) -> Self {
        self.0.push((bits, count));
        self
    }

    /// A code, the highest first.
    pub(crate) fn code(self, code: u16, length: u8) -> Self {
        let turned = code.reverse_bits().checked_shr(16 - u32::from(length));
        self.put(u32::from(turned.unwrap_or(0)), u32::from(length))
    }

    /// A symbol by the codes of these lengths.
    pub(crate) fn symbol(self, lengths: &[u8], symbol: usize) -> Self {
        let mut of = vec![0; lengths.len()];
        codes(lengths, &mut of);
        self.code(of[symbol], lengths[symbol])
    }

    /// A literal, a length, or the end, by the fixed codes.
    pub(crate) fn fixed(self, symbol: usize) -> Self {
        let mut lengths = [8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.symbol(&lengths, symbol)
    }

    /// A match by the fixed codes.
    pub(crate) fn fixed_match(self, length: u16, distance: u16) -> Self {
        let (length, distance) = (length_symbol(length), distance_symbol(distance));
        self.fixed(length.index)
            .put(length.extra, length.extra_bits)
            .symbol(&[5; 32], distance.index)
            .put(distance.extra, distance.extra_bits)
    }

    /// The counts of a header, and the lengths of these symbols' codes for code lengths.
    pub(crate) fn header(self, literals: u32, distances: u32, lengths: &[(usize, u8)]) -> Self {
        let lengths = by_symbol(lengths);
        let mut bits = self.put(literals - 257, 5).put(distances - 1, 5).put(15, 4);
        for symbol in ORDER {
            bits = bits.put(u32::from(lengths[symbol]), 3);
        }
        bits
    }

    /// Code lengths, as the symbols of that code with their extra bits.
    pub(crate) fn lengths(self, lengths: &[(usize, u8)], symbols: &[(usize, u32, u32)]) -> Self {
        let lengths = by_symbol(lengths);
        symbols.iter().fold(self, |bits, (symbol, extra, count)| {
            bits.symbol(&lengths, *symbol).put(*extra, *count)
        })
    }

    /// The bytes, the last filled with zeroes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let bits: u32 = self.0.iter().map(|(_, count)| count).sum();
        let mut bytes = vec![0; bits as usize / 8 + 1];
        let mut writer = BitWriter::new(&mut bytes);
        for (bits, count) in &self.0 {
            writer.put(*bits, *count);
        }
        let len = writer.finish().unwrap();
        bytes.truncate(len);
        bytes
    }
}

fn by_symbol(lengths: &[(usize, u8)]) -> [u8; 19] {
    let mut of_symbol = [0; 19];
    for (symbol, length) in lengths {
        of_symbol[*symbol] = *length;
    }
    of_symbol
}

/// How the code lengths of a block are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Runs {
    /// None crosses from one tree into the other.
    Apart,
    /// One of zeroes begins in one tree and ends in the other.
    Spans,
    /// The first of the second tree repeats the last length of the first.
    Repeats,
}

/// "abababa" as a block that brings its codes: two bits for each of `a`, `b`, the end, length 5, and four distances.
pub(crate) fn abababa(runs: Runs) -> Bits {
    let of = [(0, 2), (2, 2), (16, 2), (18, 2)];
    let one = (2, 0, 0);
    // 97 zeroes; a, b; 157 zeroes; the end; lengths 3 and 4, which have none; length 5.
    let list = [
        (18, 97 - 11, 7),
        one,
        one,
        (18, 138 - 11, 7),
        (18, 19 - 11, 7),
        one,
        (0, 0, 0),
        (0, 0, 0),
        one,
    ];
    let mut literals = [0; 286];
    for symbol in [97, 98, 256, 259] {
        literals[symbol] = 2;
    }
    let (counts, end, distances) = match runs {
        Runs::Apart => ((260, 4), vec![one, (16, 0, 2)], [2, 2, 2, 2, 0]),
        // Ten zeroes of one tree, one of the other.
        Runs::Spans => ((270, 5), vec![(18, 0, 7), one, (16, 0, 2)], [0, 2, 2, 2, 2]),
        Runs::Repeats => ((260, 4), vec![(16, 1, 2)], [2, 2, 2, 2, 0]),
    };
    Bits::block(true, 2)
        .header(counts.0, counts.1, &of)
        .lengths(&of, &list)
        .lengths(&of, &end)
        .symbol(&literals, 97)
        .symbol(&literals, 98)
        .symbol(&literals, 259)
        .symbol(&distances, 1)
        .symbol(&literals, 256)
}
