// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Huffman codes: lengths from counts, limited as DEFLATE wants it, and the codes that follow from lengths.

/// Most symbols of an alphabet.
const MOST: usize = 288;

/// The longest code there is.
pub(super) const LONGEST: usize = 15;

/// Lengths of the codes of a prefix code for symbols that occur so often; 0 for those that do not. No length is above
/// `limit`: 15, or 7 for code lengths. The code is complete, except that a single symbol gets a code of one bit.
///
/// The same counts give the same lengths.
///
/// # Panics
///
/// If there are more than 288 symbols, or not as many lengths, or more than `limit` bits can tell apart, or `limit` is above 15.
pub fn code_lengths(counts: &[u32], limit: usize, lengths: &mut [u8]) {
    assert!(counts.len() <= MOST && counts.len() == lengths.len() && limit <= LONGEST);
    lengths.fill(0);
    // The symbols that occur, the rarest first.
    let mut sorted = [(0_u32, 0_u16); MOST];
    let mut used = 0;
    for (symbol, count) in (0..).zip(counts).filter(|(_, count)| **count > 0) {
        sorted[used] = (*count, symbol);
        used += 1;
    }
    assert!(
        used <= 1 << limit,
        "{used} symbols in codes of {limit} bits"
    );
    let sorted = &mut sorted[..used];
    sorted.sort_unstable();
    match *sorted {
        [] => {}
        [(_, symbol)] => lengths[usize::from(symbol)] = 1,
        _ => {
            let mut of_length = limited(depths(sorted), limit);
            let mut length = limit;
            for (_, symbol) in sorted {
                while of_length[length] == 0 {
                    length -= 1;
                }
                of_length[length] -= 1;
                lengths[usize::from(*symbol)] = u8::try_from(length).unwrap_or(u8::MAX);
            }
        }
    }
}

/// How many leaves of the tree of at least two symbols are how deep.
fn depths(sorted: &[(u32, u16)]) -> [u16; MOST] {
    let leaves = sorted.len();
    // Inner nodes are made in the order of their weights, so that the two lightest are always at the front of either list.
    let mut weight = [0_u64; MOST];
    let mut leaf_parent = [0; MOST];
    let mut inner_parent = [0; MOST];
    let (mut leaf, mut inner) = (0, 0);
    for made in 0..leaves - 1 {
        for _ in 0..2 {
            let light = sorted.get(leaf).map(|(count, _)| u64::from(*count));
            if light.is_some_and(|light| inner == made || light <= weight[inner]) {
                weight[made] += light.unwrap_or(0);
                leaf_parent[leaf] = made;
                leaf += 1;
            } else {
                weight[made] += weight[inner];
                inner_parent[inner] = made;
                inner += 1;
            }
        }
    }
    let mut depth = [0_usize; MOST];
    for node in (0..leaves - 2).rev() {
        depth[node] = depth[inner_parent[node]] + 1;
    }
    let mut of_depth = [0; MOST];
    for parent in &leaf_parent[..leaves] {
        of_depth[depth[*parent] + 1] += 1;
    }
    of_depth
}

/// The same with no more than `limit` bits, complete again.
fn limited(of_depth: [u16; MOST], limit: usize) -> [u16; LONGEST + 1] {
    let mut of_length = [0; LONGEST + 1];
    of_length[..=limit].copy_from_slice(&of_depth[..=limit]);
    of_length[limit] += of_depth[limit + 1..].iter().sum::<u16>();
    let taken = |of_length: &[u16]| -> usize {
        let taken = |(length, count): (usize, &u16)| usize::from(*count) << (limit - length);
        of_length[..=limit].iter().enumerate().map(taken).sum()
    };
    // One code of the longest goes below a shorter one, which is split for the two.
    for _ in 1 << limit..taken(&of_length) {
        of_length[limit] -= 1;
        let Some(shorter) = (1..limit).rev().find(|length| of_length[*length] > 0) else {
            break;
        };
        of_length[shorter] -= 1;
        of_length[shorter + 1] += 2;
    }
    of_length
}

/// How many codes of 15 bits there is room for beside codes of these lengths: 0 for a complete code, less than 0 for lengths
/// that no code has.
///
/// # Panics
///
/// If a length is above 15.
#[must_use]
pub fn room_left(lengths: &[u8]) -> i64 {
    let taken = |length: &u8| (1_i64 << LONGEST) >> *length;
    let used = lengths.iter().filter(|length| **length > 0);
    assert!(used.clone().all(|length| usize::from(*length) <= LONGEST));
    (1 << LONGEST) - used.map(taken).sum::<i64>()
}

/// The canonical codes of RFC 1951 section 3.2.2 for these lengths, the first bit highest; 0 where the length is.
///
/// # Panics
///
/// If there are not as many codes as lengths, or a length is above 15.
pub fn codes(lengths: &[u8], codes: &mut [u16]) {
    assert_eq!(lengths.len(), codes.len());
    let mut next = first_codes(&counts_by_length(lengths));
    for (code, length) in codes.iter_mut().zip(lengths) {
        *code = 0;
        if *length > 0 {
            let next = &mut next[usize::from(*length)];
            *code = u16::try_from(*next & 0xffff).unwrap_or(0);
            *next += 1;
        }
    }
}

