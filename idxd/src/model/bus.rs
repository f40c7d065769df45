// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory as a device reaches it: by address.

#![expect(
    unsafe_code,
    reason = "a device reads and writes by address, and so does its model"
)]

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    ptr::{with_exposed_provenance, with_exposed_provenance_mut},
};

use rustix::param::page_size;

use super::said::Said;
use crate::{Descriptor, IaxRecord, Kind, Record};

/// The address as a pointer. Addresses in descriptors are those of this process.
fn at<T>(address: u64) -> Option<*const T> {
    let address = usize::try_from(address).ok()?;
    Some(with_exposed_provenance(address))
}

/// Reads a descriptor.
///
/// # Safety
///
/// A descriptor is there: the address is part of a batch that was submitted, and is aligned.
pub(super) unsafe fn descriptor(address: u64) -> Option<Descriptor> {
    let place = at::<Descriptor>(address)?;
    // SAFETY: by contract.
    Some(unsafe { place.read_volatile() })
}

/// Writes a completion record of a device of that kind.
///
/// # Safety
///
/// A record is there: the address is that of a descriptor that was submitted and not completed, and is aligned.
pub(super) unsafe fn complete(kind: Kind, address: u64, said: &Said) {
    match kind {
        Kind::Dsa => {
            if let Some(place) = at::<Record>(address) {
                // SAFETY: by contract; a record is made of atomics.
                unsafe { &*place }.complete(said.status, &said.common());
            }
        }
        Kind::Iax => {
            if let Some(place) = at::<IaxRecord>(address) {
                // SAFETY: as above.
                unsafe { &*place }.complete(said.status, &said.iax());
            }
        }
    }
}

/// Reads `size` bytes, which others may write to meanwhile.
///
/// # Safety
///
/// The bytes are mapped, and readable.
pub(super) unsafe fn read(address: u64, size: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size as usize);
    let end = address + u64::from(size);
    let mut here = address;
    while here < end {
        if here % 8 == 0 && end - here >= 8 {
            if let Some(place) = at::<u64>(here) {
                // SAFETY: by contract, and aligned.
                let word = unsafe { place.read_volatile() };
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            here += 8;
            continue;
        }
        if let Some(place) = at::<u8>(here) {
            // SAFETY: by contract.
            bytes.push(unsafe { place.read_volatile() });
        }
        here += 1;
    }
    bytes
}

/// Writes bytes.
///
/// # Safety
///
/// The place is mapped, and nobody else uses it.
pub(super) unsafe fn write(address: u64, bytes: &[u8]) {
    let Ok(address) = usize::try_from(address) else {
        return;
    };
    let head = (address.wrapping_neg() % 8).min(bytes.len());
    let (head, rest) = bytes.split_at(head);
    let words = rest.chunks_exact(8);
    let tail = words.remainder();
    let mut here = address;
    for byte in head {
        // SAFETY: by contract.
        unsafe { with_exposed_provenance_mut::<u8>(here).write_volatile(*byte) };
        here += 1;
    }
    for word in words.filter_map(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*word);
        // SAFETY: by contract; aligned behind the head.
        unsafe { with_exposed_provenance_mut::<u64>(here).write_volatile(word) };
        here += 8;
    }
    for byte in tail {
        // SAFETY: by contract.
        unsafe { with_exposed_provenance_mut::<u8>(here).write_volatile(*byte) };
        here += 1;
    }
}

/// The first of `size` bytes from `address` on that differs from the pattern, of which byte 0 is at `address`.
///
/// # Safety
///
/// The bytes are mapped, and readable.
pub(super) unsafe fn first_difference(address: u64, size: u32, pattern: u64) -> Option<u32> {
    let pattern = pattern.to_le_bytes();
    let mut offset = 0;
    while offset < size {
        let here = address + u64::from(offset);
        let rest = size - offset;
        if rest >= 8 && here % 8 == 0 {
            let mut turned = pattern;
            turned.rotate_left(offset as usize % 8);
            let place = at::<u64>(here)?;
            // SAFETY: by contract, and aligned.
            if unsafe { place.read_volatile() } == u64::from_le_bytes(turned) {
                offset += 8;
                continue;
            }
        }
        let place = at::<u8>(here)?;
        // SAFETY: by contract.
        if unsafe { place.read_volatile() } != pattern[offset as usize % 8] {
            return Some(offset);
        }
        offset += 1;
    }
    None
}

/// Writes the pattern to `size` bytes.
///
/// # Safety
///
/// The bytes are mapped, and nobody else uses them.
pub(super) unsafe fn fill(address: u64, size: u32, pattern: u64) {
    let pattern = pattern.to_le_bytes();
    let Ok(address) = usize::try_from(address) else {
        return;
    };
    let place = with_exposed_provenance_mut::<u8>(address);
    for offset in 0..size as usize {
        // SAFETY: by contract.
        let byte = unsafe { place.byte_add(offset) };
        // SAFETY: as above.
        unsafe { byte.write_volatile(pattern[offset % 8]) };
    }
}

/// Which pages are there, by the kernel's page map.
#[derive(Debug)]
pub(super) struct Residency(Option<File>);

impl Residency {
    pub(super) fn of_this_process() -> Self {
        Self(File::open("/proc/self/pagemap").ok())
    }

    /// The first of `size` bytes whose page is missing.
    pub(super) fn first_missing(&self, address: u64, size: u32) -> Option<u32> {
        let file = self.0.as_ref()?;
        let page = page_size() as u64;
        let mut at = address;
        while at < address + u64::from(size) {
            let mut entry = [0; 8];
            let present = file.read_exact_at(&mut entry, at / page * 8).is_ok()
                && u64::from_le_bytes(entry) >> 63 == 1;
            if !present {
                return u32::try_from(at - address).ok();
            }
            at = (at / page + 1) * page;
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_at_any_alignment() {
        let pattern = 0x0807_0605_0403_0201_u64;
        for start in 0..9 {
            for len in 1..40 {
                let mut bytes = [0xee_u8; 64];
                for offset in 0..len {
                    bytes[start + offset] = pattern.to_le_bytes()[offset % 8];
                }
                let address = bytes.as_ptr().expose_provenance() as u64 + start as u64;
                let size = u32::try_from(len).unwrap();
                // SAFETY: inside the vector.
                let found = unsafe { first_difference(address, size, pattern) };
                assert_eq!(found, None, "{start} {len}");
                for odd in 0..len {
                    bytes[start + odd] ^= 0x80;
                    // SAFETY: as above.
                    let found = unsafe { first_difference(address, size, pattern) };
                    assert_eq!(found.map(|at| at as usize), Some(odd), "{start} {len}");
                    bytes[start + odd] ^= 0x80;
                }
            }
        }
    }

    #[test]
    fn bytes_are_read_and_written_at_any_alignment() {
        let source: Vec<u8> = (1..=64).collect();
        let from = source.as_ptr().expose_provenance() as u64;
        for start in 0..9_usize {
            for len in 0..40_usize {
                let mut place = [0xee_u8; 64];
                let to = place.as_mut_ptr().expose_provenance() as u64 + start as u64;
                // SAFETY: inside the vector.
                let bytes = unsafe { read(from + start as u64, u32::try_from(len).unwrap()) };
                assert_eq!(bytes, source[start..start + len]);
                // SAFETY: inside the array.
                unsafe { write(to, &bytes) };
                assert_eq!(place[start..start + len], source[start..start + len]);
                assert!(place[..start].iter().all(|byte| *byte == 0xee));
                assert!(place[start + len..].iter().all(|byte| *byte == 0xee));
            }
        }
    }
}
