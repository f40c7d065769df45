// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageDecoder`]: pages on their way in, for one channel.
//!
//! ```text
//!               ┌── raw ─────────────────────────────────────────────────┐
//!  socket ─ readv                                                        ├─► guest
//!               └── compressed ──► inbox ──┬─► IAA ──────────────────────┤
//!                                          └─► CPU, also for what an IAA ┘
//!                                              cannot decode or do
//! ```
//!
//! What comes from the other end is not believed: lengths are checked before anything is read or written, a stream is decoded into
//! its page and not a byte further, and what is not exactly a page then is an error that names the page. An IAA's word for a stream that it cannot
//! decode is never the last one, since it is stricter than the format.

use std::{io, os::fd::AsFd, sync::Arc};

use idxd::{Destination, Source, Status, Task, TaskError};
use thiserror::Error;

use super::{
    CodecError, CodecReport, PageError, PageFormat, SoftwareDecoder,
    encoder::check_size,
    iaa::{IaaChannel, IaaQueues, Operation, Verdict},
};
use crate::sys::{Pieces, Place, Scattered, touch};

/// Restores pages for one channel. For one thread at a time.
#[derive(Debug)]
pub struct PageDecoder {
    format: PageFormat,
    software: SoftwareDecoder,
    iaa: Option<IaaChannel>,
    /// What is to be decoded. Tasks that devices did not answer in time may hold the last one.
    inbox: Arc<Vec<u8>>,
    /// Where the stream of each page begins in the inbox, and its length; none of a raw page.
    streams: Vec<Option<(usize, usize)>>,
    pieces: Pieces,
}

impl PageDecoder {
    pub(super) fn new(
        format: PageFormat,
        iaa: Option<(Arc<IaaQueues>, Option<u32>)>,
    ) -> Result<Self, CodecError> {
        Ok(Self {
            format,
            software: SoftwareDecoder::new(format)?,
            iaa: iaa.map(|(queues, node)| IaaChannel::new(queues, node)),
            inbox: Arc::default(),
            streams: Vec::new(),
            pieces: Pieces::default(),
        })
    }

    /// In which format pages travel.
    #[must_use]
    pub fn format(&self) -> PageFormat {
        self.format
    }

    /// Reads the bodies of pages from a descriptor, back to back in the order of `lengths`, and restores each page of `page_size` bytes
    /// at its offset in `guest`. Raw pages are read to where they belong.
    ///
    /// The descriptor has to block, for as long as its owner allows. Offsets should differ: of two bodies for one page it holds some of both.
    ///
    /// # Errors
    ///
    /// If lengths or offsets cannot be: nothing was read or written then. If the stream ends before, or a body is not a page:
    /// some pages are restored then, and others hold anything.
    pub fn receive(
        &mut self,
        from: impl AsFd,
        lengths: &[u32],
        guest: &Destination,
        page_size: u64,
        offsets: &[u64],
    ) -> Result<CodecReport, DecodeError> {
        let call = self.check(lengths, guest, page_size, offsets)?;
        self.read(from, &call)?;
        self.restore(&call)
    }

    /// The same for bodies that are here already.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive), and if there are more or fewer bytes than `lengths` say.
    pub fn decode(
        &mut self,
        bodies: &[u8],
        lengths: &[u32],
        guest: &Destination,
        page_size: u64,
        offsets: &[u64],
    ) -> Result<CodecReport, DecodeError> {
        let call = self.check(lengths, guest, page_size, offsets)?;
        if bodies.len() as u64 != call.body_bytes {
            return Err(DecodeError::Bodies {
                bytes: bodies.len(),
                expected: call.body_bytes,
            });
        }
        let inbox = inbox(&mut self.inbox, call.stream_bytes);
        let mut rest = bodies;
        for ((stream, length), offset) in self.streams.iter().zip(lengths).zip(offsets) {
            // All of them together are as long as the bodies.
            let (body, others) = rest.split_at((*length as usize).min(rest.len()));
            rest = others;
            match stream {
                Some((start, len)) => inbox[*start..start + len].copy_from_slice(body),
                None => call.copy_raw(body, *offset),
            }
        }
        self.restore(&call)
    }

