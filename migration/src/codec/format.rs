// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageFormat`]: what the bytes of a page look like on their way.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use thiserror::Error;

/// Sizes of a page in bytes that can be compressed; of these, powers of two.
pub const PAGE_SIZES: RangeInclusive<usize> = 64..=64 << 10;

/// What the bytes of a page look like on their way. In all formats every page stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PageFormat {
    /// The page as it is.
    Raw,
    /// Raw DEFLATE (RFC 1951) without a frame: what Intel IAA reads and writes.
    Deflate,
    /// A frame of Zstandard (RFC 8878) that tells the length of its content, without checksum or dictionary.
    Zstd,
    /// One LZ4 block without a frame, as of lz4's `lz4_Block_format.md`.
    Lz4,
}

impl PageFormat {
    /// All of them, by their code.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Deflate, Self::Zstd, Self::Lz4];

    /// What the command line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// The number that two ends call it by. It never changes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Deflate => 1,
            Self::Zstd => 2,
            Self::Lz4 => 3,
        }
    }

    /// The format with this number; `None` if there is none that this version knows.
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.code() == code)
    }
}

impl fmt::Display for PageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PageFormat {
    type Err = UnknownFormatError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|format| format.name() == name);
        named.ok_or_else(|| UnknownFormatError {
            name: name.to_owned(),
        })
    }
}

/// A name that no format has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is no format of pages: take raw, deflate, zstd or lz4")]
#[non_exhaustive]
pub struct UnknownFormatError {
    /// The name.
    pub name: String,
}
