// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Aecs`]: what a compress descriptor reads beside its input: the codes, and the bits that every stream begins with.
//!
//! ```text
//!        0     4     8          28            32                    288              1432     1440          1560   1568
//!        │ crc │ xor │ reserved │ accum bits  │ output_accum [256]  │ ll_sym [286 × 4] │ –     │ d_sym [30 × 4] │ –   │
//!  fixed                          3             BFINAL=1, BTYPE=01    length << 15 | code
//!  canned                         3 + header    BFINAL=1, BTYPE=10, code lengths
//! ```
//!
//! Layout: `struct aecs_comp_table_record` of the kernel's `drivers/crypto/intel/iaa/iaa_crypto.h`. A code's first bit is its
//! highest. Devices only read it when they are told to compress, so that all tasks of a process share one.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use thiserror::Error;

use super::{
    bits::BitWriter,
    header::DynamicHeader,
    huffman::{codes, room_left},
    symbol::{DISTANCE_SYMBOLS, LITERAL_SYMBOLS, TreeCounts},
};
use crate::Keep;

const ACCUMULATED_BITS_AT: usize = 28;
const ACCUMULATED_AT: usize = 32;
const ACCUMULATED: usize = 256;
const LITERALS_AT: usize = 288;
const DISTANCES_AT: usize = 1440;

/// Symbols of distances that the history of a device has: up to 4096.
const NEAR_DISTANCES: usize = 24;

/// Codes for a device to compress with. Cheap to clone; its bytes never change and never move.
#[derive(Clone)]
pub struct Aecs {
    block: Arc<Block>,
    /// The same.
    keep: Keep,
}

/// A device wants 32; this is a cache line.
#[repr(C, align(64))]
struct Block([u8; Aecs::SIZE]);

static FIXED: LazyLock<Aecs> = LazyLock::new(|| {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    Aecs::of(Block::new(0b011, &lengths, &[5; DISTANCE_SYMBOLS]))
});

impl Aecs {
    /// Its size in bytes.
    pub const SIZE: usize = 1568;

    /// The fixed codes of RFC 1951 section 3.2.6: every stream is one last block of them. The same in the whole process.
    #[must_use]
    pub fn fixed() -> Self {
        FIXED.clone()
    }

    /// Codes of these lengths: every stream is one last block that begins with this header.
    ///
    /// # Errors
    ///
    /// If these are not two complete codes, or if a symbol has none that a device may need, or if the header does not fit.
    pub fn canned(header: &DynamicHeader) -> Result<Self, AecsError> {
        check_tree(&header.literals, LITERAL_SYMBOLS, AecsTree::Literals)?;
        check_tree(&header.distances, NEAR_DISTANCES, AecsTree::Distances)?;
        let mut block = Block::new(0, &header.literals, &header.distances);
        let place = &mut block.0[ACCUMULATED_AT..ACCUMULATED_AT + ACCUMULATED];
        let mut writer = BitWriter::new(place);
        writer.put(0b101, 3);
        header.write(&mut writer);
        let bits = writer.bits();
        writer
            .finish()
            .map_err(|_| AecsError::HeaderTooLong { bits })?;
        block.put_u32(ACCUMULATED_BITS_AT, u32::try_from(bits).unwrap_or(u32::MAX));
        Ok(Self::of(block))
    }

    /// Codes that fit these samples of what will be compressed, each of them one input.
    ///
    /// Every symbol has a code, also those that no sample has: any input can be compressed, if not well.
    ///
    /// # Errors
    ///
    /// If the header does not fit.
    pub fn trained<'s>(samples: impl IntoIterator<Item = &'s [u8]>) -> Result<Self, AecsError> {
        let mut counts = TreeCounts::new();
        for sample in samples {
            counts.add(sample);
        }
        let near = counts.distances[..NEAR_DISTANCES].iter_mut();
        for count in counts.literals.iter_mut().chain(near) {
            *count = (*count).max(1);
        }
        let header = DynamicHeader::of_counts(&counts.literals, &counts.distances);
        Self::canned(&header)
    }

    fn of(block: Block) -> Self {
        let block = Arc::new(block);
        let keep = Arc::<Block>::clone(&block);
        Self { block, keep }
    }

    /// Its address, 64-byte aligned.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.block.0.as_ptr().expose_provenance() as u64
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::SIZE] {
        &self.block.0
    }

    /// What keeps it where it is.
    #[must_use]
    pub fn keep(&self) -> &Keep {
        &self.keep
    }
}