    /// Looks at everything that the other end says before anything is done.
    fn check<'a>(
        &mut self,
        lengths: &[u32],
        guest: &'a Destination,
        page_size: u64,
        offsets: &'a [u64],
    ) -> Result<Call<'a>, DecodeError> {
        let size = check_size(page_size).ok_or(DecodeError::PageSize { page_size })?;
        if lengths.len() != offsets.len() || u32::try_from(lengths.len()).is_err() {
            return Err(DecodeError::Counts {
                lengths: lengths.len(),
                offsets: offsets.len(),
            });
        }
        self.streams.clear();
        let (mut start, mut body_bytes) = (0, 0);
        for (page, (length, offset)) in lengths.iter().zip(offsets).enumerate() {
            let len = *length as usize;
            let can_be = match self.format {
                PageFormat::Raw => len == size,
                _ => (1..=size).contains(&len),
            };
            if !can_be {
                return Err(DecodeError::Length {
                    page,
                    offset: *offset,
                    length: *length,
                    page_size,
                });
            }
            if !guest.contains(*offset, page_size) {
                return Err(DecodeError::Outside {
                    page,
                    offset: *offset,
                    page_size,
                    size: guest.len(),
                });
            }
            let is_raw = len == size;
            self.streams.push((!is_raw).then_some((start, len)));
            start += if is_raw { 0 } else { len };
            body_bytes += u64::from(*length);
        }
        Ok(Call {
            guest,
            size,
            offsets,
            stream_bytes: start,
            body_bytes,
        })
    }

    fn read(&mut self, from: impl AsFd, call: &Call<'_>) -> Result<(), DecodeError> {
        let mut inbox = inbox(&mut self.inbox, call.stream_bytes);
        let mut places = Scattered::new(&mut self.pieces);
        for (stream, offset) in self.streams.iter().zip(call.offsets) {
            // Both fit: `check` has seen to it.
            match stream {
                Some((_, len)) => places.push_part(&mut inbox, *len),
                None => places.push_destination(call.guest, *offset, call.size),
            };
        }
        places
            .read_from(from.as_fd())
            .map_err(|source| DecodeError::Read { source })
    }

    fn restore(&mut self, call: &Call<'_>) -> Result<CodecReport, DecodeError> {
        let count = self.streams.len();
        let compressed = self.streams.iter().flatten().count();
        let mut report = CodecReport {
            pages: count,
            raw: count - compressed,
            page_bytes: call.size as u64 * count as u64,
            body_bytes: call.body_bytes,
            ..CodecReport::default()
        };
        if compressed == 0 {
            return Ok(report);
        }
        let source = Source::of_shared(Arc::clone(&self.inbox));
        let source = source.map_err(|_| DecodeError::Bodies {
            bytes: 0,
            expected: call.body_bytes,
        })?;
        let mut decompressing = Decompressing {
            call,
            streams: &self.streams,
            software: &mut self.software,
            inbox: &self.inbox,
            source,
            undecodable: 0,
        };
        let named = (0..u32::MAX).zip(&self.streams);
        let named = named.filter_map(|(page, stream)| stream.map(|_| page));
        if let Some(iaa) = &mut self.iaa {
            let done = iaa.run(&mut decompressing, 0, count, named)?;
            report.by_device = done.by_device;
            report.by_cpu = done.by_cpu;
            report.again = done.again;
            report.trouble = done.trouble;
        } else {
            for page in named {
                decompressing.by_cpu(page)?;
            }
            report.by_cpu = compressed;
        }
        report.undecodable = decompressing.undecodable;
        Ok(report)
    }
}

/// The inbox with room for so many bytes: the last one, or a new one if a device may still read that.
fn inbox(inbox: &mut Arc<Vec<u8>>, bytes: usize) -> &mut [u8] {
    if Arc::get_mut(inbox).is_none() {
        *inbox = Arc::default();
    }
    let Some(own) = Arc::get_mut(inbox) else {
        return &mut [];
    };
    if own.len() < bytes {
        own.resize(bytes, 0);
    }
    &mut own[..bytes]
}

/// What is the same for all pages of a call, and was checked.
#[derive(Debug)]
struct Call<'a> {
    guest: &'a Destination,
    size: usize,
    offsets: &'a [u64],
    /// Bytes of all streams.
    stream_bytes: usize,
    /// And of raw pages.
    body_bytes: u64,
}

impl Call<'_> {
    fn copy_raw(&self, body: &[u8], offset: u64) {
        // Inside, and of the length of a page: `check` has seen to it.
        if let Some(mut place) = Place::of(self.guest, offset, self.size) {
            place.copy(body);
        }
    }
}

/// How a page is restored.
struct Decompressing<'a> {
    call: &'a Call<'a>,
    streams: &'a [Option<(usize, usize)>],
    software: &'a mut SoftwareDecoder,
    inbox: &'a [u8],
    /// The same, for devices.
    source: Source,
    undecodable: usize,
}

