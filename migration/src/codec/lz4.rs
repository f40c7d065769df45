// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Lz4Encoder`] and [`Lz4Decoder`]: pages as blocks of LZ4.
//!
//! ```text
//!  page ──► roomy: what the worst page could need ──► out, if it fits
//! ```
//!
//! The library writes only where the worst page would have room, so that a stream is first written elsewhere.

use std::fmt;

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into,
    get_maximum_output_size,
};

use super::{PAGE_SIZES, PageError, PageFormat};
use crate::sys::Place;

/// From this length on, the library needs a table of larger entries (`u16::MAX` in its `compress_into_with_table`).
const LARGE: usize = 65_535;

/// Room for the stream of any page.
const ROOM: usize = get_maximum_output_size(*PAGE_SIZES.end());

pub(super) struct Lz4Encoder {
    small: CompressTable,
    large: CompressTable,
    roomy: Box<[u8]>,
}

impl Lz4Encoder {
    pub(super) fn new() -> Self {
        Self {
            small: CompressTable::small(),
            large: CompressTable::large(),
            roomy: vec![0; ROOM].into_boxed_slice(),
        }
    }

    pub(super) fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        let table = if page.len() < LARGE {
            &mut self.small
        } else {
            &mut self.large
        };
        let len = compress_into_with_table(page, &mut self.roomy, table).ok()?;
        out.get_mut(..len)?.copy_from_slice(self.roomy.get(..len)?);
        Some(len)
    }
}

impl fmt::Debug for Lz4Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lz4Encoder").finish_non_exhaustive()
    }
}

/// Restores a page on its own memory, since the library writes by reference, and copies it to its place.
pub(super) struct Lz4Decoder {
    page: Box<[u8]>,
}

impl Lz4Decoder {
    pub(super) fn new() -> Self {
        Self {
            page: vec![0; *PAGE_SIZES.end()].into_boxed_slice(),
        }
    }

    pub(super) fn decode(&mut self, stream: &[u8], place: &mut Place<'_>) -> Result<(), PageError> {
        let format = PageFormat::Lz4;
        let (stream_len, page_size) = (stream.len(), place.len());
        let corrupt = |cause| PageError::Corrupt {
            format,
            stream_len,
            cause,
        };
        let Some(page) = self.page.get_mut(..page_size) else {
            return Err(corrupt("pages are smaller than that"));
        };
        let held = decompress_into(stream, page).map_err(|error| match error {
            DecompressError::OutputTooSmall { .. } => PageError::TooLong {
                format,
                stream_len,
                page_size,
            },
            DecompressError::LiteralOutOfBounds => corrupt("it ends within literals"),
            DecompressError::ExpectedAnotherByte => corrupt("it ends within a sequence"),
            DecompressError::OffsetZero => corrupt("a match at distance 0"),
            DecompressError::OffsetOutOfBounds => corrupt("a match in front of the page"),
            _ => corrupt("not a block of LZ4"),
        })?;
        PageError::unless_whole(format, stream, held, page_size)?;
        place.copy(page);
        Ok(())
    }
}

impl fmt::Debug for Lz4Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lz4Decoder").finish_non_exhaustive()
    }
}
