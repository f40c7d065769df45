// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What stands behind a region: [`Backing`].

use crate::PageSize;

/// The memory behind a region, as far as pinning depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backing {
    /// Where pages come from.
    pub kind: BackingKind,
    /// The size in which they come; chunks are cut at multiples of it.
    pub page_size: PageSize,
    /// Whether what is written there belongs to the file, and so to everybody who maps it (`MAP_SHARED`).
    pub shared: bool,
}

/// Where the pages of a mapping come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackingKind {
    /// Private anonymous memory; a page that is not there yet can always be faulted in, or the process dies.
    Anonymous,
    /// A file, memfd or shared memory: touching it can raise `SIGBUS`.
    File,
    /// Pages of a hugetlb pool: touching them can raise `SIGBUS`.
    Hugetlb,
}
