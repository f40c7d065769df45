// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`inflate`] and [`check`]: DEFLATE by the rules of an IAA.
//!
//! ```text
//!  stream ─► blocks ─► symbols ─► bytes │ only how many
//!                └───────┴─ what an IAA would refuse ─► ErrorCode
//! ```
//!
//! Where RFC 1951 leaves a choice, and for what an IAA is documented to refuse, it answers as a device would: the history is
//! 4096 bytes, no run of code lengths crosses from one tree into the other, and a stream has an end. Trees with fewer codes
//! than there could be are taken as they are, and refused where such a code is met: nothing is known of a device that does
//! otherwise, and encoders make none.

use std::sync::LazyLock;

use thiserror::Error;

use super::{
    bits::BitReader,
    error_code::ErrorCode,
    header::DynamicHeader,
    lookup::Lookup,
    lz77::HISTORY,
    symbol::{DISTANCES, END_OF_BLOCK, LENGTHS},
};

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inflated {
    /// Bytes that it stands for.
    pub output_size: usize,
    /// Its own, up to the one in which the last block ends.
    pub consumed_bytes: usize,
    /// The farthest that a match reaches back.
    pub furthest_distance: usize,
    /// Blocks that it has.
    pub blocks: usize,
}

/// Why an IAA does not decode a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InflateError {
    /// It is not DEFLATE as an IAA wants it. Decode it by software before calling it corrupt.
    #[error("an IAA does not decode this stream: {0}")]
    Analytics(ErrorCode),
    /// More bytes than there is room for.
    #[error("the stream stands for more bytes than there is room for")]
    Overflow,
}

impl From<ErrorCode> for InflateError {
    fn from(code: ErrorCode) -> Self {
        Self::Analytics(code)
    }
}

/// Decodes a stream to the end of its last block.
///
/// Work and memory are bounded by the two lengths, whatever is in the stream.
///
/// # Errors
///
/// If an IAA would not decode it. `output` is written to as far as it came.
pub fn inflate(stream: &[u8], output: &mut [u8]) -> Result<Inflated, InflateError> {
    inflate_part(stream, output).1
}

/// The same, with how many bytes were written.
pub(crate) fn inflate_part(
    stream: &[u8],
    output: &mut [u8],
) -> (usize, Result<Inflated, InflateError>) {
    let mut sink = Fill { output, len: 0 };
    let said = blocks(stream, &mut sink);
    (sink.len, said)
}

/// Whether an IAA decodes a stream into no more than `limit` bytes: what [`inflate`] says, without the bytes.
///
/// # Errors
///
/// If it would not.
pub fn check(stream: &[u8], limit: usize) -> Result<Inflated, InflateError> {
    blocks(stream, &mut Measure { len: 0, limit })
}

/// Where bytes go.
trait Sink {
    /// How many there are.
    fn len(&self) -> usize;
    fn literal(&mut self, byte: u8) -> Result<(), InflateError>;
    /// `distance` is not 0, and no more than there are.
    fn copy(&mut self, distance: usize, length: usize) -> Result<(), InflateError>;
    fn stored(&mut self, bytes: &[u8]) -> Result<(), InflateError>;
}

struct Fill<'o> {
    output: &'o mut [u8],
    len: usize,
}

impl Fill<'_> {
    #[inline]
    fn room(&self, count: usize) -> Result<(), InflateError> {
        if count > self.output.len() - self.len {
            return Err(InflateError::Overflow);
        }
        Ok(())
    }
}

