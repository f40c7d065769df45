// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a live migration asks of guest memory: which pages are zero, and the others compressed.
//!
//! ```text
//!  Source ─► RamBlock ─┐                           ┌─► never touched: the kernel knows
//!                      ├─► ZeroChannel::scan ──────┼─► software: SoftwareScanner, over the widest Kernel of this CPU
//!  ZeroScanner ────────┘    of one sending thread  └─► DSA: tasks of COMPVALs through idxd, the CPU behind them
//!                                   │
//!                                   └─► PageBitmap, ZeroReport
//!
//!  RamBlock ──► PageEncoder ──► lengths, bodies ── socket ──► PageDecoder ──► Destination
//!                   │ PageCodec: raw, DEFLATE by IAA or libdeflate, zstd, LZ4; by agreement of both ends
//! ```
//!
//! Compression is the feature `codecs`. The answer is right whatever a device does. For a page that is written to meanwhile it is that of some moment of the call in
//! every part of the page: the dirty log tells of the rest.

pub mod bandwidth;
mod bitmap;
#[cfg(feature = "codecs")]
mod codec;
#[cfg(feature = "codecs")]
mod corpus;
mod health;
mod member;
mod node;
mod ram;
mod sys;
mod trouble;
mod vma;
mod zero;

pub use bitmap::PageBitmap;
#[cfg(feature = "codecs")]
pub use codec::{
    AgreeError, Agreement, CodecError, CodecOffer, CodecReport, DecodeError, EncodeError, Encoded,
    FormatSpeed, IaaOptions, Link, MeasureError, NoIaaError, OfferError, PAGE_SIZES, PageCodec,
    PageDecoder, PageEncoder, PageError, PageFormat, Policy, SoftwareDecoder, SoftwareEncoder,
    UnknownFormatError, UnknownPolicyError, agree, measure,
};
#[cfg(feature = "codecs")]
pub use corpus::{Class, Corpus};
pub use ram::{Backing, BackingError, RamBlock};
pub use sys::{Backed, Isa, Kernel, Mapping};
pub use trouble::Trouble;
pub use zero::{
    BATCH_PAGES, BatchPagesError, Choice, DEFAULT_BATCH_PAGES, Demand, DsaOptions, Measured,
    NoQueueError, NormalPageRatio, ScanError, Scanned, ShortcutError, SoftwareScanner, ZeroChannel,
    ZeroEngine, ZeroReport, ZeroScanner,
};
