// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bodies of pages on a socket: from where a codec wrote them to where they belong, and what the other end may say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use idxd::Source;
use migration::{
    Backed, Corpus, DecodeError, EncodeError, Mapping, PageCodec, PageError, PageFormat, RamBlock,
};

const PAGE: u64 = 4096;

fn offsets(pages: usize) -> Vec<u64> {
    (0..pages as u64).map(|page| page * PAGE).collect()
}

fn guest(pages: usize) -> Arc<Mapping> {
    Mapping::new(pages as u64 * PAGE, Backed::Small).unwrap()
}

fn block(corpus: &Corpus) -> RamBlock {
    RamBlock::new(Source::of_vec(corpus.bytes().to_vec()).unwrap())
}

/// Lengths and bodies of a corpus.
fn encoded(codec: &PageCodec, corpus: &Corpus) -> (Vec<u32>, Vec<u8>) {
    let (block, offsets) = (block(corpus), offsets(corpus.len()));
    let mut encoder = codec.encoder().unwrap();
    let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    let mut bodies = Vec::new();
    encoded.append_to(&mut bodies);
    (encoded.lengths().to_vec(), bodies)
}

#[test]
fn what_is_sent_is_what_is_copied_and_arrives_through_a_small_socket() {
    // More pieces than one system call takes, and far more bytes than a socket holds.
    let corpus = Corpus::synthetic(1500, 1);
    let (block, offsets) = (block(&corpus), offsets(1500));
    for format in PageFormat::ALL {
        let codec = PageCodec::software(format);
        let (lengths, bodies) = encoded(&codec, &corpus);
        let (near, far) = UnixStream::pair().unwrap();
        let memory = guest(1500);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut encoder = codec.encoder().unwrap();
                let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
                assert_eq!(encoded.lengths(), lengths);
                encoded.send(&near).unwrap();
            });
            let to = memory.destination().unwrap();
            let mut decoder = codec.decoder().unwrap();
            let report = decoder
                .receive(&far, &lengths, &to, PAGE, &offsets)
                .unwrap();
            assert_eq!(report.pages, 1500);
            assert_eq!(report.body_bytes, bodies.len() as u64);
            sender.join().unwrap();
        });
        assert!(memory.to_vec() == corpus.bytes(), "{format}");
        // Not a byte more was read.
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&far).read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn a_stream_that_ends_before_its_time_is_an_error_wherever_it_ends() {
    let corpus = Corpus::synthetic(4, 2);
    let codec = PageCodec::software(PageFormat::Zstd);
    let (lengths, bodies) = encoded(&codec, &corpus);
    for len in (0..bodies.len()).step_by(97) {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(&bodies[..len]).unwrap();
        drop(near);
        let memory = guest(4);
        let to = memory.destination().unwrap();
        let mut decoder = codec.decoder().unwrap();
        let error = decoder
            .receive(&far, &lengths, &to, PAGE, &offsets(4))
            .unwrap_err();
        assert!(matches!(error, DecodeError::Read { .. }), "{len}: {error}");
    }
}

#[test]
fn a_receive_timeout_is_honoured_and_a_reader_that_is_gone_is_an_error() {
    let corpus = Corpus::synthetic(300, 3);
    let codec = PageCodec::software(PageFormat::Lz4);
    let (lengths, _) = encoded(&codec, &corpus);
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(std::time::Duration::from_millis(20)))
        .unwrap();
    let memory = guest(300);
    let to = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    let error = decoder
        .receive(&far, &lengths, &to, PAGE, &offsets(300))
        .unwrap_err();
    let DecodeError::Read { source } = error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::WouldBlock);
    drop(far);
    let (block, offsets) = (block(&corpus), offsets(300));
    let mut encoder = codec.encoder().unwrap();
    let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    let error = encoded.send(&near).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

/// Bodies, lengths, page size, offsets, and what is said of them.
type Case<'a> = (&'a [u8], &'a [u32], u64, &'a [u64], &'a str);

