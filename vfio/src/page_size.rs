// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageSize`]: a size that the host maps memory in.

use std::fmt;

/// Bytes of a page, a power of two and at least the base page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u64);

impl PageSize {
    /// 4 KiB.
    pub const SIZE_4K: Self = Self(4 << 10);
    /// 2 MiB: a huge page of x86-64, transparent or from a hugetlb pool.
    pub const SIZE_2M: Self = Self(2 << 20);
    /// 1 GiB: a huge page from a hugetlb pool.
    pub const SIZE_1G: Self = Self(1 << 30);

    /// A page of `bytes`; `None` unless that is a power of two of at least 4 KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && bytes >= Self::SIZE_4K.0).then_some(Self(bytes))
    }

    /// The machine's base page.
    #[must_use]
    pub fn base() -> Self {
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|bytes| Self::new(u64::try_from(bytes).ok()?))
            .unwrap_or(Self::SIZE_4K)
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size >= 1 << 30 => write!(f, "{} GiB", size >> 30),
            size if size >= 1 << 20 => write!(f, "{} MiB", size >> 20),
            size => write!(f, "{} KiB", size >> 10),
        }
    }
}
