// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Place`]: where a page is restored, which may be guest memory, to which there are no references.
//!
//! ```text
//!  stream ──► libdeflate, zstd ── write by address ──► Place
//!         └─► Rust code ──► a page of its own ──copy──► Place
//! ```
//!
//! A guest's page that is being restored should be left alone, and the other end may name one twice, so that two channels restore it at the same
//! time. So no Rust reference to it is made: foreign code writes to it, as a device does, and the page then holds some of both. The
//! libraries read what they have written to copy it further, and decide nothing by it.

use std::{marker::PhantomData, ptr::NonNull};

use idxd::Destination;
use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_deflate_decompress_ex,
    libdeflate_free_decompressor, libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE,
    libdeflate_result_LIBDEFLATE_SUCCESS,
};

use super::copy::copy_in;

/// Writable bytes without a reference to them.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    start: NonNull<u8>,
    len: usize,
    of: PhantomData<&'a mut [u8]>,
}

impl<'a> Place<'a> {
    /// A page of a destination; none if it is not inside.
    pub(crate) fn of(destination: &'a Destination, offset: u64, len: usize) -> Option<Self> {
        if !destination.contains(offset, len as u64) {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        let start = NonNull::new(destination.as_ptr().wrapping_add(offset))?;
        Some(Self {
            start,
            len,
            of: PhantomData,
        })
    }

    /// A page of this process.
    pub(crate) fn of_slice(page: &'a mut [u8]) -> Self {
        Self {
            len: page.len(),
            start: NonNull::from(page).cast(),
            of: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes it these bytes. Returns false if there are more or fewer of them.
    pub(crate) fn copy(&mut self, page: &[u8]) -> bool {
        if page.len() != self.len {
            return false;
        }
        // SAFETY: mapped and writable for 'a, and of that length; there are no references to it but maybe the one that it was made
        // of, which is lent to it; `page` is no part of it, since it is a reference.
        unsafe { copy_in(page, self.start.as_ptr()) };
        true
    }
}

// SAFETY: `as_mut_ptr` is the start of `capacity` bytes that may be written to for as long as `self` is there.
unsafe impl zstd_safe::WriteBuf for Place<'_> {
    fn as_slice(&self) -> &[u8] {
        // What was written is for others to read.
        &[]
    }

    fn capacity(&self) -> usize {
        self.len
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    unsafe fn filled_until(&mut self, _: usize) {}
}

/// libdeflate's decoder.
#[derive(Debug)]
pub(crate) struct Decompressor(NonNull<libdeflate_decompressor>);

// SAFETY: it is memory of its own, without ties to a thread.
unsafe impl Send for Decompressor {}
// SAFETY: a shared reference to it can do nothing.
unsafe impl Sync for Decompressor {}

/// What was made of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inflated {
    /// It was read up to there, and held so many bytes.
    Whole {
        /// Bytes of the stream up to its end.
        read: usize,
        /// Bytes that were written.
        held: usize,
    },
    /// It holds more than there is room for.
    TooLong,
    /// It is damaged, or cut off.
    Bad,
}

impl Decompressor {
    /// None if there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: without conditions.
        NonNull::new(unsafe { libdeflate_alloc_decompressor() }).map(Self)
    }

    pub(crate) fn inflate(&mut self, stream: &[u8], place: &mut Place<'_>) -> Inflated {
        let (mut read, mut held) = (0, 0);
        // SAFETY: the decoder is ours alone; the stream is readable, the place writable, both of these lengths, and the library
        // stays inside of them whatever the stream is.
        let result = unsafe {
            libdeflate_deflate_decompress_ex(
                self.0.as_ptr(),
                stream.as_ptr().cast(),
                stream.len(),
                place.start.as_ptr().cast(),
                place.len,
                &raw mut read,
                &raw mut held,
            )
        };
        #[expect(non_upper_case_globals, reason = "the library's names of its results")]
        match result {
            libdeflate_result_LIBDEFLATE_SUCCESS => Inflated::Whole { read, held },
            libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => Inflated::TooLong,
            _ => Inflated::Bad,
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: allocated by the library, and not freed before.
        unsafe { libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backed, Mapping};

    #[test]
    fn a_place_is_inside_of_its_destination_and_is_written_to_as_a_whole() {
        let memory = Mapping::new(8192, Backed::Small).unwrap();
        let guest = memory.destination().unwrap();
        for (offset, len) in [(8192, 1), (8191, 2), (u64::MAX, 1), (0, 8193)] {
            assert!(Place::of(&guest, offset, len).is_none(), "{offset} {len}");
        }
        let mut place = Place::of(&guest, 4095, 4097).unwrap();
        assert_eq!(place.len(), 4097);
        assert!(!place.copy(&[7; 4096]));
        assert!(place.copy(&[7; 4097]));
        let all = memory.to_vec();
        assert_eq!(all[..4095], [0; 4095]);
        assert_eq!(all[4095..], [7; 4097]);
    }

    #[test]
    fn a_stream_is_read_to_its_end_and_no_further() {
        let mut inflater = Decompressor::new().unwrap();
        // A stored block of three bytes, and two bytes behind it.
        let stream = [1, 3, 0, 0xfc, 0xff, b'a', b'b', b'c', 9, 9];
        let mut page = [0; 5];
        let (inside, outside) = page.split_at_mut(3);
        let read = inflater.inflate(&stream, &mut Place::of_slice(inside));
        assert_eq!(read, Inflated::Whole { read: 8, held: 3 });
        assert_eq!((&*inside, &*outside), (&b"abc"[..], &[0, 0][..]));
        let mut small = [0; 2];
        let mut place = Place::of_slice(&mut small);
        assert_eq!(inflater.inflate(&stream, &mut place), Inflated::TooLong);
        let mut place = Place::of_slice(inside);
        assert_eq!(inflater.inflate(&stream[..7], &mut place), Inflated::Bad);
    }
}