impl Decompressing<'_> {
    fn stream(&self, page: u32) -> (usize, usize) {
        // Only pages that have one are named.
        self.streams[page as usize].unwrap_or((0, 0))
    }

    fn offset(&self, page: u32) -> u64 {
        self.call.offsets[page as usize]
    }
}

impl Operation for Decompressing<'_> {
    type Error = DecodeError;

    const KEEPS_TASKS: bool = false;

    fn bytes(&self) -> u64 {
        self.call.size as u64
    }

    fn push(&self, task: &mut Task, page: u32) -> Result<(), TaskError> {
        let (start, len) = self.stream(page);
        let (start, offset) = (start as u64, self.offset(page));
        task.push_decompress(
            &self.source,
            start..start + len as u64,
            self.call.guest,
            offset..offset + self.call.size as u64,
        )
    }

    fn landed(&mut self, task: &Task, _: usize, index: usize, _: u32) -> Verdict {
        let said = task.iax_completion(index);
        match said.common.status {
            Status::SUCCESS if said.output_size as usize == self.call.size => Verdict::Done,
            // Too short, as the device says: the CPU says so, too, if it is true.
            Status::SUCCESS | Status::ANALYTICS_ERROR | Status::OUTBUF_OVERFLOW => {
                self.undecodable += 1;
                Verdict::Cannot
            }
            status if status.is_page_fault() => Verdict::Fault(said.common.fault_addr),
            _ => Verdict::Failed,
        }
    }

    fn touch(&mut self, page: u32, address: u64) {
        let start = self.call.guest.address() + self.offset(page);
        if (start..start + self.call.size as u64).contains(&address) {
            touch(self.call.guest, address);
        } else {
            // The inbox: it is written to by the CPU, but may have been swapped out since.
            let (start, len) = self.stream(page);
            let stream = &self.inbox[start..start + len];
            std::hint::black_box(stream.iter().step_by(64).fold(0, |all, byte| all | byte));
        }
    }

    fn by_cpu(&mut self, page: u32) -> Result<(), DecodeError> {
        let (start, len) = self.stream(page);
        let stream = &self.inbox[start..start + len];
        let software = &mut *self.software;
        let offset = self.call.offsets[page as usize];
        let outside = DecodeError::Outside {
            page: page as usize,
            offset,
            page_size: self.call.size as u64,
            size: self.call.guest.len(),
        };
        let mut place = Place::of(self.call.guest, offset, self.call.size).ok_or(outside)?;
        software
            .decode_to(stream, &mut place)
            .map_err(|source| DecodeError::Page {
                page: page as usize,
                offset,
                source,
            })
    }
}

/// Why pages were not restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No such pages.
    #[error("pages of {page_size:#x} bytes: a size is a power of two from 64 to 65536")]
    PageSize {
        /// The size.
        page_size: u64,
    },
    /// Each page has one of each.
    #[error("{lengths} lengths for {offsets} pages")]
    Counts {
        /// Lengths that were named.
        lengths: usize,
        /// Pages that were named.
        offsets: usize,
    },
    /// A body cannot have that length.
    #[error(
        "page {page}, at offset {offset:#x}: a body of {length} bytes for a page of {page_size}; the other end uses another format, \
         or the stream is out of step"
    )]
    Length {
        /// Which of the pages.
        page: usize,
        /// Where it belongs.
        offset: u64,
        /// The length.
        length: u32,
        /// Size of a page.
        page_size: u64,
    },
    /// Not inside of the guest's memory.
    #[error(
        "page {page}: the {page_size:#x} bytes at offset {offset:#x} are not inside of the guest's memory of {size:#x} bytes"
    )]
    Outside {
        /// Which of the pages.
        page: usize,
        /// Where it was to go.
        offset: u64,
        /// Its size.
        page_size: u64,
        /// Length of the memory.
        size: u64,
    },
    /// Bodies are not as long as the lengths say.
    #[error("{bytes} bytes of bodies, where the lengths say {expected}")]
    Bodies {
        /// How many there are.
        bytes: usize,
        /// How many the lengths say.
        expected: u64,
    },
    /// The stream ended, or cannot be read.
    #[error("the bodies of pages cannot be read to their end")]
    Read {
        /// The reason.
        source: io::Error,
    },
    /// A body is not a page.
    #[error("page {page}, at offset {offset:#x}, cannot be restored")]
    Page {
        /// Which of the pages.
        page: usize,
        /// Where it belongs.
        offset: u64,
        /// Why not.
        source: PageError,
    },
}
