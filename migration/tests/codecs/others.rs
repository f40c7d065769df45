// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Our streams decoded by other implementations, and theirs by ours.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use migration::{Class, Corpus, PageFormat, SoftwareEncoder};

use crate::{SIZES, encode, guarded::decode};

/// The window of an IAA, as zlib counts.
const IAA_WINDOW_BITS: u8 = 12;

fn corpora() -> impl Iterator<Item = Corpus> {
    Class::ALL
        .into_iter()
        .map(|class| Corpus::only(class, 32, 21))
}

fn inflate_by_zlib(stream: &[u8], size: usize, window_bits: u8) -> Vec<u8> {
    let mut zlib = Decompress::new_with_window_bits(false, window_bits);
    let mut page = vec![0; size];
    let status = zlib.decompress(stream, &mut page, FlushDecompress::Finish);
    assert_eq!(status.unwrap(), Status::StreamEnd);
    let (used, held) = (zlib.total_in(), zlib.total_out());
    assert_eq!((used, held), (stream.len() as u64, size as u64));
    page
}

fn deflate_by_zlib(page: &[u8], level: u32, window_bits: u8) -> Vec<u8> {
    let mut zlib = Compress::new_with_window_bits(Compression::new(level), false, window_bits);
    let mut stream = vec![0; page.len() + 1024];
    let status = zlib.compress(page, &mut stream, FlushCompress::Finish);
    assert_eq!(status.unwrap(), Status::StreamEnd);
    stream.truncate(usize::try_from(zlib.total_out()).unwrap());
    stream
}

#[test]
fn zlib_with_the_window_of_an_iaa_inflates_ours() {
    for safe_for_iaa in [false, true] {
        let mut encoder = SoftwareEncoder::new(PageFormat::Deflate, safe_for_iaa).unwrap();
        for corpus in corpora() {
            for size in [64, 512, 4096] {
                for page in corpus.bytes().chunks_exact(size).take(32) {
                    if let Some(stream) = encode(&mut encoder, page) {
                        assert_eq!(inflate_by_zlib(&stream, size, IAA_WINDOW_BITS), page);
                    }
                }
            }
        }
    }
    let mut encoder = SoftwareEncoder::new(PageFormat::Deflate, false).unwrap();
    for corpus in corpora() {
        let page = &corpus.bytes()[..65536];
        if let Some(stream) = encode(&mut encoder, page) {
            assert_eq!(inflate_by_zlib(&stream, 65536, 15), page);
        }
    }
}

#[test]
fn ours_inflates_what_zlib_writes() {
    for corpus in corpora() {
        for size in SIZES {
            for page in corpus.bytes().chunks_exact(size).take(8) {
                for level in [0, 1, 6, 9] {
                    for window_bits in [IAA_WINDOW_BITS, 15] {
                        let stream = deflate_by_zlib(page, level, window_bits);
                        let inflated = decode(PageFormat::Deflate, &stream, size);
                        assert_eq!(inflated.as_deref(), Ok(page));
                    }
                }
            }
        }
    }
}

/// A frame that any decoder reads, by RFC 8878 section 3.1.1.1: its magic number; its content's length in one of three
/// widths, no dictionary and no checksum; a single segment, so that no window is kept.
#[test]
fn zstd_frames_tell_their_length_and_nothing_that_is_not_needed() {
    let mut encoder = SoftwareEncoder::new(PageFormat::Zstd, false).unwrap();
    for size in SIZES {
        let page = vec![7; size];
        let stream = encode(&mut encoder, &page).unwrap();
        assert_eq!(stream[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        let flags = stream[4];
        assert_eq!(flags & 0b0011_1111, 0b0010_0000);
        let length = match flags >> 6 {
            0 => usize::from(stream[5]),
            1 => usize::from(u16::from_le_bytes([stream[5], stream[6]])) + 256,
            _ => {
                usize::from(u16::from_le_bytes([stream[5], stream[6]]))
                    + (usize::from(stream[7]) << 16)
            }
        };
        assert_eq!(length, size);
    }
}

/// lz4's `lz4_Block_format.md`, word by word.
fn decode_lz4_slowly(block: &[u8]) -> Vec<u8> {
    let mut bytes = block.iter().copied();
    let mut page: Vec<u8> = Vec::new();
    while let Some(token) = bytes.next() {
        let length = |nibble: u8, bytes: &mut dyn Iterator<Item = u8>| {
            let mut length = usize::from(nibble);
            let mut last = nibble == 15;
            while last {
                let more = bytes.next().unwrap();
                length += usize::from(more);
                last = more == 255;
            }
            length
        };
        let literals = length(token >> 4, &mut bytes);
        page.extend(bytes.by_ref().take(literals));
        let Some(low) = bytes.next() else {
            return page;
        };
        let offset = usize::from(u16::from_le_bytes([low, bytes.next().unwrap()]));
        for _ in 0..length(token & 15, &mut bytes) + 4 {
            page.push(page[page.len() - offset]);
        }
    }
    page
}

#[test]
fn lz4_blocks_are_what_the_format_says() {
    let mut encoder = SoftwareEncoder::new(PageFormat::Lz4, false).unwrap();
    for corpus in corpora() {
        for size in SIZES {
            for page in corpus.bytes().chunks_exact(size).take(8) {
                if let Some(stream) = encode(&mut encoder, page) {
                    assert_eq!(decode_lz4_slowly(&stream), page);
                }
            }
        }
    }
    // Two literals, then a match of four at distance 1 that overlaps, then one literal.
    let by_hand = [0x20, b'a', b'b', 1, 0, 0x10, b'c'];
    assert_eq!(decode_lz4_slowly(&by_hand), b"abbbbbc");
    assert_eq!(decode(PageFormat::Lz4, &by_hand, 7).unwrap(), b"abbbbbc");
}
