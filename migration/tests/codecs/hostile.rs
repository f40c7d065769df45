// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Streams that no encoder wrote: an error, or exactly a page; never a byte outside of it.

use idxd::iaa::BitWriter;
use migration::{Class, Corpus, PageError, PageFormat, SoftwareDecoder};
use proptest::prelude::*;

use crate::{
    encode, encoders,
    guarded::{decode, decode_by},
};

const FORMATS: [PageFormat; 3] = [PageFormat::Deflate, PageFormat::Zstd, PageFormat::Lz4];

/// Some streams of each format, and the pages that they are.
fn streams() -> Vec<(PageFormat, Vec<u8>, Vec<u8>)> {
    let classes = [
        Class::Code,
        Class::Text,
        Class::Heap,
        Class::Sparse,
        Class::Zero,
    ];
    let mut streams = Vec::new();
    for class in classes {
        let corpus = Corpus::only(class, 2, 11);
        for size in [512, 4096] {
            for mut encoder in encoders() {
                let page = &corpus.bytes()[4096..][..size];
                if let Some(stream) = encode(&mut encoder, page) {
                    streams.push((encoder.format(), stream, page.to_vec()));
                }
            }
        }
    }
    assert!(streams.len() > 25);
    streams
}

#[test]
fn a_stream_cut_off_anywhere_is_an_error() {
    for (format, stream, page) in streams() {
        let mut decoder = SoftwareDecoder::new(format).unwrap();
        for len in 0..stream.len() {
            let decoded = decode_by(&mut decoder, &stream[..len], page.len());
            assert!(
                decoded.is_err(),
                "{format}: {len} of {} bytes",
                stream.len()
            );
        }
        assert_eq!(decode_by(&mut decoder, &stream, page.len()), Ok(page));
    }
}

#[test]
fn a_stream_with_more_behind_it_is_an_error_or_the_same_page() {
    for (format, stream, page) in streams() {
        let mut decoder = SoftwareDecoder::new(format).unwrap();
        for more in [&[0][..], &[0xff], &[1, 2, 3, 4, 5, 6, 7, 8], &stream] {
            let decoded = decode_by(&mut decoder, &[&stream, more].concat(), page.len());
            match format {
                PageFormat::Deflate => assert_eq!(decoded.as_ref(), Ok(&page)),
                _ => assert!(decoded.is_err(), "{format}: {more:?} behind it"),
            }
        }
    }
}

#[test]
fn a_stream_of_a_larger_or_smaller_page_is_an_error_that_says_so() {
    for (format, stream, page) in streams() {
        let size = page.len();
        let long = decode(format, &stream, size / 2).unwrap_err();
        let is_too_long =
            matches!(long, PageError::TooLong { page_size, .. } if page_size == size / 2);
        assert!(is_too_long, "{long}");
        let short = decode(format, &stream, size * 2).unwrap_err();
        let expected = PageError::TooShort {
            format,
            stream_len: stream.len(),
            held: size,
            page_size: size * 2,
        };
        assert_eq!(short, expected);
    }
}

#[test]
fn a_stream_with_any_bit_flipped_is_an_error_or_a_page() {
    for (format, mut stream, page) in streams() {
        let mut decoder = SoftwareDecoder::new(format).unwrap();
        let mut errors = 0;
        for bit in 0..stream.len() * 8 {
            stream[bit / 8] ^= 1 << (bit % 8);
            match decode_by(&mut decoder, &stream, page.len()) {
                Ok(other) => assert_eq!(other.len(), page.len()),
                Err(_) => errors += 1,
            }
            stream[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(errors > 0, "{format}");
        assert_eq!(decode_by(&mut decoder, &stream, page.len()), Ok(page));
    }
}

/// A stream of a few MiB at most that would be 1 GiB.
fn bomb(format: PageFormat) -> Vec<u8> {
    const WHOLE: usize = 1 << 30;
    match format {
        PageFormat::Deflate => {
            let matches = WHOLE / 258;
            let mut bytes = vec![0; matches * 13 / 8 + 16];
            let mut writer = BitWriter::new(&mut bytes);
            // The last block, with fixed codes; a literal 0; and then the longest match at distance 1, again and again:
            // codes 00110000, 11000101 and 00000, their first bit first.
            writer.put(0b011, 3);
            writer.put(0b0000_1100, 8);
            (0..matches).for_each(|_| writer.put(0b0_0000_1010_0011, 13));
            writer.put(0, 7);
            let len = writer.finish().unwrap();
            bytes.truncate(len);
            bytes
        }
        PageFormat::Zstd => zstd_bomb(u32::try_from(WHOLE).unwrap()),
        // One literal, and a match at distance 1 without end.
        _ => [vec![0x1f, 0, 1, 0], vec![0xff; WHOLE / 255], vec![0]].concat(),
    }
}

/// A frame that claims to hold `claimed` bytes, and holds 1 GiB in blocks of 128 KiB of the same byte (RFC 8878 section 3.1.1).
fn zstd_bomb(claimed: u32) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend(claimed.to_le_bytes());
    for index in 0..8192_u32 {
        let last = u32::from(index == 8191);
        let header = last | 1 << 1 | (128 << 10) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn a_stream_that_would_be_a_gigabyte_ends_at_the_page() {
    for format in FORMATS {
        for page_size in [64, 4096, 65536] {
            let error = decode(format, &bomb(format), page_size).unwrap_err();
            assert!(matches!(error, PageError::TooLong { .. }), "{error}");
        }
    }
    assert!(decode(PageFormat::Zstd, &zstd_bomb(4096), 4096).is_err());
}

#[test]
fn an_error_does_not_spoil_the_pages_after_it() {
    for (format, stream, page) in streams() {
        let mut decoder = SoftwareDecoder::new(format).unwrap();
        for bad in [
            &[][..],
            &[0xff; 100],
            &stream[..stream.len() / 2],
            &bomb(PageFormat::Zstd),
        ] {
            assert!(decode_by(&mut decoder, bad, page.len()).is_err());
            assert_eq!(
                decode_by(&mut decoder, &stream, page.len()).as_ref(),
                Ok(&page)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn random_bytes_are_an_error_or_a_page(
        stream in prop::collection::vec(any::<u8>(), 0..600),
        page_size in prop::sample::select(vec![64_usize, 512, 4096]),
    ) {
        for format in PageFormat::ALL {
            if let Ok(page) = decode(format, &stream, page_size) {
                prop_assert_eq!(page.len(), page_size);
            }
        }
    }

    #[test]
    fn what_random_bytes_do_to_a_stream_is_an_error_or_a_page(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let streams = streams();
        let (format, stream, page) = which.get(&streams);
        let mut stream = stream.clone();
        for (at, value) in changes {
            *at.get_mut(&mut stream) = value;
        }
        if let Ok(other) = decode(*format, &stream, page.len()) {
            prop_assert_eq!(other.len(), page.len());
        }
    }
}
