// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`DynamicHeader`]: the code lengths of a block that brings its own, and how they are written.
//!
//! ```text
//!  BFINAL, BTYPE=10 │ HLIT HDIST HCLEN │ lengths of the codes for lengths │ LL lengths │ distance lengths │ block
//!                   └────────────────── what is read and written here ────────────────────────────────┘
//!  RFC 1951: one list, a run may go on ──────────────────────────────────►  xxxxxxxxxxxxxxxxx
//!  IAA:      two lists, none does                                           xxxxxx│xxxxxxxxxx
//! ```
//!
//! A stream that crosses is sound, and an IAA refuses it. To mend it: read the header, write it again, and append the rest
//! of the bits. Codes follow from lengths alone, so that nothing else changes.

use super::{
    bits::{BitReader, BitWriter},
    error_code::ErrorCode,
    huffman::{code_lengths, codes, reversed, room_left},
    symbol::{DISTANCE_SYMBOLS, LITERAL_SYMBOLS},
};

/// Code lengths of the two trees of a block; 0 for symbols without a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicHeader {
    /// Of the literal/length tree.
    pub literals: [u8; LITERAL_SYMBOLS],
    /// Of the distance tree.
    pub distances: [u8; DISTANCE_SYMBOLS],
}

/// How a run of code lengths crosses from one tree into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// It begins in the literal/length tree and ends in the distance tree.
    Spans,
    /// It is the first of the distance tree and repeats the last length of the literal/length tree.
    Repeats,
}

impl Crossing {
    /// What an IAA says of it.
    #[must_use]
    pub const fn error(self) -> ErrorCode {
        match self {
            Self::Spans => ErrorCode::WRONG_LITERAL_COUNT,
            Self::Repeats => ErrorCode::FIRST_DISTANCE_CODE_REPEATS,
        }
    }
}

/// A header that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundHeader {
    /// What it says.
    pub header: DynamicHeader,
    /// Whether an IAA refuses it for how it says so.
    pub crossing: Option<Crossing>,
    /// How long it is, without the three bits before it.
    pub bits: u64,
}

/// Symbols of the code for code lengths.
const LENGTH_CODES: usize = 19;

/// In which order their lengths are given, RFC 1951 section 3.2.7.
const ORDER: [usize; LENGTH_CODES] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// The longest code for a code length.
const LIMIT: usize = 7;

impl DynamicHeader {
    /// A code for what occurs so often. Each tree gets two codes at least, so that it is complete.
    #[must_use]
    pub fn of_counts(
        literals: &[u32; LITERAL_SYMBOLS],
        distances: &[u32; DISTANCE_SYMBOLS],
    ) -> Self {
        let mut this = Self {
            literals: [0; LITERAL_SYMBOLS],
            distances: [0; DISTANCE_SYMBOLS],
        };
        let (mut literals, mut distances) = (*literals, *distances);
        at_least_two(&mut literals);
        at_least_two(&mut distances);
        code_lengths(&literals, 15, &mut this.literals);
        code_lengths(&distances, 15, &mut this.distances);
        this
    }

    /// Lengths of the literal/length tree that are given: up to the last one that is not 0, and 257 at least.
    fn literals_given(&self) -> &[u8] {
        &self.literals[..given(&self.literals, 257)]
    }

    /// Lengths of the distance tree that are given.
    fn distances_given(&self) -> &[u8] {
        &self.distances[..given(&self.distances, 1)]
    }

