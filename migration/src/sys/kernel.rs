// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Kernel`]: the loop that tells whether bytes are all zero, one for each instruction set.
//!
//! ```text
//! Isa ──Kernel::new, if this CPU has it──► Kernel ──► blocks of 128 or 256 bytes, the last one overlapping
//!                                                └──► words, where the range is shorter than a block
//! ```
//!
//! All of them load by assembly or atomically: a guest may write to the bytes while they are read. The answer is right for
//! some moment of the call in every part of the range, which is what a migration with a dirty log needs.

use std::{fmt, sync::OnceLock};

use idxd::Source;

#[cfg(target_arch = "aarch64")]
use super::zero_neon;
use super::zero_portable;
#[cfg(target_arch = "x86_64")]
use super::{zero_avx2, zero_avx512, zero_sse2};

/// What a [`Kernel`] is written in, widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// x86-64 with AVX-512F and AVX-512BW.
    Avx512,
    /// x86-64 with AVX2.
    Avx2,
    /// Any x86-64.
    Sse2,
    /// Any aarch64.
    Neon,
    /// Words, on any CPU.
    Portable,
}

impl Isa {
    /// All of them, widest first.
    pub const ALL: [Self; 5] = [
        Self::Avx512,
        Self::Avx2,
        Self::Sse2,
        Self::Neon,
        Self::Portable,
    ];

    /// What the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Sse2 => "sse2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells whether bytes are all zero. Whoever has one is on a CPU that can run it.
#[derive(Clone, Copy)]
pub struct Kernel {
    isa: Isa,
    /// Fewest bytes that the two functions may be given.
    block: usize,
    is_zero: unsafe fn(*const u8, usize, usize) -> bool,
    read: unsafe fn(*const u8, usize),
}

impl Kernel {
    /// The kernel for `isa`; `None` if this CPU does not have it.
    #[must_use]
    pub fn new(isa: Isa) -> Option<Self> {
        let kernel = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                let has =
                    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
                has.then_some(Self {
                    isa,
                    block: zero_avx512::BLOCK,
                    is_zero: zero_avx512::is_zero,
                    read: zero_avx512::read,
                })?
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2").then_some(Self {
                isa,
                block: zero_avx2::BLOCK,
                is_zero: zero_avx2::is_zero,
                read: zero_avx2::read,
            })?,
            #[cfg(target_arch = "x86_64")]
            Isa::Sse2 => Self {
                isa,
                block: zero_sse2::BLOCK,
                is_zero: zero_sse2::is_zero,
                read: zero_sse2::read,
            },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Self {
                isa,
                block: zero_neon::BLOCK,
                is_zero: zero_neon::is_zero,
                read: zero_neon::read,
            },
            Isa::Portable => Self {
                isa,
                block: 0,
                is_zero: zero_portable::is_zero,
                read: zero_portable::read,
            },
            _ => return None,
        };
        Some(kernel)
    }

    /// All that this CPU can run, widest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Isa::ALL.into_iter().filter_map(Self::new).collect()
    }

    /// The widest one, found out at the first call.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Option<Kernel>> = OnceLock::new();
        BEST.get_or_init(|| Isa::ALL.into_iter().find_map(Self::new))
            .unwrap_or(PORTABLE)
    }

    /// What it is written in.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether the `len` bytes from `offset` on are all zero; `None` if they do not lie inside of `source`.
    ///
    /// No sample is taken first. Of no bytes it is true.
    #[must_use]
    pub fn is_zero(&self, source: &Source, offset: u64, len: u64) -> Option<bool> {
        let (start, len) = part(source, offset, len)?;
        // SAFETY: the part lies inside the source, which is readable whatever others write to it (`Source::new`).
        Some(unsafe { self.is_zero_at(start, len, 0) })
    }

    /// Loads every byte of `source`, in the steps of [`is_zero`](Self::is_zero), and tests none.
    pub(crate) fn read(&self, source: &Source) {
        let Some((start, len)) = part(source, 0, source.len()) else {
            return;
        };
        let read = if len < self.block {
            zero_portable::read
        } else {
            self.read
        };
        // SAFETY: as in `is_zero`; the length has been looked at, and the CPU by `new`.
        unsafe { read(start, len) }
    }

    /// Whether `len` bytes from `start` on are all zero; fetches lines `ahead` bytes in front of what it reads, wherever that
    /// is.
    ///
    /// # Safety
    ///
    /// The bytes are mapped and readable; all that writes to them meanwhile is volatile, atomic or not of this program.
    #[inline]
    pub(super) unsafe fn is_zero_at(&self, start: *const u8, len: usize, ahead: usize) -> bool {
        let is_zero = if len < self.block {
            zero_portable::is_zero
        } else {
            self.is_zero
        };
        // SAFETY: the caller's promise; the length has been looked at, and the CPU by `new`.
        unsafe { is_zero(start, len, ahead) }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.isa).finish()
    }
}

const PORTABLE: Kernel = Kernel {
    isa: Isa::Portable,
    block: 0,
    is_zero: zero_portable::is_zero,
    read: zero_portable::read,
};

fn part(source: &Source, offset: u64, len: u64) -> Option<(*const u8, usize)> {
    let inside = source.contains(offset, len);
    let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
    inside.then(|| (source.as_ptr().wrapping_add(offset), len))
}
