// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory with bytes around it that must not change.
//!
//! ```text
//! │ AROUND bytes of GUARD │ the middle │ AROUND bytes of GUARD │
//! ```

use migration::{PageError, PageFormat, SoftwareDecoder};

/// More than any decoder writes at once.
const AROUND: usize = 512;
const GUARD: u8 = 0xa5;

pub(crate) struct Guarded {
    bytes: Vec<u8>,
}

impl Guarded {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            bytes: vec![GUARD; AROUND + len + AROUND],
        }
    }

    pub(crate) fn middle(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - AROUND;
        &mut self.bytes[AROUND..end]
    }

    #[track_caller]
    pub(crate) fn assert_untouched_around(&self) {
        let behind = self.bytes.len() - AROUND;
        let is_guard = |bytes: &[u8]| bytes.iter().all(|byte| *byte == GUARD);
        assert!(is_guard(&self.bytes[..AROUND]), "written in front of it");
        assert!(is_guard(&self.bytes[behind..]), "written behind it");
    }
}

/// The page that a new decoder makes of the stream, after a look at what lies around it.
#[track_caller]
pub(crate) fn decode(
    format: PageFormat,
    stream: &[u8],
    page_size: usize,
) -> Result<Vec<u8>, PageError> {
    decode_by(
        &mut SoftwareDecoder::new(format).unwrap(),
        stream,
        page_size,
    )
}

#[track_caller]
pub(crate) fn decode_by(
    decoder: &mut SoftwareDecoder,
    stream: &[u8],
    page_size: usize,
) -> Result<Vec<u8>, PageError> {
    let mut page = Guarded::new(page_size);
    let decoded = decoder.decode(stream, page.middle());
    page.assert_untouched_around();
    decoded.map(|()| page.middle().to_vec())
}
