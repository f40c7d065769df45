// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageEncoder`]: pages on their way out, for one channel.
//!
//! ```text
//!  guest ──► IAA ─────────────────► buffers of tasks ─┐
//!    │ └──► private copy ─► CPU ──► arena ────────────┼─► Encoded: lengths, and bodies where they lie ── writev ──► socket
//!    └─ did not get smaller ──────────────────────────┘
//! ```
//!
//! The guest writes meanwhile. A library that reads a byte twice may then write beyond its buffer or a stream that nobody can read, so
//! it gets a copy; a device reads a page once. A page that changed meanwhile is in the dirty log, and is sent again.

use std::{convert::Infallible, io, os::fd::AsFd, sync::Arc};

use idxd::{Queue, Source, Status, Task, TaskError, iaa::Coding};
use thiserror::Error;

use super::{
    CodecError, CodecReport, PAGE_SIZES, PageFormat, SoftwareEncoder,
    iaa::{IaaChannel, IaaQueues, Operation, Verdict},
};
use crate::{
    RamBlock,
    sys::{Pieces, copy_page},
};

/// Largest page that a device compresses or restores: its window.
pub(super) const LARGEST_FOR_IAA: u64 = 4096;

/// Compresses pages for one channel. For one thread at a time.
#[derive(Debug)]
pub struct PageEncoder {
    format: PageFormat,
    software: SoftwareEncoder,
    iaa: Option<IaaChannel>,
    coding: Coding,
    /// The copy that the CPU compresses.
    page: Vec<u8>,
    arena: Arena,
    bodies: Vec<Body>,
    lengths: Vec<u32>,
    pieces: Pieces,
}

/// What the CPU wrote, back to back.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    used: usize,
}

impl Arena {
    /// Where the next stream begins, and room for it.
    fn room(&mut self, len: usize) -> (usize, &mut [u8]) {
        /// Pages' room that it grows by, at least.
        const GROWTH: usize = 32;
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end + len * GROWTH, 0);
        }
        (self.used, &mut self.bytes[self.used..end])
    }
}

/// Where the body of a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// In guest memory, as it is.
    Raw,
    /// In the arena.
    Arena { start: usize, len: usize },
    /// In the buffer of a task that is kept.
    Task {
        number: usize,
        start: usize,
        len: usize,
    },
}

impl PageEncoder {
    pub(super) fn new(
        format: PageFormat,
        safe_for_iaa: bool,
        iaa: Option<(Arc<IaaQueues>, Option<u32>)>,
        coding: Coding,
    ) -> Result<Self, CodecError> {
        Ok(Self {
            format,
            software: SoftwareEncoder::new(format, safe_for_iaa)?,
            iaa: iaa.map(|(queues, node)| IaaChannel::new(queues, node, false)),
            coding,
            page: Vec::new(),
            arena: Arena::default(),
            bodies: Vec::new(),
            lengths: Vec::new(),
            pieces: Pieces::default(),
        })
    }

    /// In which format pages travel.
    #[must_use]
    pub fn format(&self) -> PageFormat {
        self.format
    }

