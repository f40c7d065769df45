// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Mender`]: a stream whose header an IAA refuses is given another header.
//!
//! ```text
//!  BFINAL BTYPE │ header, one list of both trees' lengths │ block ─► │ header, two lists │ the same bits, shifted
//! ```
//!
//! Software encoders write the code lengths of the literal/length tree and of the distance tree as one list, as RFC 1951 has
//! it; an IAA stops where a run goes on from one into the other. Codes follow from lengths, so that the block stays as it is.

use idxd::iaa::{BitReader, BitWriter, DynamicHeader, check};

use super::deflate::IAA_WINDOW;

/// `BTYPE` of a block that brings its own codes (RFC 1951 section 3.2.3).
const DYNAMIC: u32 = 2;

/// Room for a stream that is longer than its page by the byte that only pads it.
type Room = [u8; IAA_WINDOW + 1];

#[derive(Debug)]
pub(super) struct Mender {
    mended: Box<Room>,
}

impl Mender {
    pub(super) fn new() -> Self {
        Self {
            mended: Box::new([0; IAA_WINDOW + 1]),
        }
    }

    /// Makes the stream in the first `len` bytes of `out` one that an IAA can decode, and returns its length.
    ///
    /// `None` if that does not fit, or if it has more than one block, which no page up to the window does.
    pub(super) fn mend(&mut self, out: &mut [u8], len: usize) -> Option<usize> {
        let mut reader = BitReader::new(out.get(..len)?);
        let head = reader.take(3)?;
        let (is_last, kind) = (head & 1 == 1, head >> 1);
        if !is_last {
            return None;
        }
        if kind != DYNAMIC {
            return Some(len);
        }
        let found = DynamicHeader::read(&mut reader).ok()?;
        if found.crossing.is_none() {
            return Some(len);
        }
        let mut writer = BitWriter::new(self.mended.as_mut_slice());
        writer.put(head, 3);
        found.header.write(&mut writer);
        writer.append(&mut reader);
        let padded = writer.finish().ok()?;
        // What padded the last byte may have become a byte of its own.
        let exact = check(&self.mended[..padded], IAA_WINDOW).ok()?;
        let mended = self.mended.get(..exact.consumed_bytes)?;
        out.get_mut(..mended.len())?.copy_from_slice(mended);
        Some(mended.len())
    }
}

#[cfg(test)]
mod tests {
    use idxd::iaa::{InflateError, check, inflate};
    use libdeflater::{CompressionLvl, Compressor};

    use super::Mender;
    use crate::{Class, Corpus};

    /// Streams that cross, with the pages that they are.
    fn crossing() -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut compressor = Compressor::new(CompressionLvl::new(1).unwrap());
        let mut crossing = Vec::new();
        for page in Corpus::only(Class::Repeats, 500, 1).pages() {
            let mut stream = vec![0; 4095];
            if let Ok(len) = compressor.deflate_compress(page, &mut stream) {
                stream.truncate(len);
                if check(&stream, 4096).is_err() {
                    crossing.push((stream, page.to_vec()));
                }
            }
        }
        assert!(crossing.len() >= 10);
        crossing
    }

    #[test]
    fn what_crosses_is_mended_and_stays_the_same_page() {
        let mut mender = Mender::new();
        for (stream, page) in crossing() {
            assert!(matches!(
                check(&stream, 4096),
                Err(InflateError::Analytics(_))
            ));
            let mut out = stream.clone();
            out.resize(4095, 0xa5);
            let len = mender.mend(&mut out, stream.len()).unwrap();
            // A few more symbols for code lengths.
            assert!((stream.len()..stream.len() + 16).contains(&len));
            let mut inflated = vec![0; 4096];
            let said = inflate(&out[..len], &mut inflated).unwrap();
            assert_eq!((said.output_size, said.consumed_bytes), (4096, len));
            assert!(inflated == page);
            // What is mended stays as it is.
            let before = out.clone();
            assert_eq!(mender.mend(&mut out, len), Some(len));
            assert_eq!(out, before);
        }
    }

    #[test]
    fn what_gets_too_long_by_it_is_nothing() {
        let mut mender = Mender::new();
        for (stream, _) in crossing() {
            let mut roomy = stream.clone();
            roomy.resize(4095, 0);
            let len = mender.mend(&mut roomy, stream.len()).unwrap();
            for room in stream.len()..len + 2 {
                let mut out = stream.clone();
                out.resize(room, 0);
                let expected = (room >= len).then_some(len);
                assert_eq!(mender.mend(&mut out, stream.len()), expected);
            }
        }
    }

    #[test]
    fn what_is_no_single_block_is_nothing() {
        let mut mender = Mender::new();
        // Not the last block; no header; no bytes; and a stored block, which is as it should be.
        assert_eq!(mender.mend(&mut [0b100, 0, 0], 3), None);
        assert_eq!(mender.mend(&mut [0b101, 0, 0], 3), None);
        assert_eq!(mender.mend(&mut [], 0), None);
        assert_eq!(mender.mend(&mut [0b001, 0, 0, 0xff, 0xff], 5), Some(5));
    }
}
