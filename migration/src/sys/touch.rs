// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Makes a page appear that a device did not find, and changes nothing in it.

use std::sync::atomic::{AtomicU8, Ordering};

use idxd::Destination;

/// Makes the page at an address appear, and changes nothing; does nothing outside of the destination.
pub(crate) fn touch(destination: &Destination, address: u64) {
    let offset = address.checked_sub(destination.address());
    let inside = offset.filter(|offset| destination.contains(*offset, 1));
    let Some(Ok(offset)) = inside.map(usize::try_from) else {
        return;
    };
    let byte = destination.as_ptr().wrapping_add(offset);
    // SAFETY: inside, mapped and writable, and for atomic accesses only.
    let byte = unsafe { AtomicU8::from_ptr(byte) };
    // Relaxed: it is the access that counts, and no other memory is read through it.
    byte.fetch_or(0, Ordering::Relaxed);
}
