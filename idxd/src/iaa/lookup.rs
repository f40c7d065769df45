// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Lookup`]: from the next bits of a stream to a symbol.
//!
//! ```text
//!  next ROOT bits ─► table ─► symbol, length
//!                      └ longer: the code's number among those of its length ─► symbol
//! ```

use super::{
    bits::BitReader,
    huffman::{LONGEST, counts_by_length, first_codes, reversed, room_left},
};

/// The codes of one tree. `PLACES` is 2 to the bits that are looked up at once.
#[derive(Debug)]
pub(super) struct Lookup<const PLACES: usize> {
    /// The symbol, shifted by 4, and the length of its code; 0 where there is no code, or a longer one.
    table: [u16; PLACES],
    first: [u32; LONGEST + 1],
    of_length: [u16; LONGEST + 1],
    /// Where the symbols of each length begin in `symbols`.
    starts: [u16; LONGEST + 1],
    /// By length, and then by number.
    symbols: [u16; 288],
}

/// More codes than their lengths allow.
#[derive(Debug)]
pub(super) struct Oversubscribed;

impl<const PLACES: usize> Lookup<PLACES> {
    const ROOT: u32 = PLACES.ilog2();

    /// The canonical codes of these lengths, none of them above 15.
    pub(super) fn new(lengths: &[u8]) -> Result<Self, Oversubscribed> {
        if room_left(lengths) < 0 {
            return Err(Oversubscribed);
        }
        let of_length = counts_by_length(lengths);
        let first = first_codes(&of_length);
        let mut starts = [0; LONGEST + 1];
        for length in 1..LONGEST {
            starts[length + 1] = starts[length] + of_length[length];
        }
        let mut this = Self {
            table: [0; PLACES],
            first,
            of_length,
            starts,
            symbols: [0; 288],
        };
        let mut next = starts;
        for (symbol, length) in (0..).zip(lengths).filter(|(_, length)| **length > 0) {
            let place = &mut next[usize::from(*length)];
            let number = *place - starts[usize::from(*length)];
            this.symbols[usize::from(*place)] = symbol;
            *place += 1;
            if u32::from(*length) <= Self::ROOT {
                this.enter(symbol, *length, number);
            }
        }
        Ok(this)
    }

    /// Enters a symbol wherever the next bits begin with its code.
    fn enter(&mut self, symbol: u16, length: u8, number: u16) {
        let code = self.first[usize::from(length)] + u32::from(number);
        let code = reversed(u16::try_from(code).unwrap_or(0), length);
        let places = self.table[usize::from(code)..].iter_mut();
        let entry = symbol << 4 | u16::from(length);
        places.step_by(1 << length).for_each(|place| *place = entry);
    }

    /// The symbol whose code the next bits begin with, and how long it is; it may be longer than what is there.
    #[inline]
    pub(super) fn next(&self, reader: &BitReader<'_>) -> Option<(u16, u32)> {
        let entry = self.table[reader.peek(Self::ROOT) as usize];
        if entry != 0 {
            return Some((entry >> 4, u32::from(entry & 15)));
        }
        self.next_long(reader)
    }

    /// The same for codes that the table has no place for.
    fn next_long(&self, reader: &BitReader<'_>) -> Option<(u16, u32)> {
        let bits = reader.peek(15).reverse_bits() >> 17;
        for length in Self::ROOT as usize + 1..=LONGEST {
            let number = (bits >> (LONGEST - length)).wrapping_sub(self.first[length]);
            if number < u32::from(self.of_length[length]) {
                let place = usize::from(self.starts[length]) + number as usize;
                return Some((self.symbols[place], u32::try_from(length).unwrap_or(0)));
            }
        }
        None
    }
}
