// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which streams an IAA decodes, and what it says of the others.

use idxd::iaa::{
    BitReader, BitWriter, Crossing, DynamicHeader, ErrorCode, HISTORY, InflateError, Inflated,
    check, inflate,
};
use proptest::prelude::*;

use crate::{
    by_hand::{Bits, Runs, abababa},
    samples::mixtures,
    zlib,
};

/// What both say, which is the same.
fn said(stream: &[u8], room: usize) -> Result<(Inflated, Vec<u8>), InflateError> {
    let mut bytes = vec![0xee; room];
    let said = inflate(stream, &mut bytes);
    assert_eq!(check(stream, room), said);
    let said = said?;
    assert!(bytes[said.output_size..].iter().all(|byte| *byte == 0xee));
    bytes.truncate(said.output_size);
    Ok((said, bytes))
}

fn refused(stream: &[u8], code: ErrorCode) {
    let error = said(stream, 1 << 16).map(|_| ()).unwrap_err();
    assert_eq!(error, InflateError::Analytics(code));
}

#[test]
fn every_error_of_a_header_has_its_code() {
    let dynamic = Bits::block(true, 2);
    refused(&Bits::block(true, 3).bytes(), ErrorCode::BAD_BLOCK_TYPE);
    refused(&dynamic.bytes(), ErrorCode::BIG_HEADER);
    let many = |literals, distances| {
        dynamic
            .clone()
            .header(literals, distances, &[(0, 1)])
            .bytes()
    };
    refused(&many(287, 1), ErrorCode::TOO_MANY_LITERAL_CODES);
    refused(&many(257, 31), ErrorCode::TOO_MANY_DISTANCE_CODES);
    let three = [(0, 1), (1, 1), (2, 1)];
    let header = dynamic.clone().header(257, 1, &three);
    refused(&header.bytes(), ErrorCode::BAD_CODE_LENGTH_LENGTHS);
    // Half of all codes for code lengths are not defined.
    let header = dynamic.clone().header(257, 1, &[(0, 1)]).put(1, 1);
    refused(&header.bytes(), ErrorCode::UNDEFINED_CODE_LENGTH_CODE);
    let of = [(0, 2), (1, 2), (16, 2), (18, 2)];
    let header = |symbols: &[(usize, u32, u32)]| {
        dynamic
            .clone()
            .header(257, 2, &of)
            .lengths(&of, symbols)
            .bytes()
    };
    refused(
        &header(&[(16, 0, 2)]),
        ErrorCode::FIRST_LITERAL_CODE_REPEATS,
    );
    let zeroes = [(18, 127, 7), (18, 107, 7)];
    let with = |rest: &[(usize, u32, u32)]| header(&[&zeroes[..], rest].concat());
    let (none, one) = ((0, 0, 0), (1, 0, 0));
    refused(&with(&[none, none, none]), ErrorCode::NO_LITERAL_CODE);
    refused(
        &with(&[one, one, (16, 0, 2)]),
        ErrorCode::WRONG_DISTANCE_COUNT,
    );
    refused(&with(&[one, (18, 0, 7)]), ErrorCode::WRONG_DISTANCE_COUNT);
    let three = [one, one, one, (18, 127, 7), (18, 106, 7), none];
    refused(&header(&three), ErrorCode::WRONG_LITERAL_COUNT);
    let three = [one, one, one, (18, 127, 7), (18, 105, 7), none, none];
    refused(&header(&three), ErrorCode::BAD_LITERAL_LENGTHS);
    let header = dynamic.header(257, 3, &of).lengths(&of, &zeroes);
    let header = header.lengths(&of, &[one, one, one, one]);
    refused(&header.bytes(), ErrorCode::BAD_DISTANCE_LENGTHS);
}

