// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`SoftwareEncoder`] and [`SoftwareDecoder`]: pages of one format, compressed and restored by the calling thread.
//!
//! ```text
//!              ┌─► deflate: libdeflate, and mended where an IAA could not read it
//!  encode ─────┼─► zstd
//!  decode      ├─► lz4
//!              └─► raw: never shorter, so never encoded; copied back
//! ```

use thiserror::Error;

use super::{
    PAGE_SIZES, PageError, PageFormat,
    deflate::{Deflater, Inflater},
    lz4::{Lz4Decoder, Lz4Encoder},
    zstd::{ZstdDecoder, ZstdEncoder},
};
use crate::sys::Place;

/// Compresses pages of one format on the calling thread. One for each thread; allocates nothing once it is made.
#[derive(Debug)]
pub struct SoftwareEncoder {
    format: PageFormat,
    coder: Encoder,
}

#[derive(Debug)]
enum Encoder {
    Raw,
    Deflate(Deflater),
    Zstd(ZstdEncoder),
    Lz4(Box<Lz4Encoder>),
}

impl SoftwareEncoder {
    /// For pages of `format`, at the level that is meant for one thread that feeds a network: each library's fastest.
    ///
    /// With `safe_for_iaa`, a DEFLATE stream holds nothing that an Intel IAA cannot decode, though others can: no run of code
    /// lengths crosses from one tree of a header into the other, and no distance is larger than its window of 4,096 bytes.
    /// For other formats it has no meaning.
    ///
    /// # Errors
    ///
    /// If the library refuses to make a context, for which it needs less than 1 MiB of memory.
    pub fn new(format: PageFormat, safe_for_iaa: bool) -> Result<Self, CodecError> {
        let coder = match format {
            PageFormat::Raw => Encoder::Raw,
            PageFormat::Deflate => Encoder::Deflate(Deflater::new(safe_for_iaa)?),
            PageFormat::Zstd => Encoder::Zstd(ZstdEncoder::new()?),
            PageFormat::Lz4 => Encoder::Lz4(Box::new(Lz4Encoder::new())),
        };
        Ok(Self { format, coder })
    }

    /// What it writes.
    #[must_use]
    pub fn format(&self) -> PageFormat {
        self.format
    }

    /// Writes the page to the front of `out` as a stream that stands alone, and returns the stream's length.
    ///
    /// `None` if it does not fit, for which libraries want up to 64 bytes more than they write: whoever wants only what gets
    /// smaller passes one byte less than the page has. What `out` holds then is anything, and so is what lies behind the
    /// stream. Also `None` for every page of [`PageFormat::Raw`], for one of a size that is not a power of two of
    /// [`PAGE_SIZES`], and for one that is larger than the window of an IAA that shall be able to decode it. Such a page
    /// travels raw.
    ///
    /// Nobody may write to the page meanwhile: the libraries read some bytes more than once.
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if !PAGE_SIZES.contains(&page.len()) || !page.len().is_power_of_two() {
            return None;
        }
        match &mut self.coder {
            Encoder::Raw => None,
            Encoder::Deflate(deflater) => deflater.encode(page, out),
            Encoder::Zstd(encoder) => encoder.encode(page, out),
            Encoder::Lz4(encoder) => encoder.encode(page, out),
        }
    }
}

/// Restores pages of one format on the calling thread. One for each thread; allocates nothing once it is made.
#[derive(Debug)]
pub struct SoftwareDecoder {
    format: PageFormat,
    coder: Decoder,
}

#[derive(Debug)]
enum Decoder {
    Raw,
    Deflate(Inflater),
    Zstd(ZstdDecoder),
    Lz4(Lz4Decoder),
}

impl SoftwareDecoder {
    /// For pages of `format`.
    ///
    /// # Errors
    ///
    /// If the library refuses to make a context, for which it needs less than 1 MiB of memory.
    pub fn new(format: PageFormat) -> Result<Self, CodecError> {
        let coder = match format {
            PageFormat::Raw => Decoder::Raw,
            PageFormat::Deflate => Decoder::Deflate(Inflater::new()?),
            PageFormat::Zstd => Decoder::Zstd(ZstdDecoder::new()?),
            PageFormat::Lz4 => Decoder::Lz4(Lz4Decoder::new()),
        };
        Ok(Self { format, coder })
    }

    /// What it reads.
    #[must_use]
    pub fn format(&self) -> PageFormat {
        self.format
    }

    /// Makes `page` what the stream holds, which must be exactly that many bytes. Writes nothing outside of it.
    ///
    /// The stream may come from anybody, and from any encoder of the format. Bytes behind its end are an error but for
    /// DEFLATE, where they are ignored, as an IAA ignores them: the end is in the stream.
    ///
    /// # Errors
    ///
    /// If it is not a stream of this format, or holds more or less than the page. What the page holds then is anything.
    pub fn decode(&mut self, stream: &[u8], page: &mut [u8]) -> Result<(), PageError> {
        self.decode_to(stream, &mut Place::of_slice(page))
    }

    /// The same for a page that may be a guest's.
    pub(crate) fn decode_to(
        &mut self,
        stream: &[u8],
        page: &mut Place<'_>,
    ) -> Result<(), PageError> {
        match &mut self.coder {
            Decoder::Raw => copy_raw(stream, page),
            Decoder::Deflate(inflater) => inflater.decode(stream, page),
            Decoder::Zstd(decoder) => decoder.decode(stream, page),
            Decoder::Lz4(decoder) => decoder.decode(stream, page),
        }
    }
}

fn copy_raw(stream: &[u8], page: &mut Place<'_>) -> Result<(), PageError> {
    if stream.len() > page.len() {
        return Err(PageError::TooLong {
            format: PageFormat::Raw,
            stream_len: stream.len(),
            page_size: page.len(),
        });
    }
    PageError::unless_whole(PageFormat::Raw, stream, stream.len(), page.len())?;
    page.copy(stream);
    Ok(())
}

/// Why there is no encoder or decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no {format} codec can be made: {cause}; it needs less than 1 MiB of memory")]
#[non_exhaustive]
pub struct CodecError {
    /// What it was to be for.
    pub format: PageFormat,
    /// In the words of the library.
    pub cause: &'static str,
}
