// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! zlib, written in C by others, as the judge: raw streams, a window of 4 KiB.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Of 4096 bytes.
const WINDOW_BITS: u8 = 12;

/// What zlib makes of the pieces, each of which ends in a block of its own if it is not empty.
pub(crate) fn deflate(pieces: &[&[u8]], level: u32) -> Vec<u8> {
    let mut zlib = Compress::new_with_window_bits(Compression::new(level), false, WINDOW_BITS);
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut stream = Vec::with_capacity(2 * len + 64 * pieces.len() + 64);
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        let status = zlib.compress_vec(piece, &mut stream, FlushCompress::Full);
        assert_eq!(status.unwrap(), Status::Ok);
    }
    let status = zlib.compress_vec(&[], &mut stream, FlushCompress::Finish);
    assert_eq!(status.unwrap(), Status::StreamEnd);
    assert_eq!(zlib.total_in(), len as u64);
    stream
}

/// The bytes of a stream and how long it is, if zlib takes it for one of up to `limit` bytes. Its window does not reach farther
/// back than 4096 bytes and the piece that it is at.
pub(crate) fn inflate(stream: &[u8], limit: usize) -> Option<(Vec<u8>, usize)> {
    let mut zlib = Decompress::new_with_window_bits(false, WINDOW_BITS);
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 64];
        let (read, written) = (zlib.total_in(), zlib.total_out());
        let rest = &stream[usize::try_from(read).unwrap()..];
        let status = zlib
            .decompress(rest, &mut piece, FlushDecompress::None)
            .ok()?;
        let made = usize::try_from(zlib.total_out() - written).unwrap();
        bytes.extend_from_slice(&piece[..made]);
        if bytes.len() > limit {
            return None;
        }
        if status == Status::StreamEnd {
            return Some((bytes, usize::try_from(zlib.total_in()).unwrap()));
        }
        if made == 0 && zlib.total_in() == read {
            return None;
        }
    }
}
