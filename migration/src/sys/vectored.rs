// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pieces`]: bytes from many places in one stream, without a copy.
//!
//! ```text
//!  stream ◄── writev ── page of the guest │ what a codec wrote │ page of the guest │ …
//!  stream ── readv ──► page of the guest │ what a codec is to read │ …
//! ```
//!
//! Descriptors have to block, for as long as their owner allows (`SO_SNDTIMEO`, `SO_RCVTIMEO`): what is in the middle of a page cannot go on
//! later. Guest memory has no references, since the guest writes to it meanwhile: the kernel is given addresses.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use idxd::{Destination, Source};

/// `UIO_MAXIOV` (include/uapi/linux/uio.h): most pieces of one call.
const MOST: usize = 1024;

/// Pieces of a stream, in its order. Kept for its allocation.
#[derive(Default)]
pub(crate) struct Pieces {
    list: Vec<libc::iovec>,
}

// SAFETY: addresses alone; they are used by calls that have borrowed what is behind them.
unsafe impl Send for Pieces {}
// SAFETY: as for `Send`.
unsafe impl Sync for Pieces {}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pieces({})", self.list.len())
    }
}

/// Pieces that are there for as long as `'a`.
#[derive(Debug)]
pub(crate) struct Gathered<'a> {
    pieces: &'a mut Pieces,
    next: usize,
}

impl Pieces {
    pub(crate) fn gather(&mut self) -> Gathered<'_> {
        self.list.clear();
        Gathered {
            pieces: self,
            next: 0,
        }
    }
}

impl<'a> Gathered<'a> {
    fn push(&mut self, start: *mut u8, len: usize) {
        if len > 0 {
            self.pieces.list.push(libc::iovec {
                iov_base: start.cast(),
                iov_len: len,
            });
        }
    }

    /// Bytes to be written.
    pub(crate) fn push_bytes(&mut self, bytes: &'a [u8]) {
        self.push(bytes.as_ptr().cast_mut(), bytes.len());
    }

    /// A part of guest memory to be written: as it is when the kernel reads it. Returns false if it is not inside.
    pub(crate) fn push_source(&mut self, source: &'a Source, offset: u64, len: usize) -> bool {
        let is_inside = source.contains(offset, len as u64);
        if let (true, Ok(offset)) = (is_inside, usize::try_from(offset)) {
            self.push(source.as_ptr().wrapping_add(offset).cast_mut(), len);
        }
        is_inside
    }

    /// Writes all of it.
    pub(crate) fn write_to(mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.through(fd, |fd, pieces, count| {
            // SAFETY: the pieces are borrowed for 'a, or lie inside of a source, which is readable as long as its keeper lives. The
            // kernel only reads them.
            unsafe { libc::writev(fd, pieces, count) }
        })
    }

    fn through(
        &mut self,
        fd: BorrowedFd<'_>,
        call: impl Fn(i32, *const libc::iovec, i32) -> isize,
    ) -> io::Result<()> {
        while self.next < self.pieces.list.len() {
            let rest = &self.pieces.list[self.next..];
            let count = i32::try_from(rest.len().min(MOST)).unwrap_or(i32::MAX);
            match usize::try_from(call(fd.as_raw_fd(), rest.as_ptr(), count)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => self.advance(moved),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut moved: usize) {
        while let Some(piece) = self.pieces.list.get_mut(self.next) {
            if moved < piece.iov_len {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(moved).cast();
                piece.iov_len -= moved;
                return;
            }
            moved -= piece.iov_len;
            self.next += 1;
        }
    }
}

impl Gathered<'_> {
    /// Reads all of it.
    pub(crate) fn read_from(mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.through(fd, |fd, pieces, count| {
            // SAFETY: `Scattered` has lent these pieces mutably, or they lie inside of a destination, which may be written to.
            unsafe { libc::readv(fd, pieces, count) }
        })
    }
}

/// Places for what is read, in the stream's order.
#[derive(Debug)]
pub(crate) struct Scattered<'a> {
    gathered: Gathered<'a>,
}

impl<'a> Scattered<'a> {
    pub(crate) fn new(pieces: &'a mut Pieces) -> Self {
        Self {
            gathered: pieces.gather(),
        }
    }

    /// The next `len` bytes go to the front of `buffer`, which is shorter then. Returns false if it is too short.
    pub(crate) fn push_part(&mut self, buffer: &mut &'a mut [u8], len: usize) -> bool {
        let whole = mem::take(buffer);
        let Some((part, rest)) = whole.split_at_mut_checked(len) else {
            return false;
        };
        *buffer = rest;
        self.gathered.push(part.as_mut_ptr(), len);
        true
    }

    /// The next `len` bytes go there. Returns false if that is not inside.
    pub(crate) fn push_destination(
        &mut self,
        destination: &'a Destination,
        offset: u64,
        len: usize,
    ) -> bool {
        let is_inside = destination.contains(offset, len as u64);
        if let (true, Ok(offset)) = (is_inside, usize::try_from(offset)) {
            self.gathered
                .push(destination.as_ptr().wrapping_add(offset), len);
        }
        is_inside
    }

    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// If the stream ends before, or cannot be read.
    pub(crate) fn read_from(self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.gathered.read_from(fd)
    }
}
