// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every format against its own decoder and against others: a page comes back as it was, or an error does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "codecs/guarded.rs"]
mod guarded;
#[path = "codecs/hostile.rs"]
mod hostile;
#[path = "codecs/others.rs"]
mod others;
#[path = "codecs/safe_streams.rs"]
mod safe_streams;

use guarded::{Guarded, decode};
use migration::{Class, Corpus, PAGE_SIZES, PageError, PageFormat, SoftwareEncoder};
use proptest::prelude::*;

const SIZES: [usize; 4] = [64, 512, 4096, 65536];

/// Each format that compresses, and DEFLATE both ways.
fn encoders() -> Vec<SoftwareEncoder> {
    let kinds = [
        (PageFormat::Deflate, false),
        (PageFormat::Deflate, true),
        (PageFormat::Zstd, false),
        (PageFormat::Lz4, false),
    ];
    let new = |(format, safe)| SoftwareEncoder::new(format, safe).unwrap();
    kinds.into_iter().map(new).collect()
}

/// The stream that the page becomes if it gets smaller, after a look at what lies around it.
fn encode(encoder: &mut SoftwareEncoder, page: &[u8]) -> Option<Vec<u8>> {
    let mut out = Guarded::new(page.len() - 1);
    let len = encoder.encode(page, out.middle())?;
    out.assert_untouched_around();
    Some(out.middle()[..len].to_vec())
}

#[track_caller]
fn assert_returns(encoder: &mut SoftwareEncoder, page: &[u8]) -> bool {
    let Some(stream) = encode(encoder, page) else {
        return false;
    };
    let decoded = decode(encoder.format(), &stream, page.len()).unwrap();
    assert!(decoded == page, "{encoder:?}");
    true
}

#[test]
fn formats_are_told_by_name_and_by_number() {
    let names: Vec<String> = PageFormat::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["raw", "deflate", "zstd", "lz4"]);
    let codes: Vec<u8> = PageFormat::ALL.iter().map(|format| format.code()).collect();
    assert_eq!(codes, [0, 1, 2, 3]);
    for format in PageFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(PageFormat::of_code(format.code()), Some(format));
    }
    assert_eq!(PageFormat::of_code(4), None);
    let error = "DEFLATE".parse::<PageFormat>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"DEFLATE\" is no format of pages: take raw, deflate, zstd or lz4"
    );
}

#[test]
fn every_class_of_pages_comes_back_from_every_format_at_every_size() {
    for class in Class::ALL {
        let corpus = Corpus::only(class, 32, 7);
        assert_eq!(corpus.of_class(class).count(), 32);
        for size in SIZES {
            for mut encoder in encoders() {
                for page in corpus.bytes().chunks_exact(size).take(64) {
                    assert_returns(&mut encoder, page);
                }
            }
        }
    }
}

#[test]
fn what_can_get_smaller_does() {
    for class in [
        Class::Code,
        Class::Text,
        Class::Heap,
        Class::Sparse,
        Class::Repeats,
        Class::Zero,
    ] {
        let corpus = Corpus::only(class, 50, 3);
        for mut encoder in encoders() {
            let shorter = corpus
                .pages()
                .filter(|page| assert_returns(&mut encoder, page));
            let shorter = shorter.count();
            assert!(shorter >= 40, "{class}: {shorter} of 50, {encoder:?}");
        }
    }
}

#[test]
fn what_does_not_get_smaller_is_left_to_travel_raw() {
    let corpus = Corpus::only(Class::Random, 50, 3);
    for size in SIZES {
        for mut encoder in encoders() {
            for page in corpus.bytes().chunks_exact(size) {
                let mut out = Guarded::new(size - 1);
                assert_eq!(encoder.encode(page, out.middle()), None, "{encoder:?}");
                out.assert_untouched_around();
            }
        }
    }
}

#[test]
fn what_has_room_is_the_same_stream_whatever_the_room_and_what_has_none_is_nothing() {
    // Libraries write by words, and want some bytes behind what they write.
    const SLACK: usize = 64;
    for page in Corpus::synthetic(40, 5).pages() {
        for mut encoder in encoders() {
            let Some(stream) = encode(&mut encoder, page) else {
                continue;
            };
            let mut out = Guarded::new(stream.len() + SLACK);
            assert_eq!(encoder.encode(page, out.middle()), Some(stream.len()));
            assert_eq!(out.middle()[..stream.len()], stream);
            for less in [1, 2, stream.len() / 2, stream.len()] {
                let mut out = Guarded::new(stream.len() - less);
                assert_eq!(encoder.encode(page, out.middle()), None, "{encoder:?}");
                out.assert_untouched_around();
            }
        }
    }
}