const CASES: [Case<'_>; 9] = [
    (
        &[1],
        &[0],
        PAGE,
        &[0],
        "page 0, at offset 0x0: a body of 0 bytes",
    ),
    (
        &[1],
        &[4097],
        PAGE,
        &[0],
        "a body of 4097 bytes for a page of 4096",
    ),
    (
        &[1],
        &[1, u32::MAX],
        PAGE,
        &[0, 4096],
        "page 1, at offset 0x1000: a body of 4294967295 bytes",
    ),
    (&[1], &[1], PAGE, &[0, 4096], "1 lengths for 2 pages"),
    (
        &[1],
        &[1],
        PAGE,
        &[4 * PAGE],
        "the 0x1000 bytes at offset 0x4000 are not inside",
    ),
    (
        &[1],
        &[1],
        PAGE,
        &[u64::MAX],
        "at offset 0xffffffffffffffff are not inside",
    ),
    (
        &[1],
        &[2],
        PAGE,
        &[0],
        "1 bytes of bodies, where the lengths say 2",
    ),
    (
        &[1, 2],
        &[1],
        PAGE,
        &[0],
        "2 bytes of bodies, where the lengths say 1",
    ),
    (
        &[1],
        &[1],
        1000,
        &[0],
        "a size is a power of two from 64 to 65536",
    ),
];

#[test]
fn what_the_other_end_says_is_checked_before_anything_is_written() {
    let codec = PageCodec::software(PageFormat::Deflate);
    let memory = guest(4);
    memory.fill(0, 4 * PAGE, 0xa5);
    let before = memory.to_vec();
    let to = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    for (bodies, lengths, size, offsets, expected) in CASES {
        let error = decoder.decode(bodies, lengths, &to, size, offsets);
        let found = error.unwrap_err().to_string();
        assert!(found.contains(expected), "{found}");
    }
    assert_eq!(memory.to_vec(), before);
    let raw = PageCodec::software(PageFormat::Raw);
    let mut decoder = raw.decoder().unwrap();
    let error = decoder.decode(&[1], &[1], &to, PAGE, &[0]).unwrap_err();
    assert!(matches!(error, DecodeError::Length { .. }), "{error}");
}

#[test]
fn a_body_that_is_no_page_names_the_page_and_the_cause() {
    let codec = PageCodec::software(PageFormat::Deflate);
    let memory = guest(2);
    let to = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    // An empty stored block.
    let bodies = [1, 0, 0, 0xff, 0xff];
    let error = decoder
        .decode(&bodies, &[5], &to, PAGE, &[PAGE])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "page 0, at offset 0x1000, cannot be restored"
    );
    let DecodeError::Page { source, .. } = error else {
        panic!("{error}");
    };
    let expected = PageError::TooShort {
        format: PageFormat::Deflate,
        stream_len: 5,
        held: 0,
        page_size: 4096,
    };
    assert_eq!(source, expected);
    assert_eq!(
        source.to_string(),
        "the deflate stream of 5 bytes holds 0 bytes of the page's 4096"
    );
    // It is used again after that.
    let corpus = Corpus::synthetic(2, 4);
    let (lengths, bodies) = encoded(&codec, &corpus);
    decoder
        .decode(&bodies, &lengths, &to, PAGE, &offsets(2))
        .unwrap();
    assert!(memory.to_vec() == corpus.bytes());
}

#[test]
fn pages_that_cannot_be_are_refused_before_anything_is_read() {
    let corpus = Corpus::synthetic(2, 5);
    let block = block(&corpus);
    let mut encoder = PageCodec::software(PageFormat::Zstd).encoder().unwrap();
    for (size, offset) in [(PAGE, PAGE + 1), (PAGE, u64::MAX), (2 * PAGE, 64)] {
        let error = encoder.encode(&block, size, &[0, offset]).unwrap_err();
        assert!(matches!(error, EncodeError::Outside { .. }), "{error}");
    }
    for size in [0, 32, 100, 4095, 128 << 10, u64::MAX] {
        let error = encoder.encode(&block, size, &[0]).unwrap_err();
        assert_eq!(error, EncodeError::PageSize { page_size: size });
    }
    let empty = encoder.encode(&block, PAGE, &[]).unwrap();
    assert!(empty.lengths().is_empty());
}
