// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a live migration asks of guest memory.
//!
//! ```text
//! Source ─► RamBlock ─► SoftwareScanner ─► PageBitmap: which pages of a batch are zero
//! ```

pub mod bandwidth;
mod bitmap;
mod node;
mod ram;
mod sys;
mod vma;
mod zero;

pub use bitmap::PageBitmap;
pub use ram::{Backing, BackingError, RamBlock};
pub use sys::{Backed, Isa, Kernel, Mapping};
pub use zero::{
    BATCH_PAGES, BatchPagesError, Choice, DEFAULT_BATCH_PAGES, Demand, DsaOptions, Measured,
    NoQueueError, NormalPageRatio, ScanError, Scanned, ShortcutError, SoftwareScanner, Trouble,
    ZeroChannel, ZeroEngine, ZeroReport, ZeroScanner,
};
