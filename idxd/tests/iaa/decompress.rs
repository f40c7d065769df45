// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device of the model makes of streams.

use flate2::Crc;
use idxd::{
    Status,
    iaa::{Crossing, ErrorCode, inflate},
};
use proptest::prelude::*;

use crate::{
    by_hand::{Bits, Runs, abababa},
    operate::{UNTOUCHED, decompress, iaa, started},
    samples::{mixtures, sample},
    zlib,
};

#[test]
fn streams_of_every_kind_of_block_and_of_several_are_decoded() {
    let (_model, queue) = started(iaa());
    let page = sample(0, 4096, 1);
    let pieces: Vec<_> = page.chunks(1000).collect();
    for level in [0, 1, 6, 9] {
        for pieces in [&[&page[..]][..], &pieces] {
            let stream = zlib::deflate(pieces, level);
            let (said, bytes) = decompress(&queue, &stream, 4096);
            assert_eq!(said.common.status, Status::SUCCESS, "{level}: {said:?}");
            assert_eq!((said.output_size, &bytes), (4096, &page));
            let mut crc = Crc::new();
            crc.update(&page);
            assert_eq!(said.crc, crc.sum());
        }
    }
    // The first block is not the last, and more follows than one.
    let stream = zlib::deflate(&pieces, 6);
    let mut room = vec![0; 4096];
    assert!(inflate(&stream, &mut room).unwrap().blocks > 5);
}

#[test]
fn fewer_bytes_are_no_error_and_their_number_is_told() {
    let (_model, queue) = started(iaa());
    let stream = zlib::deflate(&[b"short"], 6);
    let (said, bytes) = decompress(&queue, &stream, 4096);
    assert_eq!((said.common.status, said.output_size), (Status::SUCCESS, 5));
    assert_eq!(bytes[..5], *b"short");
    assert!(bytes[5..].iter().all(|byte| *byte == UNTOUCHED));
}

#[test]
fn more_bytes_than_there_is_room_for_are_an_overflow() {
    let (_model, queue) = started(iaa());
    let page = sample(1, 4096, 1);
    for level in [0, 6] {
        let stream = zlib::deflate(&[&page[..]], level);
        // `decompress` looks at what is around the room.
        let (said, _) = decompress(&queue, &stream, 4095);
        assert_eq!(said.common.status, Status::OUTBUF_OVERFLOW);
        let (said, bytes) = decompress(&queue, &stream, 4096);
        assert_eq!((said.common.status, bytes), (Status::SUCCESS, page.clone()));
    }
}

#[test]
fn sound_streams_whose_runs_cross_are_refused_as_hardware_refuses_them() {
    let (_model, queue) = started(iaa());
    for (runs, error) in [
        (Runs::Spans, Crossing::Spans.error()),
        (Runs::Repeats, Crossing::Repeats.error()),
    ] {
        let stream = abababa(runs).bytes();
        let (said, _) = decompress(&queue, &stream, 7);
        assert_eq!(said.common.status, Status::ANALYTICS_ERROR);
        assert_eq!(said.error_code(), error);
        assert!(matches!(said.error_code().code(), 4 | 6));
    }
    let (said, bytes) = decompress(&queue, &abababa(Runs::Apart).bytes(), 7);
    assert_eq!(
        (said.common.status, &bytes[..]),
        (Status::SUCCESS, &b"abababa"[..])
    );
}

#[test]
fn an_error_says_which_and_leaves_what_was_decoded_before_it() {
    let (_model, queue) = started(iaa());
    let broken = Bits::block(true, 1)
        .fixed(97)
        .fixed(98)
        .fixed_match(3, 3)
        .fixed(256);
    let (said, bytes) = decompress(&queue, &broken.bytes(), 16);
    assert_eq!(said.common.status, Status::ANALYTICS_ERROR);
    assert_eq!(said.error_code(), ErrorCode::BEFORE_START);
    assert_eq!(bytes[..3], [97, 98, UNTOUCHED]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_the_stream_is_it_is_answered_as_inflate_says(
        bytes in mixtures(4096),
        level in 0..=9_u32,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let (_model, queue) = started(iaa());
        let mut stream = zlib::deflate(&[&bytes[..]], level);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let mut expected = vec![UNTOUCHED; 4096];
        let inflated = inflate(&stream, &mut expected);
        let (said, found) = decompress(&queue, &stream, 4096);
        prop_assert_eq!(found, expected);
        match inflated {
            Ok(inflated) => {
                prop_assert_eq!(said.common.status, Status::SUCCESS);
                prop_assert_eq!(said.output_size as usize, inflated.output_size);
            }
            Err(idxd::iaa::InflateError::Analytics(code)) => {
                prop_assert_eq!(said.common.status, Status::ANALYTICS_ERROR);
                prop_assert_eq!(said.error_code(), code);
            }
            Err(_) => prop_assert_eq!(said.common.status, Status::OUTBUF_OVERFLOW),
        }
    }
}
