// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pages`]: what is compressed, and where it is restored to; [`Bodies`]: what travels between.
//!
//! ```text
//!  corpus ─► block ── a codec, or zlib ──► Bodies ── the same, or another ──► guest
//!     └────► bytes, for zlib                                                   │
//!              └───────────────────── the same? ◄──────────────────────────────┘
//! ```

use std::{ops::Range, sync::Arc};

use idxd::Destination;
use migration::{
    Backed, CodecReport, Corpus, Mapping, PageCodec, PageDecoder, PageEncoder, RamBlock,
};
use parapin::bench::{Outcome, Skipped};

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;
/// Pages of a call, where calls are not what is compared.
pub(super) const CALL: usize = 128;

/// What is compressed, and where it is restored to.
#[derive(Debug)]
pub(super) struct Pages {
    /// For libraries that are called as they are.
    bytes: Vec<u8>,
    pub(super) block: RamBlock,
    restored: Arc<Mapping>,
    pub(super) guest: Destination,
    offsets: Vec<u64>,
}

impl Pages {
    /// All pages of a corpus that are not zero, since a zero page is never compressed.
    pub(super) fn not_zero(corpus: &Corpus) -> Result<Self, Skipped> {
        let is_not_zero = |page: &&[u8]| page.iter().any(|byte| *byte != 0);
        let pages: Vec<&[u8]> = corpus.pages().filter(is_not_zero).collect();
        Self::new(pages.concat())
    }

    /// All pages of a corpus.
    pub(super) fn all(corpus: &Corpus) -> Result<Self, Skipped> {
        Self::new(corpus.bytes().to_vec())
    }

    fn new(bytes: Vec<u8>) -> Result<Self, Skipped> {
        let size = bytes.len() as u64;
        let sent = Mapping::new(size, Backed::Small)?;
        sent.write(0, &bytes);
        let restored = Mapping::new(size, Backed::Small)?;
        // Touched, as what zlib restores to is.
        restored.fill(0, size, 0);
        let count = (bytes.len() / PAGE) as u64;
        Ok(Self {
            bytes,
            block: RamBlock::new(sent.source()?),
            guest: restored.destination()?,
            restored,
            offsets: (0..count).map(|page| page * PAGE as u64).collect(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(PAGE)
    }

    /// Where those pages begin.
    pub(super) fn offsets(&self, pages: Range<usize>) -> &[u64] {
        &self.offsets[pages]
    }

    /// Calls of so many pages of one of so many parts.
    pub(super) fn calls(&self, (part, of): (usize, usize), call: usize) -> Vec<Range<usize>> {
        let border = |part: usize| self.len() * part / of.max(1);
        let (first, end) = (border(part), border(part + 1));
        let starts = (first..end).step_by(call.max(1));
        starts.map(|start| start..(start + call).min(end)).collect()
    }

    /// How many pages bodies are restored to as they were.
    pub(super) fn restored(&self, decoder: &mut PageDecoder, bodies: &Bodies) -> Outcome {
        self.restored.fill(0, self.restored.size(), 0xa5);
        self.decode(decoder, bodies)?;
        let found = self.restored.to_vec();
        let pairs = found.chunks_exact(PAGE).zip(self.iter());
        Ok(pairs.filter(|(found, sent)| found == sent).count() as f64)
    }

    /// Compresses all of them, call by call.
    pub(super) fn encode(&self, encoder: &mut PageEncoder) -> Result<(), Skipped> {
        for call in self.calls((0, 1), CALL) {
            let encoded = encoder.encode(&self.block, PAGE as u64, self.offsets(call))?;
            std::hint::black_box(encoded.lengths());
        }
        Ok(())
    }

    /// Restores all of them, call by call.
    pub(super) fn decode(&self, decoder: &mut PageDecoder, bodies: &Bodies) -> Result<(), Skipped> {
        for call in self.calls((0, 1), CALL) {
            let (bytes, lengths) = bodies.call(call.clone());
            let offsets = self.offsets(call);
            decoder.decode(bytes, lengths, &self.guest, PAGE as u64, offsets)?;
        }
        Ok(())
    }
}

/// The body of each page, in their order.
#[derive(Debug)]
pub(super) struct Bodies {
    bytes: Vec<u8>,
    lengths: Vec<u32>,
    /// Where each begins, and the end.
    starts: Vec<usize>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            lengths: Vec::new(),
            starts: vec![0],
        }
    }
}

impl Bodies {
    /// As a codec makes them.
    pub(super) fn of(codec: &PageCodec, pages: &Pages) -> Result<Self, Skipped> {
        Ok(Self::with_report(codec, pages)?.0)
    }