#[test]
fn every_error_of_a_body_has_its_code() {
    let fixed = Bits::block(true, 1);
    for symbol in [286, 287] {
        let bits = fixed.clone().fixed(symbol).put(0, 32);
        refused(&bits.bytes(), ErrorCode::BAD_LITERAL_CODE);
    }
    for symbol in [30, 31] {
        let bits = fixed.clone().fixed(97).fixed(257).symbol(&[5; 32], symbol);
        refused(&bits.put(0, 32).bytes(), ErrorCode::BAD_DISTANCE_CODE);
    }
    let bits = fixed.clone().fixed_match(3, 1).fixed(256);
    refused(&bits.bytes(), ErrorCode::BEFORE_START);
    let bits = fixed.clone().fixed(97).fixed_match(3, 2).fixed(256);
    refused(&bits.bytes(), ErrorCode::BEFORE_START);
    // A tree of one code, of which the other half is not defined.
    let of = [(0, 2), (1, 2), (2, 2), (18, 2)];
    let zeroes = [(18, 127, 7), (18, 107, 7)];
    let header = Bits::block(true, 2)
        .header(258, 1, &of)
        .lengths(&of, &zeroes);
    let one = header
        .clone()
        .lengths(&of, &[(1, 0, 0), (0, 0, 0), (1, 0, 0)]);
    assert_eq!(
        said(&one.clone().put(0, 1).bytes(), 1)
            .unwrap()
            .0
            .output_size,
        0
    );
    refused(&one.put(0xffff, 16).bytes(), ErrorCode::BAD_LITERAL_CODE);
    let both = header.lengths(&of, &[(1, 0, 0), (1, 0, 0), (0, 0, 0)]);
    let nowhere = both.put(1, 1).put(0, 32);
    refused(&nowhere.bytes(), ErrorCode::BAD_DISTANCE_CODE);
    let stored = Bits::block(true, 0).put(0, 5);
    let odd = stored.clone().put(3, 16).put(3, 16);
    refused(&odd.bytes(), ErrorCode::BAD_STORED_LENGTH);
    let short = stored.clone().put(3, 16).put(0xfffc, 16).put(0, 16);
    refused(&short.bytes(), ErrorCode::BAD_END);
    refused(&stored.put(3, 16).bytes(), ErrorCode::BIG_HEADER);
    refused(&[], ErrorCode::BAD_END);
    // No block is the last.
    let open = Bits::block(false, 1).fixed(97).fixed(256);
    refused(&open.put(0, 6).bytes()[..2], ErrorCode::BAD_END);
}

#[test]
fn the_history_is_that_of_the_device_also_where_there_is_more() {
    let literals = (0..8192).fold(Bits::block(true, 1), |bits, at| bits.fixed(at * at % 251));
    for (distance, is_near) in [(4095, true), (4096, true), (4097, false), (8192, false)] {
        let stream = literals
            .clone()
            .fixed_match(258, distance)
            .fixed(256)
            .bytes();
        if !is_near {
            refused(&stream, ErrorCode::BAD_DISTANCE);
            continue;
        }
        let (found, bytes) = said(&stream, 1 << 14).unwrap();
        assert_eq!(found.furthest_distance, usize::from(distance));
        assert_eq!(found.output_size, 8192 + 258);
        assert_eq!(zlib::inflate(&stream, 1 << 14), Some((bytes, stream.len())));
    }
    assert_eq!(HISTORY, 4096);
}

