// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`measure`]: how fast this machine is with each format, on pages of the guest.

use std::{
    io,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    CodecError, CodecOffer, CodecReport, DecodeError, EncodeError, FormatSpeed, PageCodec,
    PageFormat,
};
use crate::{Backed, Mapping, RamBlock};

/// Pages that are compressed at a time.
const CALL: usize = 128;

/// Measures each codec on the calling thread with some pages of `block`, for `time` in each direction or once through a part of the pages,
/// whichever is longer. For [`PageCodec`]s in both of their roles; raw ones are left out.
///
/// Take pages that are not zero, and some hundred of them: a guest that is about to be sent has its own. At the other end, whose guest is empty
/// yet, pages of a [`Corpus`](crate::Corpus) do.
///
/// # Errors
///
/// If a codec has no memory, or the pages cannot be.
pub fn measure(
    codecs: &[PageCodec],
    block: &RamBlock,
    page_size: u64,
    offsets: &[u64],
    time: Duration,
) -> Result<CodecOffer, MeasureError> {
    let mut speeds = Vec::new();
    for codec in codecs {
        if codec.format() != PageFormat::Raw && !offsets.is_empty() {
            speeds.push(speed(codec, block, page_size, offsets, time)?);
        }
    }
    Ok(CodecOffer::new(speeds))
}

fn speed(
    codec: &PageCodec,
    block: &RamBlock,
    page_size: u64,
    offsets: &[u64],
    time: Duration,
) -> Result<FormatSpeed, MeasureError> {
    let mut encoder = codec.encoder()?;
    let (mut bodies, mut lengths) = (Vec::new(), Vec::new());
    let mut sent = CodecReport::default();
    let encode = rate(time, offsets, page_size, |call| {
        let mut encoded = encoder.encode(block, page_size, call)?;
        sent.add(encoded.report());
        if lengths.is_empty() {
            encoded.append_to(&mut bodies);
            lengths.extend_from_slice(encoded.lengths());
        }
        Ok(())
    })?;
    let room = page_size * lengths.len() as u64;
    let memory = Mapping::new(room, Backed::Small)?;
    let guest = memory
        .destination()
        .map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
    let places: Vec<u64> = (0..lengths.len() as u64)
        .map(|page| page * page_size)
        .collect();
    let mut decoder = codec.decoder()?;
    let decode = rate(time, &places, page_size, |_| {
        decoder.decode(&bodies, &lengths, &guest, page_size, &places)?;
        Ok(())
    })?;
    let ratio = u128::from(sent.page_bytes) * 1000 / u128::from(sent.body_bytes.max(1));
    Ok(FormatSpeed {
        format: codec.format(),
        encode,
        decode,
        ratio_permille: u32::try_from(ratio).unwrap_or(u32::MAX),
        iaa_decodes: codec.has_iaa(),
    })
}

/// Bytes of pages a second. Pages that were compressed before are in a cache then, as those of a guest are not: that is little
/// beside what a codec takes.
fn rate(
    time: Duration,
    offsets: &[u64],
    page_size: u64,
    mut work: impl FnMut(&[u64]) -> Result<(), MeasureError>,
) -> Result<u64, MeasureError> {
    let begun = Instant::now();
    let mut pages = 0_u64;
    for call in offsets.chunks(CALL).cycle() {
        work(call)?;
        pages += call.len() as u64;
        if begun.elapsed() >= time {
            break;
        }
    }
    let nanos = begun.elapsed().as_nanos().max(1);
    let rate = u128::from(pages * page_size) * 1_000_000_000 / nanos;
    Ok(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// Why nothing was measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// There is no codec.
    #[error("a codec could not be made")]
    Codec {
        /// Why not.
        #[from]
        source: CodecError,
    },
    /// The pages cannot be compressed.
    #[error("the pages to measure with cannot be compressed")]
    Encode {
        /// Why not.
        #[from]
        source: EncodeError,
    },
    /// What was compressed cannot be restored: one of the libraries is broken.
    #[error("pages that were compressed cannot be restored")]
    Decode {
        /// Why not.
        #[from]
        source: DecodeError,
    },
    /// There is no memory to restore to.
    #[error("no memory to restore pages to")]
    Memory {
        /// Why not.
        #[from]
        source: io::Error,
    },
}