    /// Compresses the pages of `page_size` bytes that begin at `offsets` in `block`, each alone. One that does not get smaller travels
    /// raw: its length says so.
    ///
    /// Page sizes are powers of two of [`PAGE_SIZES`]. Ask for many pages at a time (128 and more): devices are waited for once
    /// a call. Buffers are those of the last call, and grow with the largest one.
    ///
    /// # Errors
    ///
    /// If there can be no such pages, or one does not lie inside of the block. Nothing was read then.
    pub fn encode<'e>(
        &'e mut self,
        block: &'e RamBlock,
        page_size: u64,
        offsets: &'e [u64],
    ) -> Result<Encoded<'e>, EncodeError> {
        let size = check_size(page_size).ok_or(EncodeError::PageSize { page_size })?;
        let count = u32::try_from(offsets.len()).map_err(|_| EncodeError::TooMany {
            pages: offsets.len(),
        })?;
        for offset in offsets {
            if !block.source().contains(*offset, page_size) {
                return Err(EncodeError::Outside {
                    offset: *offset,
                    page_size,
                    size: block.len(),
                });
            }
        }
        self.page.resize(size, 0);
        self.arena.used = 0;
        self.bodies.clear();
        self.bodies.resize(offsets.len(), Body::Raw);
        let mut report = CodecReport {
            pages: offsets.len(),
            page_bytes: page_size * u64::from(count),
            ..CodecReport::default()
        };
        self.fill_bodies(block.source(), size, offsets, &mut report);
        self.lengths.clear();
        for body in &self.bodies {
            let len = match body {
                Body::Raw => size,
                Body::Arena { len, .. } | Body::Task { len, .. } => *len,
            };
            report.raw += usize::from(*body == Body::Raw);
            report.body_bytes += len as u64;
            // Not longer than a page.
            self.lengths.push(u32::try_from(len).unwrap_or(u32::MAX));
        }
        Ok(Encoded {
            encoder: self,
            source: block.source(),
            offsets,
            size,
            report,
        })
    }

    fn fill_bodies(
        &mut self,
        source: &Source,
        size: usize,
        offsets: &[u64],
        report: &mut CodecReport,
    ) {
        if self.format == PageFormat::Raw {
            return;
        }
        let count = self.bodies.len();
        // A page has an index of 32 bits: `encode` has seen to it.
        let all = 0..u32::try_from(count).unwrap_or(u32::MAX);
        let mut compressing = Compressing {
            source,
            offsets,
            size,
            coding: &self.coding,
            software: &mut self.software,
            page: &mut self.page,
            arena: &mut self.arena,
            bodies: &mut self.bodies,
        };
        let iaa = self.iaa.as_mut().filter(|_| size as u64 <= LARGEST_FOR_IAA);
        if let Some(iaa) = iaa {
            let Ok(done) = iaa.run(&mut compressing, size, count, all);
            report.by_device = done.by_device;
            report.by_cpu = done.by_cpu;
            report.again = done.again;
            report.trouble = done.trouble;
        } else {
            for page in all {
                let Ok(()) = compressing.by_cpu(page);
            }
            report.by_cpu = count;
        }
    }
}

/// That size, if pages may have it.
pub(super) fn check_size(page_size: u64) -> Option<usize> {
    let size = usize::try_from(page_size).ok()?;
    (PAGE_SIZES.contains(&size) && size.is_power_of_two()).then_some(size)
}

/// How a page is compressed.
struct Compressing<'a> {
    source: &'a Source,
    offsets: &'a [u64],
    size: usize,
    coding: &'a Coding,
    software: &'a mut SoftwareEncoder,
    page: &'a mut [u8],
    arena: &'a mut Arena,
    bodies: &'a mut [Body],
}

impl Operation for Compressing<'_> {
    type Error = Infallible;

    const KEEPS_TASKS: bool = true;

    fn bytes(&self) -> u64 {
        self.size as u64
    }

    fn push(&self, task: &mut Task, page: u32) -> Result<(), TaskError> {
        let offset = self.offsets[page as usize];
        let start = task.len() * self.size;
        task.push_compress(
            self.source,
            offset..offset + self.size as u64,
            start..start + self.size - 1,
            self.coding,
        )
    }

    fn landed(&mut self, task: &Task, number: usize, index: usize, page: u32) -> Verdict {
        let said = task.iax_completion(index);
        let body = match said.common.status {
            Status::SUCCESS => match task.output(index) {
                Some(output) if !output.is_empty() => Body::Task {
                    number,
                    start: index * self.size,
                    len: output.len(),
                },
                _ => return Verdict::Failed,
            },
            Status::ANALYTICS_ERROR if said.error_code().does_not_fit() => Body::Raw,
            Status::OUTBUF_OVERFLOW => Body::Raw,
            status if status.is_page_fault() => return Verdict::Fault(said.common.fault_addr),
            _ => return Verdict::Failed,
        };
        self.bodies[page as usize] = body;
        Verdict::Done
    }

    fn touch(&mut self, page: u32, address: u64) {
        self.coding.touch();
        let offset = self.offsets[page as usize];
        let start = self.source.address() + offset;
        if (start..start + self.size as u64).contains(&address) {
            let byte = &mut self.page[..1];
            copy_page(self.source, offset + (address - start), byte);
        }
    }

    fn timed_out(&mut self, _: &Queue) -> Result<(), Infallible> {
        // It writes to the buffer of its task, which is in quarantine.
        Ok(())
    }

    fn by_cpu(&mut self, page: u32) -> Result<(), Infallible> {
        let offset = self.offsets[page as usize];
        // All pages are inside: `encode` has seen to it.
        if !copy_page(self.source, offset, self.page) {
            return Ok(());
        }
        let (start, room) = self.arena.room(self.size - 1);
        if let Some(len) = self.software.encode(self.page, room) {
            self.bodies[page as usize] = Body::Arena { start, len };
            self.arena.used += len;
        }
        Ok(())
    }
}