    /// And how it made them.
    pub(super) fn with_report(
        codec: &PageCodec,
        pages: &Pages,
    ) -> Result<(Self, CodecReport), Skipped> {
        let mut report = CodecReport::default();
        let mut encoder = codec.encoder()?;
        let mut bodies = Self::default();
        let mut bytes = Vec::new();
        for call in pages.calls((0, 1), CALL) {
            let offsets = pages.offsets(call);
            let mut encoded = encoder.encode(&pages.block, PAGE as u64, offsets)?;
            report.add(encoded.report());
            bytes.clear();
            encoded.append_to(&mut bytes);
            let mut rest = bytes.as_slice();
            for length in encoded.lengths() {
                let (body, others) = rest.split_at(*length as usize);
                rest = others;
                bodies.push(body);
            }
        }
        Ok((bodies, report))
    }

    /// Adds that of the next page.
    pub(super) fn push(&mut self, body: &[u8]) {
        self.bytes.extend_from_slice(body);
        // A body is no longer than a few pages.
        self.lengths
            .push(u32::try_from(body.len()).unwrap_or(u32::MAX));
        self.starts.push(self.bytes.len());
    }

    /// Bodies of those pages, back to back, and their lengths.
    pub(super) fn call(&self, pages: Range<usize>) -> (&[u8], &[u32]) {
        let bytes = self.starts[pages.start]..self.starts[pages.end];
        (&self.bytes[bytes], &self.lengths[pages])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.starts.windows(2);
        ends.map(|ends| &self.bytes[ends[0]..ends[1]])
    }

    /// Bytes of pages for each byte that travels.
    pub(super) fn ratio(&self) -> f64 {
        (self.lengths.len() * PAGE) as f64 / self.bytes.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use migration::PageFormat;

    use super::*;

    #[test]
    fn parts_and_calls_cover_every_page_once() {
        let pages = Pages::all(&Corpus::synthetic(19, 1)).unwrap();
        for (of, call) in [(1, 4), (3, 4), (4, 512), (30, 1)] {
            let calls = (0..of).flat_map(|part| pages.calls((part, of), call));
            let covered: Vec<usize> = calls.flatten().collect();
            assert_eq!(covered, (0..19).collect::<Vec<_>>(), "{of} {call}");
        }
    }

    #[test]
    fn bodies_are_told_apart_and_restored_and_a_wrong_one_is_noticed() {
        let pages = Pages::all(&Corpus::synthetic(40, 1)).unwrap();
        for format in PageFormat::ALL {
            let codec = PageCodec::software(format);
            let mut bodies = Bodies::of(&codec, &pages).unwrap();
            assert_eq!(bodies.iter().count(), 40);
            assert_eq!(bodies.ratio() == 1.0, format == PageFormat::Raw);
            let mut decoder = codec.decoder().unwrap();
            assert_eq!(pages.restored(&mut decoder, &bodies).unwrap(), 40.0);
            // Another page's.
            let first = bodies.iter().next().unwrap().to_vec();
            let (bytes, lengths) = bodies.call(1..39);
            let (bytes, lengths) = (bytes.to_vec(), lengths.to_vec());
            let mut swapped = Bodies::default();
            swapped.push(&first);
            let mut rest = bytes.as_slice();
            for length in lengths {
                let (body, others) = rest.split_at(length as usize);
                rest = others;
                swapped.push(body);
            }
            swapped.push(&first);
            bodies = swapped;
            assert_eq!(pages.restored(&mut decoder, &bodies).unwrap(), 39.0);
        }
    }

    #[test]
    fn zero_pages_are_left_out() {
        let mut bytes = Corpus::synthetic(3, 1).bytes().to_vec();
        bytes[PAGE..2 * PAGE].fill(0);
        let path = std::env::temp_dir().join(format!("parapin-{}-pages", std::process::id()));
        std::fs::write(&path, &bytes).unwrap();
        let corpus = Corpus::of_file(&path, 100);
        std::fs::remove_file(&path).unwrap();
        let corpus = corpus.unwrap();
        let pages = Pages::not_zero(&corpus).unwrap();
        assert_eq!((pages.len(), corpus.len()), (2, 3));
        bytes.drain(PAGE..2 * PAGE);
        assert!(pages.iter().eq(bytes.chunks(PAGE)));
    }
}