impl Block {
    /// With three bits that every stream begins with. Lengths of symbols that are none are not used.
    fn new(head: u8, literals: &[u8], distances: &[u8]) -> Self {
        let mut this = Self([0; Aecs::SIZE]);
        this.put_u32(ACCUMULATED_BITS_AT, 3);
        this.0[ACCUMULATED_AT] = head;
        this.put_tree(LITERALS_AT, LITERAL_SYMBOLS, literals);
        this.put_tree(DISTANCES_AT, DISTANCE_SYMBOLS, distances);
        this
    }

    fn put_u32(&mut self, at: usize, number: u32) {
        self.0[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }

    fn put_tree(&mut self, at: usize, symbols: usize, lengths: &[u8]) {
        let mut of = [0; 288];
        codes(lengths, &mut of[..lengths.len()]);
        for (symbol, (code, length)) in of.iter().zip(lengths).take(symbols).enumerate() {
            let entry = u32::from(*length) << 15 | u32::from(*code);
            self.put_u32(at + 4 * symbol, entry);
        }
    }
}

fn check_tree(lengths: &[u8], needed: usize, tree: AecsTree) -> Result<(), AecsError> {
    if let Some(symbol) = lengths[..needed].iter().position(|length| *length == 0) {
        return Err(AecsError::NoCode { tree, symbol });
    }
    if lengths.iter().any(|length| *length > 15) || room_left(lengths) != 0 {
        return Err(AecsError::Incomplete { tree });
    }
    Ok(())
}

impl fmt::Debug for Aecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aecs")
            .field("address", &format_args!("{:#x}", self.address()))
            .finish_non_exhaustive()
    }
}

/// One of the two trees of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AecsTree {
    /// Literals, lengths, and the end of the block.
    Literals,
    /// Distances.
    Distances,
}

impl fmt::Display for AecsTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Literals => "literal/length",
            Self::Distances => "distance",
        })
    }
}

/// Why a device cannot be given these codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AecsError {
    /// A symbol that may occur has no code.
    #[error("symbol {symbol} of the {tree} tree has no code: count it once at least")]
    NoCode {
        /// Of which tree.
        tree: AecsTree,
        /// The symbol.
        symbol: usize,
    },
    /// Lengths that are not those of a complete code.
    #[error(
        "the code lengths of the {tree} tree are not those of a complete code of up to 15 bits"
    )]
    Incomplete {
        /// Of which tree.
        tree: AecsTree,
    },
    /// No room for the code lengths.
    #[error(
        "the header of a block has {bits} bits, and there is room for 2048: use fewer different code lengths"
    )]
    HeaderTooLong {
        /// Bits of the header.
        bits: u64,
    },
}

