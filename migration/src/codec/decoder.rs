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
//! decode is never the last one, since it is stricter than the format. And a device that does not answer in time may still write to the
//! guest's page: its queue is closed, which has the driver drain it, before the CPU restores the page.

use std::{io, os::fd::AsFd, sync::Arc};

use idxd::{Destination, Queue, Source, Status, Task, TaskError};
use thiserror::Error;

use super::{
    CodecError, CodecReport, PageError, PageFormat, SoftwareDecoder,
    encoder::{LARGEST_FOR_IAA, check_size},
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
            iaa: iaa.map(|(queues, node)| IaaChannel::new(queues, node, true)),
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
        let mut report = CodecReport::default();
        for part in call.parts() {
            self.read(&from, &part)?;
            report.add(&self.restore(&part)?);
        }
        Ok(report)
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
        let (mut report, mut rest) = (CodecReport::default(), bodies);
        for part in call.parts() {
            rest = self.copy(rest, &part);
            report.add(&self.restore(&part)?);
        }
        Ok(report)
    }

    /// Looks at everything that the other end says before anything is done.
    fn check<'a>(
        &self,
        lengths: &'a [u32],
        guest: &'a Destination,
        page_size: u64,
        offsets: &'a [u64],
    ) -> Result<Call<'a>, DecodeError> {
        if let Some(queue) = self.iaa.as_ref().and_then(IaaChannel::undrained) {
            return Err(DecodeError::Unanswered {
                queue: queue.name().to_owned(),
            });
        }
        let size = check_size(page_size).ok_or(DecodeError::PageSize { page_size })?;
        if lengths.len() != offsets.len() {
            return Err(DecodeError::Counts {
                lengths: lengths.len(),
                offsets: offsets.len(),
            });
        }
        let mut body_bytes = 0;
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
            body_bytes += u64::from(*length);
        }
        Ok(Call {
            guest,
            size,
            lengths,
            offsets,
            first: 0,
            body_bytes,
        })
    }

    /// Notes where the streams of these pages are in the inbox. Returns how long they are together.
    fn lay_out(&mut self, part: &Call<'_>) -> usize {
        let mut end = 0;
        self.streams.clear();
        self.streams.extend(part.lengths.iter().map(|length| {
            let len = *length as usize;
            let start = end;
            let is_raw = len == part.size;
            end += if is_raw { 0 } else { len };
            (!is_raw).then_some((start, len))
        }));
        end
    }

    /// Takes the bodies of these pages from the front of `bodies`, which holds them all, and returns the rest.
    fn copy<'b>(&mut self, bodies: &'b [u8], part: &Call<'_>) -> &'b [u8] {
        let stream_bytes = self.lay_out(part);
        let inbox = inbox(&mut self.inbox, stream_bytes);
        let mut rest = bodies;
        for ((stream, length), offset) in self.streams.iter().zip(part.lengths).zip(part.offsets) {
            let (body, others) = rest.split_at((*length as usize).min(rest.len()));
            rest = others;
            match stream {
                Some((start, len)) => inbox[*start..start + len].copy_from_slice(body),
                None => part.copy_raw(body, *offset),
            }
        }
        rest
    }

    fn read(&mut self, from: impl AsFd, call: &Call<'_>) -> Result<(), DecodeError> {
        let stream_bytes = self.lay_out(call);
        let mut inbox = inbox(&mut self.inbox, stream_bytes);
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
            body_bytes: call.lengths.iter().map(|length| u64::from(*length)).sum(),
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
        let iaa = self.iaa.as_mut();
        if let Some(iaa) = iaa.filter(|_| call.size as u64 <= LARGEST_FOR_IAA) {
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

/// Pages of a call, or of a part of it, which were checked.
#[derive(Debug)]
struct Call<'a> {
    guest: &'a Destination,
    size: usize,
    lengths: &'a [u32],
    offsets: &'a [u64],
    /// The number of the first one in the whole call.
    first: usize,
    /// Bytes of all bodies of the whole call.
    body_bytes: u64,
}

/// Pages that are read and restored at a time: what bounds the inbox, whatever the other end says.
const PART: usize = 1024;

impl<'a> Call<'a> {
    fn parts(&self) -> impl Iterator<Item = Call<'a>> + use<'a> {
        let (guest, size, body_bytes) = (self.guest, self.size, self.body_bytes);
        let parts = self.lengths.chunks(PART).zip(self.offsets.chunks(PART));
        parts
            .enumerate()
            .map(move |(index, (lengths, offsets))| Call {
                guest,
                size,
                lengths,
                offsets,
                first: index * PART,
                body_bytes,
            })
    }

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

    fn timed_out(&mut self, queue: &Queue) -> Result<(), DecodeError> {
        match queue.retire() {
            true => Ok(()),
            false => Err(DecodeError::Unanswered {
                queue: queue.name().to_owned(),
            }),
        }
    }

    fn by_cpu(&mut self, page: u32) -> Result<(), DecodeError> {
        let (start, len) = self.stream(page);
        let stream = &self.inbox[start..start + len];
        let software = &mut *self.software;
        let offset = self.call.offsets[page as usize];
        let outside = DecodeError::Outside {
            page: self.call.first + page as usize,
            offset,
            page_size: self.call.size as u64,
            size: self.call.guest.len(),
        };
        let mut place = Place::of(self.call.guest, offset, self.call.size).ok_or(outside)?;
        software
            .decode_to(stream, &mut place)
            .map_err(|source| DecodeError::Page {
                page: self.call.first + page as usize,
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
    /// A device may still write to the guest's memory.
    #[error(
        "work queue {queue} did not answer in time, and closing it did not show that the device is done, since a child of this process may          hold it open: the device may still write to the guest's memory, which must not be used"
    )]
    Unanswered {
        /// The queue.
        queue: String,
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
