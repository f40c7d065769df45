// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Deflater`] and [`Inflater`]: pages as raw DEFLATE, by libdeflate.

use std::fmt;

use libdeflater::{CompressionLvl, Compressor};

use super::{CodecError, PageError, PageFormat, mend::Mender};
use crate::sys::{Decompressor, Inflated, Place};

/// libdeflate's fastest level that compresses. It writes one block for a page of up to 65,535 bytes.
const LEVEL: i32 = 1;
/// How far back an IAA can look, in bytes. A page of this size has no distance larger than this.
pub(super) const IAA_WINDOW: usize = 4096;

pub(super) struct Deflater {
    compressor: Compressor,
    mender: Option<Mender>,
}

impl Deflater {
    pub(super) fn new(safe_for_iaa: bool) -> Result<Self, CodecError> {
        let level = CompressionLvl::new(LEVEL).map_err(|_| CodecError {
            format: PageFormat::Deflate,
            cause: "libdeflate has no such level",
        })?;
        Ok(Self {
            compressor: Compressor::new(level),
            mender: safe_for_iaa.then(Mender::new),
        })
    }

    pub(super) fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.mender.is_some() && page.len() > IAA_WINDOW {
            return None;
        }
        let len = self.compressor.deflate_compress(page, out).ok()?;
        match &mut self.mender {
            Some(mender) => mender.mend(out, len),
            None => Some(len),
        }
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater")
            .field("safe_for_iaa", &self.mender.is_some())
            .finish_non_exhaustive()
    }
}

pub(super) struct Inflater {
    decompressor: Decompressor,
}

impl Inflater {
    pub(super) fn new() -> Result<Self, CodecError> {
        let decompressor = Decompressor::new().ok_or(CodecError {
            format: PageFormat::Deflate,
            cause: "out of memory",
        })?;
        Ok(Self { decompressor })
    }

    pub(super) fn decode(&mut self, stream: &[u8], page: &mut Place<'_>) -> Result<(), PageError> {
        let format = PageFormat::Deflate;
        match self.decompressor.inflate(stream, page) {
            Inflated::Whole { held, .. } => {
                PageError::unless_whole(format, stream, held, page.len())
            }
            Inflated::Bad => Err(PageError::Corrupt {
                format,
                stream_len: stream.len(),
                cause: "libdeflate cannot inflate it",
            }),
            Inflated::TooLong => Err(PageError::TooLong {
                format,
                stream_len: stream.len(),
                page_size: page.len(),
            }),
        }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}
