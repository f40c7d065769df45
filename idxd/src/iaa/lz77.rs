// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`tokens`]: bytes as literals and matches, with the history that an IAA has.
//!
//! It is here to count symbols for tables, and for the model of a device. Who compresses pages by software does it better.

/// How far back a match may reach, in bytes.
pub const HISTORY: usize = 4096;

/// The longest match.
const LONGEST: usize = 258;
/// The shortest one that is looked for: three bytes far away cost more than three literals.
const SHORTEST: usize = 4;
const HASH_BITS: u32 = 12;

/// A piece of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A byte.
    Literal(u8),
    /// Bytes that were there before.
    Match {
        /// How many: 3 to 258.
        length: u16,
        /// So many bytes back: 1 to [`HISTORY`].
        distance: u16,
    },
}

/// Takes `bytes` apart, greedily, and hands out the pieces in order. The same bytes give the same pieces.
pub fn tokens(bytes: &[u8], mut each: impl FnMut(Token)) {
    // The position after the last one of each hash; 0 for none.
    let mut seen = [0_u32; 1 << HASH_BITS];
    let mut at = 0;
    while at < bytes.len() {
        let Some(start) = bytes[at..].first_chunk::<SHORTEST>() else {
            each(Token::Literal(bytes[at]));
            at += 1;
            continue;
        };
        let candidate = see(&mut seen, start, at);
        let length = candidate.map_or(0, |from| common(bytes, from, at));
        let distance = candidate.map_or(0, |from| at - from);
        match (u16::try_from(length), u16::try_from(distance)) {
            (Ok(length), Ok(distance)) if usize::from(length) >= SHORTEST => {
                each(Token::Match { length, distance });
                let end = at + usize::from(length);
                for inside in at + 1..end {
                    if let Some(start) = bytes[inside..].first_chunk::<SHORTEST>() {
                        see(&mut seen, start, inside);
                    }
                }
                at = end;
            }
            _ => {
                each(Token::Literal(bytes[at]));
                at += 1;
            }
        }
    }
}

/// Notes that these bytes are at `at`. Returns where such bytes may have been last, if that is in the history.
#[inline]
fn see(seen: &mut [u32; 1 << HASH_BITS], start: &[u8; SHORTEST], at: usize) -> Option<usize> {
    // Knuth's multiplicative hash: 2^32 divided by the golden ratio.
    let hash = u32::from_le_bytes(*start).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
    let place = &mut seen[hash as usize];
    let before = *place as usize;
    *place = u32::try_from(at + 1).unwrap_or(0);
    let from = before.checked_sub(1)?;
    (at > from && at - from <= HISTORY).then_some(from)
}

/// How many bytes are the same at both places.
#[inline]
fn common(bytes: &[u8], from: usize, at: usize) -> usize {
    let end = bytes.len().min(at + LONGEST);
    bytes[at..end]
        .iter()
        .zip(&bytes[from..])
        .take_while(|(here, there)| here == there)
        .count()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the pieces stand for, put together byte by byte.
    fn put_together(bytes: &[u8]) -> Vec<u8> {
        let mut output: Vec<u8> = Vec::new();
        tokens(bytes, |token| match token {
            Token::Literal(byte) => output.push(byte),
            Token::Match { length, distance } => {
                assert!((3..=258).contains(&length));
                assert!(usize::from(distance) <= HISTORY);
                for _ in 0..length {
                    output.push(output[output.len() - usize::from(distance)]);
                }
            }
        });
        output
    }

    #[test]
    fn a_run_is_matches_with_itself() {
        let mut pieces = Vec::new();
        tokens(&[7; 600], |token| pieces.push(token));
        let long = Token::Match {
            length: 258,
            distance: 1,
        };
        let rest = Token::Match {
            length: 83,
            distance: 1,
        };
        assert_eq!(pieces, [Token::Literal(7), long, long, rest]);
    }

    #[test]
    fn the_history_is_4096_bytes() {
        for (gap, matched) in [(HISTORY, true), (HISTORY + 1, false)] {
            let mut bytes = vec![0; gap];
            bytes[..4].copy_from_slice(&[0xf1, 0xf2, 0xf3, 0xf4]);
            bytes.extend([0xf1, 0xf2, 0xf3, 0xf4]);
            let mut last = None;
            tokens(&bytes, |token| last = Some(token));
            let far = Token::Match {
                length: 4,
                distance: 4096,
            };
            assert_eq!(last == Some(far), matched, "{gap}");
            assert_eq!(put_together(&bytes), bytes);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(
            words in prop::collection::vec(prop::collection::vec(0..4_u8, 1..9), 0..8),
            order in prop::collection::vec(0..8_usize, 0..900),
        ) {
            let word = |at: &usize| words.get(*at).map_or(&[][..], Vec::as_slice);
            let bytes: Vec<u8> = order.iter().flat_map(word).copied().collect();
            prop_assert_eq!(put_together(&bytes), bytes);
        }
    }
}
