// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How an IAA of the model compresses: with the codes of an AECS, read as its bytes, or with its own.
//!
//! ```text
//!  AECS ─► accumulated bits, tables ─┐
//!  input ─► counts ─► header, tables ┴► bits │ symbols of the input │ end of the block │ 0 up to a byte
//! ```

use crate::iaa::{
    Aecs, BitWriter, DynamicHeader, END_OF_BLOCK, ErrorCode, Symbol, Token, TreeCounts, codes,
    distance_symbol, length_symbol, tokens,
};

/// A code with its first bit lowest, and its length; 0 for none.
type Code = (u32, u32);

/// The codes of a block.
struct Tables {
    literals: [Code; 286],
    distances: [Code; 30],
}

/// Compresses with what an AECS says, as one stream.
///
/// Returns how many bytes were written, also where they are not the whole.
pub(super) fn by_tables(
    input: &[u8],
    aecs: &[u8; Aecs::SIZE],
    output: &mut [u8],
) -> (usize, Result<(), ErrorCode>) {
    let bits = u32_at(aecs, 28);
    if bits > 2048 {
        return (0, Err(ErrorCode::BAD_AECS));
    }
    let Some(tables) = Tables::of_aecs(aecs) else {
        return (0, Err(ErrorCode::BAD_AECS));
    };
    let mut writer = BitWriter::new(output);
    for (bytes, start) in aecs[32..288].chunks(4).zip((0..bits).step_by(32)) {
        writer.put(u32_at(bytes, 0), (bits - start).min(32));
    }
    block(input, &tables, writer)
}

/// Compresses with codes made for the input, as one stream.
pub(super) fn by_counts(input: &[u8], output: &mut [u8]) -> (usize, Result<(), ErrorCode>) {
    let mut counts = TreeCounts::new();
    counts.add(input);
    let header = DynamicHeader::of_counts(&counts.literals, &counts.distances);
    let mut writer = BitWriter::new(output);
    writer.put(0b101, 3);
    header.write(&mut writer);
    block(input, &Tables::of_header(&header), writer)
}

fn block(
    input: &[u8],
    tables: &Tables,
    mut writer: BitWriter<'_>,
) -> (usize, Result<(), ErrorCode>) {
    let mut missing = false;
    let mut put = |(code, length): Code, extra: Code| {
        missing |= length == 0;
        writer.put(code, length);
        writer.put(extra.0, extra.1);
    };
    tokens(input, |token| match token {
        Token::Literal(byte) => put(tables.literals[usize::from(byte)], (0, 0)),
        Token::Match { length, distance } => {
            let (length, distance) = (length_symbol(length), distance_symbol(distance));
            put(tables.literals[length.index], extra(length));
            put(tables.distances[distance.index], extra(distance));
        }
    });
    put(tables.literals[END_OF_BLOCK], (0, 0));
    let said = match missing {
        true => Err(ErrorCode::NO_CODE_FOR_SYMBOL),
        false => Ok(()),
    };
    match writer.finish() {
        Ok(written) => (written, said),
        Err(full) => (full.room, said.and(Err(ErrorCode::OUTPUT_OVERFLOW))),
    }
}

fn extra(symbol: Symbol) -> Code {
    (symbol.extra, symbol.extra_bits)
}

impl Tables {
    /// None if an entry has more bits than a code may have.
    fn of_aecs(aecs: &[u8; Aecs::SIZE]) -> Option<Self> {
        let entry = |at: usize| {
            let entry = u32_at(aecs, at);
            let (code, length) = (entry & 0x7fff, entry >> 15);
            (length <= 15).then(|| (turned(code, length), length))
        };
        let mut this = Self {
            literals: [(0, 0); 286],
            distances: [(0, 0); 30],
        };
        for (at, code) in (288..).step_by(4).zip(&mut this.literals) {
            *code = entry(at)?;
        }
        for (at, code) in (1440..).step_by(4).zip(&mut this.distances) {
            *code = entry(at)?;
        }
        Some(this)
    }

    fn of_header(header: &DynamicHeader) -> Self {
        let mut literals = [0; 286];
        codes(&header.literals, &mut literals);
        let mut distances = [0; 30];
        codes(&header.distances, &mut distances);
        let code = |of: u16, length: u8| {
            let length = u32::from(length);
            (turned(u32::from(of), length), length)
        };
        Self {
            literals: std::array::from_fn(|at| code(literals[at], header.literals[at])),
            distances: std::array::from_fn(|at| code(distances[at], header.distances[at])),
        }
    }
}

/// The lowest `length` bits in the other order.
fn turned(code: u32, length: u32) -> u32 {
    code.reverse_bits().checked_shr(32 - length).unwrap_or(0)
}

/// 0 where there are no four bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u32::from_le_bytes(*word))
}