/// Compressed pages, where they were written. Its buffers are used again once it is dropped.
///
/// It belongs to the process that made it: in a child after a fork, what devices wrote is zero.
#[derive(Debug)]
pub struct Encoded<'e> {
    encoder: &'e mut PageEncoder,
    source: &'e Source,
    offsets: &'e [u64],
    size: usize,
    report: CodecReport,
}

impl Encoded<'_> {
    /// The length of each body in bytes, from 1 to the size of a page, which says that the page is raw.
    #[must_use]
    pub fn lengths(&self) -> &[u32] {
        &self.encoder.lengths
    }

    /// How pages were compressed.
    #[must_use]
    pub fn report(&self) -> &CodecReport {
        &self.report
    }

    /// Writes all bodies back to back, from where they lie, and raw pages as they are then.
    ///
    /// The descriptor has to block, for as long as its owner allows; to a socket whose reader is gone the process should ignore
    /// `SIGPIPE`, as Rust programs do.
    ///
    /// # Errors
    ///
    /// If the descriptor takes no more. How much it took is not known then.
    pub fn send(&mut self, to: impl AsFd) -> io::Result<()> {
        let PageEncoder {
            iaa,
            arena,
            bodies,
            pieces,
            ..
        } = &mut *self.encoder;
        let mut gathered = pieces.gather();
        for (body, offset) in bodies.iter().zip(self.offsets) {
            match *body {
                // Inside, as `encode` has seen.
                Body::Raw => _ = gathered.push_source(self.source, *offset, self.size),
                Body::Arena { start, len } => gathered.push_bytes(&arena.bytes[start..start + len]),
                Body::Task { number, start, len } => {
                    let buffer = iaa.as_ref().map_or(&[][..], |iaa| iaa.kept(number));
                    gathered.push_bytes(&buffer[start..start + len]);
                }
            }
        }
        gathered.write_to(to.as_fd())
    }

    /// Copies all bodies behind what is in `bytes`.
    pub fn append_to(&mut self, bytes: &mut Vec<u8>) {
        let encoder = &*self.encoder;
        for (body, offset) in encoder.bodies.iter().zip(self.offsets) {
            match *body {
                Body::Raw => {
                    let start = bytes.len();
                    bytes.resize(start + self.size, 0);
                    // Inside, as `encode` has seen.
                    copy_page(self.source, *offset, &mut bytes[start..]);
                }
                Body::Arena { start, len } => {
                    bytes.extend_from_slice(&encoder.arena.bytes[start..start + len]);
                }
                Body::Task { number, start, len } => {
                    let buffer = encoder.iaa.as_ref().map_or(&[][..], |iaa| iaa.kept(number));
                    bytes.extend_from_slice(&buffer[start..start + len]);
                }
            }
        }
    }
}

/// Why pages were not compressed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// No such pages.
    #[error("pages of {page_size:#x} bytes: a size is a power of two from 64 to 65536")]
    PageSize {
        /// The size.
        page_size: u64,
    },
    /// Not in one call.
    #[error("{pages} pages in one call: fewer than 4 Gi are possible")]
    TooMany {
        /// How many.
        pages: usize,
    },
    /// Not inside of the block.
    #[error(
        "the page of {page_size:#x} bytes at offset {offset:#x} is not inside of the block of {size:#x} bytes"
    )]
    Outside {
        /// Where the page begins.
        offset: u64,
        /// Its size.
        page_size: u64,
        /// Length of the block.
        size: u64,
    },
}
