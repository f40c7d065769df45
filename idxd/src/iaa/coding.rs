// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Coding`]: which codes an IAA compresses with.

use std::hint;

use super::aecs::Aecs;
use crate::Keep;

/// Where the codes come from.
#[derive(Debug, Clone)]
pub enum Coding {
    /// From a table that is the same for every input; any IAA.
    Tables(Aecs),
    /// The device counts, and makes them: for inputs of up to 4096 bytes, and devices whose `iaa_cap` says so.
    Generated,
}

impl Coding {
    /// What a compress descriptor says: flush the output, append the end of the block, and who makes the header.
    ///
    /// Bits as in Intel's Query Processing Library: 1 flushes, 3:2 being 1 end the block, 14:12 being 3 have the header made.
    #[must_use]
    pub const fn compr_flags(&self) -> u16 {
        match self {
            Self::Tables(_) => 0x0006,
            Self::Generated => 0x3006,
        }
    }

    /// Address and size in bytes of the tables, `src2` of a descriptor; both 0 where there are none.
    #[must_use]
    pub fn tables(&self) -> (u64, u32) {
        match self {
            Self::Tables(aecs) => (aecs.address(), SIZE),
            Self::Generated => (0, 0),
        }
    }

    /// Makes the pages of the tables appear, should the kernel have taken them away: nobody but devices reads them.
    pub fn touch(&self) {
        if let Self::Tables(aecs) = self {
            let bytes = aecs.as_bytes();
            // The last one may be on another page.
            hint::black_box((hint::black_box(bytes)[0], bytes[bytes.len() - 1]));
        }
    }

    /// What keeps the tables where they are.
    #[must_use]
    pub fn keep(&self) -> Option<&Keep> {
        match self {
            Self::Tables(aecs) => Some(aecs.keep()),
            Self::Generated => None,
        }
    }
}

/// As a descriptor has it.
const SIZE: u32 = 1568;
const _: () = assert!(SIZE as usize == Aecs::SIZE);