    /// Writes it, so that no run crosses. The three bits `BFINAL` and `BTYPE` come before it and are not part of it.
    ///
    /// # Panics
    ///
    /// If a length is above 15.
    pub fn write(&self, writer: &mut BitWriter<'_>) {
        let trees = [self.literals_given(), self.distances_given()];
        let mut counts = [0; LENGTH_CODES];
        for tree in trees {
            runs(tree, |symbol, _, _| counts[usize::from(symbol)] += 1);
        }
        at_least_two(&mut counts);
        let mut lengths = [0; LENGTH_CODES];
        code_lengths(&counts, LIMIT, &mut lengths);
        let mut of = [0; LENGTH_CODES];
        codes(&lengths, &mut of);
        let named = ORDER.iter().rposition(|symbol| lengths[*symbol] > 0);
        let named = named.map_or(4, |last| (last + 1).max(4));
        let [literals, distances] = trees.map(<[u8]>::len);
        writer.put(small(literals - 257), 5);
        writer.put(small(distances - 1), 5);
        writer.put(small(named - 4), 4);
        for symbol in &ORDER[..named] {
            writer.put(u32::from(lengths[*symbol]), 3);
        }
        for tree in trees {
            runs(tree, |symbol, extra, extra_bits| {
                let symbol = usize::from(symbol);
                let code = reversed(of[symbol], lengths[symbol]);
                writer.put(u32::from(code), u32::from(lengths[symbol]));
                writer.put(extra, extra_bits);
            });
        }
    }

    /// Reads what follows `BTYPE` as RFC 1951 has it, also where a run crosses.
    ///
    /// Whether there is a prefix code of these lengths is not looked at: see [`room_left`](super::room_left).
    ///
    /// # Errors
    ///
    /// If it is no header of a block; what an IAA says that does not mind crossings.
    pub fn read(reader: &mut BitReader<'_>) -> Result<FoundHeader, ErrorCode> {
        Self::parse::<false>(reader)
    }

    /// The same, as strict as an IAA.
    pub(super) fn read_strictly(reader: &mut BitReader<'_>) -> Result<Self, ErrorCode> {
        Ok(Self::parse::<true>(reader)?.header)
    }

    fn parse<const STRICT: bool>(reader: &mut BitReader<'_>) -> Result<FoundHeader, ErrorCode> {
        let start = reader.position();
        let mut take = |count| reader.take(count).ok_or(ErrorCode::BIG_HEADER);
        let literals = take(5)? as usize + 257;
        let distances = take(5)? as usize + 1;
        let named = take(4)? as usize + 4;
        if literals > LITERAL_SYMBOLS {
            return Err(ErrorCode::TOO_MANY_LITERAL_CODES);
        }
        if distances > DISTANCE_SYMBOLS {
            return Err(ErrorCode::TOO_MANY_DISTANCE_CODES);
        }
        let mut lengths = [0; LENGTH_CODES];
        for symbol in &ORDER[..named] {
            lengths[*symbol] = u8::try_from(take(3)?).unwrap_or(0);
        }
        let table = table(&lengths).ok_or(ErrorCode::BAD_CODE_LENGTH_LENGTHS)?;
        let total = literals + distances;
        let mut list = [0; LITERAL_SYMBOLS + DISTANCE_SYMBOLS];
        let mut crossing = None;
        let mut at = 0;
        while at < total {
            let symbol = symbol(reader, &table)?;
            if symbol < 16 {
                list[at] = symbol;
                at += 1;
                continue;
            }
            let count = count(reader, symbol)?;
            let crosses = match at {
                0 if symbol == 16 => return Err(ErrorCode::FIRST_LITERAL_CODE_REPEATS),
                _ if at == literals && symbol == 16 => Some(Crossing::Repeats),
                _ if at < literals && at + count > literals => Some(Crossing::Spans),
                _ => None,
            };
            if let (true, Some(crosses)) = (STRICT, crosses) {
                return Err(crosses.error());
            }
            crossing = crossing.or(crosses);
            if at + count > total {
                return Err(ErrorCode::WRONG_DISTANCE_COUNT);
            }
            if symbol == 16 {
                let before = list[at - 1];
                list[at..at + count].fill(before);
            }
            at += count;
        }
        let mut header = Self {
            literals: [0; LITERAL_SYMBOLS],
            distances: [0; DISTANCE_SYMBOLS],
        };
        header.literals[..literals].copy_from_slice(&list[..literals]);
        header.distances[..distances].copy_from_slice(&list[literals..total]);
        Ok(FoundHeader {
            header,
            crossing,
            bits: reader.position() - start,
        })
    }
}

