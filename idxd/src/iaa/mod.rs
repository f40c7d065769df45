// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What an IAA makes of DEFLATE (RFC 1951): the tables it is given, the streams it can decode, and what it says when it cannot.
//!
//! ```text
//!  sample pages ─► lz77 ─► TreeCounts ─► huffman ─► DynamicHeader ─► Aecs ─► Coding ─► compress descriptor
//!  stream ─► check: can an IAA decode it?      ErrorCode ◄─ completion record
//!  stream of a software encoder ─► DynamicHeader::read ─► crossing? ─► DynamicHeader::write ─► stream for an IAA
//! ```
//!
//! A device is stricter than the RFC: its history is 4096 bytes, and no run of code lengths may go on from the
//! literal/length tree into the distance tree. A stream that it refuses may therefore be sound, and is to be decoded by
//! software before anybody calls it corrupt.

mod aecs;
mod bits;
mod coding;
mod error_code;
mod header;
mod huffman;
mod inflate;
mod lookup;
mod lz77;
mod symbol;

pub use aecs::{Aecs, AecsError, AecsTree};
pub use bits::{BitReader, BitWriter, DoesNotFit};
pub use coding::Coding;
pub use error_code::ErrorCode;
pub use header::{Crossing, DynamicHeader, FoundHeader};
pub use huffman::{code_lengths, codes, room_left};
#[cfg(feature = "model")]
pub(crate) use inflate::inflate_part;
pub use inflate::{InflateError, Inflated, check, inflate};
pub use lz77::{HISTORY, Token, tokens};
pub use symbol::{
    DISTANCE_SYMBOLS, END_OF_BLOCK, LITERAL_SYMBOLS, Symbol, TreeCounts, distance_symbol,
    length_symbol,
};
