// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`ZstdEncoder`] and [`ZstdDecoder`]: pages as frames of Zstandard, by contexts that are used again and again.

use std::fmt;

use zstd_safe::{CCtx, CParameter, DCtx, Strategy, get_error_name};

use super::{CodecError, PageError, PageFormat};
use crate::sys::Place;

/// `ZSTD_error_dstSize_tooSmall` as the library returns it (`zstd_errors.h`; stable since 1.3.1).
const NO_ROOM: usize = 70_usize.wrapping_neg();

/// The level whose parameters are the base of those below: the fastest one that still codes literals.
const LEVEL: i32 = 1;

pub(super) struct ZstdEncoder {
    context: CCtx<'static>,
}

impl ZstdEncoder {
    pub(super) fn new() -> Result<Self, CodecError> {
        let refused = |cause| CodecError {
            format: PageFormat::Zstd,
            cause,
        };
        let mut context = CCtx::try_create().ok_or(refused("out of memory"))?;
        let parameters = [
            CParameter::CompressionLevel(LEVEL),
            CParameter::Strategy(Strategy::ZSTD_fast),
            // The length lets a decoder see at once that the stream is not a page.
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ];
        for parameter in parameters {
            let done = context.set_parameter(parameter);
            done.map_err(|code| refused(get_error_name(code)))?;
        }
        Ok(Self { context })
    }

    pub(super) fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        // The only error for a page is that there is no room; the next call begins anew whatever it was.
        self.context.compress2(out, page).ok()
    }
}

impl fmt::Debug for ZstdEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdEncoder").finish_non_exhaustive()
    }
}

pub(super) struct ZstdDecoder {
    context: DCtx<'static>,
}

impl ZstdDecoder {
    pub(super) fn new() -> Result<Self, CodecError> {
        let context = DCtx::try_create().ok_or(CodecError {
            format: PageFormat::Zstd,
            cause: "out of memory",
        })?;
        Ok(Self { context })
    }

    pub(super) fn decode(&mut self, stream: &[u8], page: &mut Place<'_>) -> Result<(), PageError> {
        let format = PageFormat::Zstd;
        match self.context.decompress(page, stream) {
            Ok(held) => PageError::unless_whole(format, stream, held, page.len()),
            Err(NO_ROOM) => Err(PageError::TooLong {
                format,
                stream_len: stream.len(),
                page_size: page.len(),
            }),
            Err(code) => Err(PageError::Corrupt {
                format,
                stream_len: stream.len(),
                cause: get_error_name(code),
            }),
        }
    }
}

impl fmt::Debug for ZstdDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdDecoder").finish_non_exhaustive()
    }
}
