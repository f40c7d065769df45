// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which pages of a batch are zero.
//!
//! ```text
//! offsets ─► untouched ── the kernel knows: never touched ─────────────► zero
//!                └─► software ── a sampled word is not 0 ──────────────► data
//!                        └─► Kernel over the whole page ───────────────► zero or data
//! ```

mod auto;
mod dsa;
mod normal_ratio;
mod scanner;
mod software;
mod untouched;

use thiserror::Error;

pub use auto::{Choice, Demand, Measured};
pub use dsa::DsaOptions;
pub use normal_ratio::NormalPageRatio;
pub use scanner::{
    BATCH_PAGES, BatchPagesError, DEFAULT_BATCH_PAGES, NoQueueError, ZeroChannel, ZeroEngine,
    ZeroReport, ZeroScanner,
};
pub use software::{Scanned, SoftwareScanner};
pub(crate) use untouched::Looks;
pub use untouched::ShortcutError;

/// A batch that no pages can be. Nothing was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScanError {
    /// Pages have 64 bytes to 1 GiB.
    #[error("pages of {page_size:#x} bytes: they have 0x40 to 0x40000000 bytes")]
    PageSize {
        /// What was asked for.
        page_size: u64,
    },
    /// A page does not lie inside of its block.
    #[error(
        "page {index} of the batch, {page_size:#x} bytes from {offset:#x} on, does not lie inside of its block of {len:#x} bytes"
    )]
    Outside {
        /// Its place in the batch.
        index: usize,
        /// Where it begins.
        offset: u64,
        /// Its length in bytes.
        page_size: u64,
        /// The block's length in bytes.
        len: u64,
    },
}