/// The next code length, or kind of run.
#[inline(always)]
fn symbol(reader: &mut BitReader<'_>, table: &[u8; 1 << LIMIT]) -> Result<u8, ErrorCode> {
    // With what may follow.
    if reader.available() < 14 {
        reader.refill();
    }
    let entry = table[reader.peek(7) as usize];
    let length = u32::from(entry & 7);
    if length == 0 {
        return Err(ErrorCode::UNDEFINED_CODE_LENGTH_CODE);
    }
    if length > reader.available() {
        return Err(ErrorCode::BIG_HEADER);
    }
    reader.consume(length);
    Ok(entry >> 3)
}

/// Of how many the run is.
#[inline(always)]
fn count(reader: &mut BitReader<'_>, symbol: u8) -> Result<usize, ErrorCode> {
    let (extra, least) = match symbol {
        16 => (2, 3),
        17 => (3, 3),
        _ => (7, 11),
    };
    if extra > reader.available() {
        return Err(ErrorCode::BIG_HEADER);
    }
    let count = least + reader.peek(extra) as usize;
    reader.consume(extra);
    Ok(count)
}

/// For each seven bits the symbol and the length of its code. None if there is no such code.
fn table(lengths: &[u8; LENGTH_CODES]) -> Option<[u8; 1 << LIMIT]> {
    if room_left(lengths) < 0 {
        return None;
    }
    let mut of = [0; LENGTH_CODES];
    codes(lengths, &mut of);
    let mut table = [0; 1 << LIMIT];
    for (symbol, (code, length)) in (0..).zip(of.iter().zip(lengths)) {
        if *length > 0 {
            let places = table[usize::from(reversed(*code, *length))..].iter_mut();
            let entry: u8 = symbol << 3 | length;
            places.step_by(1 << length).for_each(|place| *place = entry);
        }
    }
    Some(table)
}

/// Takes a tree's lengths apart into symbols with extra bits. Zeroes are of 3 to 138, repeats of 3 to 6.
fn runs(tree: &[u8], mut each: impl FnMut(u8, u32, u32)) {
    let mut at = 0;
    while at < tree.len() {
        let length = tree[at];
        let same = tree[at..].iter().take_while(|other| **other == length);
        let mut count = same.count();
        at += count;
        if length > 0 {
            each(length, 0, 0);
            count -= 1;
        }
        while count >= 3 {
            let now = match length {
                0 => count.min(138),
                _ => count.min(6),
            };
            match (length, now) {
                (0, 11..) => each(18, small(now - 11), 7),
                (0, _) => each(17, small(now - 3), 3),
                _ => each(16, small(now - 3), 2),
            }
            count -= now;
        }
        for _ in 0..count {
            each(length, 0, 0);
        }
    }
}

/// Has the first symbols occur that do not, until two do: a tree of one code is not complete.
fn at_least_two(counts: &mut [u32]) {
    let used = counts.iter().filter(|count| **count > 0).count();
    let unused = counts.iter_mut().filter(|count| **count == 0);
    unused
        .take(2_usize.saturating_sub(used))
        .for_each(|count| *count = 1);
}

fn given(lengths: &[u8], least: usize) -> usize {
    let last = lengths.iter().rposition(|length| *length > 0);
    last.map_or(least, |last| (last + 1).max(least))
}

