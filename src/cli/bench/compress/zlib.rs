// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The baseline: zlib at level 1, in C, as QEMU has it; page by page, or as one stream.
//!
//! | | page by page | one stream |
//! |---|---|---|
//! | begins | with each page (`deflateReset`) | once |
//! | a page ends | with the stream (`Z_FINISH`) | on a whole byte (`Z_SYNC_FLUSH`) |
//! | history | the page | 32 KiB |
//! | a page that does not get smaller | travels raw | gets longer |

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use parapin::bench::Skipped;

use super::pages::{Bodies, PAGE, Pages};

/// The level of QEMU's `multifd-zlib-level`, which is also zlib's fastest.
const LEVEL: u32 = 1;
/// zlib's largest window, 32 KiB, also where a page is all that there is: what others use.
const WINDOW_BITS: u8 = 15;

/// Compresses.
#[derive(Debug)]
pub(super) struct Deflater {
    stream: Compress,
    out: Vec<u8>,
}

impl Deflater {
    pub(super) fn new() -> Self {
        let level = Compression::new(LEVEL);
        Self {
            stream: Compress::new_with_window_bits(level, false, WINDOW_BITS),
            // What does not get smaller as a part of a stream has some bytes more.
            out: vec![0; 2 * PAGE],
        }
    }

    /// Of one page, standing alone; the page itself if it does not get smaller.
    pub(super) fn page<'a>(&'a mut self, page: &'a [u8]) -> Result<&'a [u8], Skipped> {
        self.stream.reset();
        let room = page.len() - 1;
        let status = self
            .stream
            .compress(page, &mut self.out[..room], FlushCompress::Finish)?;
        Ok(match status {
            Status::StreamEnd => &self.out[..written(self.stream.total_out())],
            Status::Ok | Status::BufError => page,
        })
    }

    /// Begins a stream of many pages.
    pub(super) fn begin(&mut self) {
        self.stream.reset();
    }

    /// Of the next page of a stream.
    pub(super) fn next(&mut self, page: &[u8]) -> Result<&[u8], Skipped> {
        let (read, before) = (self.stream.total_in(), self.stream.total_out());
        self.stream
            .compress(page, &mut self.out, FlushCompress::Sync)?;
        let len = written(self.stream.total_out() - before);
        if self.stream.total_in() - read != page.len() as u64 || len == self.out.len() {
            return Err(Skipped::for_reason("zlib made two pages of one and more"));
        }
        Ok(&self.out[..len])
    }
}

/// As long as a buffer, at most.
fn written(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Restores.
#[derive(Debug)]
pub(super) struct Inflater {
    stream: Decompress,
    restored: Vec<u8>,
}

impl Inflater {
    pub(super) fn new(pages: &Pages) -> Self {
        Self {
            stream: Decompress::new_with_window_bits(false, WINDOW_BITS),
            restored: vec![0; pages.len() * PAGE],
        }
    }

    /// Restores all pages, of which each stands alone.
    pub(super) fn all(&mut self, bodies: &Bodies) -> Result<(), Skipped> {
        for (body, page) in bodies.iter().zip(self.restored.chunks_exact_mut(PAGE)) {
            if body.len() == PAGE {
                page.copy_from_slice(body);
                continue;
            }
            self.stream.reset(false);
            let status = self
                .stream
                .decompress(body, page, FlushDecompress::Finish)?;
            if status != Status::StreamEnd || self.stream.total_out() != PAGE as u64 {
                return Err(Skipped::for_reason("zlib does not restore a page"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use migration::{Corpus, PageCodec, PageFormat};

    use super::*;

    #[test]
    fn pages_are_restored_from_its_own_streams_and_from_ours() {
        let pages = Pages::all(&Corpus::synthetic(60, 3)).unwrap();
        let mut deflater = Deflater::new();
        let mut own = Bodies::default();
        for page in pages.iter() {
            own.push(deflater.page(page).unwrap());
        }
        let ours = Bodies::of(&PageCodec::software(PageFormat::Deflate), &pages).unwrap();
        for bodies in [own, ours] {
            assert!((1.5..20.0).contains(&bodies.ratio()), "{}", bodies.ratio());
            assert!(bodies.iter().any(|body| body.len() == PAGE));
            let mut inflater = Inflater::new(&pages);
            inflater.all(&bodies).unwrap();
            assert!(inflater.restored.chunks_exact(PAGE).eq(pages.iter()));
        }
    }

    #[test]
    fn a_stream_is_that_of_all_pages() {
        let pages = Pages::all(&Corpus::synthetic(60, 3)).unwrap();
        let mut deflater = Deflater::new();
        let mut stream = Vec::new();
        for _ in 0..2 {
            deflater.begin();
            stream.clear();
            for page in pages.iter() {
                stream.extend_from_slice(deflater.next(page).unwrap());
            }
        }
        let mut inflater = Decompress::new(false);
        let mut restored = vec![0; pages.len() * PAGE];
        inflater
            .decompress(&stream, &mut restored, FlushDecompress::Sync)
            .unwrap();
        assert!(restored.chunks_exact(PAGE).eq(pages.iter()));
    }
}
