// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageCodec`]: in which format pages travel, and by what they are made, for all channels of a migration.
//!
//! ```text
//!  PageCodec ─┬─ encoder() ──► PageEncoder, one for each sending thread
//!             └─ decoder() ──► PageDecoder, one for each receiving thread
//!                                 ├─► software: libdeflate, zstd, lz4
//!                                 └─► IAA for DEFLATE, with the CPU behind it
//! ```

use std::sync::Arc;

use idxd::{
    Queue,
    iaa::{Aecs, Coding},
};
use thiserror::Error;

use super::{CodecError, IaaOptions, PageDecoder, PageEncoder, PageFormat, iaa::IaaQueues};
use crate::node;

/// In which format pages travel, and by what they are made, for all channels of a migration.
///
/// Cheap to clone. Each sending thread makes a [`PageEncoder`] of its own, and each receiving one a [`PageDecoder`].
///
/// # Example
/// ```
/// use idxd::{Destination, Source};
/// use migration::{PageCodec, PageFormat, RamBlock};
///
/// let codec = PageCodec::software(PageFormat::Zstd);
/// let ram = RamBlock::new(Source::of_vec(vec![7; 2 * 4096])?);
/// let mut encoder = codec.encoder()?;
/// let mut encoded = encoder.encode(&ram, 4096, &[4096, 0])?;
/// assert!(encoded.report().ratio() > 100.0);
///
/// // Lengths go ahead, and bodies follow back to back; to a socket by `send`, without a copy.
/// let lengths = encoded.lengths().to_vec();
/// let mut bodies = Vec::new();
/// encoded.append_to(&mut bodies);
///
/// let memory = migration::Mapping::new(2 * 4096, migration::Backed::Small)?;
/// let guest: Destination = memory.destination()?;
/// codec.decoder()?.decode(&bodies, &lengths, &guest, 4096, &[4096, 0])?;
/// assert_eq!(memory.to_vec(), vec![7; 2 * 4096]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PageCodec {
    format: PageFormat,
    safe_for_iaa: bool,
    iaa: Option<Arc<IaaQueues>>,
    coding: Coding,
}

impl PageCodec {
    /// The calling thread compresses and restores.
    #[must_use]
    pub fn software(format: PageFormat) -> Self {
        Self {
            format,
            safe_for_iaa: false,
            iaa: None,
            coding: Coding::Tables(Aecs::fixed()),
        }
    }

    /// DEFLATE by IAA, through any number of queues, of which those of other kinds are left out; the CPU does the rest.
    ///
    /// # Errors
    ///
    /// If there is no queue of an IAA.
    pub fn iaa(queues: Vec<Arc<Queue>>, options: IaaOptions) -> Result<Self, NoIaaError> {
        let queues = IaaQueues::new(queues, options).ok_or(NoIaaError)?;
        let this = Self::software(PageFormat::Deflate);
        let coding = match queues.generate_headers() {
            true => Coding::Generated,
            false => this.coding.clone(),
        };
        Ok(Self {
            iaa: Some(Arc::new(queues)),
            coding,
            ..this
        })
    }

    /// What software compresses can be decoded by an IAA, too. Only for pages of up to 4,096 bytes: larger ones travel raw.
    #[must_use]
    pub fn safe_for_iaa(mut self, safe: bool) -> Self {
        self.safe_for_iaa = safe;
        self
    }

    /// By which Huffman codes an IAA compresses. If nothing is said, it makes them itself if all devices can (IAA 2.0), and takes the
    /// fixed ones of DEFLATE otherwise.
    #[must_use]
    pub fn coding(mut self, coding: Coding) -> Self {
        self.coding = coding;
        self
    }

    /// In which format pages travel.
    #[must_use]
    pub fn format(&self) -> PageFormat {
        self.format
    }

    /// Whether devices compress and restore.
    #[must_use]
    pub fn has_iaa(&self) -> bool {
        self.iaa.is_some()
    }

    /// What a channel sends with. To be made on the channel's thread, since queues are chosen that are near to it.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn encoder(&self) -> Result<PageEncoder, CodecError> {
        self.encoder_on(node::of_calling_thread())
    }

    /// What a channel sends with, whose thread runs on that memory node.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn encoder_on(&self, node: Option<u32>) -> Result<PageEncoder, CodecError> {
        let iaa = self.iaa.as_ref().map(|queues| (Arc::clone(queues), node));
        PageEncoder::new(self.format, self.safe_for_iaa, iaa, self.coding.clone())
    }

    /// What a channel receives with. To be made on the channel's thread.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn decoder(&self) -> Result<PageDecoder, CodecError> {
        self.decoder_on(node::of_calling_thread())
    }

    /// What a channel receives with, whose thread runs on that memory node.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn decoder_on(&self, node: Option<u32>) -> Result<PageDecoder, CodecError> {
        let iaa = self.iaa.as_ref().map(|queues| (Arc::clone(queues), node));
        PageDecoder::new(self.format, iaa)
    }
}

/// There is no IAA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("none of the queues belongs to an IAA")]
#[non_exhaustive]
pub struct NoIaaError;