impl Sink for Fill<'_> {
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn literal(&mut self, byte: u8) -> Result<(), InflateError> {
        let place = self.output.get_mut(self.len);
        *place.ok_or(InflateError::Overflow)? = byte;
        self.len += 1;
        Ok(())
    }

    #[inline]
    fn copy(&mut self, distance: usize, length: usize) -> Result<(), InflateError> {
        self.room(length)?;
        let from = self.len - distance;
        if distance >= length {
            self.output.copy_within(from..from + length, self.len);
        } else {
            for at in 0..length {
                self.output[self.len + at] = self.output[from + at];
            }
        }
        self.len += length;
        Ok(())
    }

    fn stored(&mut self, bytes: &[u8]) -> Result<(), InflateError> {
        self.room(bytes.len())?;
        self.output[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
}

struct Measure {
    len: usize,
    limit: usize,
}

impl Measure {
    #[inline]
    fn add(&mut self, count: usize) -> Result<(), InflateError> {
        if count > self.limit - self.len {
            return Err(InflateError::Overflow);
        }
        self.len += count;
        Ok(())
    }
}

impl Sink for Measure {
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn literal(&mut self, _: u8) -> Result<(), InflateError> {
        self.add(1)
    }

    #[inline]
    fn copy(&mut self, _: usize, length: usize) -> Result<(), InflateError> {
        self.add(length)
    }

    fn stored(&mut self, bytes: &[u8]) -> Result<(), InflateError> {
        self.add(bytes.len())
    }
}

/// The codes of a block.
struct Trees {
    literals: Lookup<1024>,
    distances: Lookup<256>,
}

impl Trees {
    fn new(literals: &[u8], distances: &[u8]) -> Result<Self, ErrorCode> {
        if literals.iter().all(|length| *length == 0) {
            return Err(ErrorCode::NO_LITERAL_CODE);
        }
        Ok(Self {
            literals: Lookup::new(literals).map_err(|_| ErrorCode::BAD_LITERAL_LENGTHS)?,
            distances: Lookup::new(distances).map_err(|_| ErrorCode::BAD_DISTANCE_LENGTHS)?,
        })
    }
}

/// Those of RFC 1951 section 3.2.6, with the symbols that have a code and no meaning.
static FIXED: LazyLock<Result<Trees, ErrorCode>> = LazyLock::new(|| {
    let mut literals = [8; 288];
    literals[144..256].fill(9);
    literals[256..280].fill(7);
    Trees::new(&literals, &[5; 32])
});

fn blocks(stream: &[u8], sink: &mut impl Sink) -> Result<Inflated, InflateError> {
    let mut reader = BitReader::new(stream);
    let mut said = Inflated::default();
    loop {
        let head = reader.take(3).ok_or(ErrorCode::BAD_END)?;
        said.blocks += 1;
        match head >> 1 {
            0 => stored(&mut reader, sink)?,
            1 => match &*FIXED {
                Ok(trees) => symbols(&mut reader, trees, sink, &mut said)?,
                Err(code) => return Err((*code).into()),
            },
            2 => {
                let header = DynamicHeader::read_strictly(&mut reader)?;
                let trees = Trees::new(&header.literals, &header.distances)?;
                symbols(&mut reader, &trees, sink, &mut said)?;
            }
            _ => return Err(ErrorCode::BAD_BLOCK_TYPE.into()),
        }
        if head & 1 == 1 {
            said.output_size = sink.len();
            let consumed = reader.position().div_ceil(8);
            said.consumed_bytes = usize::try_from(consumed).unwrap_or(usize::MAX);
            return Ok(said);
        }
    }
}

fn stored(reader: &mut BitReader<'_>, sink: &mut impl Sink) -> Result<(), InflateError> {
    reader.align();
    let length = reader.take(16).ok_or(ErrorCode::BIG_HEADER)?;
    let complement = reader.take(16).ok_or(ErrorCode::BIG_HEADER)?;
    if length ^ complement != 0xffff {
        return Err(ErrorCode::BAD_STORED_LENGTH.into());
    }
    let bytes = reader.bytes(length as usize).ok_or(ErrorCode::BAD_END)?;
    sink.stored(bytes)
}

fn symbols(
    reader: &mut BitReader<'_>,
    trees: &Trees,
    sink: &mut impl Sink,
    said: &mut Inflated,
) -> Result<(), InflateError> {
    loop {
        // A match has 15 + 5 + 15 + 13 bits at most.
        reader.refill();
        let literal = trees.literals.next(reader);
        let (symbol, length) = literal.ok_or(ErrorCode::BAD_LITERAL_CODE)?;
        skip(reader, length)?;
        if let Ok(byte) = u8::try_from(symbol) {
            sink.literal(byte)?;
            continue;
        }
        let symbol = usize::from(symbol);
        if symbol == END_OF_BLOCK {
            return Ok(());
        }
        let range = LENGTHS.get(symbol - END_OF_BLOCK - 1);
        let length = ranged(reader, *range.ok_or(ErrorCode::BAD_LITERAL_CODE)?)?;
        let distance = trees.distances.next(reader);
        let (symbol, bits) = distance.ok_or(ErrorCode::BAD_DISTANCE_CODE)?;
        skip(reader, bits)?;
        let range = DISTANCES.get(usize::from(symbol));
        let distance = ranged(reader, *range.ok_or(ErrorCode::BAD_DISTANCE_CODE)?)?;
        if distance > HISTORY {
            return Err(ErrorCode::BAD_DISTANCE.into());
        }
        if distance > sink.len() {
            return Err(ErrorCode::BEFORE_START.into());
        }
        said.furthest_distance = said.furthest_distance.max(distance);
        sink.copy(distance, length)?;
    }
}

/// A length or a distance: its base and its extra bits.
#[inline]
fn ranged(reader: &mut BitReader<'_>, (base, extra_bits): (u16, u8)) -> Result<usize, ErrorCode> {
    let extra_bits = u32::from(extra_bits);
    let extra = reader.peek(extra_bits) as usize;
    skip(reader, extra_bits)?;
    Ok(usize::from(base) + extra)
}

/// Goes on by so many bits, if the stream has them.
#[inline]
fn skip(reader: &mut BitReader<'_>, count: u32) -> Result<(), ErrorCode> {
    if count > reader.available() {
        return Err(ErrorCode::BAD_END);
    }
    reader.consume(count);
    Ok(())
}