#[test]
fn raw_is_a_copy_of_exactly_the_page() {
    let page = Corpus::only(Class::Text, 1, 1).bytes().to_vec();
    let mut encoder = SoftwareEncoder::new(PageFormat::Raw, false).unwrap();
    assert_eq!(encoder.encode(&page, &mut [0; 8192]), None);
    assert_eq!(decode(PageFormat::Raw, &page, 4096).unwrap(), page);
    let short = decode(PageFormat::Raw, &page[..4095], 4096).unwrap_err();
    assert!(matches!(short, PageError::TooShort { held: 4095, .. }));
    let long = decode(PageFormat::Raw, &page, 4095).unwrap_err();
    assert_eq!(
        long.to_string(),
        "the raw stream of 4096 bytes holds more than the 4095 bytes of the page"
    );
}

#[test]
fn pages_of_other_sizes_travel_raw_and_so_do_those_beyond_the_window() {
    for mut encoder in encoders() {
        for size in [0, 1, 32, 63, 65, 100, 4095, 4097, 131_072] {
            assert_eq!(encoder.encode(&vec![0; size], &mut [0; 256]), None);
        }
        assert!(PAGE_SIZES.contains(&64) && PAGE_SIZES.contains(&65536));
    }
    let mut safe = SoftwareEncoder::new(PageFormat::Deflate, true).unwrap();
    assert_eq!(safe.encode(&[0; 8192], &mut [0; 8191]), None);
    assert!(safe.encode(&[0; 4096], &mut [0; 4095]).is_some());
}

#[test]
fn a_corpus_is_the_same_for_a_seed_and_has_the_shares_it_promises() {
    let corpus = Corpus::synthetic(2000, 9);
    assert_eq!(corpus.bytes(), Corpus::synthetic(2000, 9).bytes());
    assert_ne!(corpus.bytes(), Corpus::synthetic(2000, 10).bytes());
    assert_eq!((corpus.len(), corpus.is_empty()), (2000, false));
    let shares = [600, 300, 700, 200, 0, 200, 0];
    for (class, share) in Class::ALL.into_iter().zip(shares) {
        let count = corpus.of_class(class).count();
        assert!(count.abs_diff(share) <= share / 4, "{class}: {count}");
    }
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    assert!(!corpus.pages().any(is_zero));
    assert!(Corpus::only(Class::Zero, 3, 1).pages().all(is_zero));
}

#[test]
fn a_file_is_cut_into_pages_and_its_tail_is_dropped() {
    let exe = std::path::Path::new("/proc/self/exe");
    let corpus = Corpus::of_file(exe, 5).unwrap();
    assert_eq!((corpus.len(), corpus.bytes().len()), (5, 5 * 4096));
    assert!(corpus.bytes().starts_with(b"\x7fELF"));
    assert_eq!(corpus.of_class(Class::Code).count(), 0);
    let own = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/codecs.rs"));
    let whole = std::fs::read(own).unwrap();
    let cut = Corpus::of_file(own, usize::MAX).unwrap();
    assert_eq!(cut.bytes(), &whole[..whole.len() / 4096 * 4096]);
    assert!(!cut.is_empty() && whole.len() % 4096 != 0);
    assert!(Corpus::of_file(std::path::Path::new("/nonexistent"), 1).is_err());
}

/// A page of pieces that are repeated: between nothing and everything of it can be compressed.
fn page() -> impl Strategy<Value = Vec<u8>> {
    let piece = (prop::collection::vec(any::<u8>(), 1..40), 1..60_usize);
    let pieces = prop::collection::vec(piece, 1..40);
    (pieces, prop::sample::select(&SIZES)).prop_map(|(pieces, size)| {
        let repeated = pieces
            .iter()
            .flat_map(|(bytes, times)| bytes.repeat(*times));
        let mut page: Vec<u8> = repeated.take(size).collect();
        page.resize(size, 0);
        page
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_page_comes_back_from_every_format(page in page()) {
        for mut encoder in encoders() {
            assert_returns(&mut encoder, &page);
        }
    }

    #[test]
    fn any_bytes_come_back_from_every_format(page in prop::collection::vec(any::<u8>(), 512)) {
        for mut encoder in encoders() {
            assert_returns(&mut encoder, &page);
        }
    }
}