/// How many codes have each length; none has length 0.
pub(super) fn counts_by_length(lengths: &[u8]) -> [u16; LONGEST + 1] {
    let mut of_length = [0; LONGEST + 1];
    for length in lengths {
        of_length[usize::from(*length)] += 1;
    }
    of_length[0] = 0;
    of_length
}

/// The first code of each length.
pub(super) fn first_codes(of_length: &[u16; LONGEST + 1]) -> [u32; LONGEST + 1] {
    let mut first = [0; LONGEST + 1];
    for length in 1..=LONGEST {
        first[length] = (first[length - 1] + u32::from(of_length[length - 1])) << 1;
    }
    first
}

/// The code with its first bit lowest, as it is in a stream.
#[inline]
pub(super) fn reversed(code: u16, length: u8) -> u16 {
    code.reverse_bits() >> (16 - u32::from(length.clamp(1, 16)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bits of everything, by lengths.
    fn cost(counts: &[u32], lengths: &[u8]) -> u64 {
        let bits = |(count, length): (&u32, &u8)| u64::from(*count) * u64::from(*length);
        counts.iter().zip(lengths).map(bits).sum()
    }

    #[test]
    fn codes_are_those_of_the_example_in_the_rfc() {
        let mut of = [0; 8];
        codes(&[3, 3, 3, 3, 3, 2, 4, 4], &mut of);
        assert_eq!(
            of,
            [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]
        );
        assert_eq!(reversed(0b1110, 4), 0b0111);
    }

    #[test]
    fn small_alphabets_have_the_lengths_that_are_known() {
        for (counts, expected) in [
            (&[0, 0, 0][..], &[0, 0, 0][..]),
            (&[0, 9, 0], &[0, 1, 0]),
            (&[5, 0, 1], &[1, 0, 1]),
            (&[1, 1, 2, 4], &[3, 3, 2, 1]),
            (&[1, 1, 1, 1], &[2, 2, 2, 2]),
        ] {
            let mut lengths = vec![0xff; counts.len()];
            code_lengths(counts, 15, &mut lengths);
            assert_eq!(lengths, expected, "{counts:?}");
        }
    }

    #[test]
    fn the_deepest_tree_is_limited() {
        let mut counts = [1_u32; 40];
        for at in 2..40 {
            counts[at] = counts[at - 1] + counts[at - 2];
        }
        for limit in [6, 7, 15] {
            let mut lengths = [0; 40];
            code_lengths(&counts, limit, &mut lengths);
            assert_eq!(room_left(&lengths), 0);
            assert_eq!(usize::from(*lengths.iter().max().unwrap()), limit);
        }
        // 286 symbols leave no choice in 9 bits but are far from full.
        let mut lengths = [0; 286];
        code_lengths(&[1; 286], 9, &mut lengths);
        assert_eq!(room_left(&lengths), 0);
    }

    #[test]
    fn room_is_told() {
        assert_eq!(room_left(&[]), 1 << 15);
        assert_eq!(room_left(&[1, 0]), 1 << 14);
        assert_eq!(room_left(&[1, 1]), 0);
        assert_eq!(room_left(&[1, 1, 15]), -1);
    }

    proptest! {
        #[test]
        fn codes_are_complete_within_the_limit_and_rarer_symbols_have_longer_ones(
            counts in prop::collection::vec(
                prop_oneof![Just(0_u32), 1..20_u32, any::<u32>()], 2..=288
            ),
            limit in 9..=15_usize,
        ) {
            let mut lengths = vec![0; counts.len()];
            code_lengths(&counts, limit, &mut lengths);
            let used = counts.iter().filter(|count| **count > 0).count();
            let room = room_left(&lengths);
            prop_assert_eq!(room, match used { 0 => 1 << 15, 1 => 1 << 14, _ => 0 });
            for (count, length) in counts.iter().zip(&lengths) {
                prop_assert_eq!(*count == 0, *length == 0);
                prop_assert!(usize::from(*length) <= limit);
                for (other, longer) in counts.iter().zip(&lengths) {
                    prop_assert!(*count == 0 || count >= other || length >= longer);
                }
            }
            // No more than codes that are all alike.
            if used > 1 {
                let flat = u64::from(used.next_power_of_two().ilog2());
                let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
                prop_assert!(cost(&counts, &lengths) <= all * flat);
            }
            // No code is the beginning of another.
            let mut of = vec![0; counts.len()];
            codes(&lengths, &mut of);
            let mut all: Vec<_> = of.iter().zip(&lengths).filter(|(_, length)| **length > 0)
                .map(|(code, length)| (u32::from(*code) << (15 - *length), *length)).collect();
            all.sort_unstable();
            for pair in all.windows(2) {
                prop_assert!(pair[0].0 + (1 << (15 - pair[0].1)) <= pair[1].0);
            }
        }
    }
}
