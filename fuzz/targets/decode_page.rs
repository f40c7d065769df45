// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any bytes as the stream of a page: a page or an error, and never a byte outside of the page.
//!
//! ```text
//!  │ format, page size, which corpus page │ stream ... │
//!                                          └─► SoftwareDecoder ─► a page ─► SoftwareEncoder ─► SoftwareDecoder ─► the same
//!                                          └─► idxd::iaa::inflate, if it accepts ─► the same
//! ```
//!
//! No files to begin with: now and then the mutator begins anew with a stream that an encoder wrote.

#![no_main]

use std::cell::RefCell;

use idxd::iaa::{check, inflate};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use migration::{Class, Corpus, PageFormat, SoftwareDecoder, SoftwareEncoder};

const SIZES: [usize; 4] = [64, 512, 4096, 65536];
/// Bytes on either side of the page that must stay as they are.
const AROUND: usize = 512;
const GUARD: u8 = 0xa5;
/// One of so many mutations begins anew.
const ANEW: u32 = 32;

struct Bench {
    decoders: Vec<SoftwareDecoder>,
    /// For each format, and DEFLATE for an IAA last.
    encoders: Vec<SoftwareEncoder>,
    pages: Vec<Corpus>,
}

impl Bench {
    fn new() -> Self {
        let decoder = |format| SoftwareDecoder::new(format).expect("a decoder");
        let encoder = |format, safe| SoftwareEncoder::new(format, safe).expect("an encoder");
        let plain = PageFormat::ALL
            .into_iter()
            .map(|format| encoder(format, false));
        Self {
            decoders: PageFormat::ALL.into_iter().map(decoder).collect(),
            encoders: plain.chain([encoder(PageFormat::Deflate, true)]).collect(),
            pages: Class::ALL.map(|class| Corpus::only(class, 16, 1)).into(),
        }
    }

    fn decode(&mut self, format: usize, stream: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut guarded = vec![GUARD; AROUND + size + AROUND];
        let page = &mut guarded[AROUND..AROUND + size];
        let decoded = self.decoders[format].decode(stream, page).is_ok();
        let is_guard = |bytes: &[u8]| bytes.iter().all(|byte| *byte == GUARD);
        assert!(is_guard(&guarded[..AROUND]), "written in front of the page");
        assert!(
            is_guard(&guarded[AROUND + size..]),
            "written behind the page"
        );
        decoded.then(|| guarded[AROUND..AROUND + size].to_vec())
    }

    fn assert_returns(&mut self, format: usize, page: &[u8]) {
        let safe =
            (PageFormat::ALL[format] == PageFormat::Deflate).then_some(self.encoders.len() - 1);
        for encoder in [Some(format), safe].into_iter().flatten() {
            let mut stream = vec![0; page.len() - 1];
            if let Some(len) = self.encoders[encoder].encode(page, &mut stream) {
                let decoded = self.decode(format, &stream[..len], page.len());
                assert!(
                    decoded.as_deref() == Some(page),
                    "not the page that was encoded"
                );
                if safe == Some(encoder) {
                    let said = check(&stream[..len], page.len()).expect("safe for an IAA");
                    assert_eq!((said.output_size, said.consumed_bytes), (page.len(), len));
                }
            }
        }
    }

    /// A stream that an encoder writes, with the byte in front.
    fn valid(&mut self, seed: u32) -> Vec<u8> {
        let [choice, class, place, which] = seed.to_le_bytes();
        let (format, size) = chosen(choice);
        let corpus = &self.pages[usize::from(class) % self.pages.len()];
        let mut pages = corpus.bytes().chunks_exact(size).cycle();
        let page = pages.nth(usize::from(place)).unwrap_or_default();
        let encoder = match (PageFormat::ALL[format], which & 1) {
            (PageFormat::Deflate, 1) => self.encoders.len() - 1,
            _ => format,
        };
        let mut stream = vec![choice; 1 + size];
        let len = self.encoders[encoder].encode(page, &mut stream[1..size]);
        match len {
            Some(len) => stream.truncate(1 + len),
            None => stream[1..].copy_from_slice(page),
        }
        stream
    }
}

fn chosen(choice: u8) -> (usize, usize) {
    (usize::from(choice & 3), SIZES[usize::from(choice >> 2 & 3)])
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, stream)) = data.split_first() else {
        return;
    };
    let (format, size) = chosen(*choice);
    BENCH.with_borrow_mut(|bench| {
        let decoded = bench.decode(format, stream, size);
        if PageFormat::ALL[format] == PageFormat::Deflate {
            let mut by_rules = vec![0; size];
            let said = inflate(stream, &mut by_rules);
            assert_eq!(said, check(stream, size));
            // It also accepts what the library does not: trees with codes left over.
            if let (Ok(said), Some(page)) = (said, &decoded) {
                assert_eq!(said.output_size, size);
                assert!(by_rules == *page, "inflated differently");
            }
        }
        if let Some(page) = decoded {
            bench.assert_returns(format, &page);
        }
    });
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut len = size;
    if size == 0 || seed % ANEW == 0 {
        let valid = BENCH.with_borrow_mut(|bench| bench.valid(seed / ANEW));
        len = valid.len().min(max_size);
        data[..len].copy_from_slice(&valid[..len]);
    }
    fuzzer_mutate(data, len, max_size)
});
