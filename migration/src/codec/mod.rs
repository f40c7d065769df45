// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages compressed one by one: the formats that they travel in, and software for each of them.
//!
//! ```text
//!  page ──► SoftwareEncoder ──► a stream that is shorter than the page, or None: it travels raw
//!                                  │
//!  page ◄── SoftwareDecoder ◄──────┘   exactly a page of bytes, or PageError
//! ```

mod decoder;
mod deflate;
mod encoder;
mod format;
mod iaa;
mod lz4;
mod measure;
mod mend;
mod offer;
mod page_codec;
mod page_error;
mod report;
mod software;
mod zstd;

pub use decoder::{DecodeError, PageDecoder};
pub use encoder::{EncodeError, Encoded, PageEncoder};
pub use format::{PAGE_SIZES, PageFormat, UnknownFormatError};
pub use iaa::{IaaOptions, Policy, UnknownPolicyError};
pub use measure::{MeasureError, measure};
pub use offer::{AgreeError, Agreement, CodecOffer, FormatSpeed, Link, OfferError, agree};
pub use page_codec::{NoIaaError, PageCodec};
pub use page_error::PageError;
pub use report::CodecReport;
pub use software::{CodecError, SoftwareDecoder, SoftwareEncoder};
