// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageError`]: why a stream is not the page that was expected.

use thiserror::Error;

use super::PageFormat;

/// Why a stream is not a page of the length that was expected. What the page holds then is some of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PageError {
    /// It is cut off, or its bytes mean nothing.
    #[error("the {format} stream of {stream_len} bytes is cut off or damaged: {cause}")]
    Corrupt {
        /// What it was decoded as.
        format: PageFormat,
        /// Its length in bytes.
        stream_len: usize,
        /// In the words of the library that decoded it.
        cause: &'static str,
    },
    /// It is more than a page. Nothing behind the page was written.
    #[error(
        "the {format} stream of {stream_len} bytes holds more than the {page_size} bytes of the page"
    )]
    TooLong {
        /// What it was decoded as.
        format: PageFormat,
        /// Its length in bytes.
        stream_len: usize,
        /// What was expected, in bytes.
        page_size: usize,
    },
    /// It ends before the page does.
    #[error(
        "the {format} stream of {stream_len} bytes holds {held} bytes of the page's {page_size}"
    )]
    TooShort {
        /// What it was decoded as.
        format: PageFormat,
        /// Its length in bytes.
        stream_len: usize,
        /// What it holds, in bytes.
        held: usize,
        /// What was expected, in bytes.
        page_size: usize,
    },
}

impl PageError {
    /// Nothing if a stream that was read to its end held exactly the page.
    pub(super) fn unless_whole(
        format: PageFormat,
        stream: &[u8],
        held: usize,
        page_size: usize,
    ) -> Result<(), Self> {
        let stream_len = stream.len();
        if held == page_size {
            return Ok(());
        }
        Err(Self::TooShort {
            format,
            stream_len,
            held,
            page_size,
        })
    }
}