#[test]
fn runs_that_cross_are_sound_refused_and_mended() {
    for (runs, crossing) in [
        (Runs::Apart, None),
        (Runs::Spans, Some(Crossing::Spans)),
        (Runs::Repeats, Some(Crossing::Repeats)),
    ] {
        let stream = abababa(runs).bytes();
        assert_eq!(zlib::inflate(&stream, 7).unwrap().0, b"abababa", "{runs:?}");
        match crossing {
            None => assert_eq!(said(&stream, 7).unwrap().1, b"abababa"),
            Some(crossing) => refused(&stream, crossing.error()),
        }
        let mut reader = BitReader::new(&stream);
        let head = reader.take(3).unwrap();
        let found = DynamicHeader::read(&mut reader).unwrap();
        assert_eq!(found.crossing, crossing);
        assert_eq!(found.bits, reader.position() - 3);
        let mut mended = vec![0; stream.len() + 16];
        let mut writer = BitWriter::new(&mut mended);
        writer.put(head, 3);
        found.header.write(&mut writer);
        writer.append(&mut reader);
        let len = writer.finish().unwrap();
        let (found, bytes) = said(&mended[..len], 7).unwrap();
        assert_eq!((found.blocks, found.furthest_distance), (1, 2));
        assert_eq!(bytes, b"abababa");
        assert_eq!(zlib::inflate(&mended[..len], 7).unwrap().0, b"abababa");
    }
}

#[test]
fn a_stream_of_several_blocks_is_read_to_its_end_and_no_further() {
    let pieces = [&b"one block, "[..], b"", b"another one, ", &[7; 300]];
    for level in [0, 1, 6] {
        let mut stream = zlib::deflate(&pieces, level);
        let len = stream.len();
        stream.extend([0xff; 9]);
        let (found, bytes) = said(&stream, 1 << 12).unwrap();
        assert_eq!(bytes, pieces.concat());
        assert_eq!(found.consumed_bytes, len);
        assert!(found.blocks >= 4, "{found:?}");
    }
}

proptest! {
    /// What zlib makes with a window of 4 KiB, by whatever kind of block, an IAA decodes, if there is room.
    #[test]
    fn streams_of_zlib_are_decoded(
        bytes in mixtures(12_000),
        cuts in prop::collection::vec(0..12_000_usize, 0..4),
        level in 0..=9_u32,
    ) {
        let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut <= bytes.len()).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let stream = zlib::deflate(&pieces, level);
        let (found, back) = said(&stream, bytes.len()).unwrap();
        prop_assert_eq!(&back, &bytes);
        prop_assert_eq!(found.consumed_bytes, stream.len());
        prop_assert!(found.furthest_distance <= HISTORY);
        if let Some(less) = bytes.len().checked_sub(1) {
            prop_assert_eq!(said(&stream, less).map(|_| ()), Err(InflateError::Overflow));
        }
        // Cut off anywhere, it has no end.
        for cut in (0..stream.len()).step_by(37) {
            let cut = said(&stream[..cut], bytes.len()).map(|_| ());
            prop_assert!(matches!(cut, Err(InflateError::Analytics(
                ErrorCode::BAD_END | ErrorCode::BIG_HEADER
            ))), "{:?}", cut);
        }
    }

    /// Broken streams are neither a panic nor taken for something else than zlib takes them for.
    #[test]
    fn broken_streams_are_judged_as_zlib_judges_them(
        bytes in mixtures(4096),
        level in 1..=9_u32,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut stream = zlib::deflate(&[&bytes[..]], level);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        judged_alike(&stream)?;
    }

    #[test]
    fn noise_is_judged_as_zlib_judges_it(stream in prop::collection::vec(any::<u8>(), 0..300)) {
        judged_alike(&stream)?;
    }
}

/// An IAA is stricter where runs cross. (zlib is where a tree is not complete.)
fn judged_alike(stream: &[u8]) -> Result<(), TestCaseError> {
    const ROOM: usize = 1 << 14;
    match (said(stream, ROOM), zlib::inflate(stream, ROOM)) {
        (Ok((found, bytes)), Some((judged, len))) => {
            prop_assert_eq!(bytes, judged);
            prop_assert_eq!(found.consumed_bytes, len);
        }
        (Err(error), Some(_)) => prop_assert!(
            matches!(
                error,
                InflateError::Analytics(
                    ErrorCode::WRONG_LITERAL_COUNT | ErrorCode::FIRST_DISTANCE_CODE_REPEATS
                )
            ),
            "{:?}",
            error
        ),
        (_, None) => {}
    }
    Ok(())
}
