// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Kind`]: DSA or IAA, and what they are called.

use std::fmt;

/// The two kinds of device that the idxd driver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Data Streaming Accelerator: copies, compares, fills.
    Dsa,
    /// In-Memory Analytics Accelerator: compresses and decompresses. The kernel calls it IAX.
    Iax,
}

impl Kind {
    /// The kernel's word: the prefix of device names, and the directory of its nodes below `/dev`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dsa => "dsa",
            Self::Iax => "iax",
        }
    }

    /// What completion records have to be aligned to, in bytes; also how long one is.
    #[must_use]
    pub fn record_size(self) -> usize {
        match self {
            Self::Dsa => 32,
            Self::Iax => 64,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