#[cfg(all(test, not(loom)))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::iaa::{END_OF_BLOCK, distance_symbol, length_symbol};

    fn u32_at(aecs: &Aecs, at: usize) -> u32 {
        u32::from_le_bytes(aecs.as_bytes()[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_fixed_one_is_that_of_the_kernel() {
        let fixed = Aecs::fixed();
        assert_eq!(fixed.address() % 64, 0);
        assert_eq!(u32_at(&fixed, 28), 3);
        assert_eq!(fixed.as_bytes()[32..36], [3, 0, 0, 0]);
        let literal = |symbol: usize| u32_at(&fixed, 288 + 4 * symbol);
        for (symbol, entry) in [
            (0, 0x40030),
            (143, 0x400bf),
            (144, 0x48190),
            (255, 0x481ff),
            (256, 0x38000),
            (279, 0x38017),
            (280, 0x400c0),
            (285, 0x400c5),
        ] {
            assert_eq!(literal(symbol), entry, "{symbol}");
        }
        for symbol in 0..30 {
            let entry = u32_at(&fixed, 1440 + 4 * symbol as usize);
            assert_eq!(entry, 0x28000 + symbol);
        }
        for reserved in [0..28, 36..288, 1432..1440, 1560..1568] {
            assert!(fixed.as_bytes()[reserved].iter().all(|byte| *byte == 0));
        }
        assert_eq!(Aecs::fixed().address(), fixed.address());
    }

    #[test]
    fn a_clone_is_the_same_memory_and_is_kept() {
        let aecs = Aecs::trained([&b"some text"[..]]).unwrap();
        let held = Arc::downgrade(&aecs.block);
        let keep = Keep::clone(aecs.clone().keep());
        let address = aecs.address();
        assert_eq!(aecs.clone().address(), address);
        drop(aecs);
        let still = held.upgrade().unwrap().0.as_ptr().addr();
        assert_eq!(still as u64, address);
        drop(keep);
        assert!(held.upgrade().is_none());
    }

    #[test]
    fn codes_that_cannot_be_used_are_refused() {
        let flat = DynamicHeader::of_counts(&[1; 286], &[1; 30]);
        assert!(Aecs::canned(&flat).is_ok());
        let mut counts = [1; 286];
        counts[END_OF_BLOCK] = 0;
        let no_end = DynamicHeader::of_counts(&counts, &[1; 30]);
        let error = AecsError::NoCode {
            tree: AecsTree::Literals,
            symbol: END_OF_BLOCK,
        };
        assert_eq!(Aecs::canned(&no_end).unwrap_err(), error);
        let mut near = [0; 30];
        near[..distance_symbol(4096).index].fill(1);
        let error = AecsError::NoCode {
            tree: AecsTree::Distances,
            symbol: 23,
        };
        let no_far = DynamicHeader::of_counts(&[1; 286], &near);
        assert_eq!(Aecs::canned(&no_far).unwrap_err(), error);
        let mut odd = flat.clone();
        odd.literals[length_symbol(258).index] += 1;
        let error = AecsError::Incomplete {
            tree: AecsTree::Literals,
        };
        assert_eq!(Aecs::canned(&odd).unwrap_err(), error);
        odd.literals[3] = 16;
        assert_eq!(Aecs::canned(&odd).unwrap_err(), error);
        let mut full = flat;
        full.distances[0] -= 1;
        let error = AecsError::Incomplete {
            tree: AecsTree::Distances,
        };
        assert_eq!(Aecs::canned(&full).unwrap_err(), error);
    }

    /// A code length takes five bits at most on the average, since there are fifteen of them: nothing else is larger.
    #[test]
    fn the_header_of_lengths_without_a_pattern_fits() {
        let mut state = 7_u32;
        let mut counts = [0; 286];
        for count in &mut counts {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *count = 1 << (state >> 28);
        }
        let header = DynamicHeader::of_counts(&counts, &[1; 30]);
        let bits = u32_at(&Aecs::canned(&header).unwrap(), 28);
        assert!((700..=1600).contains(&bits), "{bits}");
    }

    proptest! {
        #[test]
        fn whatever_it_is_trained_with_every_symbol_has_a_code(
            samples in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
        ) {
            let aecs = Aecs::trained(samples.iter().map(Vec::as_slice)).unwrap();
            let length = |at: usize| u32_at(&aecs, at) >> 15;
            for symbol in 0..LITERAL_SYMBOLS {
                prop_assert!((1..=15).contains(&length(LITERALS_AT + 4 * symbol)));
            }
            for symbol in 0..NEAR_DISTANCES {
                prop_assert!((1..=15).contains(&length(DISTANCES_AT + 4 * symbol)));
            }
            let bits = u32_at(&aecs, ACCUMULATED_BITS_AT);
            prop_assert!((20..=2048).contains(&bits));
            prop_assert_eq!(aecs.as_bytes()[ACCUMULATED_AT] & 7, 0b101);
        }
    }
}