/// A number that a field of a header has room for.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(all(test, not(loom)))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of these code lengths of code lengths, and of these symbols with their extra bits, as they come.
    pub(super) fn by_hand(
        literals: u32,
        distances: u32,
        lengths: &[(usize, u8)],
        symbols: &[(usize, u32, u32)],
    ) -> Vec<u8> {
        let mut of_symbol = [0; LENGTH_CODES];
        for (symbol, length) in lengths {
            of_symbol[*symbol] = *length;
        }
        let mut of = [0; LENGTH_CODES];
        codes(&of_symbol, &mut of);
        let mut bytes = vec![0; 600];
        let mut writer = BitWriter::new(&mut bytes);
        writer.put(literals - 257, 5);
        writer.put(distances - 1, 5);
        writer.put(15, 4);
        for symbol in ORDER {
            writer.put(u32::from(of_symbol[symbol]), 3);
        }
        for (symbol, extra, extra_bits) in symbols {
            let length = of_symbol[*symbol];
            writer.put(u32::from(reversed(of[*symbol], length)), u32::from(length));
            writer.put(*extra, *extra_bits);
        }
        let len = writer.finish().unwrap();
        bytes.truncate(len);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<FoundHeader, ErrorCode> {
        DynamicHeader::read(&mut BitReader::new(bytes))
    }

    fn read_strictly(bytes: &[u8]) -> Result<DynamicHeader, ErrorCode> {
        DynamicHeader::read_strictly(&mut BitReader::new(bytes))
    }

    /// 16, 18, 1 and 8, of two bits each.
    const FOUR: [(usize, u8); 4] = [(16, 2), (18, 2), (1, 2), (8, 2)];

    #[test]
    fn a_run_that_crosses_is_told_and_what_it_means_is_right() {
        // 256 zeroes in two runs, then 8 for the end of the block and again in a run of three.
        let zeroes = [(18, 127, 7), (18, 107, 7)];
        let spans = by_hand(
            258,
            4,
            &FOUR,
            &[&zeroes[..], &[(8, 0, 0), (16, 2, 2)]].concat(),
        );
        let found = read(&spans).unwrap();
        assert_eq!(found.crossing, Some(Crossing::Spans));
        assert_eq!(
            found.header.literals[255..],
            [&[0, 8, 8][..], &[0; 28]].concat()
        );
        assert_eq!(found.header.distances[..5], [8, 8, 8, 8, 0]);
        assert_eq!(read_strictly(&spans), Err(ErrorCode::WRONG_LITERAL_COUNT));
        let repeats = by_hand(
            257,
            3,
            &FOUR,
            &[&zeroes[..], &[(8, 0, 0), (16, 0, 2)]].concat(),
        );
        let found = read(&repeats).unwrap();
        assert_eq!(found.crossing, Some(Crossing::Repeats));
        assert_eq!(found.header.distances[..4], [8, 8, 8, 0]);
        assert_eq!(
            read_strictly(&repeats),
            Err(ErrorCode::FIRST_DISTANCE_CODE_REPEATS)
        );
        // A run of zeroes that crosses does so, too.
        let zeroes = by_hand(
            286,
            30,
            &FOUR,
            &[(1, 0, 0), (18, 127, 7), (18, 127, 7), (18, 28, 7)],
        );
        assert_eq!(read(&zeroes).unwrap().crossing, Some(Crossing::Spans));
        assert_eq!(read_strictly(&zeroes), Err(ErrorCode::WRONG_LITERAL_COUNT));
    }

    #[test]
    fn what_is_mended_does_not_cross_and_means_the_same() {
        let zeroes = [(18, 127, 7), (18, 107, 7)];
        let spans = by_hand(
            258,
            4,
            &FOUR,
            &[&zeroes[..], &[(8, 0, 0), (16, 2, 2)]].concat(),
        );
        let found = read(&spans).unwrap();
        let mut mended = [0; 100];
        let mut writer = BitWriter::new(&mut mended);
        found.header.write(&mut writer);
        let len = writer.finish().unwrap();
        assert_eq!(read_strictly(&mended[..len]), Ok(found.header.clone()));
        assert_eq!(read(&mended[..len]).unwrap().crossing, None);
    }

    #[test]
    fn what_is_no_header_is_refused_with_the_code_for_it() {
        let refused = |bytes: &[u8], code: ErrorCode| {
            assert_eq!(read(bytes).map(|_| ()), Err(code));
            assert_eq!(read_strictly(bytes), Err(code));
        };
        refused(&[], ErrorCode::BIG_HEADER);
        refused(&by_hand(257, 1, &FOUR, &[(8, 0, 0)]), ErrorCode::BIG_HEADER);
        refused(
            &by_hand(287, 1, &FOUR, &[]),
            ErrorCode::TOO_MANY_LITERAL_CODES,
        );
        refused(
            &by_hand(257, 31, &FOUR, &[]),
            ErrorCode::TOO_MANY_DISTANCE_CODES,
        );
        let first = by_hand(257, 1, &FOUR, &[(16, 0, 2), (1, 0, 0), (1, 0, 0)]);
        refused(&first, ErrorCode::FIRST_LITERAL_CODE_REPEATS);
        let three = [(0, 1), (1, 1), (2, 1)];
        refused(
            &by_hand(257, 1, &three, &[]),
            ErrorCode::BAD_CODE_LENGTH_LENGTHS,
        );
        // Half of all codes are not defined.
        let mut half = by_hand(257, 1, &[(0, 1)], &[]);
        half.extend([0xff; 4]);
        refused(&half, ErrorCode::UNDEFINED_CODE_LENGTH_CODE);
        refused(
            &by_hand(257, 1, &[], &[]),
            ErrorCode::UNDEFINED_CODE_LENGTH_CODE,
        );
        let zeroes = [(18, 127, 7), (18, 107, 7), (8, 0, 0)];
        let far = by_hand(
            257,
            2,
            &FOUR,
            &[&zeroes[..], &[(1, 0, 0), (16, 0, 2)]].concat(),
        );
        refused(&far, ErrorCode::WRONG_DISTANCE_COUNT);
    }

    fn lengths(count: usize) -> impl Strategy<Value = Vec<u8>> {
        let run = (prop_oneof![Just(0), 1..=15_u8], 1..150_usize);
        prop::collection::vec(run, 1..40).prop_map(move |runs| {
            let all = runs
                .into_iter()
                .flat_map(|(length, times)| vec![length; times]);
            all.chain([0; 300]).take(count).collect()
        })
    }

    proptest! {
        /// Any lengths, in runs of any length; that they make a code is not needed.
        #[test]
        fn what_is_written_is_read(
            literals in lengths(LITERAL_SYMBOLS),
            distances in lengths(DISTANCE_SYMBOLS),
        ) {
            let header = DynamicHeader {
                literals: literals.try_into().unwrap(),
                distances: distances.try_into().unwrap(),
            };
            let mut bytes = [0; 400];
            let mut writer = BitWriter::new(&mut bytes);
            header.write(&mut writer);
            let bits = writer.bits();
            writer.put(0x5a5a, 16);
            let len = writer.finish().unwrap();
            let mut reader = BitReader::new(&bytes[..len]);
            let found = DynamicHeader::read(&mut reader).unwrap();
            prop_assert_eq!(reader.take(16), Some(0x5a5a));
            let expected = FoundHeader { header: header.clone(), crossing: None, bits };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(read_strictly(&bytes[..len]), Ok(header));
            // Cut off anywhere, it is no header.
            for cut in 0..usize::try_from(bits / 8).unwrap() {
                prop_assert_eq!(read(&bytes[..cut]), Err(ErrorCode::BIG_HEADER));
            }
        }

        #[test]
        fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (loose, strict) = (read(&bytes), read_strictly(&bytes));
            match loose {
                Ok(found) if found.crossing.is_none() => prop_assert_eq!(strict, Ok(found.header)),
                Ok(found) => prop_assert_eq!(strict, Err(found.crossing.unwrap().error())),
                Err(_) => prop_assert!(strict.is_err()),
            }
        }
    }
}
