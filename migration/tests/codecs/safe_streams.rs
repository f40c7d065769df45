// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Streams for a peer that decodes with an IAA hold nothing that it cannot decode.

use std::thread;

use idxd::iaa::{InflateError, check, inflate};
use migration::{Class, Corpus, PageFormat, SoftwareEncoder};

use crate::encode;

/// Pages whose streams are checked.
const PAGES: usize = 100_000;
/// Of so many pages one is also compressed without regard to an IAA.
const PLAIN: usize = 5;

/// Pages of each class but those that do not compress, and of the mix.
fn corpora() -> impl Iterator<Item = Corpus> {
    let classes = [
        Class::Code,
        Class::Text,
        Class::Heap,
        Class::Sparse,
        Class::Repeats,
    ];
    let each = PAGES / 6 + 1;
    let only = classes.map(|class| Corpus::only(class, each, 31));
    only.into_iter().chain([Corpus::synthetic(each, 32)])
}

#[derive(Debug, Default)]
struct Seen {
    pages: usize,
    /// Safe streams, all of which an IAA decodes.
    safe: usize,
    /// Plain streams, and those of them that it refuses.
    plain: usize,
    refused: usize,
}

fn look_at(corpus: &Corpus) -> Seen {
    let mut safe = SoftwareEncoder::new(PageFormat::Deflate, true).unwrap();
    let mut plain = SoftwareEncoder::new(PageFormat::Deflate, false).unwrap();
    let mut seen = Seen::default();
    let mut out = [0; 4095];
    for page in corpus.pages() {
        seen.pages += 1;
        if let Some(len) = safe.encode(page, &mut out) {
            seen.safe += 1;
            let said = check(&out[..len], 4096).unwrap();
            assert_eq!((said.output_size, said.consumed_bytes), (4096, len));
            assert!(said.furthest_distance < 4096);
        }
        if seen.pages % PLAIN != 0 {
            continue;
        }
        if let Some(len) = plain.encode(page, &mut out) {
            seen.plain += 1;
            match check(&out[..len], 4096) {
                Ok(said) => assert_eq!(said.output_size, 4096),
                Err(InflateError::Analytics(_)) => seen.refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    seen
}

#[test]
fn an_iaa_decodes_every_safe_stream_and_not_every_plain_one() {
    let seen: Vec<Seen> = thread::scope(|scope| {
        let look = |corpus| scope.spawn(move || look_at(&corpus));
        let looking: Vec<_> = corpora().map(look).collect();
        looking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    println!("{seen:?}");
    assert!(seen.iter().map(|seen| seen.pages).sum::<usize>() >= PAGES);
    assert!(seen.iter().all(|seen| seen.safe > seen.pages * 4 / 5));
    let repeats = &seen[4];
    assert!(repeats.refused > repeats.plain / 50);
}

#[test]
fn a_decoder_by_the_rules_of_an_iaa_returns_the_page() {
    let mut safe = SoftwareEncoder::new(PageFormat::Deflate, true).unwrap();
    for class in Class::ALL {
        for page in Corpus::only(class, 100, 41).pages() {
            if let Some(stream) = encode(&mut safe, page) {
                let mut inflated = vec![0; 4096];
                inflate(&stream, &mut inflated).unwrap();
                assert!(inflated == page, "{class}");
            }
        }
    }
}
